"""What a network computes: its layers, their nonlinearities and norms, its weight matrices, traced with torch.fx."""

from nap.graph.flow import Flow, Trace, has_norm, trace
from nap.graph.foreign import coscaled_params
from nap.graph.kinds import Kind, name_of
from nap.graph.layers import hidden_layers
from nap.graph.norms import EPS, ChannelNorm, ChannelSpaceRMSNorm, NormalizedActivation
from nap.graph.weights import Weight, find_weights

__all__ = [
    "EPS",
    "ChannelNorm",
    "ChannelSpaceRMSNorm",
    "Flow",
    "Kind",
    "NormalizedActivation",
    "Trace",
    "Weight",
    "coscaled_params",
    "find_weights",
    "has_norm",
    "hidden_layers",
    "name_of",
    "trace",
]
