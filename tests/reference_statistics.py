"""Slow statistics of plain form, which the fast ones are compared with."""

import numpy as np

from experiment.statistics import stratified_intervals


def stratified_interval(statistic, *scores, **settings):
    """The interval of one statistic."""
    return stratified_intervals({"": statistic}, *scores, **settings)[""]


def probability_of_improvement(a, b):
    """The mean over tasks of the share of pairs in which a run of `a` scores above one of `b`; a tie counts half."""
    return np.stack([_share_above(np.asarray(a[task]), np.asarray(b[task])) for task in a], axis=-1).mean(-1)


def _share_above(x, y):
    x, y = x[..., :, None], y[..., None, :]
    return ((x > y).mean((-2, -1)) + (x >= y).mean((-2, -1))) / 2
