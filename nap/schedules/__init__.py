"""Learning-rate schedules that cycle early, re-warm and anneal (arXiv 2507.20057). Each names its signal."""

from nap.schedules.open_loop import Constant, Cosine, Cyclic, DelayedCosine, EarlyCycle, Linear, OneCycle
from nap.schedules.registry import SCHEDULES, make_schedule
from nap.schedules.rewarm import Cusum, PageHinkley, Rewarm
from nap.schedules.schedule import Schedule, load_optimizer_state
from nap.schedules.stopping import CusumStop, PlateauStop, StoppingCycle

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Cusum",
    "CusumStop",
    "Cyclic",
    "DelayedCosine",
    "EarlyCycle",
    "Linear",
    "OneCycle",
    "PageHinkley",
    "PlateauStop",
    "Rewarm",
    "Schedule",
    "StoppingCycle",
    "load_optimizer_state",
    "make_schedule",
]
