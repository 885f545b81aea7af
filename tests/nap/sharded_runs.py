"""What test_sharded.py runs in each of two gloo processes: python sharded_runs.py FOLDER RANK [CASE ...]"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import nap

Result = dict[str, Any]
PLAN = {"0": ColwiseParallel(output_layouts=Replicate()), "2": RowwiseParallel(input_layouts=Replicate())}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "neuron": {"mode": "neuron"},
    "unit": {"mode": "neuron", "radius": "unit"},
    "bound": {"mode": "neuron", "radius": 0.5, "bound": True},
    "joint": {"affine": "joint"},
    "decay": {"affine": "decay", "decay": 0.1},
}


def mlp() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 15), nn.ReLU(), nn.Linear(15, 8), nn.ReLU(), nn.Linear(8, 3))  # 15 = 8 + 7
    nap.normalize(model)
    return model


def even() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))
    nap.normalize(model)
    return model


class Attention(nn.Sequential):
    """Its packed matrix of 3 x 6 rows is cut between the rows of the keys."""

    def __init__(self) -> None:
        layer = nn.TransformerEncoderLayer(6, 2, 12, 0.0, batch_first=True)
        super().__init__(nn.Unflatten(1, (1, 6)), layer, nn.Flatten(), nn.Linear(6, 3))


def attention() -> nn.Module:
    torch.manual_seed(0)
    model = Attention()
    nap.normalize(model)
    return model


def upsampling() -> nn.Module:
    torch.manual_seed(0)
    shape = nn.Unflatten(1, (6, 1))
    model = nn.Sequential(
        shape, nn.ConvTranspose1d(6, 5, 3), nn.ReLU(), nn.ConvTranspose1d(5, 4, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    nap.normalize(model)
    return model


class Dense(nn.Module):
    """A linear layer of one's own, which the analysis recognises by what it computes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def foreign() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(Dense(6, 15), nn.ReLU(), Dense(15, 3))
    nap.normalize(model)
    return model


