"""Pairs of arms by seed: differences of scores in each game and over all, and the probability of improvement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report.scores import Scores, run_order
from benchmarks.report.summary import by_game
from benchmarks.report.table import Table, fine, raw
from experiment.statistics import improvement_intervals, t_interval
from experiment.tables import with_bounds

ALL = "all games, relative"
Seeds = Mapping[str, float]
"""Scores by seed."""
ByArm = Mapping[tuple[str, str], Seeds]
"""By arm and game."""


def scores_by_seed(scores: Scores) -> ByArm:
    """The scores of each arm and game by seed."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for run in scores.runs:
        found.setdefault((run.arm, run.game), {})[run.run] = run.score
    return found


def paired(one: Seeds, two: Seeds) -> dict[str, float]:
    """The differences by seed, of the seeds of both."""
    return {seed: score - two[seed] for seed, score in one.items() if seed in two}


def over_games(gaps: Sequence[Seeds], scales: Sequence[float]) -> list[float]:
    """For each seed of all games the mean over games of the difference over the game's scale; none for a scale of 0."""
    if not gaps or min(scales) <= 0:
        return []
    shared = set.intersection(*map(set, gaps))
    return [
        float(np.mean([gap[seed] / scale for gap, scale in zip(gaps, scales, strict=True)]))
        for seed in sorted(shared, key=run_order)
    ]


def contrast_table(scores: Scores, pairs: Sequence[tuple[str, str]]) -> Table:
    """How far the first arm of each pair is above the second one, and how likely a run of it is."""
    found = scores_by_seed(scores)
    games = sorted({game for _, game in found})
    reference = scores.arms[0]
    scales = {
        game: float(np.mean(list(found[reference, game].values()))) for game in games if (reference, game) in found
    }
    pairs = [(one, two) for one, two in pairs if any((one, game) in found and (two, game) in found for game in games)]
    likely = improvement_intervals(by_game((run.arm, run.game, run.score) for run in scores.runs), pairs)
    rows, records = [], []
    for one, two in pairs:
        gaps = {game: paired(found.get((one, game), {}), found.get((two, game), {})) for game in games}
        gaps = {game: gap for game, gap in gaps.items() if gap}
        known = gaps if set(gaps) <= set(scales) else {}
        values = {game: list(gap.values()) for game, gap in gaps.items()}
        values[ALL] = over_games(list(known.values()), [scales[game] for game in known])
        cells = [_cell(values.get(key, []), raw if key != ALL else _share) for key in (ALL, *games)]
        rows.append([f"{one} - {two}", *cells, with_bounds(likely[one, two], fine)])
        pair = {"arm": one, "other": two}
        records += [
            {**pair, "of": key, **t_interval(each)._asdict(), "seeds": len(each)}
            for key, each in values.items()
            if each
        ]
        records.append({**pair, "of": "probability of improvement", **likely[one, two]._asdict(), "seeds": ""})
    note = (
        "Mean difference of the scores with the same seed, 95% Student-t interval, n: seeds. Over all games: each "
        f"game's difference over the mean score of {reference} there, then the mean over games by seed. The "
        "probability that a run of the first scores above one of the second in a random game has a bootstrap interval, "
        "which is too narrow for few seeds."
    )
    header = ["arms", ALL, *games, "probability of improvement"]
    return Table("contrasts", "Pairs of arms, by seed", header, rows, note, records)


def _share(value: float) -> str:
    return f"{value:+.2f}"


def _cell(values: Sequence[float], text: Callable[[float], str]) -> str:
    return f"{with_bounds(t_interval(values), text)} n={len(values)}" if values else "–"


# --- a stop chosen by hand, against a rule


@dataclass(frozen=True)
class Judged:
    """A rule against the stop that was best on the first half of the seeds of a game.

    Attributes:
        chosen: that stop; scale: its mean score on the first half.
        chosen_scores, rule_scores: of the other half.
    """

    rule: str
    game: str
    chosen: str
    scale: float
    chosen_scores: Seeds
    rule_scores: Seeds

    @property
    def gap(self) -> dict[str, float]:
        return paired(self.rule_scores, self.chosen_scores)


def judge(found: ByArm, rule: str, stops: Sequence[str], game: str) -> Judged | None:
    """A rule in a game; None unless it and all stops have the same seeds, four or more."""
    own, *others = (found.get((arm, game), {}) for arm in (rule, *stops))
    seeds = sorted(own, key=run_order)
    if len(seeds) < 4 or any(set(other) != set(own) for other in others):
        return None
    first, last = seeds[: len(seeds) // 2], seeds[len(seeds) // 2 :]
    means = [float(np.mean([scores[seed] for seed in first])) for scores in others]
    best = int(np.argmax(means))
    halves = ({seed: scores[seed] for seed in last} for scores in (others[best], own))
    return Judged(rule, game, stops[best], means[best], *halves)


def chosen_stop_table(scores: Scores, stops: Sequence[str], rules: Sequence[str]) -> Table:
    """Each rule against the stop that is best on the first half of the seeds, on the other half."""
    found = scores_by_seed(scores)
    games = sorted({game for _, game in found})
    rows, records = [], []
    for rule in rules:
        judged = [each for game in games if (each := judge(found, rule, stops, game)) is not None]
        for each in judged:
            means = [float(np.mean(list(half.values()))) for half in (each.chosen_scores, each.rule_scores)]
            gap = t_interval(list(each.gap.values()))
            rows.append(
                [f"{rule}, {each.game}", each.chosen, *map(raw, means), with_bounds(gap, raw), str(len(each.gap))]
            )
            own = {"chosen": each.chosen, "chosen_score": means[0], "rule_score": means[1]}
            records.append({"rule": rule, "game": each.game, **own, **gap._asdict(), "seeds": len(each.gap)})
        if len(judged) > 1 and (values := over_games([each.gap for each in judged], [each.scale for each in judged])):
            gap = t_interval(values)
            rows.append([f"{rule}, {ALL}", "–", "–", "–", with_bounds(gap, _share), str(len(values))])
            own = dict.fromkeys(("chosen", "chosen_score", "rule_score"), None)
            records.append({"rule": rule, "game": ALL, **own, **gap._asdict(), "seeds": len(values)})
    header = ["rule and game", "chosen stop", "its score", "the rule's", "difference", "seeds"]
    return Table("chosen-stops", "Rules against the best stop chosen by hand", header, rows, CHOSEN, records)


CHOSEN = (
    "The stop chosen by hand is the one of the highest mean score on the first half of the seeds, in each game by "
    "itself; a game is left out unless the rule and all stops have the same seeds there, four or more. Scores and "
    "differences are of the other half: the rule less the chosen stop with the same seed, 95% Student-t interval. Over "
    "all games: each difference over the chosen stop's mean on the first half, then the mean over games by seed."
)
