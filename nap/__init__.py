"""Normalize-and-Project (arXiv 2407.01800) and learning-rate re-warming (arXiv 2507.20057) for any torch model.

```python
import nap

nap.normalize(model)
optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(1e-3))
nap.Projection(model).attach(optimizer)
schedule = nap.make_schedule("cyclic", optimizer, total_steps=10_000)
# in the loop: optimizer.step(), which projects too, then schedule.step()
# a checkpoint has the state_dict of each of the four; `nap.load_optimizer_state` keeps the lr tensor
```
"""

from nap.graph import (
    ChannelNorm,
    ChannelSpaceRMSNorm,
    FlooredNorm,
    NormalizedActivation,
    NormalizedLayer,
    ParameterSpec,
)
from nap.metrics import (
    Probe,
    activation_pattern,
    approximate_rank_yang,
    covariance_change,
    dead_units,
    dormant_by_gradient,
    dormant_dohare,
    dormant_grama,
    dormant_sokar,
    effective_lr,
    entk,
    entk_change,
    erank_roy,
    feature_covariance,
    feature_rank_lyle,
    gradient_covariance,
    gradient_norms,
    laziness,
    linear_cka,
    linearised_units,
    pattern_change,
    policy_churn,
    rotation,
    sharpness,
    snapshot,
    srank_kumar,
    stable_rank,
    unit_gradients,
    update_ratio,
    weight_norms,
)
from nap.normalize import normalize
from nap.project import Projection
from nap.rates import RATES, param_groups, refresh_rates
from nap.report import Report, analyze
from nap.scanning import ScanReport, scan_model
from nap.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Cusum,
    CusumStop,
    Cyclic,
    DelayedCosine,
    EarlyCycle,
    Linear,
    OneCycle,
    PageHinkley,
    PlateauStop,
    Rewarm,
    Schedule,
    StoppingCycle,
    load_optimizer_state,
    make_schedule,
)
from nap.stacked import StackedProjection

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
    "FlooredNorm",
    "Linear",
    "NormalizedActivation",
    "NormalizedLayer",
    "OneCycle",
    "PageHinkley",
    "ParameterSpec",
    "PlateauStop",
    "Probe",
    "Projection",
    "Report",
    "Rewarm",
    "ScanReport",
    "Schedule",
    "StackedProjection",
    "StoppingCycle",
    "activation_pattern",
    "analyze",
    "approximate_rank_yang",
    "covariance_change",
    "dead_units",
    "dormant_by_gradient",
    "dormant_dohare",
    "dormant_grama",
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
    "scan_model",
    "sharpness",
    "snapshot",
    "srank_kumar",
    "stable_rank",
    "unit_gradients",
    "update_ratio",
    "weight_norms",
]
