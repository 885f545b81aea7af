"""Some members of a fleet, which one thread trains: their runs and the trainer that steps them together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock

from agents.fleet.trainer import FleetTrainer
from agents.names import command_of
from agents.run import AgentRun
from agents.training.trainer import Trainer
from experiment.failure import FAILURES, reason_for
from experiment.guard import NonFinite
from experiment.interrupt import Interrupt

SAYING = Lock()
"""Held while a group says which member has failed, and why: two may at once."""


class Group:
    """Members that step together, in order; None stands for one that does not go on, whose place `spare` keeps.

    Attributes:
        failures: of the members that have failed, the seed and what happened.
    """

    def __init__(self, members: Sequence[AgentRun | None], spare: Callable[[int], Trainer]) -> None:
        self.members = list(members)
        trainers = [spare(place) if run is None else run.trainer for place, run in enumerate(self.members)]
        self.trainer = FleetTrainer(trainers, [run is not None for run in self.members])
        self.failures: list[str] = []

    @property
    def living(self) -> list[tuple[int, AgentRun]]:
        """The members that go on, with their places."""
        alive = zip(self.members, self.trainer.alive, strict=True)
        return [(place, run) for place, (run, lives) in enumerate(alive) if lives and run is not None]

    def open(self) -> None:
        """Begin episodes in environments that are not playing yet."""
        for _, run in self.living:
            run.open()

    def score_visits(self, interrupt: Interrupt) -> None:
        """Play the games of the score of each member that ends a visit, unless Ctrl-C interrupts them."""
        for place, run in self.living:
            try:
                if run.awaits_score and not interrupt.requested:
                    run.score_visit(interrupt)
            except FAILURES as error:
                self._fail(place, error)

    def run_until(self, goes_on: Callable[[Trainer], bool]) -> None:
        """Step while a member is left, its run is not done and `goes_on` says so of it."""
        while self.living and not self.trainer.first.done and goes_on(self.trainer.first):
            before = self.trainer.first.agent_step
            self.trainer.step()
            for place, run in self.living:
                self._report(place, run, before)

    def _report(self, place: int, run: AgentRun, before: int) -> None:
        try:
            for row in self.trainer.rows(place):
                run.tracker.log(row)
            if run.saves_after(before):
                self.trainer.learner.online.share_gradients()
                run.save()
        except FAILURES as error:
            self._fail(place, error)

    def conclude(self, interrupt: Interrupt) -> list[Callable[[], int]]:
        """Save and evaluate each member; what ends their runs and gives their exit codes."""
        self.trainer.learner.online.share_gradients()
        ends: list[Callable[[], int]] = []
        for place, run in self.living:
            try:
                saved, whole = run.save(), run.evaluated(interrupt)
            except FAILURES as error:
                self._fail(place, error)
            else:
                ends.append(lambda run=run, saved=saved, whole=whole: run.end(saved, whole))  # type: ignore[misc]
        return ends

    def _fail(self, place: int, error: Exception) -> None:
        """End the run of one member; the others go on."""
        run = self.members[place]
        assert run is not None
        if isinstance(error, NonFinite):  # behind the others it can only go on alone
            run.command = command_of(run.config.agent)
        with SAYING:
            print(f"seed {run.config.seed}:", flush=True)
            run.fail(error)
        self.failures.append(f"seed {run.config.seed}: {str(reason_for(run, error)).partition('. ')[0]}")
        self.trainer.alive[place] = False

    def fail(self, error: Exception) -> None:
        """End the runs of all members."""
        for place, _ in self.living:
            self._fail(place, error)
