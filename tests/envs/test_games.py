"""Names in every spelling, the lists, the scores, the protocols, and that reading them stays light."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest
from ale_py import Action, ALEInterface, LoggerMode, roms
from hypothesis import example, given
from hypothesis import strategies as st

import envs
from envs.games import (
    ATARI_57,
    ATARI_100K,
    HIGH_UTD_20,
    MINATAR,
    MULTIPLAYER_ONLY,
    TALL_SCREENS,
    check_envpool,
    human_normalized,
    reference_scores,
    rom_id,
)
from envs.protocol import PROTOCOLS, resolve_protocol
from envs.registry import REGISTRATIONS, is_sequence, resolve_game
from envs.sequences import split

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
@example("MINATARFREEWAY")
@example("catch ")
@example("envs.catch:Catch")
@example(",")
@example("Pong,")
@example("Pong,\n")
def test_a_name_is_a_game_or_one_clear_line(name):
    try:
        game = resolve_game(name)
    except ValueError as error:
        message = str(error)
        parts = split(name) if is_sequence(name) else ()
        assert any(repr(part) in message for part in (name, *parts))  # repr: a line break in it breaks no line
        return
    games = [game for registration in REGISTRATIONS for game in registration.games()]
    assert game in games or (":" in name and game == name.strip())


@pytest.mark.parametrize(("typo", "meant"), [("Brekout", "Breakout"), ("mspackman", "MsPacman"), ("UpDown", "UpNDown")])
def test_a_typo_gets_the_near_match(typo, meant):
    with pytest.raises(ValueError, match=f"did you mean '{meant}'"):
        resolve_game(typo)


@pytest.mark.parametrize("rom", MULTIPLAYER_ONLY)
def test_multiplayer_roms_are_refused_before_the_emulator_dies_of_them(rom):
    with pytest.raises(ValueError, match="single-player"):
        resolve_game(rom)


def emulator(rom: str) -> ALEInterface:
    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.loadROM(roms.get_rom_path(rom))
    return ale


def screens_and_actions(games: Iterable[str]) -> tuple[set[str], dict[str, tuple[int, bool]]]:
    """The games with more than 210 lines; of those with other than 18 actions how many, and whether FIRE is one."""
    tall, few = set(), {}
    for game in games:
        ale = emulator(rom_id(game))
        lines, columns = ale.getScreenDims()
        assert (lines >= 210, columns) == (True, 160)
        if lines > 210:
            tall.add(resolve_game(game))
        if len(actions := ale.getLegalActionSet()) != 18:
            few[resolve_game(game)] = len(actions), Action.FIRE in actions
    return tall, few


NINE_ACTIONS = {"LostLuggage": (9, False), "Skiing": (9, False)}


def test_screens_and_actions_are_those_that_are_stated():
    sample = *TALL_SCREENS, *NINE_ACTIONS, "Breakout", "Freeway", "TicTacToe3D"
    assert screens_and_actions(sample) == (set(TALL_SCREENS), NINE_ACTIONS)
    assert not set(TALL_SCREENS) & set(ATARI_57)


@pytest.mark.slow
def test_screens_and_actions_of_all_games_are_those_that_are_stated():
    assert screens_and_actions(PLAYABLE) == (set(TALL_SCREENS), NINE_ACTIONS)


def envpool_games() -> dict[str, str]:
    """envpool's names of its Atari games by ALE's."""
    pytest.importorskip("envpool", reason="envpool is an extra and is not installed")
    from envpool.registration import registry

    specs = {name: spec[2] for name, spec in registry.specs.items() if spec[0] == "envpool.atari"}
    return {options["task"]: name for name, options in specs.items() if options["task"] not in MULTIPLAYER_ONLY}


def test_envpools_games_have_the_names_that_we_make():
    games = envpool_games()
    from envs.envpool_backend import envpool_id

    assert {rom: envpool_id(rom) for rom in PLAYABLE} == games
    assert games["tic_tac_toe_3d"] == "TicTacToe3d-v5"


@pytest.mark.slow
def test_envpool_plays_every_game_that_is_not_refused():
    for rom in envpool_games():
        if resolve_game(rom) not in TALL_SCREENS:
            env = envs.make(rom, "dopamine", backend="envpool")
            assert env.reset().shape == (1, 84, 84)
            env.step(np.zeros(1, np.int64))
            env.close()


def test_envpool_plays_the_game_whose_name_it_spells_otherwise():
    pytest.importorskip("envpool", reason="envpool is an extra and is not installed")
    env = envs.make("tic_tac_toe_3d", "dopamine", backend="envpool")
    env.reset()
    env.step(np.zeros(1, np.int64))
    assert (env.game, env.num_actions) == ("TicTacToe3D", 10)


def test_envs_make_refuses_what_envpool_does_not_show_whole():
    pytest.importorskip("envpool", reason="envpool is an extra and is not installed")
    with pytest.raises(ValueError, match=r"210 lines of Pacman.* use ale"):
        envs.make("pacman", "dopamine", backend="envpool")


@pytest.mark.parametrize("game", [*TALL_SCREENS, "pacman", "Catch", "MinAtar/Breakout"])
def test_a_game_that_envpool_does_not_show_whole_is_refused(game):
    with pytest.raises(ValueError, match=r"envpool .*(use ale|leave it out)"):
        check_envpool(game)


def test_the_57_games_are_envpools():
    for game in ATARI_57:
        check_envpool(game)


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
    dopamine = PROTOCOLS["dopamine"]
    assert (dopamine.sticky_actions, dopamine.life_loss_ends_episode, dopamine.full_action_set) == (0.25, False, False)
    mini = PROTOCOLS["minatar"]
    assert (mini.sticky_actions, mini.full_action_set, mini.noop_max, mini.time_limit) == (0.1, True, 0, 108_000)
    assert machado.max_frames == 18_000
    assert small.time_limit == dopamine.time_limit == 27_000
    for name, protocol in PROTOCOLS.items():
        assert resolve_protocol(name) is resolve_protocol(protocol) is protocol
        assert protocol.name == name
        assert (protocol.evaluation_episodes, protocol.fire_reset) == (100, False)
        assert protocol.clip_rewards == (name not in ("minatar", "own"))
    with pytest.raises(ValueError, match="did you mean 'atari100k'"):
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
    names = "from envs.registry import registered, resolve_game; registered(resolve_game('pong')); registered('catch')"
    assert loaded_by(names, {"numpy", "torch", "ale_py", "envpool", "gymnasium"}) == set()
    assert loaded_by("import envs.ale", {"torch", "envpool"}) == set()
