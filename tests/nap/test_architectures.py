"""`normalize` and `Projection` on architectures of other packages, held against what the models then compute."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nap
from tests.nap.architectures import ARCHITECTURES, PARTIAL, call, calm, counts, outputs_of, prepared
from tests.nap.nonlinear_operations import Watch

QUICK = {
    "torch/functional", "transformers/gpt2", "transformers/gemma2", "transformers/deberta_v2", "transformers/segformer",
    "stable_baselines3/sac actor",
}  # fmt: skip
HEAD = re.compile(
    r"(^|\.)(lm_head|head|classifier|classifier\.out_proj|classifier\.1|action_net|value_net|q_net\.4|qf\d\.4|log_std"
    r"|mu|mu\.4|mu\.model\.0|to_logits|predict_\w+|[QV]\.model\.2|last\.model\.2|proj_out_2|decoder\.conv_out)\.weight$"
)
"""The heads of the packages' models, by the names that these give them."""
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]
pytestmark = pytest.mark.filterwarnings("ignore")  # those of the other packages


def normalized(name: str) -> tuple[nn.Module, Any, nap.Report]:
    """A normalised model in float64 where its code takes that, else in float32."""
    pytest.importorskip(name.split("/")[0])
    for dtype in (torch.float64, torch.float32):
        model, inputs = prepared(name, dtype)
        try:
            with torch.no_grad():
                call(model, inputs)
        except RuntimeError:  # it casts to float32 itself
            continue
        return model, inputs, nap.normalize(model, example_inputs=inputs)
    raise AssertionError(f"{name} does not run")


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_keeps_every_promise(name: str) -> None:
    """One test for all of them, since building the model takes longer than each check."""
    model, inputs, report = normalized(name)
    assert bool(report.not_handled) == (name in PARTIAL), report.not_handled
    check_that_nothing_is_silent(model, inputs, report)
    if modes_differ(*prepared(name, dtype_of(model))) < 1e-6:  # else its noise or its batch norms do
        assert modes_differ(model, inputs) < 1e-4
    check_copies(name, model, inputs)
    check_norms_over_three_steps(model, inputs, report)
    check_scale_invariance(model, inputs, report)


def check_that_nothing_is_silent(model: nn.Module, inputs: Any, report: nap.Report) -> None:
    listed = [*dict(report.not_handled), *report.left_out]
    for training in (True, False):
        with torch.no_grad(), Watch(model.train(training)) as watch:
            call(model, inputs)
        assert watch.unlisted(listed, type(model).__name__) == []


def modes_differ(model: nn.Module, inputs: Any) -> float:
    """How much train and eval mode differ, without dropout."""
    with calm(model), torch.no_grad():
        trained, evaluated = outputs_of(model.train(), inputs), outputs_of(model.eval(), inputs)
    return float((trained - evaluated).norm() / evaluated.norm())


def dtype_of(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


@torch.no_grad()
def check_copies(name: str, model: nn.Module, inputs: Any) -> None:
    expected = outputs_of(model.eval(), inputs)
    torch.testing.assert_close(outputs_of(copy.deepcopy(model), inputs), expected, rtol=0, atol=0)
    if picklable(name):
        torch.testing.assert_close(outputs_of(pickle.loads(pickle.dumps(model)), inputs), expected, rtol=0, atol=0)
    fresh, _ = prepared(name, dtype_of(model), seed=1)
    nap.normalize(fresh, example_inputs=inputs)
    fresh.load_state_dict(model.state_dict())
    torch.testing.assert_close(outputs_of(fresh.eval(), inputs), expected, rtol=1e-6, atol=1e-8)


def picklable(name: str) -> bool:
    """Whether the model can be pickled before anything is done to it."""
    try:
        pickle.dumps(prepared(name, torch.float32)[0])
    except Exception:  # local functions, generated code
        return False
    return True


def check_norms_over_three_steps(model: nn.Module, inputs: Any, report: nap.Report) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    projection = nap.Projection(model).attach(optimizer)
    assert not [name for name in projection.names if HEAD.search(name)]
    for _ in range(3):
        optimizer.zero_grad()
        outputs_of(model.train(), inputs).square().mean().backward()
        optimizer.step()
    for weight, norm in projection.norms().items():
        torch.testing.assert_close(norm, projection.initial_norms[weight], rtol=1e-6, atol=0)


@torch.no_grad()
def check_scale_invariance(model: nn.Module, inputs: Any, report: nap.Report) -> None:
    """Of every weight that the report calls scale-invariant, away from initial zeros and with small eps everywhere."""
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter) if parameter.ndim == 1 else 0)
    before = outputs_of(model.eval(), inputs)
    wrong = {}
    for name in report.scale_invariant:
        weight = nap.snapshot(model, copy=False)[name]
        kept = weight.clone()
        weight.mul_(3)
        change = float((outputs_of(model, inputs) - before).norm() / before.norm())
        weight.copy_(kept)
        wrong |= {name: change} if not change < 1e-3 else {}
    assert wrong == {}


def test_the_counts_of_the_guide_are_those_of_the_list() -> None:
    guide = Path(__file__).parent.parent.parent / "docs/nap.md"
    assert counts(PARTIAL) in guide.read_text()
    assert len(ARCHITECTURES) >= 60
    assert PARTIAL.keys() <= ARCHITECTURES.keys()


class Silent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        logits = hidden @ hidden.T
        attended = logits.softmax(-1) @ hidden
        gated = attended * torch.where(hidden > 0, self.second(torch.relu(self.norm(hidden))), hidden).clamp(-1, 1)
        return self.second(gated).relu().tanh()


def test_the_check_itself_sees_what_has_no_norm() -> None:
    with torch.no_grad(), Watch(model := Silent()) as watch:
        model(torch.randn(3, 4))
    assert watch.unlisted([], "Silent") == ["clamp in Silent", "relu in Silent"]
    assert watch.unlisted(["clamp() in Silent.forward"], "Silent") == []  # by the place
    assert watch.unlisted(["second", "first"], "Silent") == ["clamp in Silent", "relu in Silent"]
