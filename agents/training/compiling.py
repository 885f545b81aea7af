"""Decides whether `--compile` works on this machine."""

from __future__ import annotations

import sys
from dataclasses import replace

from agents.config import DQNConfig
from experiment.compiler import ADVICE, compiler_fault
from experiment.config import ConfigError
from experiment.determinism import device_of
from experiment.storage.run_dir import RunDir


def settle_compile(config: DQNConfig, resumed: RunDir | None = None) -> DQNConfig:
    """The settings with `compile` decided: "true" or "false". The compiler is tried.

    Where the compiler fails, "auto" becomes "false" and a line says so. "true", and the resume of a compiled run, end
    in a ConfigError: uncompiled, the resumed run would have other bits.
    """
    if config.compile == "false":
        return config
    cause = compiler_fault(device_of(config.device))
    if cause is None:
        return replace(config, compile="true")
    if resumed is not None:
        how = "resume it where compiling works: uncompiled, its bits would differ"
        raise ConfigError(f"run {str(resumed.path)!r} was compiled, and here {cause}; {how} ({ADVICE})")
    if config.compile == "true":
        raise ConfigError(f"--compile true: {cause}; {ADVICE}")
    print(f"the loss is not compiled, and updates are slower: {cause}; {ADVICE}", file=sys.stderr)
    return replace(config, compile="false")
