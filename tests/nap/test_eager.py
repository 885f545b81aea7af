"""Passes inside `untouched` leave out compiled code of the model, and of nothing else for longer."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nap.metrics.eager import has_compiled_parts
from nap.metrics.probe import untouched


def doubling() -> Any:
    """A model of a class of its own, whose method others may compile."""

    class Doubling(nn.Module):
        def double(self, x: Tensor) -> Tensor:
            return 2 * x

        def forward(self, x: Tensor) -> Tensor:
            return self.double(x)

    return Doubling()


@pytest.mark.parametrize("part", ["module", "method", "attribute", "none"])
def test_compiled_code_runs_eagerly_inside_and_only_where_the_model_has_some(part: str) -> None:
    calls = []

    def backend(graph: Any, _: Any) -> Any:
        return lambda *args: calls.append(part) or graph(*args)

    torch.compiler.reset()
    model, x = doubling(), torch.ones(3)
    if part == "module":
        model.compile(backend=backend)
    elif part == "method":
        type(model).double = torch.compile(type(model).double, backend=backend)
    elif part == "attribute":
        model.double = torch.compile(model.double, backend=backend)
    compiled = torch.compile(lambda x: x + 1, backend=backend)
    compiled(x), model(x)
    before = len(calls)
    with untouched(model):
        compiled(x), model(x)
    assert len(calls) - before == (part == "none")
    compiled(x), model(x)
    assert len(calls) - before == 2


def test_a_method_may_be_compiled_after_a_pass() -> None:
    torch.compiler.reset()
    model = doubling()
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(3))
    assert not has_compiled_parts(model)
    type(model).double = torch.compile(type(model).double, backend="eager")
    assert has_compiled_parts(model)


def test_compiled_code_goes_on_after_passes_that_overlap() -> None:
    calls = []

    def backend(graph: Any, _: Any) -> Any:
        return lambda *args: calls.append(1) or graph(*args)

    torch.compiler.reset()
    model, x = doubling(), torch.ones(3)
    model.compile(backend=backend)
    first, second = untouched(model), untouched(model)
    with first:
        second.__enter__()
    model(x)
    assert not calls  # the second is still inside
    second.__exit__(None, None, None)
    model(x)
    assert calls
