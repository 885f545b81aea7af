"""What a network computes: its layers, units, norms and weight matrices, and the data flow between them."""

from nap.graph.flow import Flow
from nap.graph.kinds import Kind
from nap.graph.layers import feature_layers
from nap.graph.norms import (
    EPS,
    ChannelNorm,
    ChannelSpaceRMSNorm,
    FlooredNorm,
    NormalizedActivation,
    NormalizedLayer,
    norm_layers,
)
from nap.graph.parameters import ParameterSpec, parameter_spec
from nap.graph.traces import Trace, trace
from nap.graph.units import HiddenLayer, HiddenUnits, UnitLayer, UnitView, hidden_units
from nap.graph.weights import Weight, find_weights

__all__ = [
    "EPS",
    "ChannelNorm",
    "ChannelSpaceRMSNorm",
    "FlooredNorm",
    "Flow",
    "HiddenLayer",
    "HiddenUnits",
    "Kind",
    "NormalizedActivation",
    "NormalizedLayer",
    "ParameterSpec",
    "Trace",
    "UnitLayer",
    "UnitView",
    "Weight",
    "feature_layers",
    "find_weights",
    "hidden_units",
    "norm_layers",
    "parameter_spec",
    "trace",
]
