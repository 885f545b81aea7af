"""The scan of a model: its figures against literal versions, its rules, its page, and the command."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nap
from nap.scan import main
from nap.scan_page import text_tables

ROOT = Path(nap.__file__).parent.parent
MINE = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(inplace=True), nn.Linear(20, 3))

def batch():
    return torch.randn(32, 6, generator=torch.Generator().manual_seed(1))

def wrong():
    return torch.zeros(4, 7)

def square(out):
    return out.square().sum()

def broken():
    raise KeyError("no data")
"""


class Mixed(nn.Module):
    """A normalised layer, a convolution, an activation in place, a sum that goes round a layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(2, 5, 3), nn.ReLU(inplace=True)
        self.flat, self.fc, self.norm, self.gelu = nn.Flatten(), nn.Linear(80, 12), nn.LayerNorm(12), nn.GELU()
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gelu(self.norm(self.fc(self.flat(self.relu(self.conv(x)))))))


@pytest.fixture
def model() -> Mixed:
    torch.manual_seed(0)
    made = Mixed()
    with torch.no_grad():
        made.conv.bias[:2] = -50.0  # two dead channels
        made.head.weight[:, 3] = 0.0  # a unit that no output depends on
    return made


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(16, 2, 6, 6, generator=torch.Generator().manual_seed(3))


def slow_shares(gradients: list[list[float]], tau: float) -> float:
    """The share of dormant units of a layer, from the gradients of each unit."""
    scores = [sum(abs(g) for g in unit) / len(unit) for unit in gradients]
    mean = sum(scores) / len(scores)
    return sum(mean == 0 or score / mean <= tau for score in scores) / len(scores)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**20), tau=st.sampled_from([0.0, 0.01, 0.3]))
def test_dormant_by_gradient_is_its_definition(seed: int, tau: float) -> None:
    random = torch.Generator().manual_seed(seed)
    layer = torch.randn(7, 9, generator=random) * torch.logspace(-4, 1, 9)
    layer[:, seed % 9] = 0
    assert float(nap.dormant_grama(layer, tau)) == pytest.approx(slow_shares(layer.T.tolist(), tau))
    both = nap.dormant_grama([layer, torch.zeros(3, 4)], tau)
    assert float(both) == pytest.approx((9 * slow_shares(layer.T.tolist(), tau) + 4) / 13)


def test_the_gradient_of_each_unit_is_that_by_the_input_of_its_nonlinearity(model: Mixed, batch: Tensor) -> None:
    found = nap.unit_gradients(model, batch, lambda out: out.pow(3).sum())
    conv = model.conv(batch).detach().requires_grad_()
    pre = model.norm(model.fc(model.flat(conv.clone().relu()))).detach()  # by hand, in two parts
    norm = model.norm(model.fc(model.flat(conv.clone().relu())))
    loss = model.head(model.gelu(norm)).pow(3).sum()
    by_conv, by_norm = torch.autograd.grad(loss, [conv, norm])
    assert torch.equal(pre, norm)
    torch.testing.assert_close(found["gelu"], by_norm)
    torch.testing.assert_close(found["relu"], by_conv.movedim(1, 0).flatten(1).T)
    assert found["relu"][:, :2].abs().max() == 0
    assert found["relu"][:, 2:].abs().max() > 0


def test_a_gradient_changes_nothing_of_the_model(batch: Tensor) -> None:
    parts = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(48, 2)
    model = nn.Sequential(*parts)
    model.requires_grad_(False)
    model[0].weight.requires_grad_()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    with torch.no_grad():
        one, other = nap.unit_gradients(model, batch), nap.unit_gradients(model, batch)
    assert torch.equal(one["2"], other["2"])
    assert one["2"].abs().max() > 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model[0].training
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="has no gradient"):
        nap.unit_gradients(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), torch.ones(2, 3), lambda out: out.detach().sum())


def test_the_default_loss_reaches_units_behind_zeros_and_a_log_softmax() -> None:
    for last in (nn.Identity(), nn.LogSoftmax(-1)):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), last)
        with torch.no_grad():
            model[2].bias.zero_()
            model[2].bias.copy_(-model[:3](torch.ones(1, 4))[0])  # every output of the last layer is 0
        found = nap.unit_gradients(model, torch.ones(1, 4), layers=["1"])
        assert found["1"].abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scan_is_made_of_the_definitions(model: Mixed, batch: Tensor, dtype: torch.dtype) -> None:
    model, batch = model.to(dtype), batch.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    initial = {"fc.weight": torch.tensor(2.0)}
    report = nap.scan_model(model, batch, optimizer=optimizer, initial_norms=initial, outputs=["head"])
    weights = {weight.name: weight for weight in report.weights}
    assert list(weights) == ["conv.weight", "fc.weight", "head.weight"]
    roles = {name: weight.role for name, weight in weights.items()}
    assert roles == {"conv.weight": "scale matters", "fc.weight": "scale matters", "head.weight": "output"}
    for name, weight in weights.items():
        matrix = model.get_parameter(name).detach().double().numpy()
        sigma = np.linalg.svd(matrix.reshape(len(matrix), -1), compute_uv=False)
        p = sigma[sigma > 0] / sigma.sum()
        assert weight.norm == pytest.approx(np.sqrt((matrix**2).sum()), rel=1e-5)
        assert weight.elr == pytest.approx(0.5 / (matrix**2).sum(), rel=1e-5)
        assert weight.erank == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-5)
        assert weight.stable_rank == pytest.approx((matrix**2).sum() / sigma[0] ** 2, rel=1e-5)
        assert weight.full_rank == len(sigma)
        assert weight.singular_values[0] == pytest.approx(sigma[0])
        assert weight.singular_values[16] == pytest.approx(np.median(sigma))
        assert weight.singular_values[-1] == pytest.approx(sigma[-1], rel=1e-4)
    assert weights["fc.weight"].growth == pytest.approx(weights["fc.weight"].norm / 2)
    assert weights["conv.weight"].growth is None
    relu, gelu = report.layers
    assert (relu.name, relu.units) == ("relu", 5)
    assert [relu.dead, relu.dormant, relu.dormant_by_gradient] == pytest.approx([0.4, 0.4, 0.4])
    assert (gelu.units, gelu.dead) == (12, 0)
    assert gelu.dormant_by_gradient == pytest.approx(1 / 12)
    assert (relu.full_rank, gelu.full_rank) == (16, 12)
    with torch.no_grad():
        features = model.gelu(model.norm(model.fc(model.flat(model.relu(model.conv(batch))))))
    assert gelu.erank == pytest.approx(float(nap.erank_roy(features)), rel=1e-6)
    assert gelu.srank == float(nap.srank_kumar(features))


def test_each_rule_applies_past_its_threshold_and_no_sooner(model: Mixed, batch: Tensor) -> None:
    healthy = nap.scan_model(nn.Sequential(nn.Linear(72, 64), nn.GELU(), nn.Linear(64, 4)), batch.flatten(1))
    assert healthy.advice == []
    assert "no rule applies" in healthy.table()
    report = nap.scan_model(model, batch, initial_norms={"fc.weight": torch.tensor(1e-3)})
    assert [(advice.where, advice.found.split(" ")[0]) for advice in report.advice] == [
        ("relu", "40%"),
        ("fc.weight", "the"),
    ]
    low = nn.Sequential(nn.Linear(72, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 4))
    with torch.no_grad():
        low[0].weight.copy_(torch.ones(64, 1) @ torch.ones(1, 72) / 9)
        low[2].weight *= 1e-3
        low[4].weight[:, :20] = 0.0
    inputs = torch.randn(128, 72, generator=torch.Generator().manual_seed(2))
    report = nap.scan_model(low, inputs, optimizer=torch.optim.Adam(low.parameters(), lr=1e-3))
    found = {(advice.where, advice.found) for advice in report.advice}
    assert any(where == "0.weight" and "effective rank 1.0 of 64" in text for where, text in found)
    assert any(where == "1" and "features have effective rank 1." in text for where, text in found)
    assert any(where == "3" and text.startswith("31% of the units are dormant by gradient") for where, text in found)
    assert any(where == "2.weight, 0.weight" and "differ" in text for where, text in found)


def test_what_the_untrained_model_has_already_is_no_loss(model: Mixed, batch: Tensor) -> None:
    report = nap.scan_model(model, batch, untrained=copy.deepcopy(model))
    assert report.untrained == report.layers
    assert report.advice == []
    [advice] = nap.scan_model(model, batch, untrained=Mixed()).advice
    assert "nap.normalize" in advice.attempt
    assert (advice.where, advice.found) == ("relu", "40% of the units are 0 on every input (over 25%; untrained 0%)")


def test_a_normalised_model_is_not_told_to_normalise() -> None:
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        model[1].bias[:4] = -50.0
    report = nap.scan_model(model, torch.randn(16, 6))
    assert report.weights[0].role == "scale-invariant"
    assert report.advice[0].found.startswith("50% of the units are 0")
    assert "nap.normalize" not in report.advice[0].attempt


def test_a_transposed_convolution_has_its_outputs_as_rows() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(8, 3, 2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    [first, _] = nap.scan_model(model).weights
    sigma = np.linalg.svd(model[0].weight.detach().double().numpy().swapaxes(0, 1).reshape(3, -1), compute_uv=False)
    assert first.full_rank == 3
    assert [first.singular_values[i] for i in (0, 16, 32)] == pytest.approx(list(sigma), rel=1e-5)


def test_activations_that_are_functions_leave_the_weights_to_scan() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.relu(self.first(x)))

    model, x = Functional(), torch.randn(8, 4)
    report = nap.scan_model(model, x)
    assert len(report.weights) == 2
    assert report.layers == []
    assert "is called as a function" in report.notes[0]
    [layer] = nap.scan_model(model, x, layers=["first"], loss=lambda out: out.sum()).layers
    pre = model.first(x).detach().requires_grad_()
    [by_pre] = torch.autograd.grad(model.last(pre.relu()).sum(), [pre])
    assert layer.dormant_by_gradient == pytest.approx(slow_shares(by_pre.T.tolist(), 0.01))


def test_a_scan_without_a_batch_says_what_is_missing_and_refuses_nan(model: Mixed) -> None:
    report = nap.scan_model(model)
    assert report.layers == []
    assert [note.split(":")[0] for note in report.notes] == ["No batch", "No optimiser"]
    with torch.no_grad():
        model.fc.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"fc.weight holds NaN or infinity"):
        nap.scan_model(model)


class Page(HTMLParser):
    """Checks that every element is closed, and keeps tags, cells and links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing(model: Mixed, batch: Tensor) -> None:
    report = nap.scan_model(model, batch, title="<b>&mine</b>")
    page = Page(report.html())
    assert page.loaded == []
    assert page.tags.count("polyline") == len(report.weights)
    assert "<h1>&lt;b&gt;&amp;mine&lt;/b&gt;</h1>" in report.html()
    points = re.findall(r'points="([^"]*)"', report.html())
    assert all(0 <= float(y) <= 28 for line in points for y in re.findall(r",([\d.]+)", line))


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(model: Mixed, batch: Tensor, width: int) -> None:
    wrapped = nn.ModuleDict({"a_rather_long_name_of_a_part_of_a_network": nn.Sequential(model)})
    part = wrapped["a_rather_long_name_of_a_part_of_a_network"]
    wrapped.forward = part.forward
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=1e-3)
    initial = {name: norm / 3 for name, norm in nap.weight_norms(wrapped).items()}
    report = nap.scan_model(wrapped, batch, optimizer=optimizer, initial_norms=initial)
    lines = text_tables(report, width).splitlines()
    assert max(map(len, lines)) <= width
    assert ("largest σ" in lines[2]) == (width == 120)
    assert "fc.weight" in "\n".join(lines)


