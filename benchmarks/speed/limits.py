"""What the machine can do at best: matrix multiplication, memory, and the learner's arithmetic at those rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from agents.names import STACK
from agents.networks.encoders import make_network
from benchmarks.speed.alternate import Contestant, Round, Run, Series, repeated
from benchmarks.speed.learners import BATCH, NUM_ACTIONS, PRECISIONS, limit_name
from benchmarks.speed.replays import FRAME_SHAPE
from benchmarks.speed.settings import Settings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEAK = (2048, 2048, 2048)
COPY_BYTES = 512 * 2**20

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Cost:
    """One layer's matrix multiplication in a forward pass, [m, k] × [k, n], and how often an update makes it."""

    shape: Shape
    passes: int

    @property
    def gflop(self) -> float:
        """Floating-point operations in one update."""
        m, k, n = self.shape
        return self.passes * 2 * m * k * n / 1e9


def update_costs(network: str, batch: int = BATCH) -> list[Cost]:
    """The layers of a double-DQN update: three forward passes, one backward for weights and all inputs but pixels."""
    costs: list[Cost] = []

    def record(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        weight = layer.get_parameter("weight")
        shape = (output.numel() // len(weight), weight[0].numel(), len(weight))
        costs.append(Cost(shape, 5 if costs else 4))

    module = make_network(network, STACK, FRAME_SHAPE, NUM_ACTIONS)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(record)
    module(torch.zeros(batch, STACK, *FRAME_SHAPE, dtype=torch.uint8))
    return costs


def matmul_name(label: str, shape: Shape, precision: str) -> str:
    return f"{label}, {'×'.join(map(str, shape))}, {precision}"


def layer_name(network: str, index: int) -> str:
    return f"{network} layer {index + 1}"


def shapes(networks: Sequence[str]) -> list[tuple[str, Shape]]:
    """The shapes to multiply, each with its label; a network's head is too small to measure."""
    found = [("large", PEAK)]
    for network in networks:
        found += [(layer_name(network, i), cost.shape) for i, cost in enumerate(update_costs(network)[:-1])]
    return found


def contestants(settings: Settings) -> list[Contestant]:
    """Multiplications in both precisions, a copy in memory, and on a GPU the transfer of a block's frames."""
    found = []
    for label, shape in shapes(settings.networks):
        m, k, n = shape
        for precision in PRECISIONS:
            run = partial(matmul_run, shape, precision, settings.device)
            work = 2 * m * k * n / 1e9
            found.append(Contestant("matmul", matmul_name(label, shape, precision), "GFLOP/s", run, "limit", work=work))
    run = partial(copy_run, settings.device, settings.device)
    found.append(Contestant("memory", "copy, read and write", "GB/s", run, "limit", work=2 * COPY_BYTES / 1e9))
    if settings.device.startswith("cuda"):
        run = partial(copy_run, "cpu", settings.device)
        found.append(Contestant("memory", "host to device, pinned", "GB/s", run, "limit", work=COPY_BYTES / 1e9))
    return found


def matmul_run(shape: Shape, precision: str, device: str) -> Run:
    m, k, n = shape
    a = torch.randn(m, k, device=device).to(DTYPES[precision])
    b = torch.randn(k, n, device=device).to(DTYPES[precision])
    out = a.new_empty(m, n)

    return repeated(lambda: torch.mm(a, b, out=out))


def copy_run(source: str, device: str) -> Run:
    pinned = source == "cpu" and device != "cpu"
    here = torch.ones(COPY_BYTES // 4, device=source, pin_memory=pinned)
    there = torch.zeros(COPY_BYTES // 4, device=device)

    return repeated(lambda: there.copy_(here, non_blocking=pinned))


def learner_limits(settings: Settings, series: Sequence[Series]) -> list[Series]:
    """Updates per second that the measured multiplications allow: at 2048³, and at the layers' shapes."""
    by_name = {each.name: each for each in series if each.unit == "GFLOP/s"}
    found = []
    for network in settings.networks:
        costs = update_costs(network)
        for precision in PRECISIONS:
            peak = by_name[matmul_name("large", PEAK, precision)].values
            own = [
                by_name.get(matmul_name(layer_name(network, i), cost.shape, precision)) for i, cost in enumerate(costs)
            ]
            at_peak = [_rate(costs, [rate] * len(costs)) for rate in peak]
            at_own = [_rate(costs, [layer.values[i] if layer else peak[i] for layer in own]) for i in range(len(peak))]
            name = f"arithmetic of an update at the rates of its own shapes, {precision}"
            found += [_derived(network, limit_name(precision), at_peak), _derived(network, name, at_own)]
    return found


def _rate(costs: Sequence[Cost], gflops: Sequence[float]) -> float:
    """Updates per second with each layer at its own rate."""
    return 1 / sum(cost.gflop / rate for cost, rate in zip(costs, gflops, strict=True))


def _derived(network: str, name: str, values: Sequence[float]) -> Series:
    rounds = [Round(0, 0.0, value) for value in values]
    return Series(f"learner {network}", name, "updates/s", "limit", rounds=rounds)
