"""Game names in every usual spelling, the papers' game lists, and random and human reference scores."""

import csv
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from envs.errors import unknown_name

# Shipped by ale-py, but with no single-player mode: the emulator ends the process when it loads them.
MULTIPLAYER_ONLY = ("combat", "joust", "maze_craze", "warlords")

# Their screens have 214 to 250 lines, all others 210. envpool 1.2.5 shows the agent the first 210 lines alone.
TALL_SCREENS = (
    "Adventure", "AirRaid", "Carnival", "JourneyEscape", "KeystoneKapers", "KingKong", "Klax", "LaserGates", "MrDo",
    "Pacman", "Pooyan", "SirLancelot", "SpaceWar",
)  # fmt: skip

# Young & Tian 2019 (arXiv 1903.03176): see envs.minatar.
MINATAR = ("MinAtar/Asterix", "MinAtar/Breakout", "MinAtar/Freeway", "MinAtar/Seaquest", "MinAtar/SpaceInvaders")

SCORE_NOTES = {
    "MinAtar/Seaquest": "MinAtar/Seaquest gets easier after the first full rescue: in MinAtar 1.0.15 the count of "
    "divers then falls below zero, and surfacing for air costs none.",
}
"""Notes for readers of a game's scores."""

# Kaiser et al. 2020.
ATARI_100K = (
    "Alien", "Amidar", "Assault", "Asterix", "BankHeist", "BattleZone", "Boxing", "Breakout", "ChopperCommand",
    "CrazyClimber", "DemonAttack", "Freeway", "Frostbite", "Gopher", "Hero", "Jamesbond", "Kangaroo", "Krull",
    "KungFuMaster", "MsPacman", "Pong", "PrivateEye", "Qbert", "RoadRunner", "Seaquest", "UpNDown",
)  # fmt: skip

# arXiv 2507.20057, figure 7.
HIGH_UTD_20 = (
    "Asterix", "SpaceInvaders", "Breakout", "Pong", "Qbert", "DemonAttack", "Seaquest", "WizardOfWor", "RoadRunner",
    "BeamRider", "Frostbite", "CrazyClimber", "Assault", "Krull", "Boxing", "Jamesbond", "Kangaroo", "UpNDown",
    "Gopher", "Hero",
)  # fmt: skip

ATARI_57 = (
    "Alien", "Amidar", "Assault", "Asterix", "Asteroids", "Atlantis", "BankHeist", "BattleZone", "BeamRider", "Berzerk",
    "Bowling", "Boxing", "Breakout", "Centipede", "ChopperCommand", "CrazyClimber", "Defender", "DemonAttack",
    "DoubleDunk", "Enduro", "FishingDerby", "Freeway", "Frostbite", "Gopher", "Gravitar", "Hero", "IceHockey",
    "Jamesbond", "Kangaroo", "Krull", "KungFuMaster", "MontezumaRevenge", "MsPacman", "NameThisGame", "Phoenix",
    "Pitfall", "Pong", "PrivateEye", "Qbert", "Riverraid", "RoadRunner", "Robotank", "Seaquest", "Skiing", "Solaris",
    "SpaceInvaders", "StarGunner", "Surround", "Tennis", "TimePilot", "Tutankham", "UpNDown", "Venture", "VideoPinball",
    "WizardOfWor", "YarsRevenge", "Zaxxon",
)  # fmt: skip

# `ALE/Breakout-v5`, `ale_py:BreakoutNoFrameskip-v4`, `Atari-Breakout-v5`, `atari_breakout`.
_GYM_ID = re.compile(
    r"^(?P<emulator>(?:ale_py:)?(?:(?:ALE|Atari)[/_ -])?)(?P<name>.+?)(?:NoFrameskip|Deterministic)?(?:-v\d+)?$",
    re.IGNORECASE,
)

# Titles on the cartridge, as keys, that differ from the emulator's by more than spaces and signs.
_TITLES = {
    "montezumasrevenge": "montezumarevenge", "upanddown": "upndown", "robottank": "robotank",
    "jamesbond007": "jamesbond",
}  # fmt: skip


