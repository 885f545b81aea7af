"""The settings: what is open is decided, what does not fit is refused in one line."""

from dataclasses import replace

import pytest

from experiment.config import ConfigError, dump_yaml, load_yaml
from studies.warm_start.__main__ import settings
from studies.warm_start.config import FRACTIONS, WarmStartConfig


def given(*words):
    return settings(list(words))


@pytest.mark.parametrize(
    ("words", "fraction", "phases", "updates"),
    [
        ([], 0.1, 2, 14_000),
        (["--protocol", "lee10noisy"], 0.1, 2, 14_000),
        (["--protocol", "ash50", "--schedule", "constant"], 0.5, 2, 14_000),
        (["--protocol", "increments"], 0.1, 10, 2_800),
        (["--protocol", "increments", "--fraction", "1"], 1.0, 10, 2_800),
        (["--phase-updates", "7"], 0.1, 2, 7),
    ],
)
def test_lengths_and_shares_follow_the_protocol(words, fraction, phases, updates):
    config = given(*words)
    assert (config.fraction, config.phases, config.phase_updates) == (fraction, phases, updates)
    assert config.cycles == phases
    assert config.log_interval == (20 if updates == 7 else 250)
    assert config.budget == phases * updates


def test_width_follows_the_network():
    assert given().width == 32
    assert given("--network", "resnet18").width == 64
    assert given("--network", "resnet18", "--width", "16").width == 16


@pytest.mark.parametrize(
    ("words", "warmup"),
    [
        ([], 1_000),
        (["--phase-updates", "3500"], 500),
        (["--schedule", "cusum"], 1_000),
        (["--schedule", "cusum", "--cycles", "20"], 200),
        (["--schedule", "constant"], 0),
        (["--schedule", "delayed-cosine"], 0),
        (["--lr-warmup", "7"], 7),
    ],
)
def test_the_warmup_of_a_restart(words, warmup):
    assert given(*words).lr_warmup == warmup


def test_options_of_methods_may_hold_commas():
    config = given("--plasticity", "redo:period=100,tau=0.1", "--seed", "0", "--plasticity", "l2-init")
    assert config.plasticity == ("redo:period=100,tau=0.1", "l2-init")
    assert given("--strides", "2,1,2").strides == ("2", "1", "2")


@pytest.mark.parametrize("protocol", FRACTIONS)
def test_resolved_settings_stay_and_come_back_from_a_file(protocol, tmp_path):
    config = replace(WarmStartConfig(), protocol=protocol, schedule="constant", plasticity=("redo:tau=0.1",)).resolved()
    assert config.resolved() == config
    path = tmp_path / "config.yaml"
    path.write_text(dump_yaml(config))
    assert load_yaml(WarmStartConfig, path) == config


BAD = [
    (["--fraction", "0"], "--fraction is 0.0: it has to be from 0.001 to 1"),
    (["--fraction", "1.5"], "from 0.001 to 1"),
    (["--lr", "nan"], "--lr: expected a finite number"),
    (["--phase-updates", "0"], "at least 1"),
    (["--width", "1"], "--width is 1"),
    (["--strides", "2", "2"], "three of 1, 2 and 4"),
    (["--strides", "3,2,1"], "three of 1, 2 and 4"),
    (["--lr", "1e-7"], "at most the peak"),
    (["--protocol", "ash50"], "give --schedule constant"),
    (["--protocol", "increments", "--fraction", "0.2"], "--fraction of 0.1"),
    (["--protocol", "lee10noisy", "--fraction", "0.5"], "--protocol lee10noisy begins with a --fraction of 0.1"),
    (["--phase-updates", "2", "--cycles", "5"], "--cycles is 5, and there are 4 updates"),
    (["--schedule", "cusum", "--lr-warmup", "20000"], "a restart, of 14000 updates"),
    (["--lr-warmup", "20000"], "a restart, of 14000 updates"),
    (["--first-warmup", "20000"], "--first-warmup is 20000: it has to be below a restart, of 14000 updates"),
    (["--schedule", "delayed-cosine", "--first-warmup", "5"], "--schedule delayed-cosine has no warm-up"),
    (["--schedule", "cosine", "--lr-warmup", "5"], "--schedule cosine has no warm-up"),
    (["--network", "resnet18", "--norm-over", "channels"], "--norm-over channels is for the cnn"),
    (["--network", "resnet18", "--norm-over", "none"], "--norm-over none is for the cnn"),
    (["--nap-every", "3"], "--nap-every does nothing without --nap"),
    (["--nap-affine", "joint"], "--nap-affine does nothing without --nap"),
    (["--schedule", "constant", "--lr-floor", "1e-5"], "--lr-floor does nothing without a schedule"),
    (["--network", "resnet18", "--hidden", "8"], "--hidden does nothing without --network cnn"),
    (["--network", "resnet18", "--strides", "1,1,1"], "--strides does nothing without --network cnn"),
    (["--cycle-fraction", "0.5"], "--cycle-fraction does nothing without an early-cycle schedule"),
    (["--anneal", "floor"], "--anneal does nothing without an early-cycle schedule"),
    (["--schedule", "cosine", "--lr-delay", "5"], "--lr-delay does nothing without --schedule delayed-cosine"),
    (["--rewarm-threshold", "5"], "--rewarm-threshold does nothing without --schedule cusum"),
    (["--schedule", "constant", "--no-restart-moments"], "--restart-moments does nothing without --schedule cyclic"),
    (["--norm-over", "none", "--nap"], "does not go with --norm-over none"),
    (["--at-switch", "cold", "--plasticity", "cbp"], "--at-switch cold: a method keeps its memory"),
    (["--protocol", "ash50", "--schedule", "cosine"], "give --schedule constant"),
    (["--plasticity", "reddo"], "did you mean 'redo'?"),
    (["--plasticity", "redo", "redo:tau=0"], "redo is named twice"),
    (["--plasticity", "nap"], "is --nap in this study"),
    (["--at-switch", "hot"], "--at-switch"),
    (["--pasticity", "redo"], "did you mean '--plasticity'?"),
    (["--seed", "-1"], "--seed is -1"),
    (["--threads", "-1"], "--threads is -1"),
]


@pytest.mark.parametrize(("words", "says"), BAD)
def test_what_does_not_fit_is_refused_in_one_line(words, says):
    with pytest.raises(ConfigError) as error:
        given(*words)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
