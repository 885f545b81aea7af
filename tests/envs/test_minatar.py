"""MinAtar's games: equal to the package's own, resumed exactly, under a protocol and a network of their own."""

import dataclasses
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
from agents.cli import settings as command_line
from agents.config import DQNConfig
from agents.networks.encoders import make_network
from agents.run import build_trainer
from benchmarks.sweep.suites import Arm
from envs.atari import episode_seed
from envs.games import MINATAR, reference_scores, rom_id
from envs.registry import registered, resolve_game
from envs.vector_env import VectorEnv
from experiment.config import ConfigError

minatar = pytest.importorskip("minatar", reason="MinAtar is an extra and is not installed")

RULES = envs.PROTOCOLS["minatar"]
MINIMAL = dataclasses.replace(RULES, full_action_set=False)
CHANNELS = {"Asterix": 4, "Breakout": 4, "Freeway": 7, "Seaquest": 10, "SpaceInvaders": 6}
MODULES = {"SpaceInvaders": "space_invaders"}


def planes(game) -> np.ndarray:
    return np.moveaxis(game.state(), -1, 0) * np.uint8(255)


def package_game(name: str, seed: int, env: int, episode: int):
    game = minatar.Environment(MODULES.get(name, name.lower()), sticky_action_prob=0.1, difficulty_ramping=True)
    game.seed(episode_seed(seed, env, episode))
    game.reset()
    return game


@pytest.mark.parametrize("rules", [RULES, MINIMAL], ids=["full", "minimal"])
@pytest.mark.parametrize("name", CHANNELS)
def test_play_equals_the_packages_own_episode_by_episode(name, rules):
    env = envs.make(f"MinAtar/{name}", rules, num_envs=2, seed=5)
    codes = list(range(6)) if rules is RULES else package_game(name, 5, 0, 0).minimal_action_set()
    assert (env.num_actions, env.frame_shape, env.stack) == (len(codes), (CHANNELS[name], 10, 10), 1)
    games, episodes, ends = [package_game(name, 5, i, 0) for i in range(2)], [0, 0], 0
    for shown, game in zip(env.reset(), games, strict=True):
        np.testing.assert_array_equal(shown, planes(game))
    for actions in np.random.default_rng(1).integers(len(codes), size=(150, 2)):
        step = env.step(actions)
        for i in range(2):
            reward, over = games[i].act(codes[actions[i]])
            assert (step.reward[i], step.terminated[i]) == (reward, over)
            np.testing.assert_array_equal(step.frame[i], planes(games[i]))
            if over:
                episodes[i], ends = episodes[i] + 1, ends + 1
                games[i] = package_game(name, 5, i, episodes[i])
            np.testing.assert_array_equal(step.first_frame[i], planes(games[i]))
        assert not (step.life_lost | step.truncated).any()
    assert ends > 2 or name == "Freeway"


def actions_for(env: VectorEnv, steps: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(env.num_actions, size=(steps, env.num_envs))


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(MINATAR), st.integers(0, 90), st.integers(0, 2**40))
def test_a_resume_goes_on_bit_for_bit(name, steps, seed):
    short = dataclasses.replace(RULES, max_frames=40)
    env, fresh = (envs.make(name, short, num_envs=3, seed=seed) for _ in range(2))
    frames = env.reset()
    for actions in actions_for(env, steps, 0):
        frames = env.step(actions).first_frame
    shown = fresh.load_state_dict(pickle.loads(pickle.dumps(env.state_dict())))
    np.testing.assert_array_equal(shown, frames)
    for actions in actions_for(env, 60, 1):
        for one, two in zip(env.step(actions), fresh.step(actions), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_state_of_other_games_is_refused():
    env = envs.make("MinAtar/Asterix", RULES, seed=1)
    env.reset()
    for other, key in (
        (envs.make("MinAtar/Seaquest", RULES, seed=1), "game"),
        (envs.make("MinAtar/Asterix", MINIMAL, seed=1), "protocol"),
        (envs.make("MinAtar/Asterix", RULES, seed=2), "seed"),
        (envs.make("Pong", "machado", seed=1), "ale-py"),
    ):
        with pytest.raises(ValueError, match=f"saved environments have {key}"):
            other.load_state_dict(env.state_dict())


def test_random_play_scores_as_published():
    """The package's README has 0.5 +- 0.023 for Breakout."""
    env = envs.make("MinAtar/Breakout", RULES, num_envs=4, seed=0)
    env.reset()
    scores: list[float] = []
    for actions in actions_for(env, 800, 0):
        step = env.step(actions)
        scores += step.episode_return[step.ended].tolist()
    assert abs(np.mean(scores) - 0.5) < 4 * np.std(scores) / len(scores) ** 0.5 + 0.023


@pytest.mark.parametrize("change", [{"frame_skip": 4}, {"noop_max": 30}, {"fire_reset": True}])
def test_rules_that_the_games_cannot_keep_are_refused(change):
    with pytest.raises(ValueError, match="but 'minatar'"):
        envs.make("MinAtar/Asterix", dataclasses.replace(RULES, name="other", **change))


@pytest.mark.parametrize("name", MINATAR)
def test_names_in_every_spelling(name):
    game = name.removeprefix("MinAtar/")
    snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in game)[1:]
    for spelling in (name, name.lower(), f"{name}-v0", f"minatar/{snake}", f"MinAtar {game}"):
        assert resolve_game(spelling) == name
        assert registered(spelling).rules == RULES
    assert resolve_game(game) == game  # Atari's
    assert name not in reference_scores()
    with pytest.raises(ValueError, match="no game of the emulator"):
        rom_id(name)
    with pytest.raises(ValueError, match=f"did you mean '{name}'"):
        resolve_game(f"{name}s")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "minatar", None)
    monkeypatch.delitem(sys.modules, "envs.minatar", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"MinAtar is not installed: pip install -e \.\[minatar\]"):
        envs.make("MinAtar/Breakout", RULES)


