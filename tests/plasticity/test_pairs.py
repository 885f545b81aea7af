"""Every ordered pair of methods trains with all that holds for one method, or is refused with a reason."""

from itertools import combinations

import pytest
import torch

from plasticity.hare_tortoise import HareTortoise
from plasticity.injection import InjectedHead
from plasticity.loops import Loop, cnn, mlp
from plasticity.nap import NaP
from plasticity.pairs import APART, ORDER, check_pairs
from plasticity.registry import METHODS, make
from plasticity.reset import Reset
from tests.plasticity.test_every_method import ACTIVE, OFF

SOON = {"injection": ":at=1", "cbp": ":rate=0.5,maturity=0"}
SPECS = {name: name + SOON.get(name, options) for name, options in ACTIVE.items()}


def frozen_head(network):
    heads = [part for part in network.modules() if isinstance(part, InjectedHead)]
    return [p.detach().clone() for head in heads for part in (head.frozen, head.fresh) for p in part.parameters()]


def check_training(methods):
    """AssertionError unless, through 3 updates, all is finite, in place, owned, frozen or projected."""
    loop = Loop(cnn, *methods)
    identities = {name: id(p) for name, p in loop.network.named_parameters()}
    for update in range(3):
        before = frozen_head(loop.network)
        loop.step(8)
        pairs = list(zip(before, frozen_head(loop.network), strict=True))
        if update:  # the injection is in update 1; a projection rounds
            assert all((one - other).abs().max().item() < 1e-5 for one, other in pairs)
    assert {name: id(p) for name, p in loop.network.named_parameters()} == identities
    owned = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
    assert owned == {id(p) for p in loop.network.parameters() if p.requires_grad}
    storages = {p.data_ptr() for network in (loop.network, loop.target) for p in network.parameters()}
    assert len(storages) == 2 * len(identities)
    assert all(p.isfinite().all() for network in (loop.network, loop.target) for p in network.parameters())
    for method in methods:
        assert (penalty := method.penalty()) is None or penalty.isfinite()
        if isinstance(method, NaP):
            for name, norm in method.projection.norms().items():
                assert norm.item() == pytest.approx(method.projection.initial_norms[name].item(), rel=1e-5)


def refusal(pair):
    """Why a pair is not made, or None."""
    try:
        make([SPECS[name] for name in pair])
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("pair", list(combinations(METHODS, 2)), ids="-".join)
def test_every_pair_trains_or_is_refused_with_a_reason_that_names_both(pair):
    for order in (pair, pair[::-1]):
        reason = refusal(order)
        assert (reason is not None) == (frozenset(order) in APART or order[::-1] in ORDER)
        assert reason is None or (all(name in reason for name in pair) and "\n" not in reason)
    allowed = [order for order in (pair, pair[::-1]) if refusal(order) is None]
    if allowed:
        check_training(make([SPECS[name] for name in allowed[0]]))


@pytest.mark.parametrize("pair", [*map(sorted, APART), *(pair[::-1] for pair in ORDER)], ids="-".join)
def test_a_method_that_is_switched_off_goes_with_every_other(pair):
    for off in pair:
        if off in OFF:
            check_training(make([off + OFF[off] if name == off else SPECS[name] for name in pair]))


def test_the_tables_name_known_methods_and_each_pair_once():
    pairs = [*APART, *map(frozenset, ORDER)]
    assert set().union(*pairs) <= set(METHODS)
    assert len(set(pairs)) == len(pairs)
    assert all(len(pair) == 2 for pair in pairs)


def test_a_pair_is_found_among_others_and_by_import_path():
    with pytest.raises(ValueError, match=r"^injection and redo do not go together: "):
        check_pairs(["nap", "injection", "l2-init", "redo"])
    with pytest.raises(ValueError, match=r"^give hare-tortoise before redo: "):
        make(["plasticity.redo:ReDo", "nap", "hare-tortoise"])
    with pytest.raises(ValueError, match="redo is named twice"):
        make(["plasticity.redo:ReDo", "redo:tau=0"])


@pytest.mark.parametrize("first", [True, False])
def test_why_hare_and_tortoise_comes_first(first):
    methods = [HareTortoise(0.999, period=2), Reset(period=2, layers=("all",), seed=7)]
    loop = Loop(mlp, *(methods if first else reversed(methods)))
    loop.step()
    loop.learn()
    before = loop.network[0].weight.detach().clone()
    for method in loop.methods:
        method.after_update(2)
    assert (torch.cosine_similarity(loop.network[0].weight.flatten(), before.flatten(), dim=0) < 0.9) == first
