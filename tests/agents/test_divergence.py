"""NaN in a batch, a gradient or a parameter of an agent: the run is stopped, or the update is left out."""

import json
import math

import pytest
import torch

from agents import cli
from agents.config import DQNConfig
from agents.dqn import DQN
from agents.training.divergence import advice, span
from experiment.determinism import parameter_hash
from experiment.guard import NonFinite, check_finite
from experiment.storage import checkpoint
from tests.agents.toys import catch_trainer, run

SHORT = {"steps": 100, "update_start": 40, "log_interval": 20, "batch_size": 4, "probe_interval": 0}


def spoil(trainer, where, at):
    """Puts a NaN into update `at`, counted from 0."""
    agent, update = trainer.agent, trainer.agent.update
    weight, gradient = agent.network.head.weight, agent.online.head.weight

    def spoilt(batch):
        if agent.updates != at:
            return update(batch)
        if where == "reward":
            batch["reward"][3] = math.nan
        elif where == "inf reward":
            batch["reward"][3] = math.inf
        elif where == "parameter":
            with torch.no_grad():
                weight[0, 1] = math.nan
        hook = gradient.register_hook(lambda grad: grad * math.nan) if where == "gradient" else None
        metrics = update(batch)
        if hook is not None:
            hook.remove()
        return metrics

    agent.update = spoilt


@pytest.mark.parametrize("settings", [{}, {"nap": True, "precision": "bf16"}])
def test_leaving_out_changes_no_bit_while_all_is_finite(settings):
    stop, skip = (catch_trainer(**SHORT | settings, on_nonfinite=kind) for kind in ("stop", "skip"))
    rows = [[row | {"seconds": 0} for row in run(trainer)] for trainer in (stop, skip)]
    assert parameter_hash(stop.agent.network) == parameter_hash(skip.agent.network)
    assert sum(row.pop("skipped_updates", math.nan) for row in rows[1] if "lr" in row) == 0
    assert rows[0] == rows[1]


@pytest.mark.parametrize("where", ["reward", "inf reward", "gradient", "parameter"])
def test_a_run_is_stopped_at_the_next_row_and_says_where_it_began(where):
    trainer = catch_trainer(**SHORT)
    spoil(trainer, where, at=30)
    with pytest.raises(NonFinite) as caught:
        run(trainer)
    text = str(caught.value)
    assert trainer.agent_step == 80
    first = 32 if where == "gradient" else 31  # whose own loss was fine
    assert f"the loss of update {first} was the first that is not finite" in text
    assert "noticed at update 40. All was finite up to update 20, with means of loss 0." in text
    assert ("not finite: network.torso.0.weight, " in text) == (where != "inf reward")
    assert "rewards -1 to 1" in text.replace("rewards 0 to 1", "rewards -1 to 1").replace("-1 to 0", "-1 to 1")
    assert "observations 0 to 255" in text
    assert "lr 0.001" in text
    assert "\n" not in text


def test_before_the_first_means_it_names_none():
    trainer = catch_trainer(**SHORT)
    spoil(trainer, "reward", at=5)
    with pytest.raises(NonFinite, match=r"All was finite up to update 0\. The last update: "):
        run(trainer)


@pytest.mark.parametrize(
    ("where", "precision"), [("reward", "fp32"), ("inf reward", "fp32"), ("gradient", "fp32"), ("gradient", "bf16")]
)
def test_an_update_is_left_out_and_counted(where, precision):
    trainer = catch_trainer(**SHORT, on_nonfinite="skip", precision=precision)
    spoil(trainer, where, at=30)
    rows = [row for row in run(trainer) if "loss" in row]
    assert [row["skipped_updates"] for row in rows] == [0, 1, 0]
    assert all(math.isfinite(row[name]) for row in rows for name in ("loss", "q", "td_error"))
    check_finite(trainer.agent.state_dict())


def finish(trainer):
    while not trainer.done:
        trainer.step()


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_no_parameter_that_is_not_finite_is_trained_on_or_saved(on_nonfinite):
    trainer = catch_trainer(**SHORT, on_nonfinite=on_nonfinite)
    spoil(trainer, "parameter", at=30)
    trainer.open()
    while trainer.agent.updates <= 30:
        trainer.step()
    with pytest.raises(NonFinite, match=r"not finite: network.*update 31 was the first.*noticed at update 31"):
        trainer.monitor.check()
    with pytest.raises(NonFinite, match=r"not finite: network.*the loss of update 31 was the first"):
        finish(trainer)


def test_updates_that_are_all_left_out_end_the_run():
    trainer = catch_trainer(**SHORT | {"log_interval": 10, "steps": 150}, on_nonfinite="skip")
    trainer.agent.skip.look = lambda _: trainer.agent.skip.__class__.look(trainer.agent.skip, torch.tensor(math.nan))
    with pytest.raises(NonFinite, match="the last 100 updates were all left out"):
        run(trainer)


def test_the_command_keeps_the_last_good_checkpoint_and_goes_on_without_the_update(tmp_path, monkeypatch, capsys):
    update = DQN.update

    def spoilt(agent, batch):
        if agent.updates == 40:
            batch["reward"][0] = math.nan
        return update(agent, batch)

    monkeypatch.setattr(DQN, "update", spoilt)
    words = "--env=Catch --steps=130 --update-start=40 --log-interval=20 --batch-size=4 --threads=1 --compile=false"
    words += f" --checkpoint-interval=15 --eval-episodes=0 --probe-interval=0 --root={tmp_path} --name=a"
    assert cli.main("dqn", words.split()) == 1
    folder = tmp_path / "a"
    (line,) = capsys.readouterr().err.splitlines()
    newest = folder / "checkpoints" / f"{75:012d}"  # the one at 90 would have held NaN, and is not there
    assert line.startswith("error: stopped at agent step 90: not finite: network.")
    assert "the loss of update 41 was the first" in line
    assert f"The last good checkpoint stands: {newest}." in line
    resume = f"python -m agents.dqn --resume {folder} --on-nonfinite skip"
    assert line.endswith(resume)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name.isdigit())[-1] == newest.name
    check_finite(checkpoint.load_latest(folder / "checkpoints").state)
    assert not (folder / "result.json").exists()

    assert cli.main("dqn", resume.split()[3:]) == 0
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    assert sum(row.get("skipped_updates", 0) for row in rows) == 1
    assert json.loads((folder / "result.json").read_text())["updates"] == 90


def test_the_range_of_a_batch_tells_what_is_not_finite():
    assert span(torch.tensor([1.0, math.nan, -2.0, math.inf])) == "-2 to 1 with 2 of 4 not finite"
    assert span(torch.tensor([math.nan])) == "1 of 1 not finite"
    assert span(torch.tensor([3, 255], dtype=torch.uint8)) == "3 to 255"


def test_what_is_advised_can_be_given():
    for config in (DQNConfig(), DQNConfig(precision="bf16", nap=True, clip_rewards=False)):
        words = advice(config).replace(",", "").split()
        assert cli.settings("dqn", [*words, "--plasticity", "nap"])
        assert ("--nap" in words) == (not config.nap)
