"""Suites and arms: which runs a sweep has, and the settings and command of each."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from agents.cli import check_stated, default_preset, own_agent, presets, settings
from agents.config import AGENTS, DQNConfig
from benchmarks.sweep.manifest import Entry
from envs.registry import SUITES, registered, resolve_game
from experiment.command_line import gather, shell
from experiment.config import ConfigError, as_plain, near, parse_cli
from experiment.part import join_options
from experiment.setting import names_of
from experiment.sweeps.job import Job

OWN = ("--agent", "--env", "--seed", "--name", "--root", "--resume", "--device")
"""Options of a run that the sweep sets; no arm may, but for an --agent that is an import path."""
AXES = ("env", "seed")
"""Settings that tell the runs of an arm apart."""


@dataclass(frozen=True)
class Arm:
    """A name, and the words of the agent's command line that all its runs share."""

    name: str
    agent: str
    words: tuple[str, ...]

    def config(self, game: str, device: str = "cpu") -> DQNConfig:
        """The resolved settings of its runs on a game; ConfigError names the arm."""
        try:
            like = DQNConfig.env if registered(game).rules is None else game
            config = replace(_parsed(self.agent, ("--threads", "1", *self.words), like), env=game, device=device)
            check_stated(config, self.words)
            return config.resolved()
        except ValueError as error:
            raise ConfigError(f"arm {self.name!r}: {error}") from None


@lru_cache(maxsize=1024)
def _parsed(agent: str, words: tuple[str, ...], game: str) -> DQNConfig:
    """The settings as `settings` has them, but for what depends on the game: thousands of runs share the parsing.

    game: one of the same rules, for which they are checked.
    """
    settings(agent, (*words, "--env", game))
    config = parse_cli(
        DQNConfig,
        gather(words, "--plasticity"),
        prog="",
        description="",
        presets=presets(agent),
        default_preset=default_preset(agent),
    )
    return replace(config, agent=agent)


def games(suite: str) -> tuple[str, ...]:
    """The games of a suite, or of a list of games with commas, each once; ConfigError has the near match."""
    if suite in SUITES:
        return SUITES[suite]
    names = join_options(name.strip() for name in suite.split(",") if name.strip())
    if not names:
        raise ConfigError(f"--suite names no game: it has to be one of {', '.join(SUITES)}, or games with commas")
    found = {}
    for name in names:
        try:
            found[resolve_game(name)] = registered(name)
        except ValueError as error:
            hint = near(name, SUITES) if len(names) == 1 else ""
            raise ConfigError(f"--suite: {error}{hint and f'; or of the suites{hint[1:]}'}") from None
    first = next(iter(found))
    for game, environment in found.items():
        if (environment.rules, environment.network) != (found[first].rules, found[first].network):
            raise ConfigError(f"--suite: {first} and {game} have other rules or networks: sweep them apart")
    return tuple(found)


def file_name(game: str) -> str:
    """A game's name as a part of the name of a folder."""
    return re.sub(r"[^\w.+-]+", "_", game, flags=re.ASCII)


def check_agent(agent: str) -> None:
    """Raises ConfigError unless the agent is known, or an import path to a subclass of DQN that has the options."""
    if agent in AGENTS:
        return
    if ":" not in agent:
        raise ConfigError(f"--agent {agent!r} is neither known nor module:Class{near(agent, AGENTS)}")
    from agents.build import own_part  # torch is imported for an own agent alone
    from agents.dqn import DQN

    own_part("agent", agent, DQN)


def arms(agent: str, preset: str | None, given: Sequence[str], common: Sequence[str]) -> list[Arm]:
    """The arms, each from `name:flags`; with none given the agent as it is. ConfigError for any mistake in them."""
    check_agent(agent)
    _refuse_own(own_agent(common)[1], "the options after --")
    first = () if preset is None else ("--config", _preset_path(agent, preset))
    found: dict[str, Arm] = {}
    for text in given or [f"{_default_name(agent, preset)}:"]:
        name, colon, flags = text.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,79}", name, flags=re.ASCII):
            raise ConfigError(f'--arm {text!r}: write name:"flags", a name of letters, digits, dashes and dots')
        if name in found:
            raise ConfigError(f"two arms are named {name!r}")
        try:
            words = shlex.split(flags)
        except ValueError as error:
            raise ConfigError(f"arm {name!r}: {flags!r}: {error}") from None
        own, words = own_agent([*common, *words])
        if own is not None:
            check_agent(own)
        _refuse_own(words, f"arm {name!r}")
        found[name] = Arm(name, own or agent, (*first, *_full_paths(own or agent, words)))
    return list(found.values())


