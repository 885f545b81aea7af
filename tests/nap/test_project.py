"""Projection: eq. 2 held after every update, with no host sync, in one graph, whatever the network and optimiser."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import nap

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.1),
    "adam fused": lambda p: torch.optim.Adam(p, torch.tensor(0.1), fused=True),
    "adam foreach": lambda p: torch.optim.Adam(p, 0.1, foreach=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5),
}


def mlp(*widths: int, norm: str = "layer") -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    module = nn.Sequential(*layers[:-1])
    nap.normalize(module, norm=norm)
    return module


def cnn() -> nn.Sequential:
    layers = (nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    module = nn.Sequential(*layers)
    nap.normalize(module)
    return module


def encoder() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
    module = nn.Sequential(nn.Embedding(7, 8), layer, nn.Linear(8, 3))
    nap.normalize(module)
    return module


def update(module: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    (module(x).square().mean() - module(x).mean()).backward()
    optimizer.step()


def assert_at_initial_norms(projection: nap.Projection) -> None:
    torch.testing.assert_close(projection.norms(), projection.initial_norms, rtol=1e-5, atol=0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (lambda: mlp(3, 5, 7, 2), torch.randn(6, 3)),
    "cnn": (cnn, torch.rand(2, 2, 7, 7)),
    "encoder": (encoder, torch.randint(0, 7, (2, 4))),
}


@settings(max_examples=20, deadline=None)
@given(
    network=st.sampled_from(sorted(NETWORKS)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    affine=st.sampled_from(["free", "decay", "joint"]),
    seed=st.integers(0, 9),
)
def test_after_each_update_every_weight_has_its_initial_norm(
    network: str, optimizer: str, affine: str, seed: int
) -> None:
    torch.manual_seed(seed)
    module, x = NETWORKS[network][0](), NETWORKS[network][1]
    made = OPTIMIZERS[optimizer](module.parameters())
    projection = nap.Projection(module, affine=affine).attach(made)
    initial = {name: norm.clone() for name, norm in projection.norms().items()}
    output = {name: value.clone() for name, value in nap.snapshot(module).items() if name not in projection.names}
    for _ in range(3):
        update(module, x, made)
        torch.testing.assert_close(projection.norms(), initial, rtol=1e-5, atol=0)
    assert len(output) == 1
    assert not any(torch.equal(value, nap.snapshot(module)[name]) for name, value in output.items())


@settings(max_examples=20, deadline=None)
@given(widths=st.lists(st.integers(1, 9), min_size=3, max_size=5), factor=st.floats(0.01, 100), seed=st.integers(0, 9))
def test_project_is_eq_2_one_weight_at_a_time(widths: list[int], factor: float, seed: int) -> None:
    torch.manual_seed(seed)
    module = mlp(*widths)
    before = nap.snapshot(module)
    projection = nap.Projection(module)
    for value in nap.snapshot(module, copy=False).values():
        value.mul_(factor).add_(torch.randn_like(value))
    moved = nap.snapshot(module)
    projection()
    after = nap.snapshot(module)
    for name in projection.names:
        norm_0 = sum(w * w for w in before[name].double().flatten().tolist()) ** 0.5
        norm_t = sum(w * w for w in moved[name].double().flatten().tolist()) ** 0.5
        torch.testing.assert_close(after[name], moved[name] * (norm_0 / norm_t), rtol=1e-5, atol=1e-7)
    last = list(after)[-1]
    assert torch.equal(after[last], moved[last])
    assert last not in projection.names


def test_query_key_and_value_are_projected_each_by_itself() -> None:
    module = encoder()
    projection = nap.Projection(module)
    packed = module[1].self_attn.in_proj_weight
    with torch.no_grad():
        packed[:8] *= 3
        packed[16:] *= 0.2
    projection()
    assert_at_initial_norms(projection)
    torch.testing.assert_close(projection.norms()["1.self_attn.in_proj_weight[q]"], packed[:8].norm())


def test_every_k_projects_each_kth_update() -> None:
    torch.manual_seed(0)
    module = mlp(3, 5, 2)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    projection = nap.Projection(module, every=3).attach(optimizer)
    name = projection.names[0]
    held = []
    for _ in range(9):
        update(module, torch.randn(4, 3), optimizer)
        held.append(bool((projection.norms()[name] / projection.initial_norms[name] - 1).abs() < 1e-5))
    assert held == [False, False, True] * 3


@pytest.mark.parametrize("width", [4, 64])
def test_joint_norm_of_scale_and_offset_is_the_root_of_the_width(width: int) -> None:
    module = mlp(3, width, 2)
    norm = next(part for part in module.modules() if isinstance(part, nn.LayerNorm))
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    nap.Projection(module, affine="joint").attach(optimizer)
    for _ in range(3):
        update(module, torch.randn(4, 3), optimizer)
        squares = norm.weight.detach().square().sum() + norm.bias.detach().square().sum()
        assert float(squares) == pytest.approx(width, rel=1e-5)
    assert norm.bias.any()


def test_joint_norm_of_a_norm_without_offset_is_that_of_its_scale() -> None:
    module = mlp(3, 16, 2, norm="rms")
    norm = next(part for part in module.modules() if isinstance(part, nn.RMSNorm))
    projection = nap.Projection(module, affine="joint")
    nn.init.uniform_(norm.weight)
    projection()
    assert float(norm.weight.detach().norm()) == pytest.approx(4)


def test_decay_moves_scale_and_offset_a_fraction_of_the_way_back() -> None:
    module = mlp(3, 16, 2)
    norm = next(part for part in module.modules() if isinstance(part, nn.LayerNorm))
    projection = nap.Projection(module, affine="decay", decay=0.25)
    nn.init.constant_(norm.weight, 3.0)
    nn.init.constant_(norm.bias, -2.0)
    projection()
    torch.testing.assert_close(norm.weight, torch.full((16,), 2.5))
    torch.testing.assert_close(norm.bias, torch.full((16,), -1.5))


def test_free_leaves_scale_and_offset() -> None:
    module = mlp(3, 16, 2)
    norm = next(part for part in module.modules() if isinstance(part, nn.LayerNorm))
    nn.init.constant_(norm.weight, 3.0)
    nap.Projection(module)()
    torch.testing.assert_close(norm.weight, torch.full((16,), 3.0))


def test_zero_weights_give_no_nan_and_a_zero_start_is_left_alone() -> None:
    module = mlp(3, 5, 6, 2)
    nn.init.zeros_(module[0].weight)
    projection = nap.Projection(module)
    assert projection.left_at_zero == ["0.weight"]
    assert projection.names == ["2.weight"]
    nn.init.zeros_(module[2].weight)
    nn.init.ones_(module[0].weight)
    projection()
    assert (module[2].weight == 0).all()
    assert (module[0].weight == 1).all()


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["frobenius", "neuron"])
@pytest.mark.parametrize("affine", ["free", "decay", "joint"])
def test_no_host_sync_and_as_many_foreach_calls_for_many_weights_as_for_few(affine: str, mode: str) -> None:
    counts = []
    for widths in [(3, 4, 2), (3, 4, 4, 4, 4, 4, 2)]:
        projection = nap.Projection(mlp(*widths), affine=affine, mode=mode)
        with Operations() as seen:
            projection()
        assert not any("_local_scalar_dense" in name or "_to_copy" in name for name in seen.names)
        counts.append(sum("foreach" in name for name in seen.names))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(("affine", "mode"), [("joint", "frobenius"), ("decay", "frobenius"), ("free", "neuron")])
def test_project_compiles_as_one_graph(affine: str, mode: str) -> None:
    torch._dynamo.reset()
    module = encoder()
    twin = copy.deepcopy(module)
    projection, eager = (nap.Projection(part, affine=affine, mode=mode) for part in (module, twin))
    compiled = torch.compile(projection.project, fullgraph=True, backend="aot_eager")
    for part in (module, twin):
        for parameter in part.parameters():
            parameter.data.mul_(1.7).add_(0.01)
    compiled()
    eager()
    torch.testing.assert_close(module.state_dict(), twin.state_dict())
    assert_at_initial_norms(projection)


class Conv1D(nn.Module):
    """x @ weight + bias, as in the transformers package: the output features are the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6))
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def neurons(layer: nn.Module, name: str, value: Tensor) -> list[list[float]]:
    """The weights of each output neuron, one by one."""
    value = value.double()
    if isinstance(layer, nn.ConvTranspose2d):
        inputs = layer.in_channels // layer.groups
        per_group = layer.out_channels // layer.groups
        rows = [(slice(g * inputs, (g + 1) * inputs), o) for g in range(layer.groups) for o in range(per_group)]
        return [value[inputs_of_group, output].flatten().tolist() for inputs_of_group, output in rows]
    columns = isinstance(layer, Conv1D)
    return [row.flatten().tolist() for row in (value.T if columns else value)]