# --- the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scanned_net.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("scanned_net", None)
    import scanned_net

    torch.manual_seed(0)
    model = scanned_net.net()
    projection = nap.Projection(model)
    with torch.no_grad():
        model[2].weight *= 3
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.25))
    parts = {"model": model, "optimizer": optimizer, "projection": projection}
    torch.save({name: part.state_dict() for name, part in parts.items()}, "all.pt")
    state = model.state_dict()
    torch.save({f"_orig_mod.{name}": value.bfloat16() for name, value in state.items()}, "plain.pt")
    torch.save({"agent": {"net": state}}, "deep.pt")
    torch.save({"one": state, "two": state}, "two.pt")
    torch.save({name.replace("2.w", "2.v"): value for name, value in state.items()}, "renamed.pt")
    torch.save({name: value for name, value in state.items() if name != "4.bias"}, "missing.pt")
    torch.save({**state, "4.weight": torch.zeros(5, 20)}, "shape.pt")
    torch.save({**state, "4.weight": torch.full((3, 20), math.inf)}, "diverged.pt")
    torch.save(model, "whole.pt")
    torch.save([1], "list.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "all.pt").read_bytes()[:2000])
    return tmp_path


NET, BATCH = ("--model", "scanned_net:net"), ("--batch", "scanned_net:batch")


def test_the_command_end_to_end(folder: Path) -> None:
    words = ["all.pt", *NET, *BATCH, "--optimizer", "Adam", "--loss", "scanned_net:square", "--out", "report"]
    command, env = [sys.executable, "-m", "nap.scan", *words], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "all.pt (scanned_net:net): 623 parameters, 3 weight matrices" in done.stdout
    assert done.stdout.endswith("written: report/scan.json report/scan.html\n")
    assert done.stderr == ""
    found = json.loads((folder / "report" / "scan.json").read_text())
    saved = torch.load("all.pt")["model"]
    for weight in found["weights"]:
        norm = float(saved[weight["name"]].norm())
        assert weight["norm"] == pytest.approx(norm)
        assert weight["elr"] == pytest.approx(0.25 / norm)
    assert [weight["growth"] for weight in found["weights"]] == [pytest.approx(1), pytest.approx(3), None]
    assert [layer["name"] for layer in found["layers"]] == ["1", "3"]
    assert found["advice"][-1]["where"] == "2.weight"
    assert [layer["name"] for layer in found["untrained"]] == ["1", "3"]
    Page((folder / "report" / "scan.html").read_text())
    assert sorted(path.name for path in (folder / "report").iterdir()) == ["scan.html", "scan.json"]


@pytest.mark.parametrize("words", [("plain.pt",), ("deep.pt", "--key", "agent.net"), ("two.pt", "--key", "two")])
def test_state_dicts_are_found(folder: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, *NET, "--out", "a.json"]) == 0
    assert json.loads((folder / "a.json").read_text())["layers"] == []
    assert "No batch" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("al.pt", *NET), r"no checkpoint 'al.pt'; did you mean 'all.pt'\?"),
        ((".", *NET), "'.' is a folder"),
        (("text.pt", *NET), "text.pt is not a checkpoint of torch.save"),
        (("cut.pt", *NET), "cut.pt is not a checkpoint of torch.save"),
        (("list.pt", *NET), "holds a list, and no state dict"),
        (("whole.pt", *NET), r"holds torch.nn.modules.container.Sequential, which weights_only=True refuses"),
        (("two.pt", *NET), "several state dicts under its keys: name it with --key; keys: one, two"),
        (("deep.pt", *NET), "no state dict under its keys: name it with --key; keys: agent"),
        (("deep.pt", *NET, "--key", "agent.nets"), r"has no 'nets'; did you mean 'net'\?"),
        (("renamed.pt", *NET), r"it has '2.veight', which the model does not have; did you mean '2.weight'\?"),
        (("missing.pt", *NET), r"it has no '4.bias', which the model has"),
        (("shape.pt", *NET), r"4.weight is \[5, 20\] in the checkpoint and \[3, 20\] in the model"),
        (("diverged.pt", *NET), "4.weight holds NaN or infinity: training diverged"),
        (("all.pt", "--model", "scanned_net:nets"), r"has no 'nets'; did you mean 'net'\?"),
        (("all.pt", "--model", "scanned_nets:net"), "scanned_nets cannot be imported"),
        (("all.pt", "--model", "scanned_net"), "give module:name"),
        (("all.pt", "--model", "scanned_net:broken"), "calling it failed: 'no data'"),
        (("all.pt", "--model", "scanned_net:batch"), "gives a Tensor, not a model"),
        (("all.pt", *NET, "--batch", "scanned_net:wrong"), r"--batch scanned_net:wrong is \[4, 7\], which"),
        (("all.pt", *NET, "--batch", "scanned_net:net"), "gives a Sequential, not a tensor or a tuple"),
        (("all.pt", *NET, *BATCH, "--loss", "scanned_net:net"), "--loss scanned_net:net: calling it failed"),
        (("all.pt", *NET, "--layers", "1"), "--layers needs --batch"),
        (("all.pt", *NET, *BATCH, "--layers", "7"), "layer '7' is not in Sequential"),
        (("all.pt", *NET, "--optimizer", "Adan"), r"torch.optim has none; did you mean 'Adam'\?"),
        (("two.pt", "--key", "one", *NET, "--optimizer", "Adam"), "needs --lr: the checkpoint has no optimiser state"),
        (("all.pt", *NET, "--lr", "0.1"), "--lr needs --optimizer"),
        (("all.pt", *NET, "--out", "no/where"), "there is no folder 'no'"),
        (("all.pt", *NET, "--out", "text.pt"), "name a folder, or a file that ends in .json or .html"),
        (("all.pt", *NET, "--no-such-option"), "unrecognized arguments: --no-such-option"),
    ],
)
def test_bad_input_ends_in_one_line_and_nothing_is_written(
    folder: Path, words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words if "--out" in words else (*words, "--out", "new")
    before = sorted(folder.iterdir())
    try:
        code = main(words)
    except SystemExit as stopped:  # argparse's
        code = stopped.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert re.search(message, printed.err)
    assert sorted(path for path in folder.iterdir() if path.name != "__pycache__") == [
        path for path in before if path.name != "__pycache__"
    ]
