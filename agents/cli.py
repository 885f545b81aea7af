"""The command line of the agents. Imports no torch, so that help and mistakes are answered at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agents import metrics
from agents.config import DQNConfig
from agents.names import AGENTS, NETWORKS, command_of, is_own
from experiment.command_line import gather
from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.fork_settings import Planned, check_not_forked, fork_settings
from experiment.interrupt import cli_session
from experiment.part_help import SCHEDULES, Bases, own_help
from experiment.seeds import parse_seeds, split
from experiment.storage.run_dir import RunDir, check_resumed, load_settings
from plasticity.listing import answer
from plasticity.registry import listing

if TYPE_CHECKING:
    from agents.fleet.run import FleetRun

CONFIGS = Path(__file__).parent.parent / "configs"
DEFAULTS = {"dqn": "dqn-atari100k", "rainbow": "rainbow", "der": "der"}
"""The file of the preset of a command that names none."""
NAMES = {"dqn": "a DQN", "rainbow": "Rainbow", "der": "Data-Efficient Rainbow"}
PARTS: tuple[tuple[str, Callable[[DQNConfig], bool], tuple[str, ...]], ...] = (
    (
        "--sequence or a list of games as --env",
        lambda config: config.is_sequence,
        ("task_replay", "task_epsilon", "task_optimizer", "task_schedule", "eval_all"),
    ),
    ("--dueling", lambda config: config.dueling, ("streams",)),
    ("--noisy", lambda config: config.noisy, ("noisy_sigma", "eval_noise")),
    ("--distribution c51", lambda config: config.distribution == "c51", ("atoms", "v_min", "v_max")),
    ("--distribution quantile", lambda config: config.distribution == "quantile", ("quantiles",)),
    (
        "--prioritised",
        lambda config: config.prioritised,
        ("priority_alpha", "priority_epsilon", "priority_beta", "priority_beta_final"),
    ),
    (
        "--n-step-final or --gamma-final",
        lambda config: config.n_step_final is not None or config.gamma_final is not None,
        ("anneal_updates",),
    ),
)
"""The switch of each part of an agent, whether it is on, and the options that say how the part works."""
OWN: Bases = {
    **SCHEDULES,
    "agent": ("agents.dqn:DQN", 4, ()),
    "network": ("agents.networks.encoders:Encoder", 2, ()),
    "env": ("envs.vector_env:VectorEnv", 0, ("num_envs", "seed")),
}
"""The options that take a class of the user's, and what it is a subclass of."""
DESCRIPTION = """Train {name} on an Atari game, with Normalize-and-Project at any update-to-data ratio.

A fleet of several seeds in one process, each with a run directory of its own, in place of --seed:
  --seeds 0-9, or 0,3,5-7

Methods for --plasticity (--list-methods shows options and papers; --list-metrics explains metrics.jsonl;
module:Class:help a part of your own):
{methods}"""


def presets(agent: str, command: str = "dqn") -> dict[str, Path]:
    """The agent's presets in configs/, by name. Of an import path those of its command, and all by their full names."""
    known = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))}
    family = next(name for name in (agent, command, "dqn") if name in AGENTS)
    short = {name.removeprefix(f"{family}-"): path for name, path in known.items() if name.startswith(family)}
    return short if agent in AGENTS else short | known


def default_preset(agent: str, command: str = "dqn") -> str:
    """The preset of an agent's command; of an import path that of the command that it is given to."""
    return DEFAULTS.get(agent, DEFAULTS.get(command, DEFAULTS["dqn"])).removeprefix(f"{agent}-")


