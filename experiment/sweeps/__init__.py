"""Many runs as one command that goes on where it stopped: jobs, the processes that run them, what they came to."""
