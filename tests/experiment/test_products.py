"""Which matrix products oneDNN computes, and that they are the products."""

import copy

import pytest
import torch
from torch import nn

from experiment import determinism, layout
from experiment.layout import by_onednn, compiled
from experiment.products import SMALLEST, OneDNNProducts

WIDE = 512
BATCH = SMALLEST // WIDE**2 * 2


class Network(nn.Sequential):
    """Large products with and without a bias, and one that is too small for oneDNN."""

    def __init__(self):
        super().__init__(nn.Linear(WIDE, WIDE), nn.ReLU(), nn.Linear(WIDE, WIDE, bias=False), nn.Linear(WIDE, 3))


@pytest.fixture
def amd(monkeypatch):
    """An AMD processor with AVX-512, as far as the choice knows."""
    monkeypatch.setattr(layout, "vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(layout, "instruction_sets", lambda: frozenset({"avx2", "avx512f"}))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


def code_and_gradients(network, x, folder, monkeypatch):
    """The C++ of the compiled loss and of its backward pass; the loss and all gradients, twice the same."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    torch.compiler.reset()
    x = x.clone().requires_grad_()
    loss_of = compiled(lambda x: network(x).square().mean(), network)
    losses = [loss_of(x) for _ in range(2)]
    found, again = ([loss.detach(), *torch.autograd.grad(loss, [x, *network.parameters()])] for loss in losses)
    assert all(map(torch.equal, found, again))
    return "".join(path.read_text() for path in folder.rglob("*.main.cpp")), found


def test_large_products_are_onednns_and_equal_the_others_within_rounding(monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "by_onednn", lambda: True)  # it computes the same products on any processor
    torch.manual_seed(0)
    network, x = Network(), torch.randn(BATCH, WIDE)
    code, found = code_and_gradients(network, x, tmp_path / "onednn", monkeypatch)
    assert code.count("linear_pointwise(") == 6  # two layers, each forward and for two gradients
    assert code.count("addmm_out(") == 1  # the small layer, and its gradients
    assert code.count("_mm_out(") == 2
    monkeypatch.setattr(layout, "by_onednn", lambda: False)
    code, usual = code_and_gradients(network, x, tmp_path / "usual", monkeypatch)
    assert "linear_pointwise(" not in code
    exact, y = copy.deepcopy(network).double(), x.double().requires_grad_()
    loss = exact(y).square().mean()
    right = [loss.detach(), *torch.autograd.grad(loss, [y, *exact.parameters()])]
    for one, other, true in zip(found, usual, right, strict=True):
        bound = 1e-6 * true.abs().max().item()
        torch.testing.assert_close(one.double(), true, rtol=0, atol=bound)
        torch.testing.assert_close(other.double(), true, rtol=0, atol=bound)


@pytest.mark.slow
def test_matrices_may_lie_as_they_like(monkeypatch, tmp_path):
    whole, other = torch.randn(2 * WIDE, 2 * WIDE), torch.randn(WIDE, WIDE)
    parts = {
        "columns": whole[:WIDE, WIDE:],
        "every other column": whole[:WIDE, ::2],
        "one row again and again": whole[:1, :WIDE].expand(WIDE, WIDE),
        "transposed": whole[:WIDE, :WIDE].t(),
    }
    monkeypatch.setattr(layout, "by_onednn", lambda: True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    both = lambda x: (x @ other, other @ x)  # noqa: E731
    found = compiled(lambda: [both(part) for part in parts.values()], nn.Linear(1, 1))()
    code = "".join(path.read_text() for path in tmp_path.rglob("*.main.cpp"))
    assert code.count("linear_pointwise(") == 2 * len(parts)
    other = other.double()
    for name, pair in zip(parts, found, strict=True):
        for one, true in zip(pair, both(parts[name].double()), strict=True):
            torch.testing.assert_close(one.double(), true, rtol=0, atol=1e-5 * true.abs().max().item(), msg=name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vendor", lambda: "GenuineIntel"),
        ("vendor", lambda: ""),
        ("instruction_sets", lambda: frozenset({"avx2"})),
    ],
)
def test_other_processors_keep_their_products(amd, monkeypatch, name, value):
    assert by_onednn() == (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available())
    monkeypatch.setattr(layout, name, value)
    assert not by_onednn()
    given = {}
    monkeypatch.setattr(torch, "compile", lambda function, **options: given.update(options))
    compiled(torch.sin, nn.Linear(2, 2))
    assert "post_grad_custom_post_pass" not in given["options"]


def test_a_torch_kept_from_avx512_keeps_its_products(amd, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not by_onednn()
    assert determinism.made_by(True)["vectors"] == "AVX2"  # what a resume compares


@pytest.mark.parametrize(
    ("dtype", "device", "bias"), [(torch.bfloat16, "cpu", 0), (torch.float32, "meta", 0), (torch.float32, "cpu", 2)]
)
def test_other_numbers_devices_and_biases_are_left_alone(dtype, device, bias):
    graph = torch.fx.Graph()
    square, added = (torch.empty(WIDE, WIDE, dtype=dtype, device=device) for _ in range(2))
    a, b, c = (graph.placeholder(name) for name in "abc")
    a.meta["val"], b.meta["val"], c.meta["val"] = square, square, added
    call, target = ((c, a, b), torch.ops.aten.addmm.default) if bias else ((a, b), torch.ops.aten.mm.default)
    graph.output(graph.call_function(target, call))
    before = str(graph)
    OneDNNProducts()(graph)
    assert str(graph) == before


def test_batched_products_are_onednns_as_they_are_used(monkeypatch, tmp_path):
    monkeypatch.setattr(layout, "by_onednn", lambda: True)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    left, right = torch.randn(3, BATCH, WIDE), torch.randn(3, WIDE, WIDE)

    def products(left, right):
        return torch.bmm(left, right).relu(), torch.bmm(left.mT, left.relu()).mT + 1, torch.bmm(left[:, :2], right)

    found = compiled(products, Network())(left, right)
    code = "".join(path.read_text() for path in tmp_path.rglob("*.main.cpp"))
    assert code.count("linear_pointwise(") == 6  # the third has few rows
    for one, other in zip(found, products(left, right), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-3)
