"""A fork goes on from a checkpoint of another run: to the bit if nothing is changed, else under its own settings."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import agents.run
from agents import cli
from agents.run import AgentRun
from benchmarks.report.agreement import name_arms
from experiment.config import ConfigError, as_plain, load_yaml
from experiment.determinism import parameter_hash
from experiment.setting import learning
from experiment.storage import checkpoint
from experiment.storage.run_dir import RunDir
from plasticity.joining import compare
from plasticity.method import Method
from plasticity.registry import METHODS
from tests.agents import toys
from tests.agents.test_dqn import RAINBOW
from tests.agents.test_resume import (
    Forgetful,
    _quick_disk,  # noqa: F401 (a fixture)
    build_toy,
    config_of,
    die_often,
    differences,
    little,  # noqa: F401 (a fixture)
    resumed,
    rows,
    state_of,
    train,
)
from tests.plasticity.test_every_method import ACTIVE

AT = 80
HERE = "tests.agents.test_fork"
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "methods": {"plasticity": ("hare-tortoise:period=7", "redo:period=3", "l2-init"), "nap": True, "utd": "3/7"},
    "rainbow": {"agent": "rainbow", **RAINBOW, "augment": "drq", "num_envs": 8, "utd": "1/4"},
    "der": {"agent": "der", **RAINBOW, "streams": "shared", "precision": "bf16", "plasticity": ("hyperball",)},
    "cusum": {"schedule": "cusum", "lr_floor": 1e-4, "rewarm_threshold": 0.5, "cycles": 4},
}


class Now(Method):
    """Halves the last layer once, at the first update after it starts."""

    def __init__(self) -> None:
        self.acted_at = 0

    def attach(self, network: Any, target: Any, optimizer: Any) -> None:
        self.weight = list(network.parameters())[-2]
        self.seen = self.weight.detach().clone()

    @torch.no_grad()
    def after_update(self, update: int, features: Any = None) -> None:
        if not self.acted_at:
            self.acted_at = update
            self.weight.mul_(0.5)

    def state_dict(self) -> dict[str, Any]:
        return {"acted_at": self.acted_at, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.acted_at = state["acted_at"]
        self.seen.copy_(state["seen"])


def trunk(root: Path, **options: Any) -> AgentRun:
    return train(config_of(root, "trunk", keep_checkpoints="every", **options))


def fork(root: Path, name: str, *words: str, step: int = AT, program: str = "dqn") -> Any:
    return cli.settings(program, ["--fork", f"{root / 'trunk'}@{step}", "--name", name, *words])


def learned(run: RunDir) -> dict[str, Any]:
    return state_of(checkpoint.load_latest(run.checkpoints))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [40, AT])
def test_with_nothing_changed_it_has_the_bits_of_the_run_that_went_on(kind, step, little, tmp_path):  # noqa: F811
    whole = trunk(tmp_path, **KINDS[kind])
    program = KINDS[kind].get("agent", "dqn")
    forked = train(fork(tmp_path, "fork", step=step, program=program))
    assert differences(learned(forked.directory), learned(whole.directory)) == []
    assert rows(forked) == [row for row in rows(whole) if row["agent_step"] > step]
    facts = json.loads(forked.directory.result.read_text())["fork"]
    assert (facts["run"], facts["step"], facts["changed"]) == ("trunk", step, {})
    assert facts["schedule"]["source"] == facts["schedule"]["fork"]
    assert facts["methods"]["fresh"] == facts["methods"]["dropped"] == []


@pytest.mark.parametrize("kill_at", [81, 90, 100, 119])
def test_killed_and_resumed_it_ends_the_same(kill_at, little, tmp_path):  # noqa: F811
    trunk(tmp_path, **KINDS["methods"])
    words = ["--plasticity", "redo:period=5", f"{HERE}:Now", "--nap", "--lr", "2e-3", "--utd", "1"]
    words += ["--steps", "130", "--checkpoint-interval", "10"]
    whole, config = train(fork(tmp_path, "whole", *words)), fork(tmp_path, "broken", *words)
    train(config, kill_at)
    shutil.rmtree(tmp_path / "trunk")  # a fork that has begun needs it no more
    broken = resumed(config)
    assert differences(learned(broken.directory), learned(whole.directory)) == []
    assert rows(broken) == rows(whole)
    facts = [json.loads(run.directory.result.read_text())["fork"] for run in (broken, whole)]
    assert facts[0] == facts[1]
    assert facts[0]["methods"] == {
        "kept": ["redo", "nap"], "fresh": [f"{HERE}:Now"], "dropped": ["hare-tortoise", "l2-init"]
    }  # fmt: skip


def test_killed_at_random_moments_it_ends_the_same(little, tmp_path, capfd):  # noqa: F811
    trunk(tmp_path, **KINDS["methods"])
    words = ["--plasticity", f"{HERE}:Now", "--nap", "--steps", "200", "--checkpoint-interval", "10"]
    whole, config = train(fork(tmp_path, "whole", *words)), fork(tmp_path, "broken", *words)
    train(config, 85)
    RunDir(tmp_path / "broken").unlock()
    code, _ = die_often(tmp_path, 4, seed=1)
    assert code == 0, capfd.readouterr().err
    assert differences(learned(RunDir(tmp_path / "broken")), learned(whole.directory)) == []
    assert rows(RunDir(tmp_path / "broken")) == rows(whole)


def test_a_method_that_joins_acts_before_the_kept_ones_after_it_as_in_a_resume(little, tmp_path):  # noqa: F811
    """What changes the optimiser's step are hooks of it, which run in the order in which they were registered."""
    trunk(tmp_path, plasticity=("hyperball",))
    words = ["--plasticity", "upgd", "hyperball", "--checkpoint-interval", "10"]
    whole, config = train(fork(tmp_path, "whole", *words)), fork(tmp_path, "broken", *words)
    train(config, 101)
    broken = resumed(config)
    assert differences(learned(broken.directory), learned(whole.directory)) == []
    for run in (whole, broken):
        hooks = [hook.__self__ for hook in run.trainer.agent.optimizer._optimizer_step_post_hooks.values()]
        assert [type(each).__name__ for each in hooks] == ["UPGD", "FixedUpdate"]


