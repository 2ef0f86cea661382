"""Run folders: the room that combines all others, and that handles files and settings."""
