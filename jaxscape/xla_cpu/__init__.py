"""What XLA's CPU backend needs to be fast; `compiler.jit` is the door to it."""
