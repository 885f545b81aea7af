"""The settings of an agent, as a command line and config.yaml have them. Light, as `agents.config` is."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from experiment.setting import setting


@dataclass(frozen=True)
class Settings:
    """Settings of one run. Steps are agent steps: one action of one environment, 4 emulator frames."""

    agent: str | None = setting(None, "run", fixed=True)
    """dqn, rainbow, der, or an own subclass of DQN by its import path, module:Class[:option=value,...]; none: the
    command's."""
    env: str = setting("Breakout", "run", common=True, fixed=True)
    """Game: any ROM that ale-py ships, in the papers' or ALE's spelling; MinAtar/Breakout ...; Catch; an own VectorEnv
    by its import path, module:Class[:option=value,...]; or gym:ID, an environment of Gymnasium that shows pixels. Games
    with commas between are played in sequence."""
    protocol: str = setting("atari100k", "run", fixed=True)
    """Rules of play and scoring. atari100k: a lost life ends a learning episode. dopamine: sticky actions, minimal
    action set, games of at most 108,000 frames. machado: sticky actions, all actions, games of at most 18,000 frames.
    Other environments have rules of their own, whatever a preset says."""
    backend: Literal["ale", "envpool"] = setting("ale", "run", fixed=True)
    """Emulator backend."""
    num_envs: int = setting(1, "run", at_least=1, at_most=4_096, fixed=True)
    """Environments that play side by side."""
    steps: int | None = setting(None, "run", at_least=1, common=True)
    """Budget in agent steps, over all environments; none: 100,000."""
    frames: int | None = setting(None, "run", at_least=4)
    """Budget in frames, instead of --steps (1 agent step is 4 frames of Atari, and as many as other rules say)."""
    seed: int = setting(0, "run", at_least=0, common=True, fixed=True)
    """Decides everything: network, play, exploration and replay."""

    sequence: str | None = setting(None, "games in sequence")
    """Games to play one after another with one network, instead of --env: minatar3, minatar5, atari10, or a list with
    commas, as MinAtar/Asterix,MinAtar/Breakout. Every game has the full action set."""
    task_steps: int | None = setting(None, "games in sequence", at_least=1, fixed=True)
    """Agent steps of each visit to a game; none: --steps, divided by the visits to all games."""
    visits: int = setting(1, "games in sequence", at_least=1, at_most=10_000)
    """How often the list is played."""
    task_replay: Literal["keep", "clear"] = setting("keep", "games in sequence")
    """The replay at a change of game. clear: it begins empty, and updates wait for --update-start steps again."""
    task_epsilon: Literal["restart", "continue"] = setting("restart", "games in sequence")
    """Epsilon at a change of game. restart: it decays from 1 again."""
    task_optimizer: Literal["keep", "fresh"] = setting("keep", "games in sequence")
    """The optimiser at a change of game. fresh: its moments and step counts are 0 again."""
    task_schedule: Literal["continue", "restart"] = setting("continue", "games in sequence", fixed=True)
    """The learning rate. continue: one schedule for the whole run, which knows nothing of games; restart: each visit
    has the schedule of a run of --task-steps, from its start (cyclic with --cycles 1: a cycle a visit)."""
    eval_all: bool = setting(False, "games in sequence")
    """Evaluate on all games at the end of each visit, and not on its own alone: shows what is forgotten."""

    network: str = setting("small", "network", fixed=True)
    """nature: 3 convolutions and 512 units (Mnih 2015); dopamine: the same, padded; small: 2 convolutions and 256 units
    (van Hasselt 2019); impala, impala:width=0.5 ...: 15 convolutions with residual sums and 256 units (Espeholt 2018);
    minatar: 1 convolution and 128 units (Young & Tian 2019), what its games get; or an own encoder by its import path,
    module:Class[:option=value,...]."""
    pool: Literal["none", "gap"] = setting("none", "network", fixed=True)
    """What follows the convolutions. gap: each channel's mean over all positions (Impoola, arXiv 2503.05546)."""
    utd: Fraction = setting(Fraction(1), "learning", above=0, at_most=1_000, common=True)
    """Updates per agent step, any positive rational: 8, 0.25, 3/7."""
    batch_size: int = setting(32, "learning", at_least=1, at_most=1_000_000)
    """Transitions in a minibatch."""
    n_step: int = setting(10, "learning", at_least=1)
    """Rewards summed before bootstrapping, in agent steps."""
    n_step_final: int | None = setting(None, "learning", at_least=1)
    """n that --n-step goes to, exponentially in --anneal-updates, from the start and after each reset; none: it stays.
    The methods reset and shrink-perturb reset."""
    gamma: float = setting(0.99, "learning", above=0, at_most=1)
    """Discount per agent step."""
    gamma_final: float | None = setting(None, "learning", above=0, at_most=1)
    """Discount that --gamma goes to, in the same way (1 - gamma does so exponentially); none: it stays."""
    anneal_updates: int = setting(10_000, "learning", at_least=1)
    """Updates that --n-step and --gamma take to their final values."""
    double_q: bool = setting(True, "learning")
    """Choose the next action with the online network (double Q-learning)."""
    dueling: bool = setting(False, "network", fixed=True)
    """Values as the sum of a state's value and the actions' advantages (dueling network)."""
    streams: Literal["separate", "shared"] = setting("separate", "network", fixed=True)
    """Dueling: a hidden layer for each of the two (Wang et al. 2016), or one for both (Dopamine)."""
    noisy: bool = setting(False, "network", fixed=True)
    """Explore by learned noise on the weights behind the convolutions (noisy networks), in addition to epsilon."""
    noisy_sigma: float = setting(0.5, "network", at_least=0, at_most=100, fixed=True)
    """Noisy: size of the noise at first, over the root of a layer's inputs."""
    distribution: Literal["none", "c51", "quantile"] = setting("none", "network", fixed=True)
    """Learn the distribution of returns: over fixed atoms (C51) or as quantiles (QR-DQN); none: the mean alone."""
    atoms: int = setting(51, "network", at_least=2, at_most=1_001, fixed=True)
    """c51: atoms, spread evenly from --v-min to --v-max."""
    v_min: float = setting(-10.0, "network", at_least=-1e6, at_most=1e6, fixed=True)
    """c51: least return that an atom stands for."""
    v_max: float = setting(10.0, "network", at_least=-1e6, at_most=1e6, fixed=True)
    """c51: largest return that an atom stands for."""
    quantiles: int = setting(200, "network", at_least=1, at_most=1_001, fixed=True)
    """quantile: quantiles of each action."""
    prioritised: bool = setting(False, "replay", fixed=True)
    """Replay transitions in proportion to (loss + --priority-epsilon) ** --priority-alpha, their loss of the last time
    (prioritised replay). Priorities are set after each --block, within which they are stale; --block 1: never."""
    priority_alpha: float = setting(0.5, "replay", at_least=0, at_most=1)
    """Prioritised: 0 is uniform. Of a loss, whose root is what the paper's TD error is near 0."""
    priority_epsilon: float = setting(1e-10, "replay", at_least=1e-30, at_most=1)
    """Prioritised: added to each loss."""
    priority_beta: float = setting(0.4, "replay", at_least=0, at_most=1)
    """Prioritised: exponent of the importance weights at first."""
    priority_beta_final: float = setting(1.0, "replay", at_least=0, at_most=1)
    """Prioritised: exponent of the importance weights at the end of the budget, reached linearly."""
    augment: Literal["none", "drq"] = setting("none", "learning")
    """Random shifts and intensities of the observations that are learned from (DrQ)."""
    clip_rewards: bool | None = setting(None, "learning")
    """Learn from rewards clipped to -1..1; none: as the rules say, clipped in Atari. Scores are raw in any case."""
    replay_capacity: int = setting(100_000, "replay", at_least=1, fixed=True)
    """Agent steps that the replay holds (7.06 kB each)."""
    update_start: int = setting(1_600, "learning", at_least=0, fixed=True)
    """Agent steps played before updates are earned."""
    target_period: int = setting(1_000, "learning", at_least=1)
    """Agent steps between copies to the target network."""
    epsilon_final: float = setting(0.01, "exploration", at_least=0, at_most=1)
    """Share of random actions at the end of the decay from 1."""
    epsilon_steps: int = setting(5_000, "exploration", at_least=0)
    """Length of the decay of epsilon, in agent steps."""

    lr: float = setting(3e-4, "learning rate", at_least=1e-12, at_most=10, common=True)
    """Adam's learning rate: the schedule's peak."""
    schedule: str = setting("auto", "learning rate", common=True)
    """Learning rate from --update-start to the end of the budget: constant, linear, cosine, one-cycle, cyclic,
    early-cycle, delayed-cosine, cusum, page-hinkley, early-cycle-cusum, early-cycle-plateau, or an own nap.Schedule by
    its import path, module:Class[:option=value,...]. auto: early-cycle with NaP or hyperball, else constant. cusum and
    page-hinkley restart it when the mean TD error, read every --log-interval, has risen. early-cycle-cusum goes on
    cycling while CUSUM finds shifts of the TD error of the newest transitions, early-cycle-plateau while returns rise.
    """
    lr_floor: float = setting(3e-5, "learning rate", at_least=0, at_most=10)
    """Lowest learning rate of the schedule; one by import path takes its own: module:Class:floor=1e-5, if it has that
    option."""
    cycles: int = setting(10, "learning rate", at_least=1)
    """Warm restarts in the cycling part of the schedule (cyclic, early-cycle). cusum, page-hinkley: a restart takes
    the steps of the schedule divided by this."""
    cycle_fraction: float = setting(0.2, "learning rate", above=0, at_most=1)
    """Share of the schedule in which early-cycle cycles. early-cycle-cusum, early-cycle-plateau: only the length of a
    cycle follows from it, as there."""
    cycle_patience: int = setting(3, "learning rate", at_least=1)
    """early-cycle-cusum, early-cycle-plateau: cycles without a change, one after another, that end the cycling."""
    anneal: Literal["floor", "linear", "cosine"] = setting("cosine", "learning rate")
    """early-cycle and its kin after the cycling: stay at the floor, or go there from the peak linearly or as a
    cosine."""
    lr_delay: int = setting(0, "learning rate", at_least=0)
    """delayed-cosine: agent steps at the floor before the warm-up, from --update-start on."""
    lr_warmup: int = setting(0, "learning rate", at_least=0)
    """cyclic, delayed-cosine, cusum, page-hinkley: agent steps from the floor to the peak, before the cosine."""
    rewarm_threshold: float = setting(10.0, "learning rate", at_least=0, at_most=1e6)
    """cusum, page-hinkley: evidence that restarts the schedule, in standard deviations of the log of the TD error."""
    adam_eps: float = setting(1.5e-4, "learning", at_least=1e-30, at_most=1)
    """Adam's epsilon."""
    weight_decay: float = setting(0.0, "learning", at_least=0, at_most=1e9)
    """Decoupled weight decay (AdamW), per update and unit of learning rate."""
    max_grad_norm: float | None = setting(None, "learning", at_least=1e-6, at_most=1e6)
    """Norm to which the gradient of all weights together is cut; none: it is not."""

    nap: bool = setting(False, "plasticity", common=True)
    """Normalize-and-Project; shorthand for --plasticity nap."""
    nap_norm: Literal["layer", "rms"] = setting("layer", "plasticity")
    """NaP: the norm before every nonlinearity."""
    nap_axes: Literal["channels", "channels_and_space"] = setting("channels", "plasticity")
    """NaP: what a convolution's norm is taken over."""
    nap_every: int = setting(1, "plasticity", at_least=1)
    """NaP: updates between projections."""
    nap_affine: Literal["free", "decay", "joint"] = setting("joint", "plasticity")
    """NaP: scale and offset of norms. joint: projected as a pair; decay: drawn to their start; free: left alone."""
    plasticity: tuple[str, ...] = setting((), "plasticity", common=True)
    """Methods against loss of plasticity, in order (listed above): name or module:Class, each with :option=value,... if
    others than the published ones are wanted, as in redo:period=100,tau=0.1. The option may be repeated."""

    device: str = setting("cpu", "machine", role="machine")
    """Device of networks and replay: cpu, cuda, cuda:1 ..."""
    precision: Literal["fp32", "bf16", "auto"] = setting("fp32", "machine")
    """bf16: passes in bfloat16, on copies of fp32 weights that Adam updates. auto: bf16 where the device has
    instructions for it and the frames are large enough to gain, else fp32."""
    compile: Literal["auto", "true", "false"] = setting("auto", "machine", role="machine")
    """Compile the loss with torch.compile. auto: where that works, which is tried before training."""
    threads: int = setting(0, "machine", role="machine", at_least=0, at_most=1_024)
    """CPU threads of torch; 0: all cores. Part of what decides the bits of a run."""
    overlap: bool = setting(False, "machine")
    """Let the emulator play while the learner updates; the updates then miss the newest step."""
    block: int = setting(8, "machine", at_least=1, at_most=1_024)
    """Most updates that share one replay call and one pass of the target network."""

    on_nonfinite: Literal["stop", "skip"] = setting("stop", "logging", role="observing", changeable=True)
    """When a loss or gradient is NaN or infinite. stop: end the run at the next row of metrics, the checkpoint from
    before intact; skip: leave the optimiser's step out, not what methods do after it, and count it in
    skipped_updates."""
    log_interval: int | None = setting(None, "logging", at_least=1)
    """Agent steps between rows in metrics.jsonl; none: about a hundredth of the budget, from 10 to 1,000."""
    probe_interval: int | None = setting(None, "logging", role="observing", at_least=0)
    """Agent steps between measurements on 256 states, drawn from the replay when learning starts: dormant units, ranks,
    policy churn. The first is before the first update (or when the replay holds 256 steps), the last at the end; 0: no
    measurements; none: about a tenth of the budget, from 100 to 10,000."""
    fit_probe_interval: int = setting(0, "logging", role="observing", at_least=0)
    """Agent steps between fits of random targets by copies of the network and by fresh networks, on 256 states of the
    replay: 2,000 small updates each time. 0: none. Of a checkpoint: python -m agents.fit_probe."""
    checkpoint_interval: int = setting(10_000, "logging", role="observing", at_least=0)
    """Agent steps between checkpoints; 0: only at the end or when interrupted."""
    keep_checkpoints: Literal["every"] | int = setting(2, "logging", role="observing", at_least=1, metavar="every|N")
    """Checkpoints that are kept, the newest; every: all."""
    checkpoint_at: tuple[str, ...] = setting((), "logging", role="observing", changeable=True, metavar="STEP,...")
    """Steps at which a checkpoint is saved in addition, and kept."""
    eval_episodes: int | None = setting(None, "evaluation", at_least=0, at_most=1_000_000)
    """Games of the final evaluation; none: the protocol's number; 0: no evaluation."""
    eval_epsilon: float | None = setting(None, "evaluation", at_least=0, at_most=1)
    """Share of random actions in an evaluation; none: the protocol's."""
    eval_noise: bool = setting(False, "evaluation")
    """Noisy: evaluate with noise on the weights, as DQN Zoo does; Dopamine turns it off."""
    fork: str | None = setting(None, "run directory", role="identity", common=True, metavar="RUN[@STEP]")
    """Begin at a checkpoint of another run, the newest or that of a step, with its settings except those that are given
    (docs/running.md)."""
    fork_step: int | None = setting(None, "run directory", at_least=1)
    """The step of that checkpoint; --fork RUN@STEP sets it."""
    fork_hash: str | None = setting(None, "run directory", role="identity")
    """The hash of that checkpoint's parameters; none: any, and config.yaml says which it was."""
    fork_changed: str | None = setting(None, "run directory", role="identity")
    """The settings of that run that the fork changed, which config.yaml says: no option to give."""
    track: Literal["none", "wandb", "tensorboard"] = setting("none", "logging", role="observing", changeable=True)
    """Tracker in addition to metrics.jsonl. tensorboard: event files in the run directory."""
    name: str | None = setting(None, "run directory", role="identity", common=True)
    """Name of the run directory; none: made from the settings and the time."""
    root: str = setting("run", "run directory", role="identity")
    """Folder of the run directories."""
    resume: str | None = setting(None, "run directory", role="identity", common=True)
    """A run directory to go on with, or auto: the newest unfinished run of these settings, if there is one."""
