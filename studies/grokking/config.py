"""Settings of the grokking study. Imports no torch, so that the command line answers at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from experiment.config import ConfigError, suggest
from experiment.intervals import default_interval
from experiment.part import check_part, join_options
from experiment.processor import best_precision
from experiment.setting import check_ranges, setting
from plasticity.registry import parse_option

EARLY = 0.2
"""Share of the budget in which early-cycle cycles."""
NORM_POSITIONS = (
    "embedding", "attention", "query", "key", "attention-output", "mlp", "mlp-output", "final",
)  # fmt: skip
SCHEDULES = (
    "rewarm", "constant", "linear", "cosine", "one-cycle", "cyclic", "early-cycle", "cusum", "page-hinkley",
    "early-cycle-cusum", "early-cycle-plateau",
)  # fmt: skip
OWN = "module:Class"
"""Stands for any schedule that is given by its import path."""

OPTIONS = {"nap": "--projection frobenius", "hyperball": "--projection hyperball", "layer-norm": "--norm rms"}
"""Methods that are options of the study."""

S5_ORDER = 120


@dataclass(frozen=True)
class GrokkingConfig:
    """Settings of one run; every length is in updates."""

    operation: Literal["add", "sub", "mul", "div", "s5"] = setting("add", "task", common=True, fixed=True)
    """Binary operation modulo --modulus (div needs a prime), or s5: composition of the permutations of 5 things."""
    modulus: int = setting(117, "task", at_least=2, at_most=1_000, fixed=True)
    """Size of the set; s5 has 120 whatever this is."""
    fraction: float = setting(0.2, "task", at_least=0, at_most=1, common=True, fixed=True)
    """Share of the ordered pairs that are for training."""
    model: Literal["transformer", "mlp"] = setting("transformer", "network", fixed=True)
    """transformer: one block, width 128, 4 heads, 512 hidden units; mlp: embeddings of x and y, two hidden layers."""
    norm: Literal["rms", "none"] = setting("rms", "network", fixed=True)
    """rms: RMSNorm before every nonlinearity and at --norm-positions."""
    norm_positions: tuple[str, ...] = setting(("attention", "mlp", "final"), "network", fixed=True)
    """Further norms of the transformer: embedding, attention, query, key, attention-output, mlp, mlp-output, final;
    or none."""
    seed: int = setting(0, "task", at_least=0, common=True, fixed=True)
    """Decides everything: the split, the initial weights, the batches."""

    schedule: str = setting("rewarm", "learning rate", common=True)
    """rewarm, nap's delayed-cosine: --low-lr for --delay, warm-up to --lr, cosine to --final-lr; constant: warm-up,
    then --lr; cusum, page-hinkley: warm-up and cosine, again when the training loss has risen; early-cycle-cusum,
    early-cycle-plateau: warm restarts until the training loss changes no more; linear, cosine, one-cycle, cyclic,
    early-cycle: over the budget; or an own nap.Schedule over the budget, by its import path,
    module:Class[:option=value,...]."""
    lr: float = setting(1e-2, "learning rate", at_least=1e-12, at_most=10, common=True)
    """Learning rate: the peak of the schedule."""
    low_lr: float = setting(1e-4, "learning rate", at_least=0, at_most=10)
    """Learning rate before the re-warm."""
    delay: int = setting(2_000, "learning rate", at_least=0, common=True)
    """Updates before the re-warm."""
    warmup: int = setting(1_000, "learning rate", at_least=0)
    """Updates from --low-lr up to the peak (constant: from 0)."""
    anneal: int = setting(4_000, "learning rate", at_least=0)
    """Updates from the peak down to --final-lr (constant: at the peak)."""
    final_lr: float = setting(1e-4, "learning rate", at_least=0, at_most=10)
    """Learning rate at the end of the cosine, and the lowest of the other schedules."""
    cycles: int = setting(10, "learning rate", at_least=1)
    """cyclic, early-cycle: number of warm restarts; early-cycle has them in the first fifth, before a cosine.
    early-cycle-cusum and -plateau have cycles of the same length."""
    updates: int | None = setting(None, "learning rate", at_least=1, common=True)
    """Budget; none: delay + warm-up + anneal. A shorter one cuts the schedule off, a longer one stays at its end."""
    batch_size: int = setting(512, "optimiser", at_least=0)
    """Training pairs in a batch, drawn with replacement; 0: all of them."""

    optimizer: Literal["adamw", "grokfast-ema", "omnigrok", "muon"] = setting("adamw", "optimiser", fixed=True)
    """adamw; grokfast-ema: gradients amplified by their moving average; omnigrok: AdamW at a fixed global norm; muon:
    Muon for the matrices between embeddings and output layer, at ten times the rate, and AdamW (0.9, 0.95) for those
    and the norms."""
    beta1: float = setting(0.9, "optimiser", at_least=0, at_most=0.9999)
    """Adam's decay of the mean."""
    beta2: float = setting(0.999, "optimiser", at_least=0, at_most=0.999999)
    """Adam's decay of the second moment."""
    weight_decay: float = setting(0.0, "optimiser", at_least=0, at_most=1e3, common=True)
    """Weight decay of the weight matrices, per update and unit of learning rate."""
    coupled_decay: bool = setting(False, "optimiser")
    """Add the weight decay to the gradients (Adam with L2) instead of decoupling it (AdamW)."""
    scale_decay: float = setting(1.0, "optimiser", at_least=0, at_most=1e3)
    """Weight decay of the norms' scales alone."""
    loss: Literal["softmax", "stablemax"] = setting("softmax", "optimiser")
    """Cross-entropy of softmax, or of StableMax, in float64. The losses in metrics.jsonl are those of softmax."""
    orthogonal_gradient: bool = setting(False, "optimiser")
    """Leave of each parameter's gradient the part orthogonal to the parameter, at the gradient's length."""
    scale_lr: float | None = setting(None, "optimiser", at_least=0, at_most=10, fixed=True)
    """Peak learning rate of the norms' scales; none: that of --lr."""
    grokfast_alpha: float = setting(0.98, "optimiser", at_least=0, at_most=0.9999)
    """grokfast-ema: decay of the moving average."""
    grokfast_lambda: float = setting(2.0, "optimiser", at_least=0)
    """grokfast-ema: weight of the moving average that is added."""
    omnigrok_alpha: float = setting(0.8, "optimiser", at_least=1e-3, at_most=1e3, fixed=True)
    """omnigrok: the global norm, as a multiple of the initial norm."""

    projection: Literal["frobenius", "hyperball", "clip", "off"] = setting(
        "frobenius", "projection", common=True, fixed=True
    )
    """frobenius: each weight matrix back to its initial norm; hyperball: the same, embeddings excepted, and each update
    turns it by --hyperball-scale times its learning rate, in radians; clip: Clip to Grok, all rows start at --clip-norm
    and those above it are cut after each update, tokens and output layer excepted."""
    clip_norm: float = setting(2.0, "projection", at_least=1e-3, at_most=1e3, fixed=True)
    """clip: the largest norm of a row, and of the scale vector of a norm."""
    hyperball_scale: float = setting(1.0, "projection", at_least=1e-6, at_most=1e6)
    """hyperball: multiple of the learning rate."""
    project_every: int = setting(1, "projection", at_least=1)
    """Updates between projections."""
    project_head: bool = setting(True, "projection", fixed=True)
    """Project the output layer too; left free, it undoes the decay of the scales."""
    hold_norm_at: float = setting(1.0, "projection", at_least=1e-3, at_most=1e3, fixed=True)
    """Multiple of the initial norm that projection sets each weight matrix to at once, and holds it at."""
    hold_norm_of: Literal["all", "inner"] = setting("all", "projection", fixed=True)
    """Matrices that --hold-norm-at moves: all that are projected, or all except the output layer."""
    norm_end: float = setting(1.0, "projection", at_least=1e-3, at_most=1e3)
    """Multiple of the first norm, the head's aside, that projection moves to over the budget; their lr follows."""
    elr_end: float = setting(1.0, "projection", at_least=1e-3, at_most=1e3)
    """Multiple of the schedule's lr / norm that is moved to over the budget."""
    elr_of: Literal["all", "weights"] = setting("all", "projection", fixed=True)
    """Parameters that --elr-end moves: all, or all except the norms' scales, whose decay then stays too."""

    plasticity: tuple[str, ...] = setting((), "plasticity")
    """Methods against loss of plasticity, in order: name or module:Class, each with optional :option=value,... as in
    fire:at=2000. The option may be repeated. --list-methods shows them, NAME:help one. They act before the projection.
    """

    precision: Literal["fp32", "bf16", "auto"] = setting("auto", "machine")
    """bf16: passes in bfloat16 by autocast, on fp32 weights; measurements are always in fp32.
    auto: bf16 where the device has instructions for it, else fp32."""
    compile: bool = setting(False, "machine", role="machine")
    """Compile the loss with torch.compile: up to a minute at the start, then faster."""
    device: str = setting("cpu", "machine", role="machine")
    """Device of network and data: cpu, cuda, cuda:1, ..."""
    threads: int = setting(1, "machine", role="machine", at_least=1, at_most=1_024)
    """CPU threads of torch. They change the last bits of a run."""
    log_interval: int | None = setting(None, "logging", role="observing", at_least=1)
    """Updates between rows in metrics.jsonl; none: about a fiftieth of the budget, from 10 to 100."""
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
    def budget(self) -> int:
        """Updates of the whole run."""
        if self.updates is not None:
            return self.updates
        return self.warmup + self.anneal + (self.delay if self.schedule == "rewarm" else 0)

    @property
    def nap(self) -> bool:
        """Whether NaP is one of the methods: here it is the projection of the settings."""
        return False

    @property
    def rewarm_at(self) -> int:
        """Updates before the learning rate rises."""
        return self.delay if self.schedule == "rewarm" else 0

    def resolved(self) -> GrokkingConfig:
        """These settings with every open value decided; a mistake raises ConfigError."""
        positions = () if self.norm_positions == ("none",) else self.norm_positions
        config = replace(self, norm_positions=positions, plasticity=join_options(self.plasticity))
        config._check()
        return replace(
            config,
            updates=config.budget,
            precision=best_precision(config.device) if config.precision == "auto" else config.precision,
            modulus=S5_ORDER if config.operation == "s5" else config.modulus,
            log_interval=config.log_interval or default_interval(config.budget, 50, 10, 100),
        )

    def _check(self) -> None:
        check_ranges(self)
        check_part("schedule", self.schedule, SCHEDULES)
        for position in self.norm_positions:
            if position not in NORM_POSITIONS:
                hint = suggest(position, NORM_POSITIONS)
                raise ConfigError(f"--norm-positions has {position!r}, where no norm can stand{hint}")
        self._check_effects()
        if self.operation == "div" and not is_prime(self.modulus):
            raise ConfigError(f"--operation div needs a prime --modulus, and {self.modulus} is not one")
        if self.budget < 1:
            raise ConfigError("--delay, --warmup and --anneal are all 0: there is nothing to do")
        if self.schedule == "rewarm" and self.low_lr > self.lr:
            raise ConfigError(f"--low-lr {self.low_lr} has to be at most the peak, --lr {self.lr}")
        early = dict.fromkeys(_EARLY_CYCLE, round(EARLY * self.budget))
        steps = ({"cyclic": self.budget} | early).get(self.schedule, math.inf)
        if self.cycles > steps:
            raise ConfigError(f"--cycles is {self.cycles}, and there are {steps} updates for them: give fewer")
        if self.schedule != "constant" and ":" not in self.schedule and self.final_lr > self.lr:
            raise ConfigError(f"--final-lr {self.final_lr} has to be at most the peak, --lr {self.lr}")
        if self.optimizer == "omnigrok" and self.projection != "off":
            raise ConfigError("--optimizer omnigrok holds the global norm: it needs --projection off")
        for spec in parse_option(self.plasticity):
            if spec.name in OPTIONS:
                raise ConfigError(f"--plasticity {spec.name} is {OPTIONS[spec.name]} in this study")

    def _check_effects(self) -> None:
        """Refuses settings that were given and have no effect."""
        defaults = GrokkingConfig()
        kinds = {"schedule": OWN} if ":" in self.schedule else {}
        for (switch, value), idle in _NO_EFFECT.items():
            given = getattr(self, switch)
            for field in idle if kinds.get(switch, given) == value else ():
                if getattr(self, field) not in (getattr(defaults, field), ()):
                    option, other = field.replace("_", "-"), switch.replace("_", "-")
                    other = f"--no-{other}" if given is False else f"--{other} {given}"
                    raise ConfigError(f"--{option} has no effect with {other}: leave it out")
        if self.operation == "s5" and self.modulus not in (defaults.modulus, S5_ORDER):
            raise ConfigError("--modulus has no effect with --operation s5: leave it out")


