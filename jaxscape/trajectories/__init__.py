"""What the copies pass through: the store on disk, exact distances, geometry and its control."""
