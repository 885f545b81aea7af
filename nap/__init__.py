"""Normalize-and-Project (arXiv 2407.01800) and learning-rate re-warming (arXiv 2507.20057) for any torch model.

import nap

nap.normalize(model)
optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(1e-3))
nap.Projection(model).attach(optimizer)
schedule = nap.make_schedule("cyclic", optimizer, total_steps=10_000)
"""

from .metrics import effective_lr, rotation, snapshot, weight_norms
from .normalize import Report, analyze, normalize
from .norms import ChannelNorm, ChannelSpaceRMSNorm, NormalizedActivation
from .project import Projection
from .schedule import (
    SCHEDULES,
    Constant,
    Cosine,
    Cyclic,
    DelayedCosine,
    EarlyCycle,
    Linear,
    OneCycle,
    Schedule,
    load_optimizer_state,
    make_schedule,
)

__all__ = [
    "SCHEDULES",
    "ChannelNorm",
    "ChannelSpaceRMSNorm",
    "Constant",
    "Cosine",
    "Cyclic",
    "DelayedCosine",
    "EarlyCycle",
    "Linear",
    "NormalizedActivation",
    "OneCycle",
    "Projection",
    "Report",
    "Schedule",
    "analyze",
    "effective_lr",
    "load_optimizer_state",
    "make_schedule",
    "normalize",
    "rotation",
    "snapshot",
    "weight_norms",
]
