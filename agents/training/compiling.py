"""What `--compile` comes to on this machine."""

from __future__ import annotations

import sys
from dataclasses import replace

from agents.config import DQNConfig
from experiment.compiler import ADVICE, compiler_fault
from experiment.config import ConfigError
from experiment.determinism import device_of
from experiment.storage.run_dir import RunDir


def settle_compile(config: DQNConfig, resumed: RunDir | None = None) -> DQNConfig:
    """The settings with `compile` "true" or "false", as the run will have it; the compiler is tried for it.

    Where it fails, "auto" becomes "false" and a line says so. "true", and a run that has been compiled so far, end in
    a ConfigError: uncompiled, a run that is resumed would go on with other bits.
    """
    if config.compile == "false":
        return config
    cause = compiler_fault(device_of(config.device))
    if cause is None:
        return replace(config, compile="true")
    if resumed is not None:
        how = "it goes on where compiling works, since without it its bits would be others"
        raise ConfigError(f"run {str(resumed.path)!r} is a compiled one, and here {cause}; {how} ({ADVICE})")
    if config.compile == "true":
        raise ConfigError(f"--compile true: {cause}; {ADVICE}")
    print(f"the loss is not compiled, and updates are slower: {cause}; {ADVICE}", file=sys.stderr)
    return replace(config, compile="false")
