"""The runs of a sweep of agents: suites, arms, manifest, status, and what they will cost."""
