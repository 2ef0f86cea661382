"""Run folders and the command line: the only room that ties the others together, and knows files and settings."""
