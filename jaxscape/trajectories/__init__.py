"""Trajectories of parameters: the store on disk, exact distances, geometry, and surrogate (null) trajectories."""
