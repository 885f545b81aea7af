"""What every run needs: config, command line, run directory, checkpoint, tracking, progress. Knows nothing of RL.

`config`, `run_dir`, `tracking`, `progress` and `interrupt` import no torch, so that a command line answers quickly;
`checkpoint`, `determinism` and `guard` do.
"""