def own_agent(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """The agent that a command line names, if it is an import path, and the other arguments."""
    others, agent = [], None
    for before, arg in zip(("", *argv), argv, strict=False):
        if before == "--agent":
            agent = arg
        elif arg.startswith("--agent="):
            agent = arg.partition("=")[2]
        elif arg != "--agent":
            others.append(arg)
    return (agent, others) if agent is not None and ":" in agent else (None, list(argv))


def settings(command: str, argv: Sequence[str] | None, planned: Planned | None = None) -> DQNConfig:
    """The resolved settings of a command line; with `--resume RUN` those of the run. A mistake raises ConfigError.

    command: the agent whose command it is, or the import path of an own one. planned: of a fork, the source if it need
    not exist yet.
    """
    argv = sys.argv[1:] if argv is None else argv
    agent = own_agent(argv)[0] or command
    parse: Callable[..., DQNConfig] = partial(
        parse_cli,
        DQNConfig,
        gather(argv, "--plasticity"),
        prog=f"python -m {AGENTS.get(command) or command.partition(':')[0]}",
        description=DESCRIPTION.format(name=NAMES.get(agent, agent), methods=listing()),
        presets=presets(agent, command),
    )
    config = parse(default_preset=default_preset(agent, command))
    if config.resume not in (None, "auto"):
        stored = load_settings(DQNConfig, RunDir.open(config.resume))
        config = parse(base=stored)
        check_resumed(config, stored)
    elif config.fork is not None:
        return fork_settings(
            DQNConfig,
            config,
            lambda base: _with_one_budget(parse(base=base), base),
            lambda given: _complete(given, agent, argv),
            command_of(agent),
            planned,
            lambda source: replace(source, replay_capacity=source.replay_steps),
        )
    else:
        check_not_forked(config)
    return _complete(config, agent, argv)


def _with_one_budget(config: DQNConfig, base: DQNConfig) -> DQNConfig:
    """The settings without the steps of those they are based on, if they have a budget in frames."""
    return replace(config, steps=None) if config.frames is not None and config.steps == base.steps else config


def _complete(config: DQNConfig, agent: str, argv: Sequence[str]) -> DQNConfig:
    """The resolved settings, once they are checked to be for the agent of the command."""
    chosen = config.agent or agent
    if chosen in AGENTS and chosen != agent:
        raise ConfigError(f"these settings are for {command_of(chosen)}, not {command_of(agent)}")
    check_stated(config, argv)
    return replace(config, agent=chosen).resolved()


def check_stated(config: DQNConfig, argv: Sequence[str]) -> None:
    """Raise ConfigError for an option that the environment overrides, or whose part is not switched on.

    Only the command line is checked. The environment overrides a preset's settings (see `DQNConfig.resolved`), and a
    preset may set options of a part that is off. Options of the schedule and of NaP are not checked: a sweep shares
    them among arms with and without either.
    """
    stated = {arg.partition("=")[0].removeprefix("--").replace("-", "_") for arg in argv if arg.startswith("--")}
    if "env" in stated and config.sequence is not None:
        raise ConfigError("--env and --sequence both name what is played: give one (a preset's: --sequence none)")
    unused = {"frames", "steps"} if config.task_steps is not None else {"frames"}
    if config.is_sequence and (found := sorted(stated & unused)):
        raise ConfigError(f"--{found[0]}: games in sequence have --task-steps and --visits: leave it out")
    rules, network = config.environment.rules, config.environment.network
    for name, value, own in (("protocol", config.protocol, rules and rules.name), ("network", config.network, network)):
        if own is not None and name in stated and value != own and not is_own(value):
            raise ConfigError(f"--{name} {value} is not for {config.played}: leave it out, or --{name} {own}")
    for switch, is_on, options in PARTS:
        for option in options:
            if option in stated and not is_on(config):
                raise ConfigError(f"--{option.replace('_', '-')} does nothing without {switch}: give both or neither")


@cli_session()
def main(agent: str, argv: Sequence[str] | None = None) -> int:
    """Parse, prepare and train, or list what is asked for; the exit code. Bad input ends in one line and code 2."""
    with exit_on_bad_input():
        argv = sys.argv[1:] if argv is None else argv
        text = metrics.as_text() if "--list-metrics" in argv else answer(argv) or own_help(argv, OWN, NETWORKS)
        if text is not None:
            print(text)
            return 0
        seeds, argv = split(argv)
        config = settings(agent, argv)
        if seeds is None:
            from agents.run import AgentRun

            run: AgentRun | FleetRun = AgentRun(config)
        else:
            members = parse_seeds(seeds)
            if config.fork is not None:
                raise ConfigError("--seeds and --fork: a fork has the seed of its run; fork each by itself")
            from agents.fleet.run import FleetRun

            run = FleetRun(config, members)
    return run.train()
