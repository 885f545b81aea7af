"""Which operations of a flow are not known to be linear, and which nonlinear parts of a model no flow calls."""

from __future__ import annotations

from torch import fx, nn

from nap.graph.flow import PASSING, Flow, factors_of
from nap.graph.kinds import MATMULS, Kind, module_kind, name_of
from nap.graph.norms import NormalizedActivation
from nap.graph.traces import Trace


def unhandled(flow: Flow) -> list[fx.Node]:
    """The operations, other than known activations, that are not known to be linear and act on learned values.

    Not those that only bound the output, and not those behind a norm or behind another nonlinearity: the first one
    counts. Attention's softmax and its products are left out.
    """
    attention, found = attention_of(flow), []
    for node in flow.of(Kind.ELEMENTWISE) + flow.of(Kind.PRODUCT) + flow.of(Kind.OTHER):
        if node.op in ("placeholder", "get_attr") or node in attention or flow.is_output_map(node):
            continue
        free = [factor for factor in factors_of(node) if factor in flow.learned and not _handled(flow, factor)]
        if len(free) > (flow.kind(node) is Kind.PRODUCT):
            found.append(node)
    return sorted(found, key=flow.nodes.index)


def _handled(flow: Flow, node: fx.Node) -> bool:
    """Whether a node's values come straight from a norm or a nonlinearity, which is normed or listed itself."""
    kinds = (Kind.NONLINEAR, Kind.ELEMENTWISE, Kind.PRODUCT, Kind.OTHER)
    return flow.normalized(node) or flow.kind(flow.source(node, PASSING)) in kinds


def attention_of(flow: Flow) -> set[fx.Node]:
    """The operations of attention: softmax, the products that it weighs and is made of, and a cap of its logits."""
    return set().union(*(_attention(flow, node) for node in flow.nodes if flow.name_of(node) == "softmax"))


def _attention(flow: Flow, softmax: fx.Node) -> set[fx.Node]:
    """A softmax over products of learned values that weighs other learned values, with those products."""
    caps, products, pending, seen = set(), set(), [softmax], set()
    while pending:
        node = pending.pop()
        for source in node.all_input_nodes:
            if source not in flow.learned or source in seen:
                continue
            seen.add(source)
            if flow.kind(source) is Kind.PRODUCT and name_of(source) in MATMULS:
                products.add(source)
            elif flow.kind(source) in (*PASSING, Kind.LINEAR) or flow.name_of(source) == "tanh":
                caps |= {source} if flow.name_of(source) == "tanh" else set()
                pending.append(source)
    weighed = {end for end in flow.ends(softmax) if flow.kind(end) is Kind.PRODUCT and name_of(end) in MATMULS}
    caps = {cap for cap in caps if flow.source(cap.all_input_nodes[0], (*PASSING, Kind.LINEAR)) in products}
    return {softmax} | caps | products | weighed if products and weighed else set()


def uncalled(module: nn.Module, traced: Trace) -> list[str]:
    """Parts with nonlinearities and layers that no forward calls; other methods, or another branch, may."""
    called = {part for flow in traced.flows for used in flow.modules.values() for part in used.modules()}
    called |= traced.loose
    found: list[str] = []
    for name, parent in module.named_modules():
        idle = [(key, child) for key, child in parent.named_children() if called.isdisjoint(child.modules())]
        if called.isdisjoint(parent.modules()) or not any(_holds(child, Kind.LAYER, Kind.BLOCK) for _, child in idle):
            continue
        full = [(f"{name}.{key}" if name else key, child) for key, child in idle]
        found += [path for path, child in full if _holds(child, Kind.NONLINEAR, Kind.BLOCK)]
    return found


def _holds(module: nn.Module, *kinds: Kind) -> bool:
    """Whether a module is, or has somewhere, a part of these kinds; activations behind a norm of ours do not count."""
    if isinstance(module, NormalizedActivation):
        return False
    return module_kind(module) in kinds or any(_holds(child, *kinds) for child in module.children())