_ONCE = ("linear", "cosine", "one-cycle", "cusum", "page-hinkley")
_EARLY_CYCLE = ("early-cycle", "early-cycle-cusum", "early-cycle-plateau")
_HELD = ("project_head", "hold_norm_at", "hold_norm_of", "norm_end")
_NO_EFFECT: dict[tuple[str, Any], tuple[str, ...]] = {
    ("model", "mlp"): ("norm_positions",),
    ("norm", "none"): ("norm_positions", "scale_decay", "scale_lr"),
    ("schedule", "rewarm"): ("cycles",),
    ("schedule", "constant"): ("low_lr", "delay", "final_lr", "cycles"),
    **{("schedule", name): ("low_lr", "delay") for name in ("cyclic", *_EARLY_CYCLE)},
    **{("schedule", name): ("low_lr", "delay", "cycles") for name in _ONCE},
    ("schedule", OWN): ("low_lr", "delay", "final_lr", "cycles"),
    ("optimizer", "adamw"): ("grokfast_alpha", "grokfast_lambda", "omnigrok_alpha"),
    ("optimizer", "grokfast-ema"): ("omnigrok_alpha",),
    ("optimizer", "omnigrok"): ("grokfast_alpha", "grokfast_lambda"),
    ("optimizer", "muon"): ("beta1", "beta2", "coupled_decay", "grokfast_alpha", "grokfast_lambda", "omnigrok_alpha"),
    ("projection", "frobenius"): ("hyperball_scale", "clip_norm"),
    ("projection", "hyperball"): ("clip_norm",),
    ("projection", "clip"): (*_HELD, "hyperball_scale"),
    ("projection", "off"): (*_HELD, "hyperball_scale", "clip_norm"),
    ("project_head", False): ("hold_norm_of",),
    ("hold_norm_at", 1.0): ("hold_norm_of",),
}
"""Settings without effect at a value of another setting."""


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
