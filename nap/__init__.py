"""Normalize-and-Project (arXiv 2407.01800) and learning-rate re-warming (arXiv 2507.20057) for any torch model.

import nap

nap.normalize(model)
optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(1e-3))
nap.Projection(model).attach(optimizer)
schedule = nap.make_schedule("cyclic", optimizer, total_steps=10_000)
# in the loop: optimizer.step(), which projects too, then schedule.step()
# a checkpoint has the state_dict of each of the four; `nap.load_optimizer_state` keeps the lr tensor
"""

from .curvature import entk, entk_change, gradient_covariance, sharpness
from .features import (
    activation_pattern,
    approximate_rank_yang,
    covariance_change,
    dead_units,
    dormant_dohare,
    dormant_sokar,
    erank_roy,
    feature_covariance,
    feature_rank_lyle,
    linear_cka,
    linearised_units,
    pattern_change,
    policy_churn,
    srank_kumar,
    stable_rank,
)
from .metrics import (
    effective_lr,
    gradient_norms,
    laziness,
    rotation,
    snapshot,
    update_ratio,
    weight_norms,
)
from .normalize import Report, analyze, normalize
from .norms import ChannelNorm, ChannelSpaceRMSNorm, NormalizedActivation
from .probe import Probe
from .project import Projection
from .rates import RATES, param_groups, refresh_rates
from .rewarm import Cusum, PageHinkley, Rewarm
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
from .stopping import CusumStop, PlateauStop, StoppingCycle

__all__ = [
    "RATES",
    "SCHEDULES",
    "ChannelNorm",
    "ChannelSpaceRMSNorm",
    "Constant",
    "Cosine",
    "Cusum",
    "CusumStop",
    "Cyclic",
    "DelayedCosine",
    "EarlyCycle",
    "Linear",
    "NormalizedActivation",
    "OneCycle",
    "PageHinkley",
    "PlateauStop",
    "Probe",
    "Projection",
    "Report",
    "Rewarm",
    "Schedule",
    "StoppingCycle",
    "activation_pattern",
    "analyze",
    "approximate_rank_yang",
    "covariance_change",
    "dead_units",
    "dormant_dohare",
    "dormant_sokar",
    "effective_lr",
    "entk",
    "entk_change",
    "erank_roy",
    "feature_covariance",
    "feature_rank_lyle",
    "gradient_covariance",
    "gradient_norms",
    "laziness",
    "linear_cka",
    "linearised_units",
    "load_optimizer_state",
    "make_schedule",
    "normalize",
    "param_groups",
    "pattern_change",
    "policy_churn",
    "refresh_rates",
    "rotation",
    "sharpness",
    "snapshot",
    "srank_kumar",
    "stable_rank",
    "update_ratio",
    "weight_norms",
]