def test_games_that_cannot_be_brought_back_begin_again(little, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(toys, "Catch", Forgetful)
    trunk(tmp_path, n_step=1)
    config = fork(tmp_path, "fork", "--lr", "1e-4", "--checkpoint-interval", "10")
    train(config, 95)
    run = resumed(config)
    run.trainer.replay.check()
    assert run.trainer.agent_step == 120
    assert run.origin is not None
    assert run.origin["changed"] == {"lr": [1e-3, 1e-4]}


def test_killed_before_its_first_save_it_forks_again(little, tmp_path, monkeypatch):  # noqa: F811
    trunk(tmp_path)
    whole, config = train(fork(tmp_path, "whole", "--lr", "1e-4")), fork(tmp_path, "broken", "--lr", "1e-4")
    with monkeypatch.context() as patch:
        patch.setattr(AgentRun, "save", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            AgentRun(config)
    assert RunDir(tmp_path / "broken").steps() == []
    broken = resumed(config)
    assert differences(learned(broken.directory), learned(whole.directory)) == []
    assert rows(broken) == rows(whole)


def test_a_method_that_joins_sees_the_loaded_weights_and_acts_once_at_the_first_update(little, tmp_path):  # noqa: F811
    whole = trunk(tmp_path)
    at_fork = checkpoint.load_latest(whole.directory.checkpoints, step=AT).state["trainer"]["agent"]
    config = fork(tmp_path, "fork", "--plasticity", f"{HERE}:Now")
    run = AgentRun(config)
    assert parameter_hash(run.network) == run.config.fork_hash
    (method,) = run.trainer.agent.methods
    last = list(at_fork["network"])[-2]
    assert torch.equal(method.seen, at_fork["network"][last])
    assert run.train() == 0
    assert method.acted_at == at_fork["updates"] + 1
    (saved,) = learned(run.directory)["trainer"]["agent"]["methods"]
    assert saved["acted_at"] == at_fork["updates"] + 1


STRUCTURE = ("nap", "hyperball", "crelu", "injection", "layer-norm", "infer")
"""Methods that change the network."""
OTHERS = [name for name in METHODS if name not in STRUCTURE]
PAIRS = [(one, OTHERS[(place + apart) % len(OTHERS)]) for place, one in enumerate(OTHERS) for apart in (1, 4)]
PAIRS += [("nap", "hyperball"), ("hyperball", "layer-norm"), ("layer-norm", "nap")]
assert len(PAIRS) >= 20


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_pairs_of_methods_of_the_run_and_the_fork_train(one, other, little, tmp_path):  # noqa: F811
    trunk(tmp_path, plasticity=(f"{one}{ACTIVE[one]}",), utd="1/4", steps=100, schedule="constant")
    run = train(fork(tmp_path, "fork", "--no-nap", "--plasticity", f"{other}{ACTIVE[other]}", "--steps", "110"))
    assert run.trainer.agent.updates == 12
    assert run.origin is not None
    assert run.origin["methods"] == {"kept": [], "fresh": [other], "dropped": [one]}


@pytest.mark.parametrize("name", STRUCTURE)
@pytest.mark.parametrize("adds", [True, False])
def test_a_method_that_changes_the_network_is_neither_added_nor_dropped(name, adds, little, tmp_path):  # noqa: F811
    spec = f"{name}{ACTIVE[name]}"
    trunk(tmp_path, plasticity=() if adds else (spec,), utd="1/4", steps=100, schedule="constant")
    config = fork(tmp_path, "fork", "--no-nap", "--plasticity", spec if adds else "l2-init")
    with pytest.raises(ConfigError) as error:
        AgentRun(config)
    how = "with" if adds else "without"
    assert str(error.value).startswith(f"--plasticity: a fork cannot change the network ({how} {name}): ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "fork").exists()


def test_a_budget_in_frames_replaces_that_in_steps(little, tmp_path):  # noqa: F811
    trunk(tmp_path)
    assert fork(tmp_path, "fork", "--frames", "400").budget == 400
    assert fork(tmp_path, "fork").budget == 120


def test_its_own_settings_decide_from_there(little, tmp_path):  # noqa: F811
    whole = trunk(tmp_path, schedule="linear", lr_floor=1e-5)
    config = fork(tmp_path, "fork", "--steps", "160", "--lr", "1e-4", "--weight-decay", "0.5", "--utd", "2")
    run = train(config)
    agent = run.trainer.agent
    assert (agent.schedule.total_steps, agent.schedule.last_epoch) == (100, 100)
    assert agent.optimizer.param_groups[0]["weight_decay"] == 0.5
    assert agent.updates == 20 + 2 * 80
    stood = run.origin["schedule"]
    assert stood["source"] == {"step": 20, "budget": 120, "lr": pytest.approx(1e-5 + 2 / 3 * (1e-3 - 1e-5))}
    assert stood["fork"] == {"step": 20, "budget": 160, "lr": pytest.approx(1e-5 + 0.8 * (1e-4 - 1e-5))}
    assert run.origin["changed"] == {
        "steps": [120, 160], "utd": [1, 2], "lr": [1e-3, 1e-4], "weight_decay": [0.0, 0.5]
    }  # fmt: skip
    settings = load_yaml(type(config), run.directory.config)
    saved = checkpoint.load_latest(whole.directory.checkpoints, step=AT).state["trainer"]["agent"]["network"]
    assert (settings.fork, settings.fork_step) == (f"{tmp_path}/trunk@80", 80)
    whole.network.load_state_dict(saved)
    assert settings.fork_hash == parameter_hash(whole.network)


def test_a_finished_run_gets_a_larger_budget_and_keeps_its_replay(little, tmp_path):  # noqa: F811
    trunk(tmp_path, replay_capacity=10_000)
    run = train(fork(tmp_path, "fork", "--steps", "200", step=120))
    assert run.trainer.agent.updates == 140
    assert run.trainer.replay.capacity == run.config.replay_capacity == 120
    assert rows(run)[0]["agent_step"] > 120
    again = cli.settings("dqn", ["--fork", f"{run.directory.path}@200", "--steps", "220", "--name", "again"])
    assert train(again).trainer.replay.capacity == 120


def test_n_of_the_returns_starts_over_at_resets_after_the_fork_alone(little, tmp_path):  # noqa: F811
    words = {"n_step": 6, "n_step_final": 2, "gamma": 0.9, "gamma_final": 0.99, "anneal_updates": 15}
    trunk(tmp_path, **words)
    config = fork(tmp_path, "fork", "--plasticity", "reset:period=15", "--checkpoint-interval", "10")
    train(config, 88)
    run = resumed(config)
    found = {row["updates"]: row["n_step"] for row in rows(run) if "n_step" in row and "updates" in row}
    assert all(n == 2 for update, n in found.items() if update < 30)
    assert any(n > 2 for update, n in found.items() if update >= 30)
    again = train(cli.settings("dqn", ["--fork", f"{run.directory.path}@110", "--name", "again"]))
    assert again.trainer.n_step_anneal.began == run.trainer.n_step_anneal.began == [20]


def test_what_is_off_has_no_state_to_keep():
    config = config_of(Path("x"), "x", plasticity=("l2-init:strength=0", "redo"))
    found = compare(config, dataclasses.replace(config, plasticity=("redo:tau=0", "l2-init")))
    assert (found.kept, found.fresh, found.dropped) == ({"redo": 1}, ["l2-init"], [])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("@70", "has no checkpoint of step 70; the nearest are 40 and 80"),
        ("@500", "has no checkpoint of step 500; the nearest are 80 and 120"),
        ("@x", "there is no such directory; did you mean 'trunk'?"),
        ("@80 --steps 80", "the fork begins at 80, and 80 is its budget in all"),
        ("@80 --resume auto", "--fork begins a new run, and --resume goes on with one"),
        ("@80 --distribution c51", "--distribution c51: the run to fork has none"),
        ("@80 --env MinAtar/Breakout", "--env MinAtar/Breakout: the run to fork has Catch"),
        ("@80 --num-envs 2", "--num-envs 2: the run to fork has 1"),
        ("@80 --replay-capacity 90", "--replay-capacity 90: the run to fork has 70"),
        ("@80 --seed 3", "--seed 3: the run to fork has 0"),
        ("@80 --fork-step 3", "--fork-step is what --fork RUN@STEP sets"),
        ("@80 --plasticity rdo", "did you mean 'redo'"),
        ("@80 --checkpoint-at 9,x", "--checkpoint-at has 'x'"),
        ("@80 --fork-hash abc", "has parameters of hash"),
        ("@80 --plasticity fire:at=20", "fire: at=20: the fork begins with 20 updates made, and the method"),
        ("@80 --plasticity reset:period=9,until=26", "reset: until=26: the fork begins with 20 updates made"),
    ],
)
def test_bad_input_is_one_line(words, message, little, tmp_path, capsys):  # noqa: F811
    trunk(tmp_path)
    before = sorted(tmp_path.iterdir())
    first, *rest = words.split()
    with pytest.raises(SystemExit) as end:
        cli.main("dqn", ["--fork", f"{tmp_path}/trunk{first}", *rest])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_every_command_that_takes_a_step_names_the_nearest_ones(little, tmp_path):  # noqa: F811
    run = trunk(tmp_path).directory
    with pytest.raises(ConfigError, match=r"no checkpoint of step 50 in '.*'; the nearest are 40 and 80$"):
        checkpoint.load_latest(run.checkpoints, step=50)


def test_a_run_of_another_kind_or_one_that_diverged_is_refused(little, tmp_path, monkeypatch):  # noqa: F811
    whole = trunk(tmp_path)
    with pytest.raises(ConfigError, match=r"these settings are for python -m agents.dqn, not python -m agents.rainbow"):
        fork(tmp_path, "fork", program="rainbow")
    from studies.grokking.__main__ import settings

    with pytest.raises(ConfigError, match=r"is no run of python -m studies.grokking"):
        settings(["--fork", str(tmp_path / "trunk")])
    saved = checkpoint.load_latest(whole.directory.checkpoints, step=AT)
    next(iter(saved.state["trainer"]["agent"]["network"].values())).fill_(math.nan)
    monkeypatch.setattr(checkpoint, "load_latest", lambda *_, **__: saved)
    with pytest.raises(ConfigError, match="is of a run that diverged, not finite: network"):
        AgentRun(fork(tmp_path, "fork"))
    assert not (tmp_path / "fork").exists()


def test_a_method_that_does_not_fit_the_network_is_refused(little, tmp_path):  # noqa: F811
    trunk(tmp_path)
    with pytest.raises(ConfigError, match=r"--plasticity: reset: .*nowhere"):
        AgentRun(fork(tmp_path, "fork", "--plasticity", "reset:layers=nowhere"))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("c-chain:window=6", "c-chain:window=8", "c-chain: window=8: the state to load is of 6, and"),
        ("snr:longest=9", "snr:longest=5", "snr: longest=5: the state to load is of 9, and"),
    ],
)
def test_an_option_that_sizes_a_kept_state_cannot_change(before, after, message, little, tmp_path):  # noqa: F811
    trunk(tmp_path, plasticity=(before,))
    with pytest.raises(ConfigError, match=message):
        AgentRun(fork(tmp_path, "fork", "--plasticity", after))


