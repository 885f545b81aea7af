"""What no run of an agent can have: settings out of range, unknown names, and settings that contradict one another."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agents.names import AGENTS, CLOSED_LOOP, EARLY_CYCLE, NETWORKS, SCHEDULES, STACK
from envs.protocol import ATARI, PROTOCOLS
from experiment.command_line import shell
from experiment.config import ConfigError
from experiment.part import check_part
from experiment.processor import check_device
from experiment.setting import check_ranges
from experiment.values import suggest
from plasticity.registry import parse_option

if TYPE_CHECKING:
    from agents.config import DQNConfig
    from experiment.storage.run_dir import RunDir

LEAST_SIDE = 21
"""Pixels of a frame's shorter side that DrQ's shifts need: five times the largest of them."""

STUDIES = {"operation": "studies.grokking", "dataset": "studies.warm_start"}
"""A setting that the runs of each study have and those of agents do not."""


def check_kind(run: RunDir) -> None:
    """ConfigError for the directory of a study's run: what reads runs of agents cannot read it."""
    text = run.config.read_text(encoding="utf-8", errors="replace") if run.config.is_file() else ""
    for key, study in STUDIES.items():
        if re.search(rf"^{key}:", text, re.MULTILINE):
            draw = shell("python", "-m", f"{study}.figures", run.path)
            raise ConfigError(f"{str(run.path)!r} is a run of a study, not of an agent; its figures: {draw}")


def check(config: DQNConfig) -> None:
    """ConfigError for the first setting that no run can have, or that contradicts another."""
    check_ranges(config)
    _check_game(config)
    _check_sequence(config)
    if config.steps is not None and config.frames is not None and not config.is_sequence:
        raise ConfigError("--steps and --frames both set the budget: leave one out (a preset's: --steps none)")
    if config.frames is not None and config.frames % config.rules.frame_skip and not config.is_sequence:
        raise ConfigError(f"--frames is {config.frames}: it has to be a multiple of {config.rules.frame_skip}")
    own = ":" in config.schedule  # its floor is an option of its path
    if config.resolved_schedule != "constant" and not own and config.lr_floor > config.lr:
        raise ConfigError(f"--lr-floor is {config.lr_floor}: it has to be at most the peak, --lr {config.lr}")
    if config.gamma_final is not None and max(config.gamma, config.gamma_final) == 1:
        pair = f"--gamma {config.gamma:g} and --gamma-final {config.gamma_final:g}"
        raise ConfigError(f"{pair}: both have to be below 1, as one goes to the other exponentially in 1 - gamma")
    if config.weight_decay * config.lr > 1:
        decay = f"--weight-decay {config.weight_decay:g} times --lr {config.lr:g}"
        raise ConfigError(f"{decay} has to be at most 1: an update takes that share off each weight")
    _check_updates_can_happen(config)
    _check_parts_of_the_schedule(config)
    check_device(config.device)
    _check_methods(config)
    _check_agent(config)


def _check_game(config: DQNConfig) -> None:
    environment = config.environment
    if config.backend == "envpool":
        try:
            for game in config.games:
                environment.check_envpool(game)
        except ValueError as error:
            raise ConfigError(f"--backend envpool: {error}") from None
    if environment.rules is None and config.protocol not in ATARI:
        near = "" if config.protocol in PROTOCOLS else suggest(config.protocol, ATARI)
        choices = f"it has to be one of {', '.join(ATARI)}{near}"
        raise ConfigError(f"--protocol {config.protocol!r} is not for {config.played}: {choices}")
    if environment.side is not None:
        check_side(config, environment.side)


def _check_sequence(config: DQNConfig) -> None:
    """What games in sequence cannot have, and what is for them alone."""
    if not config.is_sequence:
        for given, off in ((config.task_steps is not None, "--task-steps none"), (config.visits > 1, "--visits 1")):
            if given:
                give = f"give --sequence, or a list of games as --env (a preset's: {off})"
                raise ConfigError(f"{off.partition(' ')[0]} is for games in sequence: {give}")
        return
    tasks = config.tasks
    if tasks.task_steps % config.num_envs:
        raise ConfigError(f"--task-steps {tasks.task_steps}: it has to be a multiple of --num-envs {config.num_envs}")
    if tasks.task_steps <= config.update_start:
        raise ConfigError(
            f"--task-steps {tasks.task_steps}: it has to be above --update-start {config.update_start}, before which "
            "nothing is learned"
        )
    if config.task_schedule == "restart" and config.resolved_schedule in (*CLOSED_LOOP, *EARLY_CYCLE[1:]):
        finds = f"{config.resolved_schedule} finds by itself when to restart"
        raise ConfigError(f"--task-schedule restart: {finds}: leave one of the two out")


