"""What is known of an environment before it is made. Command lines ask here, so this imports no numpy.

A name is a game of a registration, in any usual spelling; `module:Class[:option=value,...]`, a VectorEnv of the user's;
or `gym:ID`, an environment of Gymnasium. Names of registered games with commas between are games in sequence. A new
family of games is one more entry of `REGISTRATIONS`.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from envs.errors import unknown_name
from envs.games import (
    ATARI_57,
    ATARI_100K,
    HIGH_UTD_20,
    MINATAR,
    atari_game,
    atari_games,
    catch_game,
    check_envpool,
    minatar_game,
)
from envs.protocol import ATARI, PROTOCOLS, Protocol
from envs.sequences import joined, split
from experiment.part import arguments, as_mistake, load, options_of, parse

if TYPE_CHECKING:
    from envs.vector_env import VectorEnv

BACKENDS = ("ale", "envpool")
GYMNASIUM = "gym:"
USUAL_SKIP = 4
"""Frames per agent step of Atari where nothing says otherwise."""
_PATH = re.compile(r"(?!ale_py:)[A-Za-z_][\w.]*:[A-Za-z_]\w*(:.*)?")


@dataclass(frozen=True)
class Registration:
    """Games that are made and played alike.

    Attributes:
        make: called with the game's name, its rules, `num_envs` and `seed`, and by name `backend`, `num_threads` and
            `background`, as in `envs.make`.
        resolve: the game that a spelling means; None if it means none of these, ValueError if it cannot be played.
        games: the names of all games.
        rules: how the games are played and scored; None where a run chooses one of Atari's protocols.
        network: the named network that the frames need; None where any will do.
        stack: frames that make an observation.
        side: pixels of the shorter side of a frame; None if it is not known beforehand.
        check_envpool: raises ValueError for a game that envpool does not play.
        suites: lists of games for sweeps, by name.
        formerly: names of protocols under which earlier versions recorded runs with these rules.
    """

    make: Callable[..., "VectorEnv"]
    resolve: Callable[[str], str | None] = lambda name: name
    games: Callable[[], Sequence[str]] = tuple
    rules: Protocol | None = None
    network: str | None = None
    stack: int = 4
    side: int | None = None
    check_envpool: Callable[[str], None] = check_envpool
    suites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    formerly: tuple[str, ...] = ()


def _make_atari(game: str, rules: Protocol, num_envs: int, seed: int, **how: Any) -> "VectorEnv":
    if how["backend"] == "ale":
        from envs.ale import AleVectorEnv

        return AleVectorEnv(game, rules, num_envs, seed, how["num_threads"], how["background"])
    if how["backend"] == "envpool":
        with _extra("envpool", "envpool", "use ale"):
            from envs.envpool_backend import EnvpoolVectorEnv
        return EnvpoolVectorEnv(game, rules, num_envs, seed, how["num_threads"])
    raise unknown_name("backend", how["backend"], BACKENDS)


def _make_minatar(game: str, rules: Protocol, num_envs: int, seed: int, **how: Any) -> "VectorEnv":
    with _extra("minatar", "MinAtar", "play another game"):
        from envs.minatar import MinAtarVectorEnv
    return MinAtarVectorEnv(game, rules, num_envs, seed, how["num_threads"])


def _make_catch(game: str, rules: Protocol, num_envs: int, seed: int, **how: Any) -> "VectorEnv":
    from envs.catch import Catch

    return Catch(num_envs, seed)


@contextmanager
def _extra(module: str, package: str, instead: str) -> Iterator[None]:
    """Says how to install the module that an import needs, and what works without it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModuleNotFoundError(f"{package} is not installed: pip install -e .[{module}], or {instead}") from error


REGISTRATIONS = (
    Registration(
        _make_atari,
        atari_game,
        atari_games,
        side=84,
        suites={"atari100k": ATARI_100K, "high-utd-20": HIGH_UTD_20, "atari57": ATARI_57},
    ),
    Registration(
        _make_minatar,
        minatar_game,
        lambda: MINATAR,
        PROTOCOLS["minatar"],
        network="minatar",
        stack=1,
        side=10,
        suites={"minatar": MINATAR},
    ),
    Registration(
        _make_catch,
        catch_game,
        lambda: ("Catch",),
        PROTOCOLS["catch"],
        side=84,
        formerly=ATARI,
    ),
)
SUITES = {name: games for registration in REGISTRATIONS for name, games in registration.suites.items()}


def resolve_game(name: str) -> str:
    """The name of a game, from any usual spelling, or of each of a sequence; an import path as it is, imported or not.

    Raises ValueError for a game that is not there: see the resolvers in `envs.games`, and for games that cannot follow
    one another.
    """
    if is_sequence(name):
        return joined(_of_sequence(name))
    return name.strip() if _is_path(name) else _find(name)[0]


