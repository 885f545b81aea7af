"""Suites and arms: which runs a sweep has, and the settings and command of each."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from agents.cli import check_stated, default_preset, own_agent, presets, settings
from agents.config import DQNConfig
from agents.names import AGENTS
from benchmarks.sweep.runs import KIND
from envs.registry import SUITES, is_sequence, registered, resolve_game
from envs.sequences import SEQUENCES, split
from experiment.command_line import gather
from experiment.config import ConfigError, parse_cli, suggest
from experiment.fork_settings import Planned, split_source
from experiment.part import join_options, own_part
from experiment.sweeps.manifest import Entry

SET = ("--env", "--sequence", "--seed", "--name", "--root", "--resume", "--device")
"""Options of a run that the sweep sets."""
OWN = ("--agent", *SET, "--fork")
"""The same, and those that an arm may only set to an import path (--agent) or to another arm (--fork)."""


@dataclass(frozen=True)
class Arm:
    """A name, and the arguments of the agent's command line that all its runs share."""

    name: str
    agent: str
    argv: tuple[str, ...]
    trunk: Arm | None = None
    """The arm whose runs its runs fork."""
    step: int | None = None
    """The step to fork at; none: the trunk's end."""

    def fork_step(self, game: str) -> int | None:
        """The step at which its runs begin; None if they are no forks. ConfigError if the trunk does not save there."""
        if self.trunk is None:
            return None
        config = self.trunk.config(game)
        end = -(-config.budget // config.num_envs) * config.num_envs
        step = end if self.step is None else self.step
        if step > end or step % config.num_envs or not step:
            steps = f"{self.trunk.name} ends at {end}" + f", and makes {config.num_envs} at once" * (
                config.num_envs > 1
            )
            raise ConfigError(f"--fork {self.trunk.name}@{step}: {steps}")
        return step

    def config(self, game: str, device: str = "cpu") -> DQNConfig:
        """The resolved settings of its runs on a game; ConfigError names the arm."""
        try:
            alike = registered(game).rules is None and not is_sequence(game)  # as all of Atari, by itself
            like = DQNConfig.env if alike else game
            if self.trunk is not None and (step := self.fork_step(game)) is not None:
                source = replace(self.trunk.config(game), env=like)
                config = _forked(self.agent, self.argv, Planned(source, step))
                return replace(config, env=game, device=device).resolved()
            config = replace(_parsed(self.agent, ("--threads", "1", *self.argv), like), env=game, device=device)
            check_stated(config, self.argv)
            check_own_parts(config)
            return config.resolved()
        except ValueError as error:
            raise ConfigError(f"arm {self.name!r}: {error}") from None


@lru_cache(maxsize=1024)
def _parsed(agent: str, argv: tuple[str, ...], game: str) -> DQNConfig:
    """The settings as `settings` returns them, for any game with the same rules: thousands of runs share the parsing.

    game: one of the same rules, for which they are checked.
    """
    settings(agent, (*argv, "--env", game))
    config = parse_cli(
        DQNConfig,
        gather(argv, "--plasticity"),
        prog="",
        description="",
        presets=presets(agent),
        default_preset=default_preset(agent),
    )
    return replace(config, agent=agent)


@lru_cache(maxsize=1024)
def _forked(agent: str, argv: tuple[str, ...], source: Planned) -> DQNConfig:
    """The settings of a fork of a run with the settings of `source`."""
    return settings(agent, (*argv, "--fork", "run/trunk"), source)


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
            hint = suggest(name, SUITES) if len(names) == 1 else ""
            raise ConfigError(f"--suite: {error}{hint and f'; or of the suites{hint[1:]}'}") from None
    first = next(iter(found))
    for game, environment in found.items():
        if (environment.rules, environment.network) != (found[first].rules, found[first].network):
            raise ConfigError(f"--suite: {first} and {game} have other rules or networks: sweep them apart")
    return tuple(found)


LONGEST = 40
"""Letters that the games of a sequence take in the name of a folder."""


def file_name(game: str) -> str:
    """A game's name as a part of the name of a folder; of games in sequence their name if they have one."""
    clean = re.sub(r"[^\w.+-]+", "_", game, flags=re.ASCII)
    if not is_sequence(game):
        return clean
    named = {games: name for name, games in SEQUENCES.items()}
    if len(clean) > LONGEST:
        clean = f"{clean[: LONGEST - 7]}-{hashlib.sha256(game.encode()).hexdigest()[:6]}"
    return named.get(split(game), clean)


def check_agent(agent: str) -> None:
    """Raises ConfigError unless the agent is known, or an import path to a subclass of DQN that has the options."""
    if agent in AGENTS:
        return
    if ":" not in agent:
        raise ConfigError(f"--agent {agent!r} is neither known nor module:Class{suggest(agent, AGENTS)}")
    from agents.dqn import DQN  # torch is imported for an own agent alone

    own_part("agent", agent, DQN, 4)


def check_own_parts(config: DQNConfig) -> None:
    """Raises ConfigError unless a network or schedule that is an import path leads to one that has the options."""
    if ":" in config.network or ":" in config.schedule:
        from agents.build import check_own_parts  # torch is imported for a part of the user's alone

        check_own_parts(config)


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
            argv = shlex.split(flags)
        except ValueError as error:
            raise ConfigError(f"arm {name!r}: {flags!r}: {error}") from None
        source, argv = _take_fork(argv)
        if source is not None:
            found[name] = _fork(name, source, argv, found)
            continue
        own, argv = own_agent([*common, *argv])
        if own is not None:
            check_agent(own)
        _refuse_own(argv, f"arm {name!r}")
        found[name] = Arm(name, own or agent, (*first, *_full_paths(own or agent, argv)))
    return list(found.values())


def _take_fork(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """What --fork names in the flags of an arm, None without it, and the other flags."""
    words = [part for arg in argv for part in (arg.split("=", 1) if arg.startswith("--fork=") else [arg])]
    if "--fork" not in words:
        return None, words
    place = words.index("--fork")
    return "".join(words[place + 1 : place + 2]), words[:place] + words[place + 2 :]


def _fork(name: str, source: str, argv: Sequence[str], arms: Mapping[str, Arm]) -> Arm:
    """An arm that forks an earlier one, with the settings of that but for its own flags."""
    trunk, step = split_source(source)
    if trunk not in arms:
        hint = suggest(trunk, arms, list_all=True)
        raise ConfigError(
            f"arm {name!r}: --fork {source}: it has to name an arm that is given before, as ARM@STEP{hint}"
        )
    _refuse_own(argv, f"arm {name!r}")
    agent = arms[trunk].agent
    return Arm(name, agent, tuple(_full_paths(agent, argv)), arms[trunk], step)


def _full_paths(agent: str, argv: Sequence[str]) -> Iterator[str]:
    """The arguments, with the full paths of presets that are files."""
    for before, arg in zip(("", *argv), argv, strict=False):
        option, equals, value = arg.partition("=")
        if before == "--config":
            yield _preset_path(agent, arg)
        else:
            yield f"--config={_preset_path(agent, value)}" if option == "--config" and equals else arg


def _default_name(agent: str, preset: str | None) -> str:
    parts = [agent.partition(":")[2] or agent, *([] if preset is None else [Path(preset).stem])]
    return re.sub(r"[^\w.+-]+", "_", "-".join(parts), flags=re.ASCII)


def _preset_path(agent: str, preset: str) -> str:
    """A preset as it is; of a file its full path, since the runs may start elsewhere."""
    return preset if preset in presets(agent) or not Path(preset).is_file() else str(Path(preset).resolve())


def _refuse_own(argv: Iterable[str], where: str) -> None:
    for arg in argv:
        if (option := arg.partition("=")[0]) in OWN:
            raise ConfigError(f"{where}: {option} is set by the sweep, for every run")


def entries(
    arms: Iterable[Arm], games: Sequence[str], seeds: int, root: Path, device: str = "cpu", first_seed: int = 0
) -> tuple[Entry, ...]:
    """Every arm plays every game with so many seeds from the first on.

    Seeds are outermost: a part of a sweep has all arms.
    """
    arms = list(arms)
    played = [(arm, game, KIND.config_hash(arm.config(game)), arm.fork_step(game)) for game in games for arm in arms]
    saved: dict[tuple[str, str], set[int]] = {}
    for arm, game, _, step in played:
        if arm.trunk is not None and step is not None:
            saved.setdefault((arm.trunk.name, game), set()).add(step)
            _check_unsaved(arm.trunk, game)
    found: dict[tuple[str, str, int], Entry] = {}
    for seed in range(first_seed, first_seed + seeds):
        for arm, game, key, step in played:
            name = f"{arm.name}-{file_name(game)}-s{seed}"
            source = None if arm.trunk is None else found[arm.trunk.name, game, seed]  # that arm is given before
            begin = () if source is None else ("--fork", f"{root / source.name}@{step}")
            steps = ",".join(map(str, sorted(saved.get((arm.name, game), ()))))
            words = command(arm, game, seed, device, *begin, *(("--checkpoint-at", steps) if steps else ()))
            where = ("--root", str(root), "--name", name)
            found[arm.name, game, seed] = Entry(name, arm.name, game, seed, key, (*words, *where), source, step)
    return tuple(found.values())


def _check_unsaved(trunk: Arm, game: str) -> None:
    if trunk.config(game).checkpoint_at:
        raise ConfigError(f"arm {trunk.name!r}: --checkpoint-at is set by the sweep, for the arms that fork this one")


def command(arm: Arm, game: str, seed: int, device: str, *more: str) -> tuple[str, ...]:
    """The arguments of a run but its directory; one thread of the processor, unless the arm or its trunk has others."""
    where = ("--env", game, "--seed", str(seed), "--device", device)
    stated = arm.trunk is not None or any(arg.partition("=")[0] == "--threads" for arg in arm.argv)
    threads = () if stated else ("--threads", "1")
    return (*_program(arm.agent), "--agent", arm.agent, *threads, *arm.argv, *more, *where)


def _program(agent: str) -> tuple[str, ...]:
    return (sys.executable, "-m", AGENTS.get(agent, AGENTS["dqn"]))