def sizes(rows: list[list[float]]) -> Tensor:
    return torch.tensor([sum(w * w for w in row) ** 0.5 for row in rows])


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(4, 6),
    "conv": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "embedding": lambda: nn.Embedding(5, 4),
    "other library": Conv1D,
}


@pytest.mark.parametrize("radius", ["initial", "unit"])
@pytest.mark.parametrize("kind", LAYERS)
def test_neuron_mode_projects_each_output_neuron_by_itself(kind: str, radius: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    before = layer.weight.detach().clone()
    projection = nap.Projection(layer, mode="neuron", radius=radius, include=lambda *_: True)
    initial = sizes(neurons(layer, kind, before))
    targets = initial if radius == "initial" else torch.ones_like(initial)
    assert projection.names == ["weight"]
    torch.testing.assert_close(projection.initial_norms["weight"], targets)
    torch.testing.assert_close(projection.norms()["weight"], targets)
    assert radius == "unit" or torch.equal(layer.weight, before)
    moved = layer.weight.data.mul_(3).add_(torch.randn_like(before)).clone()
    projection()
    torch.testing.assert_close(projection.norms()["weight"], targets)
    now, then = neurons(layer, kind, layer.weight.detach()), neurons(layer, kind, moved)
    for row, old, target in zip(now, then, targets.tolist(), strict=True):
        norm = sum(w * w for w in old) ** 0.5
        assert row == pytest.approx([w * target / norm for w in old], rel=1e-4, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    network=st.sampled_from(sorted(NETWORKS)),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
    radius=st.sampled_from(["initial", "unit"]),
    affine=st.sampled_from(["free", "decay", "joint"]),
)
def test_after_each_update_every_neuron_has_its_norm(network: str, optimizer: str, radius: str, affine: str) -> None:
    module, x = NETWORKS[network][0](), NETWORKS[network][1]
    made = OPTIMIZERS[optimizer](module.parameters())
    projection = nap.Projection(module, mode="neuron", radius=radius, affine=affine).attach(made)
    for _ in range(3):
        update(module, x, made)
        torch.testing.assert_close(projection.norms(), projection.initial_norms, rtol=1e-5, atol=0)
    assert all(radius == "initial" or (norm == 1).all() for norm in projection.initial_norms.values())


@pytest.mark.parametrize("radius", ["initial", "unit"])
def test_a_neuron_that_starts_at_zero_is_left_alone(radius: str) -> None:
    table = nn.Embedding(5, 4, padding_idx=2)
    module = nn.Sequential(table, nn.Linear(4, 2))
    projection = nap.Projection(module, mode="neuron", radius=radius)
    assert projection.left_at_zero == []
    table.weight.data.mul_(2)
    table.weight.data[2] = 0.25
    projection()
    assert (table.weight[2] == 0.25).all()
    kept = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(projection.norms()["0.weight"][kept], projection.initial_norms["0.weight"][kept])
    table.weight.data[1] = 0
    projection()
    assert (table.weight[1] == 0).all()


def test_a_state_of_another_mode_is_refused() -> None:
    module = mlp(3, 5, 2)
    state = nap.Projection(module).state_dict()
    with pytest.raises(ValueError, match=r"0\.weight is of another `mode`"):
        nap.Projection(module, mode="neuron").load_state_dict(state)
    saved = copy.deepcopy((first := nap.Projection(module, mode="neuron")).state_dict())
    module[0].weight.data.mul_(3)
    second = nap.Projection(module, mode="neuron")
    second.load_state_dict(saved)
    second()
    torch.testing.assert_close(first.norms(), first.initial_norms)


def test_a_state_that_is_not_of_a_projection_is_refused() -> None:
    with pytest.raises(ValueError, match="not of a projection: it has no initial_norms, affine, updates"):
        nap.Projection(mlp(3, 4, 2)).load_state_dict({"step": 3})


def test_nothing_is_left_in_a_network_that_was_not_given_to_it() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    keys, hooks = list(module.state_dict()), sum(len(part._forward_hooks) for part in module.modules())
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    nap.Projection(module)
    nap.analyze(module)
    assert list(module.state_dict()) == keys
    assert hooks == 0 == sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())
    assert not optimizer._optimizer_step_post_hooks
    with Operations() as seen:
        module(torch.randn(5, 3))
    assert not any("norm" in name for name in seen.names)


