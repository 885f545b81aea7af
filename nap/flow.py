"""What feeds what: the data flow of a module, traced by `torch.fx`, as normalisation and projection need to see it."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from enum import Enum, auto
from typing import Any

from torch import Tensor, fx, nn

from .norms import ChannelNorm, ChannelSpaceRMSNorm
from .weights import MATRIX_LAYERS, Conv


class Kind(Enum):
    """What an operation means for the scale of what passes through it."""

    LAYER = auto()  # has a weight matrix
    UNSEEN = auto()  # a layer called as a function, so that no module says whose weight it is
    BLOCK = auto()  # one of torch's own transformer layers, whose inside is known
    NORM = auto()
    NONLINEAR = auto()
    SAME = auto()  # positively homogeneous, keeps the feature axis: dropout, pooling, a scalar factor
    RESHAPE = auto()  # positively homogeneous, moves the feature axis: view, flatten, transpose, getitem
    SHAPE = auto()  # carries no values: x.shape, x.size(0)
    OTHER = auto()
    OUTPUT = auto()


LAYERS = (*MATRIX_LAYERS, nn.MultiheadAttention)
ENCODER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
BLOCKS = (*ENCODER_LAYERS, nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer)
BATCH_NORMS = nn.modules.batchnorm._NormBase
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, BATCH_NORMS, ChannelNorm, ChannelSpaceRMSNorm)
_POOLS = tuple(
    getattr(nn, f"{kind}Pool{n}d") for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for n in (1, 2, 3)
)
_SAME_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd, *_POOLS)
_RESHAPE_MODULES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.ZeroPad2d)
SQUASHING = {"Tanh", "Sigmoid", "Hardtanh", "Hardsigmoid", "Softplus", "LogSigmoid", "Softsign"}
_NONLINEAR = SQUASHING | {
    "ReLU", "ReLU6", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish", "Hardswish", "PReLU", "RReLU",
    "Softshrink", "Hardshrink", "Tanhshrink", "Threshold", "GLU",
}  # fmt: skip
_NONLINEAR_MODULES = tuple(getattr(nn, name) for name in sorted(_NONLINEAR))
_FUNCTION_NAMES = {
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "celu", "selu", "gelu", "silu", "mish",
    "hardswish", "prelu", "rrelu", "softshrink", "hardshrink", "tanhshrink", "threshold", "glu",
    "tanh", "tanh_", "sigmoid", "sigmoid_", "hardtanh", "hardsigmoid", "softplus", "logsigmoid", "softsign",
}  # fmt: skip
_NORM_NAMES = {"layer_norm", "rms_norm", "group_norm", "instance_norm", "normalize"}
_SAME_NAMES = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "boolean_dispatch",
    "contiguous", "clone", "to", "float", "double", "half", "bfloat16", "neg",
}  # fmt: skip
_UNSEEN_NAMES = {"linear", "bilinear", "conv1d", "conv2d", "conv3d", "embedding", "multi_head_attention_forward"}
_ARITHMETIC = {"add", "add_", "iadd", "sub", "sub_", "isub", "mul", "mul_", "imul", "truediv", "div", "div_"}
_RESHAPE_NAMES = {
    "flatten", "unflatten", "reshape", "view", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "getitem",
    "chunk", "split", "unbind", "mean", "sum", "expand", "repeat", "T", "mT",
}  # fmt: skip
_SHAPE_NAMES = {"size", "dim", "numel", "shape", "ndim", "device", "dtype", "_assert_is_none"}
_REASONS = {
    "add": "feeds a residual sum", "iadd": "feeds a residual sum", "add_": "feeds a residual sum",
    "sub": "feeds a sum", "mul": "feeds a product", "imul": "feeds a product", "cat": "feeds a concatenation",
    "matmul": "forms attention logits or values", "bmm": "forms attention logits or values",
    "softmax": "forms attention logits", "einsum": "forms attention logits or values",
    "scaled_dot_product_attention": "forms attention logits or values",
}  # fmt: skip


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        known = (*LAYERS, *BLOCKS, *NORMS)
        plain = any(isinstance(m, kind) and type(m).forward is kind.forward for kind in known)
        return plain or super().is_leaf_module(m, module_qualified_name)


class Flow:
    """The data flow of one module.

    Raises an exception of any type when torch.fx cannot trace the module's `forward`.
    """

    def __init__(self, module: nn.Module) -> None:
        leaf = _Tracer().is_leaf_module(module, "")
        root = nn.Sequential(module) if leaf else module
        self.nodes = list(_trace(root).nodes)
        self.modules = {node: root.get_submodule(str(node.target)) for node in self.nodes if node.op == "call_module"}

    def kind(self, node: fx.Node) -> Kind:
        if node.op == "call_module":
            return _module_kind(self.modules[node])
        if node.op == "output":
            return Kind.OUTPUT
        return Kind.OTHER if node.op in ("placeholder", "get_attr") else _function_kind(node)

    def of(self, kind: Kind) -> list[fx.Node]:
        """The nodes of one kind, in the order of the computation."""
        return [node for node in self.nodes if self.kind(node) is kind]

    def calls(self, module: nn.Module | None) -> list[fx.Node]:
        """The nodes that call a module."""
        return [node for node, called in self.modules.items() if called is module]

    def ends(self, node: fx.Node) -> Iterator[fx.Node]:
        """What a node's values reach first, other than operations that pass their scale through."""
        for user in node.users:
            kind = self.kind(user)
            if kind in (Kind.SAME, Kind.RESHAPE):
                yield from self.ends(user)
            elif kind is not Kind.SHAPE:
                yield user

    def source(self, node: fx.Node, through: tuple[Kind, ...]) -> fx.Node:
        """What a node's values come from, seen through operations of the given kinds."""
        while self.kind(node) in through and isinstance(node.args[0], fx.Node):
            node = node.args[0]
        return node

    def normalized(self, node: fx.Node) -> bool:
        """Whether the values of a node come straight from a norm."""
        node = self.source(node, (Kind.SAME, Kind.RESHAPE))
        return self.kind(node) is Kind.NORM or (self.kind(node) is Kind.LAYER and has_norm(self.modules[node]))

    def layout(self, node: fx.Node) -> tuple[int, int, Tensor] | None:
        """(features, spatial dimensions after them, a tensor of the device and dtype), or None where unknown."""
        kind = self.kind(node)
        if kind is Kind.LAYER:
            return _layer_layout(self.modules[node])
        if kind is Kind.BLOCK:
            norm = next(m for m in self.modules[node].modules() if isinstance(m, nn.LayerNorm))
            return norm.normalized_shape[0], 0, norm.weight
        if node.op == "call_function" and node.target is operator.getitem:
            source = node.args[0]
            attention = isinstance(source, fx.Node) and isinstance(self.modules.get(source), nn.MultiheadAttention)
            return self.layout(source) if attention and isinstance(source, fx.Node) else None
        kept = kind in (Kind.SAME, Kind.NORM, Kind.NONLINEAR) or name_of(node) in _ARITHMETIC
        if not kept or name_of(node) == "glu" or isinstance(self.modules.get(node), nn.GLU):
            return None
        inputs = (self.layout(source) for source in node.all_input_nodes)
        return next((found for found in inputs if found is not None), None)

    def is_output_map(self, node: fx.Node) -> bool:
        """Whether a nonlinearity only bounds the module's output, as the tanh of a policy does."""
        module = self.modules.get(node)
        name = type(module).__name__ if module is not None else name_of(node).rstrip("_")
        if name.lower() not in {squash.lower() for squash in SQUASHING}:
            return False
        reached = _descendants(node)
        return not any(
            self.kind(later) in (Kind.LAYER, Kind.UNSEEN, Kind.BLOCK, Kind.NONLINEAR, Kind.NORM) for later in reached
        )

    def output_layers(self) -> set[nn.Module]:
        """The last layers: their values reach the module's output with no norm, nonlinearity or later layer between."""
        found: set[fx.Node] = set()
        pending = [source for node in self.of(Kind.OUTPUT) for source in node.all_input_nodes]
        visited: set[fx.Node] = set()
        while pending:
            node = pending.pop()
            kind = self.kind(node)
            bounded = kind is Kind.NONLINEAR and not self.is_output_map(node)
            if node in visited or bounded or kind in (Kind.NORM, Kind.BLOCK, Kind.UNSEEN):
                continue
            visited.add(node)
            if kind is Kind.LAYER:
                if not has_norm(self.modules[node]):
                    found.add(node)
            else:
                pending += node.all_input_nodes
        # A residual stream carries earlier layers to the output too; only the last of them is the output layer.
        return {self.modules[node] for node in found if not found & _descendants(node)}