def is_sequence(name: str) -> bool:
    """Whether a name is a list of games. An import path may have commas too, in its options."""
    return "," in name and not _is_path(name)


@cache
def registered(name: str) -> Registration:
    """The registration of a game in any spelling, that of an import path, or the one that all games of a sequence have.

    Raises ValueError, in one line, for a game that is not there, for a path that leads to no environment, has an
    unknown option, or a wrong value of one, and for games that cannot follow one another.
    """
    if is_sequence(name):
        return next(iter(_of_sequence(name).values()))
    if name.startswith(GYMNASIUM):
        return _of_gymnasium(name.strip())
    return _of_the_user(name.strip()) if _is_path(name) else _find(name)[1]


def usual_skip(name: str) -> int:
    """Frames per agent step where nothing states them. For an import path 1 is assumed, without importing it."""
    rules = PROTOCOLS["own"] if _is_path(name) else registered(name).rules
    return USUAL_SKIP if rules is None else rules.frame_skip


def recorded_rules(name: str, protocol: Mapping[str, Any]) -> Mapping[str, Any]:
    """The protocol that a result states, as this version states it: earlier ones had other names for the same rules.

    How the games of the evaluation were played stands.
    """
    registration = None if _is_path(name) else registered(name)
    if registration is None or registration.rules is None or protocol.get("name") not in registration.formerly:
        return protocol
    played = ("evaluation_epsilon", "evaluation_episodes", "clip_rewards")
    return asdict(registration.rules) | {key: protocol[key] for key in played if key in protocol}


def _is_path(name: str) -> bool:
    return name.startswith(GYMNASIUM) or _PATH.fullmatch(name.strip()) is not None


def _find(name: str) -> tuple[str, Registration]:
    for registration in REGISTRATIONS:
        if (game := registration.resolve(name)) is not None:
            return game, registration
    raise unknown_name("game", name, [game for registration in REGISTRATIONS for game in registration.games()])


def _of_sequence(name: str) -> dict[str, Registration]:
    """The games of a list and their registration, which is the same for all."""
    found: dict[str, Registration] = {}
    for part in split(name):
        if _is_path(part):
            raise ValueError(f"{part!r} is no game of a family: a sequence has games of Atari, or games of MinAtar")
        game, registration = _find(part)
        if game in found:
            raise ValueError(f"{game} is twice in the sequence: --visits plays all of its games again")
        found[game] = registration
    if len(found) < 2:
        raise ValueError(f"a sequence has two games or more, and {name!r} names {len(found)}")
    (first, family), *others = found.items()
    for game, registration in others:
        if registration is not family:
            raise ValueError(f"{first} and {game} are of two families: their frames and actions have nothing in common")
    return found


def own_options(kind: "type[VectorEnv]") -> dict[str, inspect.Parameter]:
    """The options of a user's class, beyond `num_envs` and `seed`, by name."""
    from envs.vector_env import VectorEnv

    return {name: kept for name, kept in options_of(kind, VectorEnv).items() if name not in ("num_envs", "seed")}


def own_class(path: str) -> tuple[type[Any], dict[str, Any]]:
    """The class at module:Class[:option=value,...], and its options; ValueError, in one line, for a wrong path."""
    from envs.vector_env import VectorEnv

    part = parse(path, (), "environment")
    kind = load(part.name, VectorEnv)
    return kind, arguments(part, kind, own_options(kind))


def _of_the_user(path: str) -> Registration:
    """What a class declares on itself."""
    from envs.vector_env import wrong_declarations

    kind, options = own_class(path)
    if not isinstance(kind.rules, Protocol):
        raise ValueError(f"{path}: rules is {kind.rules!r}: it has to be an envs.protocol.Protocol")

    def make(game: str, rules: Protocol, num_envs: int, seed: int, **how: Any) -> "VectorEnv":
        with as_mistake(path):
            made: VectorEnv = kind(num_envs=num_envs, seed=seed, **options)
            if faults := [*wrong_declarations(made)]:
                raise ValueError("; ".join(faults))
        return made

    shape = getattr(kind, "frame_shape", None)
    side = min(shape[-2:]) if isinstance(shape, tuple) else None  # not of a property
    return Registration(make, rules=kind.rules, network=kind.network, stack=kind.stack, side=side)


def _of_gymnasium(path: str) -> Registration:
    from envs.gymnasium_env import GymnasiumVectorEnv, check_id

    env_id = path.removeprefix(GYMNASIUM)
    check_id(env_id)

    def make(game: str, rules: Protocol, num_envs: int, seed: int, **how: Any) -> "VectorEnv":
        return GymnasiumVectorEnv(env_id, num_envs, seed)

    return Registration(make, rules=GymnasiumVectorEnv.rules)
