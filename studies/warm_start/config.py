"""Settings of the warm-start study. Imports no torch, so that the command line answers at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from experiment.config import ConfigError
from experiment.intervals import default_interval
from experiment.part import check_part, join_options
from experiment.processor import available_cores, best_precision
from experiment.setting import check_ranges, setting
from plasticity.registry import parse_option

Protocol = Literal["lyle10", "ash50", "lee10noisy", "increments"]

FRACTIONS: dict[Protocol, float] = {"lyle10": 0.1, "ash50": 0.5, "lee10noisy": 0.1, "increments": 0.1}
"""Share of the training images in the first phase of each protocol."""
CLOSED_LOOP = ("cusum", "page-hinkley")
RESTARTING = ("cyclic", *CLOSED_LOOP)
EARLY_CYCLE = ("early-cycle", "early-cycle-cusum", "early-cycle-plateau")
SCHEDULES = (*RESTARTING, *EARLY_CYCLE, "constant", "linear", "cosine", "one-cycle", "delayed-cosine")


@dataclass(frozen=True)
class WarmStartConfig:
    """Settings of one run; every length is in updates."""

    dataset: Literal["cifar10", "fashion-mnist", "digits"] = setting("cifar10", "task", common=True, fixed=True)
    """Images; cifar10 and fashion-mnist are downloaded once into --data-dir."""
    data_dir: str | None = setting(None, "task", role="machine", changeable=True, common=True)
    """Folder of the data; none: $REWARM_DATA, else ~/.cache/rewarm."""
    protocol: Protocol = setting("lyle10", "task", common=True, fixed=True)
    """lyle10: a part of the data, then all; ash50: half, then all, each to 99% of training accuracy; lee10noisy: a
    tenth with half of its labels wrong, then all; increments: a tenth more in every phase."""
    fraction: float | None = setting(None, "task", at_least=0.001, at_most=1, fixed=True)
    """Share of the images in the first phase; none: the protocol's. With 1 the network has all images at once."""
    phase_updates: int | None = setting(None, "task", at_least=1, common=True)
    """Updates in a phase, or the most of them (ash50); none: 14,000, and 2,800 in each of the ten of increments."""
    augment: bool = setting(False, "task")
    """Random crops from a border of 4 pixels, and flips (digits and clothes are not flipped)."""
    seed: int = setting(0, "task", at_least=0, common=True, fixed=True)
    """Decides everything: the images of the first phase, the initial weights, the batches."""

    network: Literal["cnn", "resnet18"] = setting("cnn", "network", common=True, fixed=True)
    """cnn: three convolutions and a hidden layer; resnet18: bias-free, for small images."""
    # a norm of one unit would be constant
    width: int | None = setting(None, "network", at_least=2, at_most=4_096, fixed=True)
    """Channels of the first convolution; none: 32 (cnn), 64 (resnet18, the usual one)."""
    hidden: int = setting(256, "network", at_least=2, at_most=65_536, fixed=True)
    """cnn: units of the hidden layer."""
    strides: tuple[str, ...] = setting(("2", "2", "1"), "network", fixed=True)
    """cnn: strides of the three convolutions."""
    norm_over: Literal["space", "channels", "none"] = setting("space", "network", fixed=True)
    """cnn: the norm of a convolution is taken over channels and space, or over the channels at each position. none: no
    layer has a norm, and each has a bias instead."""

    at_switch: Literal["warm", "fresh-optimizer", "cold"] = setting("warm", "plasticity")
    """When the data change: go on; go on with a fresh optimiser state; start again from initial weights."""
    nap: bool = setting(False, "plasticity", common=True)
    """Project each weight matrix to its initial norm; the networks have norm layers with and without it."""
    nap_every: int = setting(1, "plasticity", at_least=1)
    """NaP: updates between projections."""
    nap_affine: Literal["free", "decay", "joint"] = setting("free", "plasticity")
    """NaP: scale and offset of norms. joint: projected as a pair; decay: pulled to their start; free: unchanged."""
    plasticity: tuple[str, ...] = setting((), "plasticity", common=True)
    """Methods against loss of plasticity, in order: name or module:Class, each with optional :option=value,... as in
    redo:period=100,tau=0.1. The option may be repeated."""

    schedule: str = setting("cyclic", "learning rate", common=True)
    """cyclic: --cycles warm restarts; cusum and page-hinkley: a restart when they detect a rise of the training loss;
    early-cycle-cusum and early-cycle-plateau: warm restarts until the training loss stops changing; constant; linear,
    cosine, one-cycle, early-cycle, delayed-cosine: once, over the whole budget; or your own nap.Schedule over the
    budget, by its import path, module:Class[:option=value,...]."""
    cycles: int | None = setting(None, "learning rate", at_least=1)
    """cyclic, early-cycle: number of cycles; none: one a phase. cusum, page-hinkley: a restart takes the budget divided
    by this."""
    cycle_fraction: float = setting(0.2, "learning rate", at_least=0, at_most=1)
    """Share of the budget in which early-cycle cycles; early-cycle-cusum and -plateau have cycles of that length."""
    anneal: Literal["floor", "linear", "cosine"] = setting("cosine", "learning rate")
    """early-cycle after the cycling: stay at the floor, or go there from the peak linearly or as a cosine."""
    lr_delay: int = setting(0, "learning rate", at_least=0)
    """delayed-cosine: updates at the floor before the warm-up."""
    lr: float = setting(3e-3, "learning rate", at_least=1e-12, at_most=10, common=True)
    """Learning rate: the peak of the schedule."""
    lr_floor: float = setting(1e-6, "learning rate", at_least=0, at_most=10)
    """Lowest learning rate of the schedule."""
    lr_warmup: int | None = setting(None, "learning rate", at_least=0)
    """cyclic, cusum, page-hinkley, delayed-cosine: updates from the floor to the peak at a restart; none: 1,000, as
    long as Adam remembers, but at most a seventh of a cycle (delayed-cosine: 0)."""
    first_warmup: int = setting(0, "learning rate", at_least=0)
    """cyclic, cusum, page-hinkley: the same at the start of the first cycle."""
    restart_moments: bool = setting(True, "learning rate")
    """cyclic, cusum, page-hinkley, and your own schedule if it counts its restarts: a restart also clears Adam's
    moments. After an anneal the second moments are close to zero, and steps at the peak would be many times too long.
    Off: a restart changes only the rate."""
    later_peak: float = setting(1.0, "learning rate", at_least=1e-3, at_most=1e3)
    """Peak after the first phase, as a multiple of --lr."""
    rewarm_threshold: float = setting(10.0, "learning rate", at_least=0, at_most=1e6)
    """cusum, page-hinkley: evidence that restarts the schedule, in standard deviations of the log of the loss."""
    rates: Literal["constant", "fast-features", "slow-features", "even-ratio"] = setting(
        "constant", "learning rate", fixed=True
    )
    """Learning rates by layer: the same; the output layer's a tenth; all others' a tenth; proportional to mean |w|."""
    optimizer: Literal["adam", "muon"] = setting("adam", "learning rate")
    """muon: Muon for all weight matrices but the output layer's, at ten times --lr; Adam (0.9, 0.95) for the rest."""
    batch_size: int = setting(250, "learning rate", at_least=1, at_most=100_000)
    """Images in a batch."""

    device: str = setting("cpu", "machine", role="machine")
    """Device of network and data: cpu, cuda, cuda:1 ..."""
    precision: Literal["fp32", "bf16", "auto"] = setting("fp32", "machine")
    """bf16: passes in bfloat16 by autocast, on fp32 weights. Features are measured in fp32 in any case.
    auto: bf16 where the device has instructions for it, else fp32."""
    compile: bool = setting(False, "machine", role="machine")
    """Compile the loss with torch.compile: up to a minute at the start, then faster."""
    threads: int = setting(0, "machine", role="machine", at_least=0, at_most=1_024)
    """CPU threads of torch; 0: all cores. They change the last bits of a run."""
    log_interval: int | None = setting(None, "logging", role="observing", at_least=1)
    """Updates between rows in metrics.jsonl; none: about a twentieth of the budget, from 20 to 250. A row costs about
    as much as 15 updates."""
    checkpoint_interval: int = setting(5_000, "logging", role="observing", at_least=0)
    """Updates between checkpoints; 0: only at the end or when interrupted."""
    keep_checkpoints: Literal["every"] | int = setting(2, "logging", role="observing", at_least=1, metavar="every|N")
    """Checkpoints that are kept, the newest; every: all."""
    checkpoint_at: tuple[str, ...] = setting((), "logging", role="observing", changeable=True, metavar="STEP,...")
    """Steps at which a checkpoint is saved in addition, and kept."""
    figure: bool = setting(True, "logging", role="observing")
    """Draw figure.png into the run directory at the end."""
    track: Literal["none", "wandb", "tensorboard"] = setting("none", "logging", role="observing", changeable=True)
    """Tracker in addition to metrics.jsonl. tensorboard: event files in the run directory."""
    name: str | None = setting(None, "run directory", role="identity", common=True)
    """Name of the run directory; none: made from the settings and the time."""
    root: str = setting("run", "run directory", role="identity")
    """Folder of the run directories."""
    resume: str | None = setting(None, "run directory", role="identity", common=True)
    """A run directory to go on with, or auto: the newest unfinished run of these settings, if there is one."""
    fork: str | None = setting(None, "run directory", role="identity", common=True, metavar="RUN[@STEP]")
    """Begin at a checkpoint of another run, the newest or that of a step, with its settings except those that are given
    (docs/running.md)."""
    fork_step: int | None = setting(None, "run directory", at_least=1)
    """The step of that checkpoint; --fork RUN@STEP sets it."""
    fork_hash: str | None = setting(None, "run directory", role="identity")
    """The hash of that checkpoint's parameters; none: any, and config.yaml says which it was."""
    fork_changed: str | None = setting(None, "run directory", role="identity")
    """The settings of that run that the fork changed, which config.yaml says: no option to give."""

    @property
    def phases(self) -> int:
        """Number of phases."""
        return 10 if self.protocol == "increments" else 2

    @property
    def budget(self) -> int:
        """Updates of the whole run, or the most of them."""
        assert self.phase_updates is not None, "resolved() comes first"
        return self.phases * self.phase_updates

    def resolved(self) -> WarmStartConfig:
        """These settings with every open value decided; a mistake raises ConfigError."""
        plasticity = join_options(self.plasticity)
        chosen = replace(
            self,
            fraction=FRACTIONS[self.protocol] if self.fraction is None else self.fraction,
            phase_updates=self._phase_updates() if self.phase_updates is None else self.phase_updates,
            width={"cnn": 32, "resnet18": 64}[self.network] if self.width is None else self.width,
            cycles=self.phases if self.cycles is None else self.cycles,
            plasticity=plasticity,
            threads=self.threads or available_cores(),
            precision=best_precision(self.device) if self.precision == "auto" else self.precision,
        )
        if chosen.log_interval is None:
            chosen = replace(chosen, log_interval=default_interval(chosen.budget, 20, 20, 250))
        if chosen.lr_warmup is None:
            chosen = replace(chosen, lr_warmup=min(1_000, chosen.restart // 7) if chosen.schedule in RESTARTING else 0)
        chosen._check()
        return chosen

    @property
    def restart(self) -> int:
        """Updates of a cycle, or of a restart of a closed loop."""
        assert self.cycles is not None, "resolved() comes first"
        return max(self.budget // max(self.cycles, 1), 1)

    @property
    def has_floor(self) -> bool:
        """Whether the schedule is given --lr-floor; one of the user's has options of its own."""
        return self.schedule != "constant" and ":" not in self.schedule

    @property
    def may_restart(self) -> bool:
        """Whether the schedule may go back to its peak."""
        return self.schedule in RESTARTING or ":" in self.schedule

    def _phase_updates(self) -> int:
        return 28_000 // self.phases

    def _check(self) -> None:
        check_ranges(self)
        check_part("schedule", self.schedule, SCHEDULES)
        if len(self.strides) != 3 or not all(stride in ("1", "2", "4") for stride in self.strides):
            raise ConfigError(f"--strides is {' '.join(self.strides)}: it has to be three of 1, 2 and 4")
        if self.norm_over != "space" and self.network != "cnn":
            raise ConfigError(f"--norm-over {self.norm_over} is for the cnn; {self.network} has norms of its own")
        if self.norm_over == "none" and self.nap:
            raise ConfigError("--nap projects what norms make free of scale: it does not go with --norm-over none")
        if self.at_switch == "cold" and self.plasticity:
            raise ConfigError("--at-switch cold: a method keeps its memory of the first phase; leave --plasticity out")
        if self.protocol in ("increments", "lee10noisy") and self.fraction not in (0.1, 1.0):
            raise ConfigError(f"--protocol {self.protocol} begins with a --fraction of 0.1; 1 has everything at once")
        self._check_parts()
        self._check_schedule()
        specs = parse_option(self.plasticity)
        if any(spec.name == "nap" for spec in specs):
            raise ConfigError("--plasticity nap is --nap in this study, with its --nap-... options")
        if self.norm_over == "none" and any(spec.name == "hyperball" for spec in specs):
            raise ConfigError("--plasticity hyperball puts norms into the network: leave --norm-over none out")

    def _check_parts(self) -> None:
        """Refuses some settings that would have no effect."""
        for name, needs, there in (
            ("nap_every", "--nap", self.nap),
            ("nap_affine", "--nap", self.nap),
            ("hidden", "--network cnn", self.network == "cnn"),
            ("strides", "--network cnn", self.network == "cnn"),
            ("lr_floor", "a schedule that has a floor", self.has_floor),
            ("cycle_fraction", "an early-cycle schedule", self.schedule in EARLY_CYCLE),
            ("anneal", "an early-cycle schedule", self.schedule in EARLY_CYCLE),
            ("lr_delay", "--schedule delayed-cosine", self.schedule == "delayed-cosine"),
            ("rewarm_threshold", "--schedule cusum or page-hinkley", self.schedule in CLOSED_LOOP),
            ("restart_moments", "--schedule cyclic, cusum or page-hinkley, or an own one", self.may_restart),
        ):
            if not there and getattr(self, name) != getattr(WarmStartConfig, name):
                raise ConfigError(f"--{name.replace('_', '-')} does nothing without {needs}: give both or neither")

    def _check_schedule(self) -> None:
        assert self.cycles is not None, "resolved() comes first"
        assert self.lr_warmup is not None, "resolved() comes first"
        if self.has_floor and self.lr_floor > self.lr:
            raise ConfigError(f"--lr-floor {self.lr_floor:g} has to be at most the peak, --lr {self.lr:g}")
        if self.protocol == "ash50" and self.has_floor and self.schedule not in CLOSED_LOOP:
            raise ConfigError("--protocol ash50: when its phases end is not known; give --schedule constant")
        for name, value, kinds in (
            ("lr-warmup", self.lr_warmup, ("delayed-cosine", *RESTARTING)),
            ("first-warmup", self.first_warmup, RESTARTING),
        ):
            if value and self.schedule not in kinds:
                raise ConfigError(f"--{name} is {value}, and --schedule {self.schedule} has no warm-up of its own")
            if self.schedule in RESTARTING and value >= self.restart:
                raise ConfigError(f"--{name} is {value}: it has to be below a restart, of {self.restart} updates")
        steps = round(self.cycle_fraction * self.budget) if self.schedule in EARLY_CYCLE else self.budget
        if self.schedule in ("cyclic", *EARLY_CYCLE) and 0 < steps < self.cycles:
            raise ConfigError(f"--cycles is {self.cycles}, and there are {steps} updates for them: give fewer")
        ends = self.schedule in EARLY_CYCLE[1:] or (self.schedule == "early-cycle" and self.cycle_fraction < 1)
        if ends and self.anneal == "floor" and self.lr_floor == 0:
            raise ConfigError("--anneal floor with --lr-floor 0 learns nothing after the cycles: give another of them")
        if self.schedule == "delayed-cosine" and self.lr_delay + self.lr_warmup > self.budget:
            raise ConfigError(f"--lr-delay and --lr-warmup are longer than the budget of {self.budget} updates")