def check_side(config: DQNConfig, side: int) -> None:
    """ConfigError if the settings need larger frames than those whose shorter side has `side` pixels."""
    if config.augment == "drq" and side < LEAST_SIDE:
        least = f"--augment drq shifts by up to 4 pixels, too many where a side of a frame has {side}"
        raise ConfigError(f"{least}: give --augment none")


def _check_agent(config: DQNConfig) -> None:
    check_part("agent", config.agent or "dqn", AGENTS)
    check_part("network", config.network, NETWORKS, options=True)
    check_part("schedule", config.schedule, SCHEDULES)
    if not config.v_max - config.v_min > 1e-3 * max(abs(config.v_min), abs(config.v_max), 1e-3):
        raise ConfigError(
            f"--v-min {config.v_min:g} has to be below --v-max {config.v_max:g}, and not as good as equal"
        )


def _check_parts_of_the_schedule(config: DQNConfig) -> None:
    steps = config.schedule_steps
    cycling = round(config.cycle_fraction * steps) if config.resolved_schedule in EARLY_CYCLE else steps
    if config.resolved_schedule in ("cyclic", *EARLY_CYCLE, *CLOSED_LOOP) and 0 < cycling < config.cycles:
        where = "of each visit " if config.task_schedule == "restart" else ""
        raise ConfigError(
            f"--cycles is {config.cycles}, and there are {cycling} agent steps {where}for them: give fewer"
        )
    if config.resolved_schedule == "early-cycle-cusum":
        _check_rows_of_a_cycle(config, cycling / config.cycles)
    delay = config.lr_delay if config.resolved_schedule == "delayed-cosine" else 0
    restarts = config.resolved_schedule in ("cyclic", *CLOSED_LOOP)
    warms = restarts or config.resolved_schedule == "delayed-cosine"
    whole = steps // config.cycles if restarts else steps
    if warms and (delay + config.lr_warmup > whole or (restarts and config.lr_warmup == whole)):
        parts = f"--lr-delay {delay} and --lr-warmup" if delay else "--lr-warmup"
        raise ConfigError(f"{parts} {config.lr_warmup} leave nothing of the schedule's {whole} agent steps")
    ends = config.resolved_schedule in EARLY_CYCLE[1:] or (
        config.resolved_schedule == "early-cycle" and config.cycle_fraction < 1
    )
    if ends and config.anneal == "floor" and config.lr_floor == 0:
        raise ConfigError("--anneal floor with --lr-floor 0 learns nothing after the cycles: give another of them")


def _check_rows_of_a_cycle(config: DQNConfig, steps: float) -> None:
    """What CUSUM receives: often enough in each cycle, and not so often that neighbours sum the same rewards."""
    if 8 * config.steps_per_row > steps:
        cycle = f"--log-interval {config.steps_per_row}, and a cycle has {steps:g} agent steps"
        raise ConfigError(f"{cycle}: early-cycle-cusum needs 8 rows of metrics in each, a smaller interval")
    if 8 * config.num_envs > steps:
        cycle = f"--num-envs {config.num_envs}, and a cycle has {steps:g} agent steps"
        raise ConfigError(f"{cycle}: early-cycle-cusum needs 8 rows of metrics in each, fewer environments")
    apart = max(config.n_step, config.n_step_final or 0) * config.num_envs
    if config.steps_per_row < apart:
        rows = f"early-cycle-cusum needs rows that share no reward, --n-step times --num-envs = {apart} steps apart"
        raise ConfigError(f"--log-interval {config.steps_per_row}: {rows}, a larger interval")


def _check_methods(config: DQNConfig) -> None:
    if any(method.name == "nap" and method.options for method in parse_option(config.methods)):
        raise ConfigError("--plasticity nap takes its options as --nap-norm, --nap-axes, --nap-every, --nap-affine")


def _check_updates_can_happen(config: DQNConfig) -> None:
    if config.update_start >= config.budget:
        raise ConfigError(
            f"--update-start {config.update_start} is not below the budget of {config.budget} agent steps"
        )
    rows = config.replay_steps // config.num_envs
    n_step = max(config.n_step, config.n_step_final or 0)
    if (rows - n_step - max(STACK, config.environment.stack)) * config.num_envs < config.batch_size:
        raise ConfigError(
            f"a replay of {rows * config.num_envs} agent steps is too small for --batch-size {config.batch_size}, "
            f"--n-step {n_step} and --num-envs {config.num_envs}"
        )