def _full_paths(agent: str, words: Sequence[str]) -> Iterator[str]:
    """The words, with the full paths of presets that are files."""
    for before, word in zip(("", *words), words, strict=False):
        option, equals, value = word.partition("=")
        if before == "--config":
            yield _preset_path(agent, word)
        else:
            yield f"--config={_preset_path(agent, value)}" if option == "--config" and equals else word


def _default_name(agent: str, preset: str | None) -> str:
    words = [agent.partition(":")[2] or agent, *([] if preset is None else [Path(preset).stem])]
    return re.sub(r"[^\w.+-]+", "_", "-".join(words), flags=re.ASCII)


def _preset_path(agent: str, preset: str) -> str:
    """A preset as it is; of a file its full path, since the runs may start elsewhere."""
    return preset if preset in presets(agent) or not Path(preset).is_file() else str(Path(preset).resolve())


def _refuse_own(words: Iterable[str], where: str) -> None:
    for word in words:
        if (option := word.partition("=")[0]) in OWN:
            raise ConfigError(f"{where}: {option} is set by the sweep, for every run")


def _shared() -> frozenset[str]:
    """Settings that all runs of an arm share."""
    return names_of(DQNConfig, "learning").difference(AXES)


def config_hash(config: DQNConfig) -> str:
    """Stands for what an arm learns by: equal for runs that may be averaged over games and seeds."""
    plain = {name: value for name, value in as_plain(config).items() if name in _shared()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def difference(old: DQNConfig, new: DQNConfig) -> str:
    """The first shared setting in which two differ, as "--lr is 0.1 there and 0.2 here", or ""."""
    before, after = as_plain(old), as_plain(new)
    for name, value in after.items():
        if name in _shared() and before[name] != value:
            return f"--{name.replace('_', '-')} is {before[name]} there and {value} here"
    return ""


def entries(
    arms: Iterable[Arm], games: Sequence[str], seeds: int, root: Path, device: str = "cpu"
) -> tuple[Entry, ...]:
    """Every arm plays every game with the seeds 0 to `seeds` - 1: seeds outermost, so that a part says something."""
    played = [(arm, game, config_hash(arm.config(game))) for game in games for arm in arms]
    return tuple(
        Entry(name := f"{arm.name}-{file_name(game)}-s{seed}", arm.name, game, seed, key,
              command(arm, game, seed, root, name, device))
        for seed in range(seeds)
        for arm, game, key in played
    )  # fmt: skip


def command(arm: Arm, game: str, seed: int, root: Path, name: str, device: str = "cpu") -> tuple[str, ...]:
    """The words that make a run; one thread of the processor, unless the arm says otherwise."""
    where = ("--env", game, "--seed", str(seed), "--device", device, "--root", str(root), "--name", name)
    return (*_program(arm.agent), "--agent", arm.agent, "--threads", "1", *arm.words, *where)


def _program(agent: str) -> tuple[str, ...]:
    return (sys.executable, "-m", AGENTS.get(agent, AGENTS["dqn"]))


def settings_of(entry: Entry) -> DQNConfig:
    """The settings that a run's command gives; ConfigError if this version does not understand it."""
    words = entry.command[3:]
    if "--agent" not in words[:1]:
        raise ConfigError(f"run {entry.name!r} is of another version: its command is {shell(*entry.command)}")
    return settings(words[1], words)


def job(entry: Entry, root: Path) -> Job:
    """The run as a job of a sweep."""
    directory = root / entry.name
    return Job(entry.name, entry.command, directory, resume=(*entry.command[:3], "--resume", str(directory)))
