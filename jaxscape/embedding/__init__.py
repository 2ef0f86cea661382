"""From a distance matrix to coordinates with their diagnostics."""
