"""Names in every spelling, the lists, the scores, the protocols, and that reading them stays light."""

import dataclasses
import subprocess
import sys

import pytest
from ale_py import roms
from hypothesis import given
from hypothesis import strategies as st

from envs.games import (
    ATARI_57,
    ATARI_100K,
    HIGH_UTD_20,
    MINATAR,
    MULTIPLAYER_ONLY,
    human_normalized,
    reference_scores,
    resolve_game,
    rom_id,
)
from envs.protocol import PROTOCOLS, resolve_protocol

PLAYABLE = sorted(set(roms.get_all_rom_ids()) - set(MULTIPLAYER_ONLY))


def camel(rom: str) -> str:
    return "".join(part if part == "3D" else part.capitalize() for part in rom.replace("3d", "3D").split("_"))


SPELLINGS = {
    "ale": str,
    "spaces": lambda rom: rom.replace("_", " "),
    "papers": camel,
    "v5": lambda rom: f"ALE/{camel(rom)}-v5",
    "v4": lambda rom: f"{camel(rom)}NoFrameskip-v4",
    "deterministic": lambda rom: f"{camel(rom)}Deterministic-v0",
    "envpool": lambda rom: f"{camel(rom)}-v5",
    "module": lambda rom: f"ale_py:ALE/{camel(rom)}-v5",
    "module v4": lambda rom: f"ale_py:{camel(rom)}NoFrameskip-v4",
    "benchmark": lambda rom: f"Atari-{camel(rom)}-v5",
    "snake benchmark": lambda rom: f"atari_{rom}",
    "folder": lambda rom: f"atari/{rom}",
    "kebab": lambda rom: f"atari-{rom.replace('_', '-')}",
    "words": lambda rom: f"Atari {rom.replace('_', ' ').title()}",
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_every_rom_in_every_spelling_and_case(spelling):
    for rom in PLAYABLE:
        for case in (str, str.lower, str.upper):
            name = case(spelling(rom))
            assert resolve_game(name) == camel(rom), name
            assert rom_id(name) == rom, name


TITLES = (
    "Alien", "Amidar", "Assault", "Asterix", "Asteroids", "Atlantis", "Bank Heist", "Battlezone", "BeamRider",
    "Berzerk", "Bowling", "Boxing", "Breakout", "Centipede", "Chopper Command", "Crazy Climber", "Defender",
    "Demon Attack", "Double Dunk", "Enduro", "Fishing Derby", "Freeway", "Frostbite", "Gopher", "Gravitar", "H.E.R.O.",
    "Ice Hockey", "James Bond 007", "Kangaroo", "Krull", "Kung-Fu Master", "Montezuma's Revenge", "Ms. Pac-Man",
    "Name This Game", "Phoenix", "Pitfall!", "Pong", "Private Eye", "Q*bert", "River Raid", "Road Runner", "Robot Tank",
    "Seaquest", "Skiing", "Solaris", "Space Invaders", "Stargunner", "Surround", "Tennis", "Time Pilot", "Tutankham",
    "Up 'n Down", "Venture", "Video Pinball", "Wizard of Wor", "Yars' Revenge", "Zaxxon",
)  # fmt: skip
"""What stands on the cartridges of ATARI_57, in its order."""


@pytest.mark.parametrize("case", [str, str.lower, str.upper, lambda name: name.replace("'", "\u2019")])
def test_every_title_is_its_game(case):
    assert [resolve_game(case(title)) for title in TITLES] == list(ATARI_57)
    others = {"Up and Down": "UpNDown", "Up & Down": "UpNDown", "Robot Tank": "Robotank", "James Bond": "Jamesbond"}
    assert {title: resolve_game(case(title)) for title in others} == others


@pytest.mark.parametrize("game", [game.removeprefix("MinAtar/") for game in MINATAR])
def test_games_of_minatar_are_never_those_of_the_emulator(game):
    for name in (f"{game}-MinAtar", f"{game.lower()}-minatar", f"MinAtar/{game}-v1", f"minatar-{game}"):
        assert resolve_game(name) == f"MinAtar/{game}", name


@pytest.mark.parametrize(
    "name",
    [
        "Breakout-ramNoFrameskip-v4", "ALE/Breakout-ram-v5", "Breakout-ram", "breakout_v3", "pong_v3", "PongDuel-v0",
        "Pong-misc", "ALE/Catch", "Atari-Catch-v5", "ALE/MinAtar/Breakout", "Atari-", "Atari", "ALE/", "-v5",
        "Break\u00f6ut", "Breakout\u00df", "procgen-pong", "Breakout-MinAtar-NoFrameskip2", "Breakout-v5-v5x", "ram",
        "Pong MinAtar",
    ],
)  # fmt: skip
def test_names_of_other_tasks_are_refused(name):
    with pytest.raises(ValueError, match="game"):
        resolve_game(name)


def test_a_game_on_the_memory_is_said_to_be_that():
    with pytest.raises(ValueError, match="plays on the emulator's memory; on pixels it is Breakout"):
        resolve_game("Breakout-ram-v0")


@given(st.text(max_size=20))
def test_a_name_is_a_game_or_one_clear_line(name):
    try:
        game = resolve_game(name)
    except ValueError as error:
        message = str(error)
        assert repr(name) in message  # repr: a line break in the name breaks no line
        return
    assert rom_id(game) in PLAYABLE


@pytest.mark.parametrize(("typo", "meant"), [("Brekout", "Breakout"), ("mspackman", "MsPacman"), ("UpDown", "UpNDown")])
def test_a_typo_gets_the_near_match(typo, meant):
    with pytest.raises(ValueError, match=f"did you mean {meant}"):
        resolve_game(typo)


@pytest.mark.parametrize("rom", MULTIPLAYER_ONLY)
def test_multiplayer_roms_are_refused_before_the_emulator_dies_of_them(rom):
    with pytest.raises(ValueError, match="single-player"):
        resolve_game(rom)


def test_lists_are_canonical_and_of_the_papers_sizes():
    for games, size in ((ATARI_100K, 26), (HIGH_UTD_20, 20), (ATARI_57, 57)):
        assert len(set(games)) == len(games) == size
        assert [resolve_game(game) for game in games] == list(games)
    assert set(ATARI_100K) | set(HIGH_UTD_20) <= set(ATARI_57)


def test_reference_scores_cover_the_57_games_and_normalise():
    scores = reference_scores()
    assert set(scores) == set(ATARI_57)
    assert scores["MsPacman"] == (307.3, 6951.6)
    for game, (random, human) in scores.items():
        assert random < human
        assert human_normalized(game, random) == 0
        assert human_normalized(game, human) == 1
    assert human_normalized("ms_pacman", (307.3 + 6951.6) / 2) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no human reference score"):
        human_normalized("Tetris", 1.0)


def test_protocols_say_what_the_papers_say():
    small, machado = PROTOCOLS["atari100k"], PROTOCOLS["machado"]
    assert (small.sticky_actions, small.life_loss_ends_episode, small.full_action_set, small.noop_max) == (
        0,
        True,
        False,
        30,
    )
    assert (machado.sticky_actions, machado.life_loss_ends_episode, machado.full_action_set) == (0.25, False, True)
    mini = PROTOCOLS["minatar"]
    assert (mini.sticky_actions, mini.full_action_set, mini.noop_max, mini.time_limit) == (0.1, True, 0, 108_000)
    assert small.time_limit == machado.time_limit == 27_000
    for name, protocol in PROTOCOLS.items():
        assert resolve_protocol(name) is resolve_protocol(protocol) is protocol
        assert protocol.name == name
        assert (protocol.max_frames, protocol.evaluation_episodes, protocol.fire_reset) == (108_000, 100, False)
    with pytest.raises(ValueError, match="did you mean atari100k"):
        resolve_protocol("atari-100k")


@pytest.mark.parametrize(
    "change",
    [
        {"sticky_actions": 1.0},
        {"sticky_actions": -0.1},
        {"evaluation_epsilon": 2},
        {"noop_max": -1},
        {"evaluation_episodes": 0},
        {"frame_skip": 0},
        {"max_frames": 3},
        {"max_frames": 118},
    ],
)
def test_impossible_protocols_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(PROTOCOLS["machado"], **change)


def loaded_by(statement: str, suspects: set[str]) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*({suspects!r} & set(sys.modules)))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_reading_names_loads_no_emulator_and_playing_loads_no_torch():
    names = "import envs.protocol; from envs.games import resolve_game; resolve_game('pong')"
    assert loaded_by(names, {"numpy", "torch", "ale_py", "envpool", "gymnasium"}) == set()
    assert loaded_by("import envs.ale", {"torch", "envpool"}) == set()
