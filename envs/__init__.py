"""Vectorised Atari behind one contract, on ale-py or envpool.

Both backends make the same frames, rewards, lives and ends from the same actions after the same number of no-ops, in
every episode: an emulator is seeded when its ROM is loaded, once in a run, and an episode begins with a plain reset of
the console. The reset leaves the memory as it is, so in many games an episode's start depends on the one before.
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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from envs.errors import unknown_name
from envs.games import CATCH, MINATAR, resolve_game
from envs.protocol import PROTOCOLS, Protocol, resolve_protocol

if TYPE_CHECKING:  # numpy and the emulators wait until `make`: a command line that only reads names stays quick
    from envs.vector_env import VectorEnv

__all__ = ["BACKENDS", "PROTOCOLS", "Protocol", "make"]

BACKENDS = ("ale", "envpool")


def make(
    game: str,
    protocol: str | Protocol,
    num_envs: int = 1,
    seed: int = 0,
    backend: str = "ale",
    num_threads: int = 1,
    background: bool = False,
) -> "VectorEnv":
    """`num_envs` environments of one game; any usual spelling of its name. Catch and MinAtar have no emulator.

    Emulators play on `num_threads` cores: on ale in that many processes, this one among them. In the `background` they
    play from `send` on while this process does something else; envpool's always do.

    Raises ValueError for an unknown game, protocol or backend, and ModuleNotFoundError if envpool or MinAtar, which
    are extras, would be needed and are not installed.
    """
    rules = resolve_protocol(protocol)
    if resolve_game(game) == CATCH:
        from envs.catch import Catch

        return Catch(num_envs, seed)
    if resolve_game(game) in MINATAR:
        with _extra("minatar", "MinAtar", "play another game"):
            from envs.minatar import MinAtarVectorEnv
        return MinAtarVectorEnv(game, rules, num_envs, seed, num_threads)
    if backend == "ale":
        from envs.ale import AleVectorEnv

        return AleVectorEnv(game, rules, num_envs, seed, num_threads, background)
    if backend == "envpool":
        with _extra("envpool", "envpool", "use ale"):
            from envs.envpool_backend import EnvpoolVectorEnv
        return EnvpoolVectorEnv(game, rules, num_envs, seed, num_threads)
    raise unknown_name("backend", backend, BACKENDS)


@contextmanager
def _extra(module: str, package: str, instead: str) -> Iterator[None]:
    """Says how to install the module that an import needs, and what would do without it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ModuleNotFoundError(f"{package} is not installed: pip install -e .[{module}], or {instead}") from error
