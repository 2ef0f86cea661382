"""Work-arounds that make XLA's CPU backend fast; `compiler.jit` is the entry point."""
