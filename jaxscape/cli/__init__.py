"""The command line: it parses, calls `jaxscape.runs`, and prints."""
