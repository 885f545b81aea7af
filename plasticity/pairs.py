"""Pairs of methods that make no sense together, or only in one order, with the reasons.

A pair is here if one method undoes the other, or must change what the other keeps. All other pairs train. If one method
weakens another, as a projection weakens weight decay, the method's docstring says so.
"""

from __future__ import annotations

from collections.abc import Sequence

FROZEN = "injection keeps a frozen head for good, and {} would change it, or put new features before it"
TWO_OUTPUTS = "under crelu a unit's weights make two outputs, relu(x) and relu(-x), and {} judges each alone"
PUT_BACK = "where both are due at once, hare-tortoise would put back what {} has just replaced"
WRITERS = ("reset", "shrink-perturb", "redo", "snr", "cbp", "fire", "regrama")

APART: dict[frozenset[str], str] = {
    **{frozenset({"injection", other}): FROZEN.format(other) for other in WRITERS},
    frozenset({"injection", "hare-tortoise"}): "an average across the injection mixes the old head with a fresh one",
    frozenset({"crelu", "regrama"}): "regrama needs layers that feed one nonlinearity, and crelu makes two of it",
    frozenset({"injection", "infer"}): "infer reads the features of one head, and injection makes three of it",
    **{frozenset({"crelu", other}): TWO_OUTPUTS.format(other) for other in ("redo", "snr", "cbp")},
}
"""Two methods that are refused in either order."""

ORDER: dict[tuple[str, str], str] = {
    ("crelu", "injection"): "injection freezes copies of the layers that crelu would have to widen",
    ("crelu", "infer"): "crelu doubles the features that infer reads",
    **{("hare-tortoise", other): PUT_BACK.format(other) for other in (*WRITERS, "dash")},
}
"""(first, later): two methods that are refused the other way round."""


def check_pairs(names: Sequence[str]) -> None:
    """ValueError with the reason for two active methods that do not go together, or not in this order."""
    for later, name in enumerate(names):
        for earlier in names[:later]:
            if reason := APART.get(frozenset({earlier, name})):
                raise ValueError(f"{earlier} and {name} do not go together: {reason}")
            if reason := ORDER.get((name, earlier)):
                raise ValueError(f"give {name} before {earlier}: {reason}")
