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
    LINEAR = auto()  # linear or affine in all its inputs together: add, cat, masked_fill
    PRODUCT = auto()  # of two values that layers computed
    SHAPE = auto()  # carries no values: x.shape, x.size(0)
    OTHER = auto()  # not known, so not known to be linear
    OUTPUT = auto()


LAYERS = (*MATRIX_LAYERS, nn.MultiheadAttention)
ENCODER_LAYERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
BLOCKS = (*ENCODER_LAYERS, nn.TransformerEncoder, nn.TransformerDecoder, nn.Transformer)
_POOLS = tuple(
    getattr(nn, f"{kind}Pool{n}d") for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for n in (1, 2, 3)
)
_SAME_MODULES = (nn.Identity, nn.modules.dropout._DropoutNd, *_POOLS)
_RESHAPE_MODULES = (
    nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle, nn.Fold, nn.Unfold, nn.Upsample,
    *(getattr(nn, f"{kind}Pad{n}d") for kind in ("Zero", "Reflection", "Replication", "Circular") for n in (1, 2, 3)),
)  # fmt: skip
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
    "dropout", "dropout1d", "dropout2d", "dropout3d", "native_dropout", "boolean_dispatch",
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "contiguous", "clone", "to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu",
    "cuda", "detach", "data", "requires_grad", "neg", "positive", "roll", "flip", "cumsum",
}  # fmt: skip
_UNSEEN_NAMES = {
    "linear", "bilinear", "embedding", "embedding_bag", "conv1d", "conv2d", "conv3d", "conv_transpose1d",
    "conv_transpose2d", "conv_transpose3d", "multi_head_attention_forward",
}  # fmt: skip
ARITHMETIC = {"add", "iadd", "sub", "isub", "mul", "imul", "truediv", "itruediv", "div"}
DIVISIONS = {"truediv", "itruediv", "div", "divide", "true_divide"}
SUMMING = {"addmm", "addmv", "baddbmm", "addbmm"}
MATMULS = {
    "matmul", "mm", "bmm", "mv", "dot", "inner", "outer", "tensordot", "einsum", "kron", "_grouped_mm", "grouped_mm",
    *SUMMING,
}  # fmt: skip
_PRODUCT_NAMES = {"mul", "imul", "multiply", "addcmul", *DIVISIONS, *MATMULS}
_RESHAPE_NAMES = {
    "flatten", "ravel", "unflatten", "reshape", "reshape_as", "view", "view_as", "permute", "transpose", "t", "movedim",
    "moveaxis", "swapaxes", "swapdims", "squeeze", "unsqueeze", "getitem", "select", "narrow", "index_select", "gather",
    "take_along_dim", "masked_select", "chunk", "split", "split_with_sizes", "tensor_split", "hsplit", "vsplit",
    "unbind", "mean", "sum", "nanmean", "nansum", "expand", "expand_as", "broadcast_to", "broadcast_tensors", "repeat",
    "repeat_interleave", "tile", "T", "mT", "H", "mH", "adjoint", "conj", "real", "imag", "view_as_real",
    "view_as_complex", "pad", "interpolate", "upsample", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "unfold", "fold", "diagonal", "diag", "diag_embed", "tril", "triu", "rot90", "diff",
    "trace", "as_strided", "fft", "ifft", "rfft", "irfft", "fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_fft2",
    "fft_ifft2", "fft_rfft2", "fft_irfft2", "fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn", "to_dense",
}  # fmt: skip
# A condition, mask or index that is itself computed from learned values is listed where it is computed.
_LINEAR_NAMES = {
    "add", "iadd", "sub", "isub", "subtract", "rsub", "cat", "concat", "concatenate", "stack", "hstack", "dstack",
    "vstack", "column_stack", "lerp", "masked_fill", "masked_scatter", "where", "index_fill", "index_add", "index_put",
    "index_copy", "setitem", "scatter", "scatter_add", "slice_scatter", "select_scatter", "copy",
    "scaled_dot_product_attention", "_native_multi_head_attention",
}  # fmt: skip
PARTS = {"chunk", "split", "split_with_sizes", "tensor_split"}
FIRST_COUNTS = {
    "getitem", "select", "index_select", "gather", "take_along_dim", "expand_as", "view_as", "reshape_as", "type_as",
}  # fmt: skip
"""Operations whose further arguments are indices or only shapes."""
SCATTERS = {"index_select", "index_add", "scatter_add", "scatter_reduce"}
_SHAPE_NAMES = {
    "size", "dim", "numel", "nelement", "len", "shape", "ndim", "ndimension", "device", "dtype", "layout", "stride",
    "is_cuda", "is_floating_point", "is_complex", "is_contiguous", "is_sparse", "is_nested", "_assert",
    "element_size", "get_device", "_assert_is_none", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like",
    "randn_like", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "storage_offset", "is_mps", "is_meta",
}  # fmt: skip


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
            (isinstance(module, nn.modules.padding._ConstantPadNd), Kind.LINEAR),
        ]
        return next((kind for applies, kind in table if applies), Kind.OTHER)
    return Kind.OTHER


def function_kind(node: fx.Node) -> Kind:
    """The kind of a call by its name. Whether a product is one of learned values, `Flow.kind` knows."""
    name = name_of(node)
    if name in _SHAPE_NAMES:
        return Kind.SHAPE
    if name in ("mul", "imul", "multiply", *DIVISIONS):
        factors = node.args[1:2] if name in DIVISIONS else node.args[:2]
        return Kind.SAME if any(isinstance(factor, int | float) for factor in factors) else Kind.PRODUCT
    if name in ("scatter_reduce", "index_reduce", "segment_reduce"):
        how = {given for given in (*node.args, *node.kwargs.values()) if isinstance(given, str)}
        pools = {"amax", "amin"} & how and node.kwargs.get("include_self") is False  # as max_pool does
        return Kind.LINEAR if {"sum", "mean"} & how or pools else Kind.OTHER
    if name == "pad" and (node.kwargs.get("value") or any(node.args[3:])):
        return Kind.LINEAR
    names = [
        (FUNCTION_NAMES, Kind.NONLINEAR),
        (_ELEMENTWISE_NAMES, Kind.ELEMENTWISE),
        (_NORM_NAMES, Kind.NORM),
        (_UNSEEN_NAMES, Kind.UNSEEN),
        (_SAME_NAMES, Kind.SAME),
        (_RESHAPE_NAMES, Kind.RESHAPE),
        (_LINEAR_NAMES, Kind.LINEAR),
        (_PRODUCT_NAMES, Kind.PRODUCT),
    ]
    return next((kind for known, kind in names if name in known), Kind.OTHER)


def name_of(node: fx.Node) -> str:
    """The plain name of the operation of a node, in place or not: `relu`, `add`, `view`."""
    if node.target is getattr:
        return str(node.args[1])
    name = getattr(node.target, "__name__", None) or str(node.target)
    return name if name.startswith("_") else name.rstrip("_")
