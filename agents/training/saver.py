"""What a checkpoint of a run holds, and how a run goes on from one."""

from __future__ import annotations

from typing import Any

import numpy as np

from agents.config import DQNConfig
from agents.training.trainer import Trainer
from envs.vector_env import nothing_returned
from experiment.determinism import rng_state, set_rng_state
from experiment.progress import Progress
from experiment.storage import checkpoint
from experiment.storage.segments import Segments

LIMIT_BEFORE = 108_000
"""Frames that every protocol allowed an episode before checkpoints stated the rules."""


class Saver:
    """Saves trainer, replay, environments and random numbers.

    Each save writes only the replay's steps since the last save. Environments that cannot be restored are left out.
    """

    def __init__(self, config: DQNConfig, trainer: Trainer):
        self.config, self.trainer = config, trainer
        self.rows = Segments(trainer.replay)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The parts of a checkpoint, without the rows of the replay."""
        trainer = self.trainer
        run = {
            "protocol": self.config.rules.summary(),
            "env": trainer.env.state_dict() if trainer.env.exact_resume else None,
            "rng": rng_state(),
        }
        return {"run": run, "trainer": trainer.state_dict(), "replay": trainer.replay.state_dict()}

    def restore(self, saved: checkpoint.Checkpoint) -> bool:
        """Restore everything; returns whether the environments go on where they were."""
        trainer, run = self.trainer, saved.state["run"]
        self._check_rules(run)
        trainer.load_state_dict(saved.state["trainer"])
        exact = run["env"] is not None
        trainer.replay.load_state_dict(saved.state["replay"], spare=0 if exact else 1)
        saved.load_rows(self.rows)
        if exact and not trainer.done:
            self._play_again(run["env"])
        set_rng_state(run["rng"])
        return exact

    def _check_rules(self, run: dict[str, Any]) -> None:
        """Raises ValueError if the run's protocol has other rules in this version than in the one that saved it."""
        rules, formerly = self.config.rules, self.config.environment.formerly
        if formerly and ("protocol" not in run or run["protocol"].startswith(formerly)):
            return
        now = rules.summary()
        unlike = run["protocol"] != now if "protocol" in run else rules.max_frames != LIMIT_BEFORE
        if unlike:
            before = run.get("protocol", f"{rules.name}, limit {LIMIT_BEFORE} frames")
            raise ValueError(f"its rules were {before}, and in this version they are {now}")

    def _play_again(self, state: dict[str, Any]) -> None:
        """Restore the emulators; a long episode takes some seconds."""
        trainer = self.trainer
        total = max(state.get("length", [0]))
        if total:
            with Progress(total, "agent steps played again") as progress:
                frames = trainer.env.load_state_dict(state, lambda done, _: progress.update(done))
        else:
            frames = trainer.env.load_state_dict(state)
        if not np.array_equal(frames, trainer.obs[:, -1].cpu().numpy()):
            raise ValueError(f"the emulators, played again, show other frames than they did{nothing_returned(frames)}")
