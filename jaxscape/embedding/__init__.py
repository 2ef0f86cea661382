"""Embeddings: coordinates and diagnostics computed from a distance matrix."""
