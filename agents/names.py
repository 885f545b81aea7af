"""The names that settings of an agent may have, and what they stand for."""

from __future__ import annotations

SCHEDULES = (
    "auto", "constant", "linear", "cosine", "one-cycle", "cyclic", "early-cycle", "delayed-cosine", "cusum",
    "page-hinkley", "early-cycle-cusum", "early-cycle-plateau",
)  # fmt: skip
CLOSED_LOOP = ("cusum", "page-hinkley")
"""Schedules that restart when a signal changes."""
EARLY_CYCLE = ("early-cycle", "early-cycle-cusum", "early-cycle-plateau")
"""Schedules that cycle in their first part; all but the first listen to a signal for where it ends."""
STACK = 4
"""Frames in an observation of Atari."""
AGENTS = {"dqn": "agents.dqn", "rainbow": "agents.rainbow", "der": "agents.der"}
"""The commands by name: one family of agents, whose settings tell them apart."""

NETWORKS = {
    "nature": "agents.networks.encoders:Nature",
    "dopamine": "agents.networks.encoders:Dopamine",
    "small": "agents.networks.encoders:Small",
    "impala": "agents.networks.encoders:Impala",
    "minatar": "agents.networks.encoders:MinAtar",
}
"""The encoders by name, each with its import path, as a user's own has one."""


def is_own(network: str) -> bool:
    """Whether a network is given by an import path, and not by a name, which may have options too."""
    return ":" in network and network.partition(":")[0] not in NETWORKS


def command_of(agent: str | None) -> str:
    """What runs an agent: a command of its own, or that of DQN for an import path."""
    return f"python -m {AGENTS.get(agent or 'dqn', AGENTS['dqn'])}"
