"""The message of a run that stops because its numbers are no longer finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from tensordict import TensorDictBase
from torch import Tensor

from agents.config import DQNConfig

Batch = Mapping[str, Tensor] | TensorDictBase


def statistics(batch: Batch, metrics: Mapping[str, Tensor], row: Mapping[str, float]) -> str:
    """The last minibatch and update in words; `row` has lr and gradient norms. Waits for the device."""
    parts = [f"{name} {float(value):.3g}" for name, value in metrics.items()]
    names = {"reward": "rewards", "discount": "discounts", "obs": "observations", "target_next": "target values"}
    values = {label: batch.get(name, None) for name, label in names.items()}
    parts += [f"{label} {span(value)}" for label, value in values.items() if value is not None]
    return ", ".join([*parts, largest_gradient(row), f"lr {row['lr']:.3g}"])


def span(values: Tensor) -> str:
    """The range of the finite values, and how many are not finite."""
    values = values.detach().float().flatten()
    finite = values[torch.isfinite(values)]
    bad = len(values) - len(finite)
    counted = f"{bad} of {len(values)} not finite" if bad else ""
    within = f"{float(finite.min()):.3g} to {float(finite.max()):.3g}" if len(finite) else ""
    return " with ".join(part for part in (within, counted) if part)


def largest_gradient(row: Mapping[str, float]) -> str:
    """The layer with the largest gradient norm; a norm that is not finite counts as the largest."""
    norms = {name.removeprefix("gradient/"): value for name, value in row.items() if name.startswith("gradient/")}
    if not norms:
        return "no gradients"
    layer = max(norms, key=lambda name: (not math.isfinite(norms[name]), norms[name]))
    return f"largest gradient norm {norms[layer]:.3g} in {layer}"


def advice(config: DQNConfig) -> str:
    """Options that make a divergence less likely and that the run does not have yet."""
    options = [f"--lr {config.lr / 3:.1g}"]
    if config.precision != "fp32":
        options.append("--precision fp32")
    if not config.projects:
        options.append("--nap")
    if not config.clips_rewards:
        options.append("--clip-rewards")
    options.append(f"--adam-eps {min(config.adam_eps * 10, 1):.2g}")
    return ", ".join(options)
