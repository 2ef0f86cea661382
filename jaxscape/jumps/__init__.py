"""Perturbed copies of a minimum, and their retraining."""
