"""Evaluation protocols: everything about an environment that changes what a score means."""

from dataclasses import dataclass, replace

from envs.errors import unknown_name


@dataclass(frozen=True)
class Protocol:
    """The rules under which a game is played, learned and scored.

    None of the presets presses FIRE for the agent after a reset, as in Dopamine and DQN Zoo: Gymnasium's and envpool's
    fire reset is another game for Breakout, where an agent must then learn to launch the ball.
    """

    name: str
    sticky_actions: float
    """Probability that the emulator repeats the previous action, drawn at every frame."""
    life_loss_ends_episode: bool
    """Whether the learner zeroes the discount at a lost life; the game itself always plays on."""
    full_action_set: bool
    """All legal actions instead of the game's minimal set: 18 in Atari, but 9 in Skiing and LostLuggage, where the
    emulator knows no FIRE, and 6 in MinAtar."""
    noop_max: int
    """Largest number of no-op frames drawn at the start of an episode; 0 for none."""
    evaluation_episodes: int = 100
    evaluation_epsilon: float = 0.001
    frame_skip: int = 4
    """Frames per agent step; the picture is the pixelwise maximum of the last two."""
    max_frames: int | None = 108_000
    """Frames after which an episode is truncated, starting no-ops not counted: 108,000 are 30 minutes at 60 Hz. None:
    no limit."""
    fire_reset: bool = False
    clip_rewards: bool = True
    """Whether an agent learns from rewards clipped to -1..1 unless its settings say otherwise; scores are raw."""

    def __post_init__(self) -> None:
        if not 0 <= self.sticky_actions < 1:
            raise ValueError(f"sticky_actions must be in [0, 1), got {self.sticky_actions}")
        if not 0 <= self.evaluation_epsilon <= 1:
            raise ValueError(f"evaluation_epsilon must be in [0, 1], got {self.evaluation_epsilon}")
        if self.noop_max < 0 or self.evaluation_episodes < 1 or self.frame_skip < 1:
            raise ValueError("noop_max must be at least 0, evaluation_episodes and frame_skip at least 1")
        if self.max_frames is not None and (self.max_frames < self.frame_skip or self.max_frames % self.frame_skip):
            raise ValueError(f"max_frames must be a multiple of frame_skip ({self.frame_skip}), got {self.max_frames}")

    @property
    def time_limit(self) -> int | None:
        """Agent steps after which an episode is truncated; None if the rules set no limit."""
        return None if self.max_frames is None else self.max_frames // self.frame_skip

    def summary(self) -> str:
        """The protocol in one line, for logs and results."""
        return (
            f"{self.name} (sticky actions {self.sticky_actions:g}, "
            f"life loss {'ends' if self.life_loss_ends_episode else 'does not end'} the learning episode, "
            f"{'full' if self.full_action_set else 'minimal'} action set, no-ops up to {self.noop_max}, "
            f"{'' if self.fire_reset else 'no '}fire reset, frame skip {self.frame_skip}, "
            f"{'no limit' if self.max_frames is None else f'limit {self.max_frames} frames'})"
        )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # Kaiser et al. 2020, with the evaluation of Agarwal et al. 2021 (Dopamine labs/atari_100k).
        Protocol(
            "atari100k",
            sticky_actions=0.0,
            life_loss_ends_episode=True,
            full_action_set=False,
            noop_max=30,
        ),
        # Machado et al. 2018 (arXiv 1709.06009): games of 5 minutes. The first author's later code has the same rules:
        # max_num_frames_per_episode 18000, sticky_prob 0.25, getLegalActionSet (atari_environment.py in github.com/
        # mcmachado/count_based_exploration_sr, commit e4d657e). They report training; the evaluation is Dopamine's.
        Protocol(
            "machado",
            sticky_actions=0.25,
            life_loss_ends_episode=False,
            full_action_set=True,
            noop_max=0,
            max_frames=18_000,
        ),
        # Castro et al. 2018 (arXiv 1812.06110): max_steps_per_episode 27000 and epsilon_eval 0.001 in dqn.gin, and the
        # minimal action set that ale-py gives create_atari_environment in atari_lib.py (github.com/google/dopamine,
        # commit 5873f54). Its evaluations have 125,000 steps instead of a number of games.
        Protocol(
            "dopamine",
            sticky_actions=0.25,
            life_loss_ends_episode=False,
            full_action_set=False,
            noop_max=0,
        ),
        # Young & Tian 2019 (arXiv 1903.03176). They have neither a time limit, which is here so that every game ends,
        # nor an evaluation apart from training. Their agents do not clip rewards (examples/dqn.py, AC_lambda.py).
        Protocol(
            "minatar",
            sticky_actions=0.1,
            life_loss_ends_episode=False,
            full_action_set=True,
            noop_max=0,
            frame_skip=1,
            clip_rewards=False,
        ),
        # A game of this project (envs.catch): an episode has nine steps, and rewards are -1, 0 and 1.
        Protocol(
            "catch",
            sticky_actions=0.0,
            life_loss_ends_episode=False,
            full_action_set=False,
            noop_max=0,
            frame_skip=1,
            max_frames=None,
        ),
    )
}
# For a user's environment that declares no rules: no frame skip, no limit, rewards not clipped.
PROTOCOLS["own"] = replace(PROTOCOLS["catch"], name="own", clip_rewards=False)
ATARI = ("atari100k", "dopamine", "machado")
"""The protocols among which a run on Atari chooses; every other environment has rules of its own."""


def resolve_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name; a `Protocol` passes through. Raises ValueError for an unknown name."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise unknown_name("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol]
