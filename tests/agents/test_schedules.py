"""The schedules that the command line offers, in a training run."""

import math
from fractions import Fraction

import pytest
import torch

import agents.build
import nap
from agents.config import DQNConfig
from experiment.config import ConfigError
from experiment.storage import checkpoint
from tests.agents.toys import catch_trainer, run

CLOSED = {"schedule": "cusum", "lr": 1e-3, "lr_floor": 1e-4, "cycles": 5, "lr_warmup": 20}
RISEN = {"steps": 1100, "num_envs": 2, "log_interval": 10, "update_start": 100, "utd": Fraction(1, 10), **CLOSED}


def lr_of(trainer):
    return trainer.agent.optimizer.param_groups[0]["lr"]


def receiving(trainer, errors, monkeypatch):
    """The trainer, its monitor telling these mean TD errors one after another."""
    samples = iter(errors)
    monkeypatch.setattr(trainer.monitor, "report", lambda: {"td_error": next(samples)})
    return trainer


def errors(count, rises_at):
    return [math.exp(0.1 * math.sin(9.0 * i) + (2.0 if i >= rises_at else 0.0)) for i in range(count)]


def test_delayed_cosine_counts_in_agent_steps_from_the_first_updates_on():
    settings = {"schedule": "delayed-cosine", "lr_delay": 60, "lr_warmup": 40, "lr": 1e-3, "lr_floor": 1e-4}
    trainer = catch_trainer(steps=300, num_envs=2, update_start=100, **settings)
    trainer.open()
    while not trainer.done:
        trainer.step()
        t = max(trainer.agent_step - 100, 0)
        shape = 0 if t < 60 else (t - 60) / 40 if t < 100 else (1 + math.cos(math.pi * (t - 100) / 100)) / 2
        assert lr_of(trainer).item() == pytest.approx(1e-4 + 9e-4 * shape, rel=1e-5)


@pytest.mark.parametrize("schedule", ["cusum", "page-hinkley"])
def test_a_risen_td_error_restarts_the_schedule_once(schedule, monkeypatch):
    trainer = catch_trainer(**RISEN | {"schedule": schedule})
    lr = lr_of(receiving(trainer, errors(110, rises_at=79), monkeypatch))
    rows = [row for row in run(trainer) if "frames" in row]
    [alarm] = trainer.agent.schedule.alarms
    assert 700 <= alarm <= 740
    assert [row["rewarms"] for row in rows] == [int(row["agent_step"] - 100 >= alarm) for row in rows]
    assert lr_of(trainer) is lr
    assert trainer.agent.schedule.lr_at(alarm + 20)[0] == pytest.approx(1e-3)
    assert trainer.agent.schedule.cycle_steps == 200


def test_the_signal_is_the_mean_td_error_of_the_row(monkeypatch):
    trainer = catch_trainer(steps=400, log_interval=50, update_start=100, **CLOSED)
    heard = []
    monkeypatch.setattr(trainer.agent.schedule, "observe", heard.append)
    rows = [row for row in run(trainer) if "frames" in row]
    assert heard == [row["td_error"] for row in rows if "td_error" in row]
    assert len(heard) == 6


class Own(nap.Schedule):
    """A schedule as a user would write it."""

    def __init__(self, optimizer, signal):
        super().__init__(optimizer, 300)
        self.signal, self.seen = signal, []

    def shape(self, step):
        return 1.0

    def observe(self, signal):
        self.seen.append(signal)


@pytest.mark.parametrize(
    ("signal", "column"),
    [("loss", "loss"), ("td_error", "td_error"), ("fresh_td_error", "td_error_fresh"), ("return", "episode_return")],
)
def test_a_schedule_of_ones_own_observes_the_signal_that_it_names(signal, column, monkeypatch):
    monkeypatch.setattr(agents.build, "build_schedule", lambda config, optimizer: Own(optimizer, signal))
    trainer = catch_trainer(steps=300, log_interval=50, update_start=100)
    seen = [row[column] for row in run(trainer) if column in row and row["agent_step"] > 100]
    assert trainer.agent.schedule.seen == seen
    assert len(seen) >= 3


def test_a_signal_that_no_agent_has_is_named(monkeypatch):
    monkeypatch.setattr(agents.build, "build_schedule", lambda config, optimizer: Own(optimizer, "returns"))
    with pytest.raises(ConfigError, match="signal 'returns', and an agent has loss, td_error, fresh_td_error, re"):
        catch_trainer()


def test_a_checkpoint_has_what_the_schedule_heard(tmp_path, monkeypatch):
    samples = errors(110, rises_at=79)
    whole = receiving(catch_trainer(**RISEN), samples, monkeypatch)
    run(whole)
    first = receiving(catch_trainer(**RISEN), samples, monkeypatch)
    first.open()
    while first.agent_step < 800:
        first.step()
    checkpoint.save_or_warn(tmp_path, 800, {"trainer": first.state_dict()})
    resumed = receiving(catch_trainer(**RISEN), samples[80:], monkeypatch)
    resumed.load_state_dict(checkpoint.load_latest(tmp_path).state["trainer"])
    run(resumed)
    assert resumed.agent.schedule.state_dict() == whole.agent.schedule.state_dict()
    assert lr_of(resumed).item() == lr_of(whole).item()


