"""Games in sequence: their names, and what one network needs to play them all. Light: command lines ask here."""

from collections.abc import Iterable

from envs.errors import unknown_name
from envs.games import MINATAR

SEQUENCES: dict[str, tuple[str, ...]] = {
    # The games, and the order, of the continual MinAtar of C-CHAIN (Tang et al., ICML 2025).
    "minatar3": ("MinAtar/SpaceInvaders", "MinAtar/Asterix", "MinAtar/Seaquest"),
    "minatar5": MINATAR,
    # The ten games of Normalize-and-Project's sequence (arXiv 2407.01800) are not published. These are the ten of Atari
    # 100k in which published runs of DER rise most clearly above random play within 100,000 steps: the largest
    # (mean - random) / standard deviation over 100 runs a game, from 3.4 (Seaquest) to 7.0 (Assault). In alphabetical
    # order.
    "atari10": (
        "Alien", "Amidar", "Assault", "Asterix", "Breakout", "Jamesbond", "Krull", "RoadRunner", "Seaquest", "UpNDown",
    ),
}  # fmt: skip


def named(sequence: str) -> tuple[str, ...]:
    """The games of a named sequence, or those of a list with commas, as they are written.

    Raises ValueError for a name that is not known, and for a list of fewer than two.
    """
    if sequence in SEQUENCES:
        return SEQUENCES[sequence]
    if "," not in sequence:
        raise unknown_name("sequence", sequence, SEQUENCES)
    if len(games := split(sequence)) < 2:
        raise ValueError(f"a sequence has two games or more, and {sequence!r} names {len(games)}")
    return games


def split(text: str) -> tuple[str, ...]:
    """The parts of a list with commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def joined(games: Iterable[str]) -> str:
    """The list as it is written."""
    return ",".join(games)