def atari_game(name: str) -> str | None:
    """The papers' spelling of a game that ale-py ships, from any usual one; None if it is none.

    `ms_pacman`, `mspacman`, `Ms. Pac-Man`, `atari_ms_pacman`, `MsPacman-v5`, `Atari-MsPacman-v5`, `ALE/MsPacman-v5` and
    `MsPacmanNoFrameskip-v4` all give `MsPacman`. Raises ValueError for a game that has no single-player mode or is
    played on the emulator's memory. PettingZoo's `pong_v3`, a game of two players, is none.
    """
    key = _key(name)
    rom = _roms_by_key().get(_TITLES.get(key, key))
    if rom is None and (pixels := _roms_by_key().get(key.removesuffix("ram"))):
        raise ValueError(f"game {name!r} plays on the emulator's memory; on pixels it is {_camel_case(pixels)}")
    if rom in MULTIPLAYER_ONLY:
        raise ValueError(f"game {name!r} has no single-player mode in the emulator; choose another game")
    return None if rom is None else _camel_case(rom)


def atari_games() -> list[str]:
    """All games of Atari that can be played alone."""
    return [_camel_case(rom) for rom in _roms_by_key().values() if rom not in MULTIPLAYER_ONLY]


def catch_game(name: str) -> str | None:
    """`Catch`, whatever the case; None for another name."""
    return "Catch" if _key(name) == "catch" and not _of_the_emulator(name) else None


def minatar_game(name: str) -> str | None:
    """The name of a game of MinAtar, from any usual one; None for a name that means none.

    `minatar/space_invaders`, `MinAtar/SpaceInvaders-v1` and `SpaceInvaders-MinAtar` give `MinAtar/SpaceInvaders`.
    Raises ValueError for a game that MinAtar does not have.
    """
    key = _key(name)
    if not (key.startswith("minatar") or key.endswith("minatar")) or _of_the_emulator(name):
        return None
    for game in MINATAR:
        if key in (_key(game), _key(game).removeprefix("minatar") + "minatar"):  # gymnax puts it behind
            return game
    raise unknown_name("game", name, MINATAR)


def rom_id(name: str) -> str:
    """ALE's snake_case name of a game in any usual spelling. ValueError for what is no game of the emulator."""
    game = atari_game(name)
    if game is None:
        raise ValueError(f"{name} is no game of the emulator")
    return _roms_by_key()[_key(game)]


def check_envpool(name: str) -> None:
    """Raises ValueError for what is no game of Atari, and for a game that envpool does not show whole."""
    game = atari_game(name)
    if game is None:
        raise ValueError(f"envpool is for Atari's games, and {name} is none: leave it out")
    if game in TALL_SCREENS:
        raise ValueError(f"envpool shows only the upper 210 lines of {game}, whose screen has more: use ale")


@cache
def reference_scores() -> dict[str, tuple[float, float]]:
    """Random and human scores by game, for the 57 games; the file's last column is their source.

    Raw returns from no-op starts (Wang et al. 2016). Dopamine differs in one number: 0.0 for random VideoPinball.
    """
    with Path(__file__).with_name("reference_scores.csv").open(newline="") as file:
        return {row["game"]: (float(row["random"]), float(row["human"])) for row in csv.DictReader(file)}


def human_normalized(game: str, score: float) -> float:
    """(score - random) / (human - random): 0 is random play, 1 the human tester. ValueError without a reference."""
    name = atari_game(game)
    if name not in reference_scores():
        raise ValueError(f"game {name!r} has no human reference score; the {len(ATARI_57)} of ATARI_57 have one")
    random, human = reference_scores()[name]
    return (score - random) / (human - random)


def _key(name: str) -> str:
    """The letters and digits of a name, without the parts of an id that state rules, such as NoFrameskip and v4."""
    match = _GYM_ID.match(name.strip())
    return "".join(filter(str.isalnum, match["name"].lower().replace("&", "and"))) if match else ""


def _of_the_emulator(name: str) -> bool:
    match = _GYM_ID.match(name.strip())
    return bool(match and match["emulator"])


def _camel_case(rom: str) -> str:
    return rom.title().replace("_", "")


@cache
def _roms_by_key() -> dict[str, str]:
    spec = find_spec("ale_py")  # finds the package without loading the emulator
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("ale-py is not installed; its ROMs are needed: pip install ale-py")
    roms = json.loads((Path(spec.origin).parent / "roms" / "md5.json").read_text())
    return {_key(Path(file).stem): Path(file).stem for file in sorted(roms)}
