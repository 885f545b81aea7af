"""How each operation of a model treats the scale of its input."""

from __future__ import annotations

from enum import Enum, auto

from torch import fx, nn

from nap.graph.foreign import LINEAR_ROLES, Role, role
from nap.graph.norms import NORMS, OWN_NORMS
from nap.graph.weights import MATRIX_LAYERS


class Kind(Enum):
    """How an operation treats the scale of its input."""

    LAYER = auto()  # has a weight matrix
    UNSEEN = auto()  # a layer called as a function, so that no module says whose weight it is
    BLOCK = auto()  # one of torch's own transformer layers, whose inside is known
    NORM = auto()
    NONLINEAR = auto()
    ELEMENTWISE = auto()  # not linear either, but no known activation: exp, clamp, square
    SAME = auto()  # positively homogeneous, keeps the feature axis: dropout, pooling, a scalar factor
    RESHAPE = auto()  # positively homogeneous, moves the feature axis: view, flatten, transpose, getitem
    SHAPE = auto()  # carries no values: x.shape, x.size(0)
    OTHER = auto()
    OUTPUT = auto()


LAYERS = (*MATRIX_LAYERS, nn.MultiheadAttention)
ENCODER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
BLOCKS = (*ENCODER_LAYERS, nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer)
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
FUNCTION_NAMES = {
    "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "prelu", "rrelu",
    "softshrink", "hardshrink", "tanhshrink", "threshold", "glu",
    "tanh", "sigmoid", "hardtanh", "hardsigmoid", "softplus", "logsigmoid", "log_sigmoid", "softsign", "special_expit",
}  # fmt: skip
_ELEMENTWISE_NAMES = {
    "clamp", "clip", "clamp_min", "clamp_max", "maximum", "minimum", "exp", "expm1", "log", "log1p", "sin", "cos",
    "sinh", "cosh", "asinh", "arcsinh", "atan", "arctan", "erf", "square", "pow", "abs", "sign",
}  # fmt: skip
_NORM_NAMES = {"layer_norm", "rms_norm", "group_norm", "instance_norm", "batch_norm", "normalize"}
_SAME_NAMES = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "boolean_dispatch",
    "contiguous", "clone", "to", "float", "double", "half", "bfloat16", "neg",
}  # fmt: skip
_UNSEEN_NAMES = {"linear", "bilinear", "conv1d", "conv2d", "conv3d", "embedding", "multi_head_attention_forward"}
ARITHMETIC = {"add", "iadd", "sub", "isub", "mul", "imul", "truediv", "itruediv", "div"}
MATMULS = {"matmul", "mm", "bmm", "addmm", "einsum"}
_RESHAPE_NAMES = {
    "flatten", "unflatten", "reshape", "view", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "getitem",
    "chunk", "split", "unbind", "mean", "sum", "expand", "repeat", "T", "mT",
}  # fmt: skip
_SHAPE_NAMES = {"size", "dim", "numel", "shape", "ndim", "device", "dtype", "_assert_is_none"}


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is known as a whole, so that a trace need not look inside."""
    if isinstance(module, OWN_NORMS):
        return True
    known = isinstance(module, (*LAYERS, *BLOCKS, *NORMS, *_NONLINEAR_MODULES))
    return (known and type(module).forward.__module__.startswith("torch.nn")) or role(module) is not Role.UNKNOWN


def is_plain_block(module: nn.Module) -> bool:
    """Whether a module runs the forward of one of torch's transformer layers."""
    return any(type(module).forward is kind.forward for kind in ENCODER_LAYERS)


def module_kind(module: nn.Module) -> Kind:
    if type(module).__module__.startswith("torch.nn") or is_leaf(module):
        table: list[tuple[bool, Kind]] = [
            (isinstance(module, LAYERS) or role(module) in LINEAR_ROLES, Kind.LAYER),
            (isinstance(module, BLOCKS), Kind.BLOCK),
            (isinstance(module, NORMS) or role(module) is Role.NORM, Kind.NORM),
            (isinstance(module, _NONLINEAR_MODULES) or role(module) is Role.ACTIVATION, Kind.NONLINEAR),
            (isinstance(module, _SAME_MODULES), Kind.SAME),
            (isinstance(module, _RESHAPE_MODULES), Kind.RESHAPE),
        ]
        return next((kind for applies, kind in table if applies), Kind.OTHER)
    return Kind.OTHER


def function_kind(node: fx.Node) -> Kind:
    name = name_of(node)
    if name in ("mul", "imul", "truediv", "itruediv", "div"):
        factors = node.args[:2] if name in ("mul", "imul") else node.args[1:2]
        return Kind.SAME if any(isinstance(factor, int | float) for factor in factors) else Kind.OTHER
    names = [
        (FUNCTION_NAMES, Kind.NONLINEAR),
        (_ELEMENTWISE_NAMES, Kind.ELEMENTWISE),
        (_NORM_NAMES, Kind.NORM),
        (_UNSEEN_NAMES, Kind.UNSEEN),
        (_SAME_NAMES, Kind.SAME),
        (_RESHAPE_NAMES, Kind.RESHAPE),
        (_SHAPE_NAMES, Kind.SHAPE),
    ]
    kind = next((kind for known, kind in names if name in known), Kind.OTHER)
    sources = node.all_input_nodes
    only_shapes = bool(sources) and all(_is_shape(source) for source in sources)
    return Kind.SHAPE if only_shapes else kind


def name_of(node: fx.Node) -> str:
    """The plain name of the operation of a node, in place or not: `relu`, `add`, `view`."""
    if node.target is getattr:
        return str(node.args[1])
    name = getattr(node.target, "__name__", None) or str(node.target)
    return name if name.startswith("_") else name.rstrip("_")


def _is_shape(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and function_kind(node) is Kind.SHAPE
