"""Run folders: the only room that ties the others together, and knows files and settings."""
