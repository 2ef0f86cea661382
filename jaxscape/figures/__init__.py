"""From coordinates and row labels to pictures."""
