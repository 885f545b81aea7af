"""The files of a run: its directory, checkpoints, segments of replay, rows of metrics."""
