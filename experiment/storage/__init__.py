"""What a run leaves on disk: its directory, checkpoints, segments of replay, rows of metrics."""