def test_state_keeps_the_first_norms_and_the_count() -> None:
    module = mlp(3, 5, 2)
    projection = nap.Projection(module, every=4, affine="decay")
    for _ in range(3):
        projection.step()
    first = {name: norm.clone() for name, norm in projection.initial_norms.items()}
    state = copy.deepcopy(projection.state_dict())
    for parameter in module.parameters():
        parameter.data.mul_(5)
    resumed = nap.Projection(module, every=4, affine="decay", decay=1.0)
    resumed.load_state_dict(state)
    resumed.step()
    torch.testing.assert_close(resumed.norms(), first, rtol=1e-5, atol=0)
    assert (next(part for part in module.modules() if isinstance(part, nn.LayerNorm)).weight == 1).all()
    with pytest.raises(ValueError, match=r"no initial norm of 2\.weight"):
        nap.Projection(mlp(3, 5, 5, 2)).load_state_dict(state)
    with pytest.raises(ValueError, match="another `affine`"):
        nap.Projection(mlp(3, 5, 2)).load_state_dict(state)


def test_a_moved_or_converted_module_is_still_projected() -> None:
    module = mlp(3, 5, 2)
    projection = nap.Projection(module)
    module.double()
    module[0].weight.data.mul_(4)
    projection()
    torch.testing.assert_close(projection.norms(), projection.initial_norms, check_dtype=False)


