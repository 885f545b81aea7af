"""Vectorised environments behind one contract: Atari on ale-py or envpool, MinAtar, Catch, the user's own.

Atari's backends make the same frames, rewards, lives and ends from the same actions after the same number of no-ops,
in every episode: an emulator is seeded when its ROM is loaded, once in a run, and an episode begins with a plain reset
of the console. The reset leaves the memory as it is, so in many games an episode's start depends on the one before.
The backends differ in these points:

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
since. A clone of the running episode would not be enough: ale-py's clones miss the action that sticky actions repeat,
and in Qbert the progress of a frame; the reset clears both. A test resumes every game that ale-py ships in this way and
compares frame by frame.

The agent bootstraps nothing from the last frame of a game that is over. An episode that the time limit ends shows a
whole frame. docs/environments.md says how each fact was checked. With one seed the backends draw different no-ops and
sticky actions. Neither starts a new episode at a lost life, clips a reward or counts the starting no-ops in the time
limit. The replay builds the stacks, so the backends' own (envpool repeats the first frame) are never used.
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

    `protocol` is for Atari and MinAtar; other environments have their own rules. Emulators play on `num_threads` cores:
    ale uses that many processes, including this one. In the `background` they play from `send` on while this process
    does something else; envpool's always do. `backend` is only for Atari.

    Raises ValueError for an unknown game, protocol or backend, and ModuleNotFoundError if envpool or MinAtar, which
    are extras, are needed and not installed.
    """
    how = {"backend": backend, "num_threads": num_threads, "background": background}
    rules = resolve_protocol(protocol)
    return registered(game).make(resolve_game(game), rules, num_envs, seed, **how)
