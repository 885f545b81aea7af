"""Matrix products of compiled networks by oneDNN. The import takes a second, so only what compiles imports this."""

from functools import cache
from typing import Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

SMALLEST = 2**21
"""Multiplications of the smallest product that oneDNN computes: below, its call costs what its arithmetic saves."""
_aten = torch.ops.aten


class OneDNNProducts(CustomGraphPass):
    """Gives the large float32 products of a graph to oneDNN, which reads transposed matrices as they lie.

    A batched product, as stacked networks have, becomes as many products.
    """

    def __call__(self, graph: fx.Graph) -> None:
        product = _product()
        for node in graph.find_nodes(op="call_function", target=_aten.bmm.default):
            _unbatch(graph, node, product)
        for target in (_aten.mm.default, _aten.addmm.default):
            for node in graph.find_nodes(op="call_function", target=target):
                if node.kwargs:  # a scaled product
                    continue
                *bias, left, right = node.args
                if not _takes(left.meta["val"], right.meta["val"], *(b.meta["val"] for b in bias)):
                    continue
                with graph.inserting_before(node):
                    turned = graph.call_function(_aten.permute.default, (right, [1, 0]))
                    turned.meta["val"] = right.meta["val"].t()
                    new = graph.call_function(product, (left, turned, bias[0] if bias else None))
                node.replace_all_uses_with(new, propagate_meta=True)
                graph.erase_node(node)

    def uuid(self) -> Any:
        return get_hash_for_files((__file__,))


def _unbatch(graph: fx.Graph, node: fx.Node, product: Any) -> None:
    left, right = node.args
    if node.kwargs or not _takes(left.meta["val"][0], right.meta["val"][0]):  # type: ignore[union-attr]
        return
    parts, transposes = [], [user for user in node.users if user.target == _aten.permute.default]
    used_transposed = len(transposes) == len(node.users) and all(user.args[1] == [0, 2, 1] for user in transposes)
    with graph.inserting_before(node):
        for i in range(len(node.meta["val"])):
            one, other = (_called(graph, _aten.select.int, matrix, 0, i) for matrix in (left, right))
            turned = _called(graph, _aten.permute.default, other, [1, 0])
            pair = (turned, one) if used_transposed else (one, turned)  # computed as it is used, it is not copied
            parts.append(_called(graph, _aten.unsqueeze.default, _called(graph, product, *pair, None), 0))
        whole = _called(graph, _aten.cat.default, parts)
    for user in transposes if used_transposed else [node]:
        user.replace_all_uses_with(whole)
        graph.erase_node(user)
    if used_transposed:
        graph.erase_node(node)


def _called(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    node = graph.call_function(target, args)
    node.meta["val"] = target(*fx.map_arg(args, lambda argument: argument.meta["val"]))
    return node


def _takes(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> bool:
    plain = all(x.dtype == torch.float32 and x.device.type == "cpu" for x in (left, right))
    return plain and left.numel() * right.shape[1] >= SMALLEST and (bias is None or bias.shape == right.shape[1:])


@cache
def _product() -> Any:
    """An operator left @ right.T + bias of oneDNN, and how inductor calls it: straight from its C++."""
    from torch._inductor import mkldnn_ir
    from torch._inductor.ir import TensorBox
    from torch._inductor.lowering import register_lowering

    class Product(mkldnn_ir.LinearUnary):
        @classmethod
        def require_contiguous(cls, x: Any) -> Any:
            """Copies only a matrix without a dense axis, and one whose rows overlap."""
            size, stride = x.get_size(), x.get_stride()
            if len(size) == 2 and any(stride[i] == 1 and stride[1 - i] >= size[i] for i in (0, 1)):
                return x
            return super().require_contiguous(x)

    linear = lambda x, weight, bias: torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # noqa: E731
    torch.library.define("rewarm::linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
    torch.library.impl("rewarm::linear", "CompositeExplicitAutograd", linear)
    target = torch.ops.rewarm.linear.default
    register_lowering(target, type_promotion_kind=None)(
        lambda x, weight, bias: TensorBox.create(Product.create(x, weight, bias, "none", [], ""))
    )
    return target