def test_a_network_without_weights_is_left_alone_and_one_with_nan_is_refused() -> None:
    nap.Projection(nn.ReLU(), mode="neuron", radius="unit", affine="joint")()
    module = mlp(3, 4, 2)
    module[0].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"0\.weight holds NaN"):
        nap.Projection(module)


@pytest.mark.parametrize("mode", ["frobenius", "neuron"])
@pytest.mark.parametrize("affine", ["free", "decay", "joint"])
def test_what_is_kept_follows_a_moved_module_once(affine: str, mode: str) -> None:
    module = mlp(3, 4, 5, 2)
    projection = nap.Projection(module, affine=affine, mode=mode)
    torch.__future__.set_swap_module_params_on_conversion(True)  # parameters keep their identity, as between GPUs
    try:
        module.to("meta")
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    copies = []
    for _ in range(2):
        with Operations() as seen:
            projection()
        copies.append(sum("_to_copy" in name for name in seen.names))
    assert copies[0] > 0 == copies[1]
    assert all(norm.is_meta for norm in projection.initial_norms.values())


@pytest.mark.parametrize("affine", ["decay", "joint"])
def test_scale_and_offset_follow_a_converted_module(affine: str) -> None:
    module = mlp(3, 4, 2)
    projection = nap.Projection(module, affine=affine, decay=1.0)
    module.double()[1].norm.weight.data.mul_(3)
    projection()
    torch.testing.assert_close(module[1].norm.weight, torch.ones(4, dtype=torch.float64))


