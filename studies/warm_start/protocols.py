"""Which images each phase of a protocol has, and with which labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from studies.warm_start.config import FRACTIONS, WarmStartConfig

NOISY_SHARE = 0.5
"""lee10noisy: share of the first phase's images whose label is drawn again from the other classes."""
ENOUGH = {"ash50": 0.99}
"""Training accuracy, over a pass through the phase's images, that ends a phase early."""


@dataclass(frozen=True, eq=False)
class Protocol:
    """The phases of a run: image indices for each, int64, every one a part of the next, and the labels of all images.

    `enough` is the training accuracy that ends a phase before its budget of updates, or None.
    """

    phases: list[Tensor]
    labels: Tensor
    enough: float | None


def make_protocol(config: WarmStartConfig, labels: Tensor, classes: int, seed: int) -> Protocol:
    """The phases of the settings, on the device of the labels int64 [N].

    lyle10: arXiv 2507.20057, section 5. ash50: arXiv 1910.08475. lee10noisy: arXiv 2406.02596; the noisy labels stay in
    the data, also for a run with all images at once, which gets the labels of a first phase of a tenth. increments:
    each phase adds as many images as the first has.
    """
    assert config.fraction is not None
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    shares = [config.fraction, 1.0]
    if config.protocol == "increments":
        shares = [max(config.fraction, (i + 1) / config.phases) for i in range(config.phases)]
    sizes = [max(round(share * len(labels)), 1) for share in shares]
    if config.protocol == "lee10noisy":
        first = max(round(FRACTIONS["lee10noisy"] * len(labels)), 1)  # of a fraction of 1 too
        labels = with_noise(labels, order[:first], classes, generator)
    return Protocol([order[:size].to(labels.device) for size in sizes], labels, ENOUGH.get(config.protocol))


def with_noise(labels: Tensor, chosen: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """A copy of the labels in which the first half of the chosen ones are wrong, each uniformly."""
    wrong = chosen[: round(NOISY_SHARE * len(chosen))].to(labels.device)
    shift = torch.randint(1, classes, (len(wrong),), generator=generator).to(labels.device)
    noisy = labels.clone()
    noisy[wrong] = (labels[wrong] + shift) % classes
    return noisy
