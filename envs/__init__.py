"""Vectorised environments behind one contract: Atari on ale-py or envpool, MinAtar, Catch, the user's own.

Atari's backends make the same frames, rewards, lives and ends from the same actions after the same number of no-ops,
in every episode: an emulator is seeded when its ROM is loaded, once in a run, and an episode begins with a plain reset
of the console. The reset leaves the memory as it is, so in many games an episode's start depends on the one before.
They differ in this:

| | ale | envpool |
|---|---|---|
| `exact_resume` | yes: the running episodes are replayed | no: a resume starts new episodes |
| no-ops drawn | 0..noop_max, from run seed, environment and episode | 1..noop_max; noop_max 0 becomes always one |
| no-ops drawn if FIRE is pressed | 0..noop_max, FIRE is one | 0..noop_max-1, and then FIRE |
| last frame of a game that is over in frame 1 or 2 of a skip | the frame before it | the frame before it |
| ... in frame 3 | the frame before it | the third screen alone |
| ... in frame 4 | maximum of the frame before it and the third screen | of the last two, as always |
| several cores | processes | threads |
| install | always there | `pip install -e .[envpool]` |

A checkpoint of ale has a clone of each emulator from before the reset that began its running episode, and the actions
since. A clone of the running episode would not do: ale-py's clones lack the action that sticky actions repeat, and in
Qbert the progress of a frame; the reset clears both. All games that ale-py ships have been resumed so and compared
frame by frame.

Nothing is bootstrapped from that last frame. An episode that the time limit ends shows a whole one. How each of these
was seen: docs/environments.md. With one seed the two draw other no-ops and other sticky actions. Neither starts a new
episode at a lost life, clips a reward or counts the starting no-ops in the time limit. Their stacks at an episode's
start (envpool repeats) are never used: stacks are the replay's matter.
"""

from typing import TYPE_CHECKING

from envs.protocol import PROTOCOLS, Protocol, resolve_protocol
from envs.registry import BACKENDS, registered, resolve_game

if TYPE_CHECKING:  # numpy and the emulators wait until `make`: a command line that only reads names stays quick
    from envs.vector_env import VectorEnv

__all__ = ["BACKENDS", "PROTOCOLS", "Protocol", "make"]


def make(
    game: str,
    protocol: str | Protocol,
    num_envs: int = 1,
    seed: int = 0,
    backend: str = "ale",
    num_threads: int = 1,
    background: bool = False,
) -> "VectorEnv":
    """`num_envs` environments of one game, or of what an import path leads to: see `envs.registry`.

    `protocol` is for Atari and MinAtar; others have rules of their own. Emulators play on `num_threads` cores: on ale
    in that many processes, this one among them. In the `background` they play from `send` on while this process does
    something else; envpool's always do. `backend` is Atari's.

    Raises ValueError for an unknown game, protocol or backend, and ModuleNotFoundError if envpool or MinAtar, which
    are extras, would be needed and are not installed.
    """
    how = {"backend": backend, "num_threads": num_threads, "background": background}
    rules = resolve_protocol(protocol)
    return registered(game).make(resolve_game(game), rules, num_envs, seed, **how)