def test_check_names_a_replaced_parameter() -> None:
    module = mlp(3, 5, 2)
    projection = nap.Projection(module)
    projection.check()
    module[0].weight = nn.Parameter(torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"0\.weight was replaced"):
        projection.check()


def test_include_and_exclude_by_name_module_and_predicate() -> None:
    module = mlp(3, 5, 6, 2)
    every = ["0.weight", "2.weight", "4.weight"]
    assert nap.Projection(module).names == every[:2]
    assert nap.Projection(module, include=["4"]).names == every
    assert nap.Projection(module, exclude="0.weight").names == every[1:2]
    assert nap.Projection(module, exclude=lambda name, parameter: parameter.shape[1] == 5).names == every[:1]
    assert nap.Projection(module, include=lambda *_: True, exclude=["2"]).names == ["0.weight", "4.weight"]
    module.register_parameter("table", nn.Parameter(torch.ones(3, 3)))
    assert nap.Projection(module, include=["table"]).names == [*every[:2], "table"]


def test_a_matrix_tied_to_the_output_is_not_projected() -> None:
    module = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 7, bias=False))
    module[3].weight = module[0].weight
    nap.normalize(module)
    assert nap.Projection(module).names == ["1.weight"]


def test_bad_options_are_one_clear_line() -> None:
    module = mlp(3, 5, 2)
    bad: list[tuple[dict[str, Any], str]] = [
        ({"affine": "join"}, "did you mean 'joint'"),
        ({"every": 0}, "every=0 must be a whole number"),
        ({"decay": 2.0}, "fraction from 0 to 1"),
        ({"mode": "neurons"}, "did you mean .neuron."),
        ({"radius": "initials"}, "did you mean .initial."),
        ({"exclude": ["0.weigt"]}, "did you mean '0.weight'"),
    ]
    for options, message in bad:
        with pytest.raises(ValueError, match=message) as error:
            nap.Projection(module, **options)
        assert "\n" not in str(error.value)


def test_joint_without_norms_projects_the_weights_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    projection = nap.Projection(model, affine="joint")
    with torch.no_grad():
        model[0].weight.mul_(3)
    projection.project()
    assert projection.norms()["0.weight"].item() == pytest.approx(projection.initial_norms["0.weight"].item(), rel=1e-6)
    projection.load_state_dict(projection.state_dict())


def test_joint_leaves_a_norm_that_starts_at_zero_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    projection = nap.Projection(model, affine="joint")
    with torch.no_grad():
        model[1].weight.fill_(0.3)
    projection.project()
    assert model[1].weight.tolist() == pytest.approx([0.3] * 4)


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 6, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(F.layer_norm(torch.einsum("bi,kio->bo", x, self.experts), (6,))))


def test_a_weight_without_a_layer_has_a_norm_but_no_neurons():
    model = Experts()
    names = {"experts[0]", "experts[1]", "experts[2]"}
    assert names <= set(nap.Projection(model, example_inputs=torch.randn(2, 6)).names)
    assert not names & set(nap.Projection(model, mode="neuron").names)
    assert names <= nap.weight_norms(model).keys() & nap.snapshot(model).keys()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model(torch.randn(4, 6)).square().sum().backward()
    assert names <= nap.effective_lr(model, optimizer).keys() & nap.gradient_norms(model).keys()
    assert nap.gradient_norms(model)["experts[1]"] == model.experts.grad[1].norm()