@pytest.mark.parametrize(
    ("options", "coefficient"),
    [("ratio=0,strength=7", 7), ("ratio=0.5,strength=7,after=900", 7), ("ratio=0.5,strength=7,after=3", None)],
)
def test_a_strength_that_a_fork_gives_holds_until_a_ratio_decides(options, coefficient, little, tmp_path):  # noqa: F811
    trunk(tmp_path, plasticity=("c-chain:after=3,window=6,ratio=0.5",))
    run = AgentRun(fork(tmp_path, "fork", "--plasticity", f"c-chain:window=6,{options}"))
    (method,) = run.trainer.agent.methods
    saved = run.source.saved.state["trainer"]["agent"]["methods"][0]["coefficient"].item()
    assert saved not in (7, 50)
    assert method._coefficient.item() == (saved if coefficient is None else coefficient)


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, [80, 120]),
        ({"keep_checkpoints": 1}, [120]),
        ({"keep_checkpoints": "every"}, [40, 80, 120]),
        ({"keep_checkpoints": 1, "checkpoint_at": ("50", "77")}, [50, 77, 120]),
        ({"keep_checkpoints": 1, "checkpoint_at": ("50",), "num_envs": 8, "utd": "1/4"}, [56, 120]),
    ],
)
def test_checkpoints_are_kept_as_asked(options, steps, little, tmp_path):  # noqa: F811
    assert train(config_of(tmp_path, "a", **options)).directory.steps() == steps