def has_norm(layer: nn.Module) -> bool:
    """Whether `normalize` attached a norm to the layer's own output."""
    return isinstance(layer._modules.get("norm"), NORMS)


def flows(module: nn.Module) -> tuple[list[Flow], list[tuple[str, str]]]:
    """The module's data flow; where it cannot be traced, those of its parts, and (name, why) of what was skipped."""
    return _flows(module, type(module).__name__, "")


def _flows(module: nn.Module, name: str, prefix: str) -> tuple[list[Flow], list[tuple[str, str]]]:
    try:
        return [Flow(module)], []
    except Exception as error:  # torch.fx runs the module's own code with stand-in values: anything may be raised
        lines = str(error).strip().splitlines() or [type(error).__name__]
        untraced = [(name, f"forward cannot be traced, its parts are treated one by one: {lines[0]}")]
    found: list[Flow] = []
    for child_name, child in module.named_children():
        alone = isinstance(child, (*LAYERS, *NORMS, *_NONLINEAR_MODULES))
        full = prefix + child_name
        if isinstance(child, _NONLINEAR_MODULES):
            untraced.append((full, f"its use in {name} cannot be traced"))
        if not alone and next(child.parameters(), None) is not None:
            inner, skipped = _flows(child, full, full + ".")
            found += inner
            untraced += skipped
    return found, untraced