def test_settings_take_the_protocol_and_network_of_the_games():
    config = DQNConfig(env="minatar/space_invaders", protocol="machado", network="nature", frames=3_000).resolved()
    assert (config.env, config.protocol, config.network) == ("MinAtar/SpaceInvaders", "minatar", "minatar")
    assert (config.steps, config.rules) == (3_000, RULES)
    assert config.resolved() == config


@pytest.mark.parametrize("agent", ["dqn", "rainbow", "der"])
def test_rewards_are_not_clipped_unless_that_is_asked_for(agent, tmp_path):
    def clips(*words: str) -> bool | None:
        return command_line(agent, words).clip_rewards

    assert (clips("--env=minatar/seaquest"), clips("--env=seaquest")) == (False, True)
    assert (clips("--env=minatar/seaquest", "--clip-rewards"), clips("--no-clip-rewards")) == (True, False)
    stored = tmp_path / "config.yaml"
    stored.write_text("env: MinAtar/Seaquest\nprotocol: minatar\nclip_rewards: true\n")
    assert clips("--config", str(stored)) is True  # as an earlier run stored it
    assert clips("--config", str(stored), "--no-clip-rewards") is False


@pytest.mark.parametrize(("clip", "learned"), [("--no-clip-rewards", 7), ("--clip-rewards", 1)])
def test_the_agent_learns_from_the_rewards_of_the_game(clip, learned, monkeypatch):
    """Surfacing in Seaquest with six divers earns up to 10 at once."""
    words = ["--env=minatar/seaquest", "--steps=400", "--update-start=300", "--compile=false", "--threads=1"]
    trainer = build_trainer(command_line("dqn", [*words, "--n-step=1", clip]))
    trainer.open()
    receive = trainer.env.recv
    monkeypatch.setattr(trainer.env, "recv", lambda: receive()._replace(reward=np.array([7], np.float32)))
    for _ in range(20):
        trainer.play(1.0)
    batch = trainer.replay.gather(torch.arange(4).unsqueeze(0), **trainer.returns_now())
    assert batch["reward"].tolist() == [[learned] * 4]


def test_the_preset_is_the_authors_dqn():
    config = command_line("dqn", ["--config", "minatar", "--env", "MinAtar/Asterix"])
    assert (config.env, config.network, config.rules.name) == ("MinAtar/Asterix", "minatar", "minatar")
    assert (config.steps, config.utd, config.batch_size, config.n_step, config.gamma) == (5_000_000, 1, 32, 1, 0.99)
    assert (config.replay_capacity, config.update_start, config.target_period) == (100_000, 5_000, 1_000)
    assert (config.epsilon_final, config.epsilon_steps, config.lr) == (0.1, 100_000, 2.5e-4)
    assert config.schedule == "constant"
    assert not any((config.double_q, config.clip_rewards, config.prioritised, config.dueling, config.noisy))


def test_seaquests_count_of_divers_falls_below_zero_and_surfacing_is_free_from_then_on():
    """MinAtar 1.0.15: surfacing with six divers leaves -1 of them, and only a count of 0 ends a game at the surface."""
    game = package_game("Seaquest", 5, 0, 0).env
    game.diver_count, game.oxygen = 6, 100
    for count in (-1, -2, -3):
        game.sub_y, game.surface = 1, False
        assert not game.act(game.action_map.index("u"))[1]
        assert (game.sub_y, game.diver_count) == (0, count)
        game.e_subs, game.e_fish, game.e_bullets = [], [], []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"protocol": "minatar"}, "one of atari100k, dopamine, machado$"),
        ({"env": "MinAtar/Breakout", "augment": "drq"}, "has 10: give --augment none"),
        ({"env": "MinAtar/Breakout", "backend": "envpool"}, "is none: leave it out"),
        ({"env": "catch", "backend": "envpool"}, "is none: leave it out"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        DQNConfig(**options).resolved()


def test_a_preset_gives_way_to_the_games_and_a_flag_is_refused():
    config = command_line("rainbow", ["--env=MinAtar/Breakout"])
    assert (config.protocol, config.network) == ("minatar", "minatar")
    assert command_line("dqn", ["--env=minatar/breakout", "--network=minatar", "--protocol", "minatar"])
    assert command_line("dqn", ["--env=Breakout", "--network=nature", "--protocol=machado"]).network == "nature"
    for words in (["--network=small"], ["--network", "nature"], ["--protocol=machado"], ["--protocol", "atari100k"]):
        with pytest.raises(ConfigError, match=f"{words[0].partition('=')[0]} .*: leave it out"):
            command_line("dqn", ["--env=minatar/breakout", *words])
        arm = Arm("a", "dqn", tuple(words))
        assert arm.config("Breakout")
        with pytest.raises(ConfigError, match=r"arm 'a': .*: leave it out"):
            arm.config("MinAtar/Breakout")


def test_the_network_is_the_papers_and_sees_zeros_and_ones():
    channels = CHANNELS["Seaquest"]
    network = make_network("minatar", 1, (channels, 10, 10), 6)
    shapes = [tuple(weight.shape) for name, weight in network.named_parameters() if name.endswith("weight")]
    assert shapes == [(16, channels, 3, 3), (128, 1024), (6, 128)]
    frames = torch.rand(5, 1, channels, 10, 10) < 0.2
    convolution = network.torso[1]
    seen = torch.nn.functional.conv2d(frames[:, 0].float(), convolution.weight, convolution.bias).relu()
    torch.testing.assert_close(network.torso[:3](frames * torch.tensor(255, dtype=torch.uint8)), seen)
