"""One run of the grokking study: its parts and its messages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from experiment.determinism import seeds
from experiment.part import as_mistake, short_name
from experiment.results import Row
from plasticity.registry import make
from studies.grokking.config import GrokkingConfig
from studies.grokking.data import make_task
from studies.grokking.learner import Learner
from studies.grokking.model import make_model
from studies.grokking.monitor import Monitor
from studies.grokking.outcome import outcome, sentence
from studies.run import StudyRun


class Run(StudyRun[GrokkingConfig]):
    """A run that is ready to train."""

    program = "studies.grokking"
    learner: Learner

    @staticmethod
    def default_name(config: GrokkingConfig) -> str:
        task = config.operation if config.operation == "s5" else f"{config.operation}{config.modulus}"
        methods = map(short_name, config.plasticity)
        parts = ["grokking", task, config.model, *methods, short_name(config.schedule), f"s{config.seed}"]
        return "-".join([*parts, time.strftime("%Y%m%d-%H%M%S")])

    def make(self) -> None:
        config = self.config
        seed = seeds(config.seed, "split", "network", "batches", "probe")
        self.task = make_task(config.operation, config.modulus, config.fraction, seed["split"]).to(self.device)
        model = make_model(config, self.task.size, seed["network"])
        with as_mistake("--plasticity"):
            methods = self.prepared(model, make(config.plasticity, config.seed))
        self.learner = Learner(config, self.task, model.to(self.device), seed["batches"], methods)
        self.monitor = Monitor(self.learner, self.task, seed["probe"])

    def headline(self) -> str:
        config, task = self.config, self.task
        operation = "composition in S5" if config.operation == "s5" else f"{config.operation} mod {config.modulus}"
        decays = f"weight decay {config.weight_decay:g}, scale decay {config.scale_decay:g}"
        lines = [
            f"{operation}: {len(task.train):,} training pairs, {len(task.test):,} test pairs; memorising "
            f"those and their mirror images alone gives a test accuracy of {task.symmetric_floor():.3f}",
            f"{', '.join([config.model, *config.plasticity])}, norm {config.norm}, projection {config.projection}, "
            f"{config.optimizer}, {decays}, "
            f"{config.schedule} lr {config.lr:g}, {config.precision}, threads {config.threads}, {self.device}",
        ]
        return "\n".join(lines)

    def live_metrics(self) -> dict[str, str]:
        return {
            "train": f"{self.last['train_accuracy']:.3f}",
            "test": f"{self.last['test_accuracy']:.3f}",
            "lr": f"{self.learner.lr():.1e}",
            "ms/update": f"{self.ms_per_update():.1f}",
        }

    def outcome(self, rows: list[Row]) -> dict[str, Any]:
        return outcome(rows, self.config) | {"symmetric_floor": self.task.symmetric_floor()}

    def sentence(self, found: dict[str, Any]) -> str:
        return sentence(found, self.config)

    def draw(self) -> Path:
        from studies.grokking.run_figure import draw_run

        return draw_run(self.directory, self.directory.path / "figure.png")
