"""One run of the warm-start study."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, ClassVar

import torch

import nap
from experiment.determinism import seeds
from experiment.fork_state import Source
from experiment.part import as_mistake, short_name
from experiment.results import Row
from experiment.values import counted
from plasticity.method import Method
from plasticity.nap import NaP
from plasticity.registry import make
from studies.run import StudyRun
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.data import load
from studies.warm_start.download import ensure
from studies.warm_start.learner import Learner
from studies.warm_start.monitor import Monitor
from studies.warm_start.networks import make_network
from studies.warm_start.outcome import outcome, sentence
from studies.warm_start.protocols import make_protocol


class Run(StudyRun[WarmStartConfig]):
    """A warm-start run, ready to train."""

    program: ClassVar[str] = "studies.warm_start"
    learner: Learner
    monitor: Monitor

    @staticmethod
    def default_name(config: WarmStartConfig) -> str:
        """The default name of the run directory: its main settings and the time."""
        methods = ["nap"] * config.nap + [short_name(spec) for spec in config.plasticity]
        parts = ["warm-start", config.dataset, config.protocol, f"{config.fraction:g}", *(methods or ["plain"])]
        return "-".join([*parts, short_name(config.schedule), f"s{config.seed}", time.strftime("%Y%m%d-%H%M%S")])

    def make(self) -> None:
        """Data, network, methods, learner and monitor."""
        config = self.config
        seed = seeds(config.seed, "phases", "network", "batches", "probe")
        ensure(config.dataset, config.data_dir)
        data = load(config.dataset, config.data_dir).to(self.device)
        protocol = make_protocol(config, data.train_labels, data.classes, seed["phases"])
        torch.manual_seed(seed["network"])
        network = make_network(config, data.train_images.shape[1:], data.classes)
        with as_mistake("--plasticity"):
            methods = self.prepared(network, make_methods(config))
        network.to(self.device)
        with as_mistake("--schedule"):
            self.learner = Learner(config, data, protocol, network, methods, seed["batches"])
        self.monitor = Monitor(self.learner, seed["probe"])

    def adapted_learner(self, source: Source[WarmStartConfig]) -> tuple[dict[str, Any], dict[str, Any]]:
        saved, facts = super().adapted_learner(source)
        counts = self.learner.forked_counts(saved["counts"], source.settings.phase_updates)
        updates, _, began, *_, over = counts
        return saved | {"counts": counts}, facts | {"switched": updates if over else began}

    def finished(self) -> bool:
        """Whether the last phase has come to its end."""
        return self.learner.finished

    def due(self, updates: int) -> bool:
        """Also at the end of each phase."""
        return super().due(updates) or self.learner.phase_over

    def headline(self) -> str:
        """Data, network, methods and schedule."""
        config, learner = self.config, self.learner
        sizes = [len(phase) for phase in learner.protocol.phases]
        shown = " -> ".join(f"{size:,}" for size in (sizes if len(sizes) < 4 else [sizes[0], sizes[1], sizes[-1]]))
        parameters = sum(parameter.numel() for parameter in learner.model.parameters())
        methods = ["projection"] * config.nap + list(config.plasticity)
        phases, updates = counted(config.phases, "phase"), counted(config.phase_updates or 0, "update")
        return "\n".join(
            [
                f"{learner.data.name}, {config.protocol}: {shown} images, at most {updates} of {config.batch_size} "
                f"in each of {phases}, {config.at_switch} start",
                f"{config.network} of {parameters:,} parameters, {', '.join(methods) or 'unconstrained'}, "
                f"{config.schedule} lr {config.lr:g}, {config.precision}, threads {config.threads}",
            ]
        )

    def live_metrics(self) -> dict[str, str]:
        """Training and test accuracy, rate and speed."""
        row = self.last
        train = row["train_accuracy"]
        return {
            "phase": f"{self.learner.phase + 1}/{self.config.phases}",
            "train": "-" if train is None else f"{train:.3f}",
            "test": f"{row['test_accuracy']:.3f}",
            "lr": f"{float(self.learner.optimizer.param_groups[0]['lr']):.1e}",
            "ms/update": f"{self.ms_per_update():.1f}",
        }

    def outcome(self, rows: list[Row]) -> dict[str, Any]:
        """The outcome of the rows, the data and the alarms, of a fork those since it began."""
        schedule, began = self.learner.schedule, self.config.fork_step or 0
        alarms = [step for step in schedule.alarms if step > began] if isinstance(schedule, nap.Rewarm) else None
        data = self.learner.data
        return outcome(rows) | {"data": data.name, "data_sha256": data.fingerprint, "alarms": alarms}

    def sentence(self, found: dict[str, Any]) -> str:
        """The outcome in one line."""
        assert self.config.fraction is not None
        return sentence(found, self.config.fraction)

    def draw(self) -> Path:
        """The figure of this run."""
        from studies.warm_start.run_figure import draw_run

        return draw_run(self.directory, self.directory.path / "figure.png")


def make_methods(config: WarmStartConfig) -> list[Method]:
    """Plasticity methods in their order, each with a seed of its own; projection is last."""
    methods = make(config.plasticity, config.seed)
    if config.nap:
        methods.append(NaP(every=config.nap_every, affine=config.nap_affine))
    return methods
