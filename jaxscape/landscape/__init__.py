"""The loss around networks: lines, planes, surfaces, trajectories on planes, and paths of low loss."""
