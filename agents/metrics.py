"""What each key of an agent's metrics.jsonl means: `--list-metrics`, and docs/metrics.md."""

from __future__ import annotations

import re
import textwrap
from typing import NamedTuple


class Metric(NamedTuple):
    """A key, or all keys with the same text before the slash."""

    key: str
    unit: str
    meaning: str
    source: str = ""


METRICS = (
    Metric("agent_step", "agent steps", "Actions so far, over all environments."),
    Metric("task", "name", "The game, in a run that plays games in sequence."),
    Metric("visit", "number", "Which visit to that game it is, from 1."),
    Metric("score/*", "points", "Mean raw score of the evaluation at the end of a visit, on a game of the sequence."),
    Metric("frames", "frames", "Emulator frames so far: agent steps times the frame skip of the protocol."),
    Metric("updates", "updates", "Optimiser steps so far."),
    Metric("episodes", "games", "Games that ended so far."),
    Metric("episode", "number", "Number of the game that ended; each game has its own row."),
    Metric("episode_return", "points", "Raw score of that game, never clipped, never cut at a life."),
    Metric("episode_steps", "agent steps", "Length of that game."),
    Metric("mean_return", "points", "Mean raw score of the last 100 games; null before the first."),
    Metric("score_wraps", "times", "Wraps of a score counter; each lowers the score by the counter's range."),
    Metric("epsilon", "share", "Probability of a random action."),
    Metric("n_step", "agent steps", "Rewards summed before bootstrapping, at the present update."),
    Metric("gamma", "per agent step", "Discount at the present update, where --gamma-final changes it."),
    Metric("seconds", "s", "Time of play and updates so far, over all sessions of the run."),
    Metric("lr", "per update", "Learning rate of the first parameter group."),
    Metric("loss", "loss", "Mean over the updates since the last row, without the methods' penalties."),
    Metric("q", "points", "Mean of Q(s, a) over those minibatches."),
    Metric("td_error", "points", "Mean absolute TD error of those minibatches."),
    Metric("td_error_fresh", "points", "Mean absolute TD error of the newest transitions, 64 at most."),
    Metric("rewarms", "alarms", "Restarts of a schedule that listens (cusum, page-hinkley).", "arXiv 2507.20057"),
    Metric("stopped_at", "agent steps", "Where early-cycle-cusum or -plateau ended its cycles; null before."),
    Metric("skipped_updates", "updates", "Updates since the last row that were left out by --on-nonfinite skip."),
    Metric("elr/*", "per update", "Effective learning rate of a weight: lr / ‖W‖ for Adam.", "arXiv 2407.01800"),
    Metric("norm/*", "weight", "Frobenius norm of a weight."),
    Metric("gradient/*", "loss / weight", "Norm of the last update's gradient, penalties included."),
    Metric("rotation/*", "radians", "Angle between a weight before and after the first update since the last row."),
    Metric(
        "dormant_sokar_0.025", "share",
        "Units whose mean |activation| is at most 0.025 of their layer's mean, of all layers or of one.",
        "arXiv 2302.12902",
    ),
    Metric(
        "dormant_grama_0.01", "share",
        "Units whose mean |gradient| of a random sum of the outputs is at most 0.01 of their layer's mean.",
        "arXiv 2505.24061",
    ),
    Metric("erank_roy/*", "rank", "Exponential of the entropy of the singular values.", "Roy & Vetterli 2007"),
    Metric(
        "srank_kumar_0.01", "rank", "Singular values that hold 99% of their sum.", "arXiv 2010.14498",
    ),
    Metric(
        "fit_error", "share", "Error of copies of the network after 200 updates on random targets; 1 before them.",
        "arXiv 2303.01486",
    ),
    Metric("fit_error_fresh", "share", "The same of fresh networks, on the same targets.", "arXiv 2303.01486"),
    Metric("fit_ratio", "ratio", "The former over the latter: above 1 the network learns worse than a fresh one."),
    Metric("fit_ratio_low", "ratio", "Lower bound of its 95% interval over 5 draws of targets."),
    Metric("fit_ratio_high", "ratio", "Upper bound of that interval."),
    Metric("fit_slowdown", "ratio", "Updates that the copies need over those of fresh networks, to the worse error."),
    Metric("fit_slowdown_low", "ratio", "Lower bound of its 95% interval over 5 draws of targets."),
    Metric("fit_slowdown_high", "ratio", "Upper bound of that interval."),
    Metric(
        "policy_churn", "share", "States whose greedy action changed since the measurement before.", "arXiv 2206.00730"
    ),
    Metric(
        "policy_churn_one_update", "share", "The same, by the first update after that measurement.", "arXiv 2206.00730"
    ),
)  # fmt: skip
INTRODUCTION = (
    "A row is written every --log-interval agent steps, and one for each game that ends. Ranks, dormant units and "
    "churn are measured every --probe-interval steps on 256 states of the replay, fits of random targets every "
    "--fit-probe-interval on 256 states of the replay at that time. A name behind the slash is a weight, "
    "or the nonlinearity whose outputs are the features."
)


def as_text() -> str:
    """The list for a terminal."""
    entries = [f"{m.key} [{m.unit}]: {m.meaning}" + (f" Source: {m.source}." if m.source else "") for m in METRICS]
    return "\n".join(
        [textwrap.fill(INTRODUCTION, 116), "", *(textwrap.fill(e, 116, subsequent_indent="  ") for e in entries)]
    )


def as_markdown() -> str:
    """The same as docs/metrics.md."""
    cells = ((f"`{m.key}`", m.unit, m.meaning, m.source) for m in METRICS)
    rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in cells]
    text = re.sub(r"(--[a-z-]+)", r"`\1`", textwrap.fill(INTRODUCTION, 150))
    head = f"# Metrics of an agent's run\n\n{text}\n\n| key | unit | meaning | source |\n|---|---|---|---|\n"
    return head + "".join(f"{row}\n" for row in rows)