@pytest.mark.parametrize("head", [{}, {"noisy": True, "distribution": "c51"}])
def test_the_fresh_td_error_is_that_of_the_newest_transitions_and_changes_nothing(head, monkeypatch):
    seen = []
    trainer = catch_trainer(steps=300, num_envs=2, log_interval=100, update_start=150, **head)
    measure = trainer.agent.td_error
    monkeypatch.setattr(trainer.agent, "td_error", lambda batch: seen.append(batch.clone()) or measure(batch))
    rows = [row for row in run(trainer) if "td_error_fresh" in row]
    assert [row["agent_step"] for row in rows] == [200, 300]
    last_start = 2 * (150 - trainer.config.n_step + 1) - 1  # of the steps of two environments
    assert seen[-1]["index"].tolist() == list(range(last_start - 63, last_start + 1))
    batch, agent = seen[-1], trainer.agent
    before = agent.generator.get_state()
    for network in (agent.online, agent.target):
        network.eval()
    batch["target_next"], batch["weight"] = agent.target(batch["next_obs"]), torch.ones(64)
    assert rows[-1]["td_error_fresh"] == pytest.approx(agent.loss(batch)[1]["td_error"].item(), rel=1e-5)
    agent.online.train()
    measure(batch)
    assert agent.online.training
    assert torch.equal(agent.generator.get_state(), before)


def test_rows_that_are_close_share_no_transition_and_need_no_update_between_them(monkeypatch):
    seen = []
    trainer = catch_trainer(steps=300, num_envs=2, log_interval=20, update_start=150, utd=Fraction(1, 50), block=1)
    measure = trainer.agent.td_error
    monkeypatch.setattr(trainer.agent, "td_error", lambda batch: seen.append(batch["index"].tolist()) or measure(batch))
    steps = [row["agent_step"] for row in run(trainer) if "td_error_fresh" in row]
    assert steps == list(range(steps[0], 301, 20))
    assert 150 <= steps[0] <= 220
    assert [index for row in seen for index in row] == list(range(seen[0][0], seen[0][0] + 20 * len(steps)))


def test_a_plateau_before_the_first_update_is_none(monkeypatch):
    trainer = catch_trainer(steps=400, update_start=300, schedule="early-cycle-plateau", cycles=4)
    monkeypatch.setattr(trainer, "learn", lambda: None)
    run(trainer)
    assert trainer.episodes > 20
    assert trainer.agent.schedule.stopped_at is None


@pytest.mark.parametrize(("schedule", "stop"), [("early-cycle-cusum", 400), ("early-cycle-plateau", None)])
@pytest.mark.parametrize("cut", [250, 530])
def test_a_schedule_that_stops_by_itself_resumes_in_the_middle_of_cycling_and_after_it(
    schedule, stop, cut, tmp_path, monkeypatch
):
    def made():
        trainer = receiving(
            catch_trainer(
                steps=1080, log_interval=10, update_start=80, utd=Fraction(1, 40), schedule=schedule, cycles=2
            ),
            [0.1] * 108,
            monkeypatch,
        )
        learned = lambda: trainer.agent_step - 80  # noqa: E731
        monkeypatch.setattr(trainer, "_fresh_td_error", lambda: 1 + learned() % 50 / 1e3 if learned() > 0 else None)
        return trainer

    whole, first, resumed = made(), made(), made()
    rows = run(whole)
    stopped = whole.agent.schedule.stopped_at
    assert stopped is not None
    assert stop is None or stopped == stop
    first_told = next(row for row in rows if row.get("stopped_at"))
    assert first_told["agent_step"] == first_told["stopped_at"] == stopped + 80
    first.open()
    while first.agent_step < cut:
        first.step()
    checkpoint.save_or_warn(tmp_path, cut, {"trainer": first.state_dict()})
    resumed.load_state_dict(checkpoint.load_latest(tmp_path).state["trainer"])
    assert resumed.agent.schedule.state_dict() == first.agent.schedule.state_dict()
    assert lr_of(resumed).item() == lr_of(first).item()
    for trainer in (first, resumed):
        trainer.agent.schedule.observe(2.0)
        trainer.agent.schedule.move_to(800)
    assert resumed.agent.schedule.state_dict() == first.agent.schedule.state_dict()
    assert lr_of(resumed).item() == lr_of(first).item()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "delayed-cosine", "lr_delay": 90_000, "lr_warmup": 10_001}, "--lr-delay 90000 and --lr-warmup"),
        ({"schedule": "cusum", "lr_warmup": 9_840}, "--lr-warmup 9840 .* 9840 agent steps"),
        ({"schedule": "cyclic", "lr_warmup": 9_840}, "--lr-warmup 9840 .* 9840 agent steps"),
        ({"schedule": "page-hinkley", "rewarm_threshold": -1.0}, "--rewarm-threshold"),
        ({"schedule": "early-cycle-cusum"}, "--log-interval 1000, and a cycle has 1968 agent steps"),
        ({"schedule": "early-cycle-cusum", "log_interval": 240, "num_envs": 256}, "--num-envs 256, and a cycle has"),
        ({"schedule": "early-cycle-cusum", "log_interval": 9}, "--n-step times --num-envs = 10 steps apart"),
        ({"schedule": "early-cycle-plateau", "cycles": 30_000}, "give fewer"),
        ({"schedule": "early-cycle-plateau", "cycle_patience": 0}, "--cycle-patience is 0"),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        DQNConfig(**settings).resolved()
    assert DQNConfig(**settings | {"schedule": "linear", "rewarm_threshold": 1.0, "cycle_patience": 1}).resolved()
