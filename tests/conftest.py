import jax

# An accidental broadcast between ranks is an error in the tests.
jax.config.update("jax_numpy_rank_promotion", "raise")
