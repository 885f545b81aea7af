from dataclasses import replace
from fractions import Fraction

import pytest

from agents.cli import presets
from agents.config import DQNConfig
from experiment.config import ConfigError, dump_yaml, load_yaml


def test_the_default_preset_says_what_the_defaults_are():
    assert load_yaml(DQNConfig, presets("dqn")["atari100k"]) == DQNConfig()


@pytest.mark.parametrize("name", presets("dqn"))
def test_every_preset_resolves(name):
    config = load_yaml(DQNConfig, presets("dqn")[name]).resolved()
    assert config.resolved() == config


def test_the_preset_of_200m_frames_is_dopamines_dqn():
    config = load_yaml(DQNConfig, presets("dqn")["200m"]).resolved()
    assert config.budget * 4 == 200_000_000
    assert (config.utd, config.update_start, config.target_period) == (Fraction(1, 4), 20_000, 8_000)
    assert (config.lr, config.adam_eps, config.epsilon_steps, config.rules.sticky_actions) == (
        6.25e-5,
        1.5e-4,
        250_000,
        0.25,
    )


def test_resolved_settings_come_back_from_yaml(tmp_path):
    config = DQNConfig(env="ms_pacman", utd=Fraction(3, 7), plasticity=("nap",), frames=40_000).resolved()
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert load_yaml(DQNConfig, tmp_path / "config.yaml").resolved() == config
    assert (config.env, config.steps, config.schedule, config.nap) == ("MsPacman", 10_000, "early-cycle", True)


def test_nothing_is_left_to_the_machine():
    config = DQNConfig().resolved()
    assert config.threads > 0
    assert config.schedule == "constant"
    assert config.eval_episodes == 100


@pytest.mark.parametrize("nap", [{"nap": True}, {"plasticity": ("nap",)}])
def test_both_names_of_nap_are_one(nap):
    assert DQNConfig(**nap).resolved() == DQNConfig(nap=True).resolved()


def test_a_floor_matters_only_to_schedules_that_have_one():
    assert DQNConfig(lr=1e-7, schedule="constant").resolved()
    assert DQNConfig(lr=1e-4, lr_floor=1e-4, nap=True).resolved()
    with pytest.raises(ConfigError, match="--lr-floor"):
        replace(DQNConfig(), lr=1e-7, nap=True).resolved()


@pytest.mark.parametrize(
    ("steps", "log", "probe"),
    [
        (300, 10, 100),
        (3_000, 20, 200),
        (6_000, 50, 500),
        (99_999, 500, 5_000),
        (100_000, 1_000, 10_000),
        (50_000_000, 1_000, 10_000),
    ],
)
def test_rows_and_probes_follow_the_budget_unless_given(tmp_path, steps, log, probe):
    config = DQNConfig(env="Catch", steps=steps, update_start=200).resolved()
    assert (config.log_interval, config.probe_interval) == (log, probe)
    frames = replace(DQNConfig(env="Catch", update_start=200), frames=steps).resolved()
    assert frames == config
    given = DQNConfig(env="Catch", steps=steps, update_start=200, log_interval=7, probe_interval=0).resolved()
    assert (given.log_interval, given.probe_interval) == (7, 0)
    (tmp_path / "config.yaml").write_text(dump_yaml(config))
    assert f"log_interval: {log}\n" in (tmp_path / "config.yaml").read_text()  # what a resume goes by


@pytest.mark.parametrize("name", sorted(presets("dqn").keys() - {"200m", "high-utd", "minatar", "catch"}))
def test_runs_of_100k_steps_keep_the_intervals_that_their_bits_stand_on(name):
    config = load_yaml(DQNConfig, presets("dqn")[name]).resolved()
    assert (config.budget, config.log_interval, config.probe_interval) == (100_000, 1_000, 10_000)
