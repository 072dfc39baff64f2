"""What the region can be asked for: each use case is the story of one request, in order."""
