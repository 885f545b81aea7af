"""Tables, figures and one page of any set of runs: `python -m benchmarks.report`."""
