"""What each plasticity method costs: `python -m benchmarks.methods`.

Each method first learns for a while in a real Atari game, with periods so short that it acts, and must end with finite
numbers. Then updates with its default settings are timed in strict alternation with updates without any method.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agents.config import DQNConfig
from benchmarks.speed.settings import Timing
from experiment.config import exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.setting import setting
from experiment.tables import markdown_table
from experiment.values import counted
from plasticity.registry import METHODS

if TYPE_CHECKING:
    from agents.training.trainer import Row, Trainer
    from benchmarks.speed.alternate import Run

NONE = "none"
ACTING = {  # settings under which a method acts many times in a short run; the others act at every update
    "reset": "reset:period=50",
    "shrink-perturb": "shrink-perturb:period=50",
    "redo": "redo:period=20",
    "cbp": "cbp:rate=0.001,maturity=20",
    "injection": "injection:at=50",
    "hare-tortoise": "hare-tortoise:period=50",
    "dash": "dash:period=50",
    "fire": "fire:period=50",
    "snr": "snr:longest=4",
    "optimizer-reset": "optimizer-reset:period=50",
    "adam-rel": "adam-rel:period=50",
    "regrama": "regrama:period=20",
}
WARM_UP = 200  # agent steps before the first update


@dataclass(frozen=True)
class MethodsConfig(Timing):
    """What is run, and for how long."""

    env: str = "Breakout"
    """Game of the short runs."""
    network: Literal["nature", "small"] = "small"
    """Network of the agent."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the agent."""
    updates: int = setting(200, at_least=1)
    """Updates of each short run."""
    seconds: float = setting(0.5, above=0, at_most=3600)
    """Time of one method in one round, about."""
    threads: int = setting(1, at_least=0)
    """CPU threads of torch; 0: all cores."""


def agent_config(config: MethodsConfig, spec: str) -> DQNConfig:
    """The settings of an agent with one method, or none."""
    return DQNConfig(
        env=config.env,
        network=config.network,
        precision=config.precision,
        compile="true" if config.compile else "false",
        threads=config.threads,
        plasticity=() if spec == NONE else (spec,),
        schedule="constant",
        update_start=WARM_UP,
        steps=WARM_UP + config.updates,
    ).resolved()


def play(config: DQNConfig) -> Trainer:
    """A trainer that has learned to the end of its budget; ArithmeticError if a parameter or the loss is not finite."""
    import torch

    from agents.run import build_trainer

    trainer = build_trainer(config)
    trainer.open()
    rows: list[Row] = []
    while not trainer.done:
        rows += trainer.step()
    losses = [float(row["loss"]) for row in rows if row.get("loss") is not None]  # type: ignore[arg-type]
    finite = all(bool(parameter.isfinite().all()) for parameter in trainer.agent.network.parameters())
    if not (losses and finite and torch.tensor(losses).isfinite().all()):
        raise ArithmeticError(f"{config.plasticity}: a parameter or the loss is not finite after {config.budget} steps")
    return trainer


def update_run(config: DQNConfig) -> Run:
    """Blocks of updates of a new agent on a fixed batch from a short random play."""
    from agents.run import build_trainer

    trainer = build_trainer(config)
    trainer.open()
    for _ in range(WARM_UP):
        trainer.play(trainer.epsilon)
    block = trainer.replay.sample(config.batch_size, config.block + trainer.agent.lookahead, n_step=config.n_step)

    def run(blocks: int) -> None:
        for _ in range(blocks):
            for batch in trainer.agent.bootstrap(block):
                trainer.agent.update(batch)

    return run


def measure(config: MethodsConfig) -> list[tuple[str, str, float, float]]:
    """For none and each method: name, how its short run ended, ms of an update, and its ratio to none."""
    import torch

    from benchmarks.speed.alternate import Contestant, alternate, ratio
    from experiment.determinism import configure

    configure(config.threads, seed=0)
    torch._dynamo.config.recompile_limit = 64  # many agents in one process
    names = (NONE, *METHODS)
    played = {}
    for name in names:
        print(f"playing {config.env}: {name}", file=sys.stderr, flush=True)
        trainer = play(agent_config(config, ACTING.get(name, name)))
        played[name] = f"{counted(trainer.agent.updates, 'update')}, finite"
    contestants = [
        Contestant("update", name, "updates/s", lambda name=name: update_run(agent_config(config, name)), work=8)  # type: ignore[misc]
        for name in names
    ]
    series = alternate(contestants, config.rounds, config.seconds, lambda line: print(line, file=sys.stderr))
    none = series[0]
    return [(each.name, played[each.name], 1000 / each.median, ratio(none, each)) for each in series]


@cli_session()
def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, print; the exit code."""
    with exit_on_bad_input():
        config = parse_cli(
            MethodsConfig,
            argv,
            prog="python -m benchmarks.methods",
            description="A short run in a real game and the cost of an update, for every plasticity method.",
        ).resolved()
        if config.compile:
            from experiment.compiler import check_compiler

            check_compiler("cpu")
        rows = measure(config)
    how = f"{config.network}, {config.precision}, {'compiled' if config.compile else 'eager'}"
    how += f", {counted(config.threads, 'thread')}"
    print(f"{config.env}, {how}; medians of {counted(config.rounds, 'round')} in alternation\n")
    cells = [(name, played, f"{milliseconds:.2f}", f"{times:.2f}") for name, played, milliseconds, times in rows]
    print(markdown_table(("method", "in the game", "ms an update", "ratio to none"), cells), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