def reason(flow: Flow, layer: fx.Node) -> str | None:
    """Why a layer's weight is not scale-invariant, from where its values go; None if all go straight into a norm."""
    if has_norm(flow.modules[layer]):
        return None
    reasons = [why for end in flow.ends(layer) if (why := _end_reason(flow, end))]
    return reasons[0] if reasons else None


def _end_reason(flow: Flow, end: fx.Node) -> str | None:
    kind = flow.kind(end)
    if kind is Kind.NORM:
        batch = isinstance(flow.modules.get(end), BATCH_NORMS)
        return "feeds a BatchNorm, whose running statistics do not follow its scale in eval mode" if batch else None
    if kind is Kind.LAYER:
        attention = isinstance(flow.modules[end], nn.MultiheadAttention)
        return "forms attention logits or values" if attention else "feeds another layer with no norm between"
    fixed = {
        Kind.UNSEEN: "feeds another layer with no norm between",
        Kind.BLOCK: "feeds a residual sum",
        Kind.NONLINEAR: "feeds a nonlinearity without a norm",
        Kind.OUTPUT: "reaches the output",
    }
    return fixed.get(kind) or _REASONS.get(name_of(end), f"feeds {name_of(end)}")


def name_of(node: fx.Node) -> str:
    """The plain name of the operation of a node: `relu`, `add`, `view`."""
    return getattr(node.target, "__name__", None) or str(node.target)


def _trace(root: nn.Module) -> fx.Graph:
    # A forward that stores an intermediate value on its module would leave a stand-in there: the attributes are put
    # back. Arguments with a default take it, since a stand-in is never None.
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(root.forward).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    attributes = [(module, dict(module.__dict__)) for module in root.modules()]
    try:
        return _Tracer().trace(root, concrete_args=defaults)
    finally:
        for module, saved in attributes:
            module.__dict__.clear()
            module.__dict__.update(saved)


def _module_kind(module: nn.Module) -> Kind:
    table: list[tuple[tuple[Any, ...], Kind]] = [
        (LAYERS, Kind.LAYER),
        (BLOCKS, Kind.BLOCK),
        (NORMS, Kind.NORM),
        (_NONLINEAR_MODULES, Kind.NONLINEAR),
        (_SAME_MODULES, Kind.SAME),
        (_RESHAPE_MODULES, Kind.RESHAPE),
    ]
    return next((kind for types, kind in table if isinstance(module, types)), Kind.OTHER)


def _function_kind(node: fx.Node) -> Kind:
    name = name_of(node)
    if node.target is getattr:
        name = str(node.args[1])
    if name in ("mul", "truediv", "div", "mul_", "div_"):
        scalar = len(node.args) == 2 and isinstance(node.args[1], int | float)
        return Kind.SAME if scalar else Kind.OTHER
    names = [
        (_FUNCTION_NAMES, Kind.NONLINEAR),
        (_NORM_NAMES, Kind.NORM),
        (_UNSEEN_NAMES, Kind.UNSEEN),
        (_SAME_NAMES, Kind.SAME),
        (_RESHAPE_NAMES, Kind.RESHAPE),
        (_SHAPE_NAMES, Kind.SHAPE),
    ]
    kind = next((kind for known, kind in names if name in known), Kind.OTHER)
    sources = node.all_input_nodes
    only_shapes = bool(sources) and all(_function_is_shape(source) for source in sources)
    return Kind.SHAPE if only_shapes else kind


def _function_is_shape(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and _function_kind(node) is Kind.SHAPE


def _layer_layout(layer: nn.Module) -> tuple[int, int, Tensor] | None:
    if isinstance(layer, Conv):
        return layer.out_channels, len(layer.kernel_size), layer.weight
    if isinstance(layer, nn.Linear):
        return layer.out_features, 0, layer.weight
    if isinstance(layer, nn.Embedding):
        return layer.embedding_dim, 0, layer.weight
    return (layer.embed_dim, 0, layer.out_proj.weight) if isinstance(layer, nn.MultiheadAttention) else None


def _descendants(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = list(node.users)
    while pending:
        user = pending.pop()
        if user not in found:
            found.add(user)
            pending += user.users
    return found
