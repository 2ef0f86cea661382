"""The command line: it parses arguments, calls `jaxscape.runs` and prints."""