def test_the_toy_is_what_runs_are_built_of(little):  # noqa: F811
    assert agents.run.build_trainer is build_toy


def test_its_own_directory_may_have_the_name_of_the_checkpoint(little, tmp_path, monkeypatch):  # noqa: F811
    trunk(tmp_path)
    whole, config = train(fork(tmp_path, "whole", "--lr", "1e-4")), fork(tmp_path, f"trunk@{AT}", "--lr", "1e-4")
    with monkeypatch.context() as patch:
        patch.setattr(AgentRun, "save", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            AgentRun(config)
    assert differences(learned(resumed(config).directory), learned(whole.directory)) == []


def test_steps_that_one_resume_asked_for_are_kept_by_the_next(little, tmp_path):  # noqa: F811
    config = config_of(tmp_path, "a", keep_checkpoints=1)
    train(config, 45)
    run = train(dataclasses.replace(config, checkpoint_at=("50",), resume=f"{tmp_path}/a"), 55)
    assert run.directory.steps() == [50]
    assert resumed(config).directory.steps() == [50, 120]


def test_a_fork_of_the_working_directory_lies_next_to_it(little, tmp_path, monkeypatch):  # noqa: F811
    trunk(tmp_path)
    monkeypatch.chdir(tmp_path / "trunk")
    config = cli.settings("dqn", ["--fork", f".@{AT}"])
    assert (config.root, config.fork) == (str(tmp_path), f"{tmp_path}/trunk@{AT}")


def test_forks_of_one_setting_and_two_pasts_are_two_arms(little, tmp_path):  # noqa: F811
    trunk(tmp_path)
    slow = config_of(tmp_path, "slow", lr=1e-4)
    train(slow)
    forks = [fork(tmp_path, "a", "--lr", "1e-4"), cli.settings("dqn", ["--fork", f"{tmp_path}/slow@{AT}"])]
    assert learning(forks[0]) == learning(forks[1])
    assert [each.fork_changed for each in forks] == ["lr=0.001", "nothing"]
    assert len(set(name_arms([as_plain(each) for each in forks]))) == 2
    train(forks[0])
    again = cli.settings("dqn", ["--fork", f"{tmp_path}/a@80", "--lr", "1e-3"])
    assert again.fork_changed == f"lr=0.0001 fork_step={AT} fork_changed=lr=0.001"
    assert cli.settings("dqn", ["--fork", f"{tmp_path}/a@80", "--config", f"{tmp_path}/slow/config.yaml"]).lr == 1e-4
