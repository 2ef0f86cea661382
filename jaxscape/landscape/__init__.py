"""The loss around networks: lines, planes, surfaces, and trajectories on planes."""
