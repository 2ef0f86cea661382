"""The loss around networks: lines, planes, surfaces, projected trajectories, and paths of low loss."""
