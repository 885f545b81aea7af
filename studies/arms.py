"""The runs of an experiment: each a name and the settings in which it differs from the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Arm:
    """One run: its name, and its settings as `--option value` takes them; a switch that is off is its --no- form.

    trunk, step: of a fork, the run that it forks, given before it, and the update at which; `settings` are then those
    in which it differs from that run.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    trunk: Arm | None = None
    step: int = 0

    @property
    def seed(self) -> int:
        """The seed of the run; a fork has that of its trunk."""
        return self.settings["seed"] if self.trunk is None else self.trunk.seed

    def options(self) -> list[str]:
        """The settings as arguments of a command line."""
        argv: list[str] = []
        for name, value in self.settings.items():
            option = name.replace("_", "-")
            if isinstance(value, bool):
                argv.append(f"--{option}" if value else f"--no-{option}")
            else:
                argv += [f"--{option}", str(value)]
        return argv


def over_seeds(name: str, seeds: tuple[int, ...] = SEEDS, **settings: Any) -> list[Arm]:
    """The same settings with several seeds."""
    return [Arm(f"{name}-s{seed}", settings | {"seed": seed}) for seed in seeds]
