"""One run from settings to result: build or resume, train with a live view, save, draw."""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

from experiment import checkpoint
from experiment.config import ConfigError, as_plain, load_yaml
from experiment.determinism import configure, environment, parameter_hash, seeds
from experiment.interrupt import Interrupt
from experiment.progress import Progress
from experiment.run_dir import RunDir
from experiment.tracking import Tracker
from studies.grokking.config import GrokkingConfig
from studies.grokking.data import make_task
from studies.grokking.learner import Learner
from studies.grokking.model import make_model
from studies.grokking.monitor import Monitor
from studies.grokking.outcome import outcome, sentence
from studies.grokking.runs import read_rows

INTERRUPTED = 130  # the shell's code for a program that SIGINT ended


def default_name(config: GrokkingConfig) -> str:
    """What tells the run from others, and the time."""
    task = config.operation if config.operation == "s5" else f"{config.operation}{config.modulus}"
    parts = ["grokking", task, config.model, config.schedule, f"s{config.seed}", time.strftime("%Y%m%d-%H%M%S")]
    return "-".join(parts)


class Run:
    """A run that is ready to train: whatever bad input could spoil has been tried by then."""

    def __init__(self, config: GrokkingConfig) -> None:
        """Build every part, or load the run to go on with; ConfigError before anything is written."""
        directory, saved = None, None
        if config.resume is not None:
            directory = RunDir.open(config.resume)
            directory.lock()
            if directory.result.is_file():
                raise ConfigError(f"run {str(directory.path)!r} is finished: see {directory.result}")
            saved = checkpoint.load_latest(directory.checkpoints) if directory.has_checkpoint() else None
            config = load_yaml(GrokkingConfig, directory.config)
        configure(config.threads, config.seed)
        seed = seeds(config.seed, "split", "network", "batches", "probe")
        self.config = config
        self.task = make_task(config.operation, config.modulus, config.fraction, seed["split"])
        self.learner = Learner(config, self.task, make_model(config, self.task.size, seed["network"]), seed["batches"])
        self.monitor = Monitor(self.learner, self.task, seed["probe"])
        self.seconds = {"training": 0.0, "measuring": 0.0, "compiling": 0.0}
        self.last: dict[str, Any] = {}
        self.directory = directory or self._create(config)
        self.tracker = Tracker(self.directory.metrics)
        self._restore(saved.state) if saved is not None else self.tracker.cut_to(0)

    @staticmethod
    def _create(config: GrokkingConfig) -> RunDir:
        name = default_name(config) if config.name is None else config.name
        stored = dataclasses.replace(config, name=None, resume=None)
        return RunDir.create(config.root, name, stored, explicit=config.name is not None)

    def _restore(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.monitor.probe.load_state_dict(state["probe"])
        checkpoint.set_rng_state(state["rng"])
        self.seconds = state["run"]["seconds"]
        self.last = state["run"]["last"]
        self.tracker.cut_to(state["run"]["offset"])

    def _save(self) -> bool:
        state = {
            "learner": self.learner.state_dict(),
            "probe": self.monitor.probe.state_dict(),
            "rng": checkpoint.rng_state(),
            "run": {"seconds": self.seconds, "last": self.last, "offset": self.tracker.offset()},
        }
        return checkpoint.save_or_warn(self.directory.checkpoints, self.learner.updates, state)

    def train(self) -> int:
        """Train to the end of the budget, save, draw; the exit code."""
        print(self._headline(), flush=True)
        with Interrupt() as interrupt:
            self._prepare()
            self._train_until(interrupt)
            saved = self._save()
        self.tracker.close()
        if self.learner.updates < self.config.budget:
            return self._stop(saved)
        return self._finish()

    def _headline(self) -> str:
        config, task = self.config, self.task
        operation = "composition in S5" if config.operation == "s5" else f"{config.operation} mod {config.modulus}"
        decays = f"weight decay {config.weight_decay:g}, scale decay {config.scale_decay:g}"
        lines = [
            f"{operation}: {len(task.train):,} training pairs, {len(task.test):,} test pairs; memorising "
            f"those and their mirror images alone gives a test accuracy of {task.symmetric_floor():.3f}",
            f"{config.model}, norm {config.norm}, projection {config.projection}, {config.optimizer}, {decays}, "
            f"{config.schedule} lr {config.lr:g}, {config.precision}, threads {config.threads}",
            f"run directory: {self.directory.path}",
        ]
        return "\n".join(lines)

    def _prepare(self) -> None:
        if self.config.compile and self.learner.updates < self.config.budget:
            print("compiling: up to a minute once, later from a cache", flush=True)
            began = time.perf_counter()
            self.learner.prepare()
            self.seconds["compiling"] += time.perf_counter() - began

    def _train_until(self, interrupt: Interrupt) -> None:
        learner, budget = self.learner, self.config.budget
        if learner.updates == 0:
            self._measure()
        with Progress(budget, "updates", start=learner.updates) as progress:
            while learner.updates < budget and not interrupt.requested:
                began = time.perf_counter()
                learner.update()
                self.seconds["training"] += time.perf_counter() - began
                self._report()
                progress.update(learner.updates, self._figures)

    def _report(self) -> None:
        updates, config = self.learner.updates, self.config
        if updates % config.log_interval == 0 or updates == config.budget:
            self._measure()
        if config.checkpoint_interval and updates % config.checkpoint_interval == 0 and updates < config.budget:
            self._save()

    def _measure(self) -> None:
        began = time.perf_counter()
        row = self.monitor.row()
        self.seconds["measuring"] += time.perf_counter() - began
        times = {"seconds": self.seconds["training"], "measuring_seconds": self.seconds["measuring"]}
        self.tracker.log(row | times)
        self.last = row

    def _figures(self) -> dict[str, str]:
        row = self.last
        return {
            "train": f"{row['train_accuracy']:.3f}",
            "test": f"{row['test_accuracy']:.3f}",
            "lr": f"{float(self.learner.optimizer.param_groups[0]['lr']):.1e}",
            "ms/update": f"{1e3 * self.seconds['training'] / max(self.learner.updates, 1):.1f}",
        }

    def _stop(self, saved: bool) -> int:
        state = "all is saved" if saved else "which could not be saved"
        print(f"stopped at update {self.learner.updates:,}, {state}; go on with: {resume_command(self.directory)}")
        return INTERRUPTED

    def _finish(self) -> int:
        found = outcome(read_rows(self.directory), self.config)
        print(sentence(found, self.config))
        try:
            self.directory.write_result(self._result(found))
        except OSError as error:
            print(f"warning: {self.directory.result} could not be written: {error.strerror}", file=sys.stderr)
            return 1
        print(f"result: {self.directory.result}")
        if self.config.figure:
            self._draw()
        return 0

    def _draw(self) -> None:
        from studies.grokking.figures import draw_run

        try:
            print(f"figure: {draw_run(self.directory, self.directory.path / 'figure.png')}")
        except ConfigError as error:
            print(f"no figure: {error}", file=sys.stderr)

    def _result(self, found: dict[str, Any]) -> dict[str, Any]:
        return found | {
            "study": "grokking",
            "symmetric_floor": self.task.symmetric_floor(),
            "settings": as_plain(self.config),
            "updates": self.learner.updates,
            "seconds": self.seconds,
            "ms_per_update": 1e3 * self.seconds["training"] / self.learner.updates,
            "parameters": sum(parameter.numel() for parameter in self.learner.model.parameters()),
            "parameter_hash": parameter_hash(self.learner.model),
            "environment": environment(),
        }


def resume_command(directory: RunDir) -> str:
    return f"python -m studies.grokking --resume {directory.path}"