class Experts(nn.Module):
    """Three matrices in one parameter, which FSDP2 cuts between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.experts, self.head = nn.Parameter(torch.randn(3, 6, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.layer_norm(torch.einsum("bi,kio->bko", x, self.experts), (8,)).relu().mean(1))


def sharded(model: nn.Module) -> nn.Module:
    for layer in model:  # type: ignore[attr-defined]
        if any(True for _ in layer.parameters()):
            fully_shard(layer)
    return fully_shard(model)


def parallel(model: nn.Module) -> nn.Module:
    return parallelize_module(model, init_device_mesh("cpu", (2,)), PLAN)


def replicated_and_sharded(model: nn.Module) -> nn.Module:
    return fully_shard(model, mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard")))


def parallel_and_sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("data", "tensor"))
    return fully_shard(parallelize_module(model, mesh["tensor"], PLAN), mesh=mesh["data"])


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 10, part: slice = slice(None)) -> None:
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        x = torch.randn(8, 6, generator=generator)
        target = x[:, :3].argmax(1)
        optimizer.zero_grad()
        F.cross_entropy(model(x[part]), target[part]).backward()
        optimizer.step()


def made(model: nn.Module, **options: Any) -> tuple[torch.optim.Optimizer, nap.Projection]:
    projection = nap.Projection(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9)
    return optimizer, projection.attach(optimizer)


def whole(values: dict[str, Any]) -> dict[str, Tensor]:
    return {
        name.removeprefix("module."): (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in values.items()
    }


def trained(model: nn.Module, part: slice = slice(None), **options: Any) -> Result:
    with torch.no_grad():
        model(torch.randn(2, 6))  # after it FSDP2 leaves the root's parameters whole
    start = whole(dict(model.named_parameters()))
    optimizer, projection = made(model, **options)
    initial = whole(projection.initial_norms)
    train(model, optimizer, part=part)
    values = whole(dict(model.named_parameters()))
    return {"initial": initial, "norms": whole(projection.norms()), "start": start, "values": values}


def half() -> slice:
    return slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)


def compared(build: Callable[[], nn.Module], wrap: Callable[[nn.Module], nn.Module], split: bool = True) -> Callable:
    def case(options: dict[str, Any]) -> Result:
        alone = trained(build(), **options)
        return {"alone": alone, "spread": trained(wrap(build()), half() if split else slice(None), **options)}

    return case


def ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


RUNS = {
    "ddp": compared(mlp, ddp),
    "fsdp2": compared(mlp, sharded),
    "hsdp": compared(mlp, replicated_and_sharded),
    "tensor": compared(even, parallel, split=False),
    "tensor+fsdp2": compared(even, parallel_and_sharded, split=False),
    "upsampling": compared(upsampling, sharded),
}


def resumed() -> Result:
    """The state after 10 steps; loaded into a sharded projection of other weights; into one of a single process."""
    found: Result = {}
    for name, options in OPTIONS.items():
        model, other, alone = sharded(mlp()), sharded(mlp()), mlp()
        optimizer, projection = made(model, **options)
        train(model, optimizer, part=half())
        states = [projection.state_dict()]
        for another in (other, alone):
            for parameter in another.parameters():
                parameter.detach().mul_(2)
            loaded = nap.Projection(another, **options)
            loaded.load_state_dict(states[0])
            states.append(loaded.state_dict())
        found[name] = states
    return found


def before() -> Result:
    """A projection made too early, with an optimiser built after the sharding, and one built before it as well."""
    found: Result = {}
    for built in ("after", "before"):
        model = mlp()
        early = torch.optim.SGD(model.parameters(), 0.3)
        projection = nap.Projection(model)
        if built == "before":
            projection.attach(early)
        sharded(model)
        optimizer = early if built == "before" else torch.optim.SGD(model.parameters(), 0.3)

        def used(projection: nap.Projection = projection, optimizer: Any = optimizer, model: nn.Module = model) -> None:
            projection.attach(optimizer)
            train(model, optimizer, 1, half())
            projection.check()

        found[built] = error_of(used)
    return found


def refused() -> Result:
    flat = FullyShardedDataParallel(mlp(), device_id=torch.device("cpu"))
    packed = sharded(attention())
    groups = sharded(nn.Sequential(nn.Unflatten(1, (6, 1)), nn.ConvTranspose1d(6, 4, 3, groups=2)))
    return {
        "normalize": error_of(lambda: nap.normalize(sharded(mlp()))),
        "normalize tensor": error_of(lambda: nap.normalize(parallel(even()))),
        "fsdp1": error_of(lambda: nap.Projection(flat)),
        "normalize fsdp1": error_of(lambda: nap.normalize(flat)),
        "packed": error_of(lambda: nap.Projection(packed, mode="neuron")),
        "groups": error_of(lambda: nap.Projection(groups, mode="neuron", include="1")),
    }


def analyzed() -> Result:
    """The report is the one before sharding, also of a model that FSDP2 left whole after a forward."""
    models = {"fsdp2": sharded(mlp()), "tensor": parallel(even()), "attention": sharded(attention())}
    models["foreign"] = sharded(foreign())
    with torch.no_grad():
        models["fsdp2"](torch.randn(2, 6))
    alone = {"fsdp2": mlp(), "tensor": even(), "attention": attention(), "foreign": foreign()}
    return {name: (str(nap.analyze(model)), str(nap.analyze(alone[name]))) for name, model in models.items()}


def reductions() -> Result:
    """The shapes that one projection reduces over the processes."""
    found: Result = {}
    for mode in ("frobenius", "neuron"):
        projection = nap.Projection(sharded(mlp()), mode=mode)
        with patch.object(dist, "all_reduce", wraps=dist.all_reduce) as reduce, CommDebugMode() as counted:
            projection.project()
        found[mode] = [tuple(call.args[0].shape) for call in reduce.call_args_list]
        assert counted.get_total_counts() == len(found[mode])  # DTensor's own calls would be more
    return found


def error_of(call: Callable[[], Any]) -> str:
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no error"


CASES: dict[str, Callable[[], Result]] = {
    **{f"{run}, {name}": lambda run=run, options=options: RUNS[run](options)
       for run in RUNS for name, options in OPTIONS.items()},
    "attention": lambda: compared(attention, sharded)({}),
    "experts": lambda: compared(Experts, fully_shard)({}),
    "foreign": lambda: compared(foreign, sharded)({}),
    "resumed": resumed, "before": before, "refused": refused, "analyzed": analyzed, "reductions": reductions,
}  # fmt: skip


def main(folder: str, rank: str, *names: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=2)
    for name in names or CASES:
        torch.save(CASES[name](), Path(folder) / f"{name}.{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
