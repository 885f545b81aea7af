"""The command line of the agents. Imports no torch, so that help and mistakes are answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agents.config import DQNConfig
from experiment.config import ConfigError, exit_on_bad_input, parse_cli

CONFIGS = Path(__file__).parent.parent / "configs"
DESCRIPTION = {"dqn": "Train a DQN on an Atari game, with Normalize-and-Project at any update-to-data ratio."}


def presets(agent: str) -> dict[str, Path]:
    """The agent's presets in configs/, by name."""
    return {path.stem.removeprefix(f"{agent}-"): path for path in sorted(CONFIGS.glob(f"{agent}-*.yaml"))}


def main(agent: str, argv: Sequence[str] | None = None) -> int:
    """Parse, prepare and train; the exit code. Bad input ends in one line and code 2."""
    with exit_on_bad_input():
        config = parse_cli(
            DQNConfig,
            argv,
            prog=f"python -m agents.{agent}",
            description=DESCRIPTION[agent],
            presets=presets(agent),
            default_preset="atari100k",
        )
        if config.agent != agent:
            raise ConfigError(f"these settings are for python -m agents.{config.agent}, not agents.{agent}")
        config = config.resolved()
        from agents.run import Run

        run = Run(config)
    return run.train()
