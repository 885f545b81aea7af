"""The training loop: act, store, update, report, save."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

from agents.config import DQNConfig
from agents.dqn import DQN, Metrics
from agents.tasks import Visit
from agents.training.acting import EpsilonGreedy, FrameStack, linear_epsilon
from agents.training.annealing import NStepAnneal
from agents.training.divergence import Batch
from agents.training.fitting import FitProbe
from agents.training.fresh import FRESH, fresh_td_error
from agents.training.monitor import Monitor, StateProbe
from agents.training.update_scheduler import UpdateScheduler
from agents.training.visits import Visits
from agents.training.wraps import warn_of_wrap
from envs.vector_env import Step, VectorEnv
from experiment.part import check_signal
from replay import FrameReplay

Row = dict[str, float | int | str | None]
SIGNALS = ("loss", "td_error", "fresh_td_error", "return")
"""Signals for schedules: means over the updates between two rows, the TD error of the newest transitions at each row,
and the return of each episode."""


class Trainer:
    """One agent learning in one vector of environments; `step()` is one action in each and the updates that it earns.

    play: makes the environments of a visit, of which a run has several if it plays games in sequence.
    `state_dict` holds everything that a run carries from step to step, except the replay and the environments, which
    have their own. Raises ConfigError for a schedule that listens to a signal that agents do not have.
    """

    def __init__(
        self,
        config: DQNConfig,
        env: VectorEnv,
        replay: FrameReplay,
        agent: DQN,
        policy: EpsilonGreedy,
        stack: FrameStack,
        probe: StateProbe,
        fit_probe: FitProbe | None = None,
        play: Callable[[Visit], VectorEnv] | None = None,
    ):
        check_signal(agent.schedule.signal, SIGNALS, "an agent")
        self.config, self.env, self.replay, self.agent = config, env, replay, agent
        self.policy, self.stack, self.probe, self.fit_probe = policy, stack, probe, fit_probe
        self.play_visit = play
        self.visits = Visits(config.tasks)
        self.update_scheduler = self._scheduler()
        n_step, gamma = (config.n_step, config.n_step_final), (config.gamma, config.gamma_final)
        self.n_step_anneal = NStepAnneal(n_step, gamma, config.anneal_updates, agent.methods)
        self.monitor = Monitor(agent)
        self.agent_step = self.episodes = self.score_wraps = 0
        self.returns: deque[float] = deque(maxlen=100)
        self.seconds = 0.0
        self.before_updates: Callable[[], object] = lambda: None
        """Called before the updates of each step that makes some."""
        self.after_cut: Callable[[], object] = lambda: None
        """Called when the newest row of the replay has changed: an episode that went on was ended there."""

    @property
    def done(self) -> bool:
        return self.agent_step >= self.config.budget

    @property
    def visit_over(self) -> bool:
        """Whether the last step of a visit is made; of a run of one game, of the run."""
        return self.agent_step >= self.visits.now.stop

    @property
    def updates(self) -> int:
        return self.agent.updates

    @property
    def steps_left(self) -> int:
        """Agent steps until the run ends; with several environments its last step may go past the budget."""
        num_envs = self.env.num_envs
        return -(-max(self.config.budget - self.agent_step, 0) // num_envs) * num_envs

    @property
    def updates_left(self) -> int:
        """Updates until the run ends."""
        return self.update_scheduler.due(self.agent_step + self.steps_left, self.updates)

    @property
    def epsilon(self) -> float:
        began = self.visits.now.start if self.config.task_epsilon == "restart" else 0
        return linear_epsilon(self.agent_step - began, self.config.epsilon_final, self.config.epsilon_steps)

    @property
    def schedule_step(self) -> int:
        """The step of the learning rate's schedule."""
        began = self.visits.now.start if self.config.task_schedule == "restart" else 0
        return max(self.agent_step - began - self.config.update_start, 0)

    def _scheduler(self, since: int = 0, made: int = 0) -> UpdateScheduler:
        config = self.config
        return UpdateScheduler(config.utd, config.update_start, since, made, config.update_period)

    def open(self) -> None:
        """Begin an episode in every environment. Running episodes in the replay end as truncated."""
        first = self.env.reset()
        if not self.replay.started:
            self.replay.start(first)
        elif self.config.task_replay == "clear" and self.agent_step == self.visits.now.start:
            self.replay.clear(first)
        else:
            self.replay.cut(first)
            self.after_cut()
        self.obs = self.stack.push(first, np.ones(self.env.num_envs, bool))

    def change_task(self) -> None:
        """Go on with the next game of the sequence. The methods are told, in their order."""
        self.visits.begin(self.agent.updates, self.seconds)
        self._enter()
        self.returns.clear()
        self.probe.forget()
        self.open()
        self.agent.change_task(fresh_optimizer=self.config.task_optimizer == "fresh")

    def step(self) -> list[Row]:
        """One action in each environment, and the updates that are then due. Returns the due rows of metrics."""
        began = time.perf_counter()
        before, epsilon = self.begin_step()
        if self.config.overlap:
            step = self.play(epsilon, meanwhile=self.learn)
        else:
            step = self.play(epsilon)
            self.learn()
        if self.passes(self.config.target_period, before):
            self.agent.sync_target()
        self.seconds += time.perf_counter() - began
        return self.rows(step, before)

    def _enter(self) -> None:
        """Make the environments of the present visit."""
        assert self.play_visit is not None, "a run of one game has one visit"
        self.env.close()
        self.env = self.play_visit(self.visits.now)

    def begin_step(self) -> tuple[int, float]:
        """Count the step and set its learning rate; the agent step before it, and its exploration rate.

        The first step of a visit changes the game; steps beyond the budget belong to the last visit.
        """
        if self.visit_over and not self.done:
            self.change_task()
        before, epsilon = self.agent_step, self.epsilon
        self.agent_step += self.env.num_envs
        self.agent.schedule.move_to(self.schedule_step)
        return before, epsilon

    def rows(self, step: Step, before: int) -> list[Row]:
        """The rows of metrics that are due after a step that began at agent step `before`."""
        rows = self._finished_episodes(step)
        measured = self._measured(before)
        if self.due(self.config.steps_per_row, before):
            rows.append({**self.counts(), "seconds": self.seconds, **self._report(), **measured})
        elif measured:
            rows.append({"agent_step": self.agent_step, **measured})
        return [self._named(row) for row in rows] if self.config.is_sequence else rows

    def _named(self, row: Row) -> Row:
        """A row of metrics with the game and the visit to it."""
        visit = self.visits.now
        return {"agent_step": row["agent_step"], "task": visit.game, "visit": visit.visit, **row}

    def _measured(self, before: int) -> dict[str, float]:
        """The metrics of the probes that are due or have begun in this step."""
        if self.due(self.config.steps_per_probe, before):
            self.probe.measure()
        found = self.probe.report()
        if self.fit_probe is not None and self.due(self.config.fit_probe_interval, before):
            found = {**found, **self.fit_probe.metrics(self.agent.network, self.replay, self.agent_step)}
        return found

    def due(self, interval: int, before: int) -> bool:
        """Whether what has this interval is due after this step, as at a visit's end; never at an interval of 0."""
        return bool(interval) and (self.passes(interval, before) or self.visit_over)

    def _report(self) -> Row:
        """The monitor's metrics and the schedule's. The schedule may listen to the monitor's."""
        watched, fresh = self.monitor.report(), self._fresh_td_error()
        self._signal({"loss": watched.get("loss"), "td_error": watched.get("td_error"), "fresh_td_error": fresh})
        found = self.agent.schedule.metrics()
        if (stop := found.get("stopped_at")) is not None:
            found["stopped_at"] = stop + self.config.update_start
        return {**watched, **({} if fresh is None else {"td_error_fresh": fresh}), **found}

    def _signal(self, signals: Mapping[str, float | None]) -> None:
        """Pass the schedule its signal, if the value is known."""
        schedule = self.agent.schedule
        if schedule.signal is not None and (value := signals.get(schedule.signal)) is not None:
            schedule.observe(value)

    def _fresh_td_error(self) -> float | None:
        count = min(FRESH, max(self.config.steps_per_row, self.replay.num_envs))
        return fresh_td_error(self.agent, self.replay, count, self.returns_now(), self.newest)

    def returns_now(self) -> dict[str, Any]:
        """n and γ of the returns, at the present update."""
        n_step, gamma = self.n_step_anneal.at(self.agent.updates)
        config = self.config
        return {
            "n_step": n_step,
            "gamma": gamma,
            "cut_at_life_loss": config.rules.life_loss_ends_episode,
            "clip_reward": 1.0 if config.clips_rewards else None,
        }

    def passes(self, period: int, before: int) -> bool:
        """Whether a multiple of `period` agent steps was reached after step `before`."""
        return self.agent_step // period > before // period

    def play(self, epsilon: float, meanwhile: Callable[[], None] | None = None) -> Step:
        """Act once in each environment and store the step; `meanwhile` runs while the emulators play."""
        actions = self.policy(self.obs, epsilon)
        self.env.send(actions)
        if meanwhile is not None:
            meanwhile()
        return self.receive(actions)

    def receive(self, actions: np.ndarray) -> Step:
        """Store the step that the actions sent to the environments led to."""
        step = self.env.recv()
        self.replay.add(
            actions, step.reward, step.terminated, step.truncated, step.life_lost, step.frame, step.first_frame
        )
        self.obs = self.stack.push(step.first_frame, step.ended)
        self.visits.account.steps += self.env.num_envs
        wraps = int(step.score_wrapped.sum())
        if wraps and not self.score_wraps:
            warn_of_wrap(self.agent_step, step, self.config.clips_rewards)
        self.score_wraps += wraps
        return step

    def learn(self) -> None:
        """Make the updates that are due, in blocks that share a replay call and a pass of the target network."""
        config = self.config
        if not self.replay.ready(config.batch_size, self.n_step_anneal.longest):
            return
        due = self.update_scheduler.due(self.agent_step, self.agent.updates)
        if due > 0:
            self.before_updates()
            self.probe.draw(self.replay, self.newest)
        while due > 0:
            count = min(due, config.block)
            block = self.replay.sample(config.batch_size, count + self.agent.lookahead, **self.returns_now())
            batches = self.agent.bootstrap(block)
            for batch in batches:
                self.update(batch)
            self.replay.update(block["index"][:count], torch.stack([batch["losses"] for batch in batches]))
            due -= count

    @property
    def newest(self) -> int | None:
        """Steps of the replay that are of the present visit; None for all, in a run of one game."""
        return self.visits.account.steps if self.config.is_sequence else None

    def update(self, batch: TensorDictBase) -> None:
        """Let the agent make one update, which the monitor and the probe observe."""
        self.monitor.before_update()
        self.observe(batch, self.agent.update(batch))

    def observe(self, batch: Batch, metrics: Metrics) -> None:
        """Show the monitor and the probe an update."""
        self.monitor.after_update(batch, metrics)
        self.probe.after_update()

    def _finished_episodes(self, step: Step) -> list[Row]:
        rows: list[Row] = []
        for i in np.flatnonzero(step.ended):
            self.episodes += 1
            score, length = float(step.episode_return[i]), int(step.episode_steps[i])
            self.returns.append(score)
            self.visits.add_game(self.agent_step, score, length)
            if self.agent.updates:  # before that the schedule stands still
                self._signal({"return": score})
            row: Row = {"agent_step": self.agent_step, "episode": self.episodes}
            rows.append(row | {"episode_return": score, "episode_steps": length})
        return rows

    def counts(self) -> Row:
        """The metrics that are known at any step without waiting for the device."""
        return {
            "agent_step": self.agent_step,
            "frames": self.agent_step * self.config.rules.frame_skip,
            "updates": self.agent.updates,
            "episodes": self.episodes,
            "score_wraps": self.score_wraps,
            "mean_return": float(np.mean(self.returns)) if self.returns else None,
            "epsilon": self.epsilon,
            **self.n_step_anneal.report(self.agent.updates),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "agent": self.agent.state_dict(),
            "gradients": [parameter.grad for parameter in self.agent.network.parameters()],  # the next row reports them
            "policy": self.policy.state_dict(),
            "stack": self.stack.state_dict(),
            "monitor": self.monitor.state_dict(),
            "probe": self.probe.state_dict(),
            "agent_step": self.agent_step,
            "episodes": self.episodes,
            "score_wraps": self.score_wraps,
            "returns": list(self.returns),
            "seconds": self.seconds,
            "visits": self.visits.state_dict(),
            "earning": [self.update_scheduler.since, self.update_scheduler.made],
            "began": self.n_step_anneal.began,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.agent.load_state_dict(state["agent"])
        self.agent_step = state["agent_step"]
        if "visits" in state:  # earlier checkpoints are of one game
            self.visits.load_state_dict(state["visits"])
        if self.visits.now.number:
            self._enter()
        if self.agent.schedule.last_epoch != self.schedule_step:
            raise ValueError("its learning rate follows another schedule, of an earlier version")
        for parameter, gradient in zip(self.agent.network.parameters(), state["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)
        self.policy.load_state_dict(state["policy"])
        self.stack.load_state_dict(state["stack"])
        self.obs = self.stack.frames
        self.monitor.load_state_dict(state["monitor"])
        self.probe.load_state_dict(state["probe"])
        self.episodes, self.seconds = state["episodes"], state["seconds"]
        self.score_wraps = state.get("score_wraps", 0)  # earlier checkpoints do not count them
        since, made = state.get("earning", (0, 0))  # nor do they know forks
        self.update_scheduler = self._scheduler(since, made)
        self.n_step_anneal.began = state.get("began", self.n_step_anneal.began)
        self.returns.clear()
        self.returns.extend(state["returns"])
