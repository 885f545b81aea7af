"""Many runs as one command that continues where it stopped: jobs, the processes that run them, their status."""
