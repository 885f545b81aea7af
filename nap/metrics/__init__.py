"""Metrics of a network in training: ranks and dormant units, effective rates, rotations of weights, curvature."""

from nap.metrics.curvature import entk, entk_change, gradient_covariance, sharpness
from nap.metrics.features import (
    activation_pattern,
    approximate_rank_yang,
    covariance_change,
    dead_units,
    dormant_dohare,
    dormant_grama,
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
from nap.metrics.fitting import FitCurves, fit_random_targets
from nap.metrics.probe import METRICS, Probe, untouched
from nap.metrics.unit_gradients import unit_gradients
from nap.metrics.weight_metrics import (
    effective_lr,
    gradient_norms,
    laziness,
    rotation,
    snapshot,
    update_ratio,
    weight_norms,
)

__all__ = [
    "METRICS",
    "FitCurves",
    "Probe",
    "activation_pattern",
    "approximate_rank_yang",
    "covariance_change",
    "dead_units",
    "dormant_dohare",
    "dormant_grama",
    "dormant_sokar",
    "effective_lr",
    "entk",
    "entk_change",
    "erank_roy",
    "feature_covariance",
    "feature_rank_lyle",
    "fit_random_targets",
    "gradient_covariance",
    "gradient_norms",
    "laziness",
    "linear_cka",
    "linearised_units",
    "pattern_change",
    "policy_churn",
    "rotation",
    "sharpness",
    "snapshot",
    "srank_kumar",
    "stable_rank",
    "unit_gradients",
    "untouched",
    "update_ratio",
    "weight_norms",
]
