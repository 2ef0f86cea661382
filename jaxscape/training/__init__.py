"""From a name and a seed to a minimum, or to many networks trained at once."""
