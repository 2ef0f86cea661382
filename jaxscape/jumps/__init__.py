"""Copies thrown away from a minimum, and their retraining."""
