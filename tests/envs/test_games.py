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
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_every_rom_in_every_spelling_and_case(spelling):
    for rom in PLAYABLE:
        for case in (str, str.lower, str.upper):
            name = case(spelling(rom))
            assert resolve_game(name) == camel(rom), name
            assert rom_id(name) == rom, name


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
