"""The training loop of a fleet: its members act, learn and measure in step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from agents.fleet.learner import FleetLearner
from agents.training.trainer import Row, Trainer
from envs.vector_env import Step
from replay.stacked import StackedReplay


class FleetTrainer:
    """N trainers of the same settings that step together; each keeps what it has when it runs alone.

    Make one after each trainer has what it goes on from: networks and replays are stacked as they are. A member that is
    not `alive` is played, updated and measured no more; its part of the stack is computed and ignored. batched: that of
    `FleetLearner`.
    """

    def __init__(self, trainers: Sequence[Trainer], alive: Sequence[bool], batched: bool | None = None) -> None:
        self.trainers, self.alive = list(trainers), list(alive)
        self.config = trainers[0].config
        self.learner = FleetLearner([trainer.agent for trainer in trainers], self.config.compile == "true", batched)
        self.replay = StackedReplay([trainer.replay for trainer in trainers])
        self.replay.alive = self.alive
        self._played: list[tuple[Step, int] | None] = [None] * len(self.trainers)

    @property
    def living(self) -> list[tuple[int, Trainer]]:
        """The members that go on, with their numbers."""
        return [(number, trainer) for number, trainer in enumerate(self.trainers) if self.alive[number]]

    @property
    def first(self) -> Trainer:
        """A member that goes on: its counts are those of all."""
        return next(trainer for trainer, alive in zip(self.trainers, self.alive, strict=True) if alive)

    def step(self) -> None:
        """One action in each environment of each member, and the updates that it earns; `rows` gives the metrics."""
        began, changes = time.perf_counter(), self.first.visit_over and not self.first.done
        begun = {number: trainer.begin_step() for number, trainer in self.living}
        for trainer, alive in zip(self.trainers, self.alive, strict=True):
            if not alive:  # another rate, or step count, than that of the others would keep their optimisers apart
                if changes:
                    trainer.agent.change_task(fresh_optimizer=self.config.task_optimizer == "fresh")
                trainer.agent.schedule.move_to(self.first.schedule_step)
        actions = self._act({number: epsilon for number, (_, epsilon) in begun.items()})
        for number, trainer in self.living:
            trainer.env.send(actions[number])
        if self.config.overlap:
            self.learn()
        for number, trainer in self.living:
            self._played[number] = trainer.receive(actions[number]), begun[number][0]
        if not self.config.overlap:
            self.learn()
        if self.first.passes(self.config.target_period, next(iter(begun.values()))[0]):
            self.learner.sync_target()
        if self.first.due(self.config.steps_per_row, next(iter(begun.values()))[0]):  # a row has the gradients
            self.learner.online.share_gradients()
        share = (time.perf_counter() - began) / len(begun)
        for _, trainer in self.living:
            trainer.seconds += share

    def rows(self, number: int) -> list[Row]:
        """The rows of metrics that are due for a member. Raises NonFinite if that member has diverged."""
        played = self._played[number]
        assert played is not None, "step comes first"
        return self.trainers[number].rows(*played)

    def _act(self, epsilons: Mapping[int, float]) -> dict[int, np.ndarray]:
        """The actions of each member: random ones by its own generator, else the greedy ones of one pass."""
        drawn = {n: self.trainers[n].policy.draw(len(self.trainers[n].obs), rate) for n, rate in epsilons.items()}
        asks = [n in drawn and not drawn[n][0].all() for n in range(len(self.trainers))]
        if not any(asks):
            return {number: actions for number, (_, actions) in drawn.items()}
        greedy = self.learner.act(torch.stack([trainer.obs for trainer in self.trainers]), asks).cpu().numpy()
        return {number: np.where(explore, actions, greedy[number]) for number, (explore, actions) in drawn.items()}

    def learn(self) -> None:
        """Make the updates that are due, in blocks, as `Trainer.learn` does for one."""
        config, first = self.config, self.first
        if not first.replay.ready(config.batch_size, first.n_step_anneal.longest):
            return
        due = first.update_scheduler.due(first.agent_step, first.updates)
        if due > 0:
            first.before_updates()
            for _, trainer in self.living:
                trainer.probe.draw(trainer.replay, trainer.newest)
        while due > 0:
            count = min(due, config.block)
            block = self.replay.sample(config.batch_size, count + first.agent.lookahead, **first.returns_now())
            batches = self.learner.bootstrap(block)
            for batch in batches:
                self.update(batch)
            self.replay.update(block["index"][:count], torch.stack([batch["losses"] for batch in batches]))
            due -= count

    def update(self, batch: TensorDictBase) -> None:
        """One update of all members, of which each one's monitor and probe observe its own."""
        for _, trainer in self.living:
            trainer.monitor.before_update()
        metrics = self.learner.update(batch)
        for number, trainer in self.living:
            trainer.observe(OwnPart(batch, number), metrics[number])


class OwnPart(Mapping[str, Tensor]):
    """A member's part of a batch [N, B], cut out when it is read."""

    def __init__(self, batch: TensorDictBase, number: int) -> None:
        self.batch, self.number = batch, number

    def __getitem__(self, name: str) -> Tensor:
        return self.batch[name][self.number]

    def __iter__(self) -> Iterator[str]:
        return iter(self.batch.keys())

    def __len__(self) -> int:
        return len(self.batch.keys())
