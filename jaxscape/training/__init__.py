"""Training of one network to a minimum, or of a stack of networks at once."""
