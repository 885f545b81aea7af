"""Scan a run's network: `python -m agents.scan RUN`. What is measured is `nap.scan_model`'s."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agents.checks import check_kind
from agents.config import DQNConfig
from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.setting import check_ranges, setting
from experiment.storage.run_dir import RunDir, load_settings

if TYPE_CHECKING:
    from torch import Tensor

    from agents.dqn import DQN
    from nap import ScanReport


@dataclass(frozen=True)
class ScanConfig:
    """What to scan."""

    run: str = field(default="", metadata={"positional": True, "metavar": "RUN"})
    """Run directory, which may be training; the fp32 network of its newest good checkpoint is scanned."""
    step: int | None = setting(None, at_least=0)
    """Agent step of the checkpoint; none: the newest."""
    out: str | None = None
    """Folder for scan.json and scan.html, or one file that ends in .json or .html. Existing files are replaced."""


def main(argv: Sequence[str] | None = None) -> int:
    """Load, measure, print and write. A mistake of the user ends in one line and exit code 2."""
    with cli_session(), exit_on_bad_input():
        options = parse_cli(
            ScanConfig,
            argv,
            prog="python -m agents.scan",
            description="Norms, effective rates, ranks and spectra of a run's weights, dead and dormant units on "
            "states of its replay, and what to try.",
        )
        check_ranges(options)
        if not options.run:
            raise ConfigError("name a run directory: python -m agents.scan RUN")
        from nap import ScanReport

        if options.out is not None:
            ScanReport.files(options.out)  # before anything is measured
        directory = RunDir.open(options.run)
        check_kind(directory)
        report = scan(load_settings(DQNConfig, directory), directory, options.step)
        files = [] if options.out is None else report.save(options.out)
        print(report.table(shutil.get_terminal_size((100, 24)).columns))
        if files:
            print("\nwritten:", *files)
    return 0


def scan(config: DQNConfig, directory: RunDir, step: int | None = None) -> ScanReport:
    """The report on the network of a checkpoint, the newest one or that of `step`.

    The states are those that the run's probe measures, from its replay; of a run without them, states of games that are
    played for it. The untrained network, and the initial norms, are the network as the run drew it.
    """
    from agents.run import bare_agent, restore_agent
    from experiment.determinism import configure, device_of, seeds
    from experiment.storage.checkpoint import load_latest
    from nap import scan_model, weight_norms

    saved = load_latest(directory.checkpoints, only=("trainer",), step=step)
    config = replace(config, device="cpu").resolved()
    configure(config.threads, config.seed)
    agent = bare_agent(config, seeds(config.seed, "network")["network"])
    untrained, initial = deepcopy(agent.network), weight_norms(agent.network)
    restore_agent(agent, saved)
    probed = saved.state["trainer"]["probe"]
    states = fresh_states(config, agent) if probed is None else probed["states"].to(device_of(config.device))
    report = scan_model(
        agent.network,
        states,
        optimizer=agent.optimizer,
        initial_norms=initial,
        untrained=untrained,
        title=f"{directory.path.name}: {config.agent} on {config.env}, agent step {saved.step:,}",
    )
    drawn = "played for this scan: the run's probe has none" if probed is None else "from the run's replay"
    report.notes.append(f"Units and features: {len(states)} states {drawn}.")
    return report


def fresh_states(config: DQNConfig, agent: DQN) -> Tensor:
    """Every 16th state of games as in an evaluation, of several environments."""
    import torch

    from agents.build import build_env
    from agents.playing.evaluation import evaluated_policy, evaluation_epsilon
    from agents.training.acting import EpsilonGreedy, FrameStack
    from agents.training.monitor import STATES
    from experiment.determinism import device_of, seeds

    seed, envs = seeds(config.seed, "scan")["scan"], 8
    with closing(build_env(config, envs, seed)) as env:
        act = EpsilonGreedy(evaluated_policy(config, agent), env.num_actions, seed)
        stack = FrameStack(envs, env.stack, env.frame_shape, device_of(config.device))
        obs, found = stack.push(env.reset(), torch.ones(envs, dtype=torch.bool).numpy()), []
        for played in range(16 * STATES // envs):
            step = env.step(act(obs, evaluation_epsilon(config)))
            obs = stack.push(step.first_frame, step.ended)
            if played % 16 == 15:
                found.append(obs)
    return torch.cat(found)


if __name__ == "__main__":
    raise SystemExit(main())
