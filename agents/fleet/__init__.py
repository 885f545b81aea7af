"""A fleet: several seeds of one run, learning in step in one process on stacked networks."""
