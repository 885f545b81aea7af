"""Play a saved agent: `python -m agents.evaluate RUN`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.checks import check_kind
from agents.config import DQNConfig
from envs.registry import resolve_game
from experiment.config import ConfigError, exit_on_bad_input, parse_cli
from experiment.interrupt import cli_session
from experiment.setting import check_ranges, setting
from experiment.storage.files import to_json, write_atomic
from experiment.storage.run_dir import RunDir, load_settings
from experiment.values import suggest

if TYPE_CHECKING:
    from agents.playing.video import Recorder


@dataclass(frozen=True)
class EvaluateConfig:
    """What to play."""

    run: str = field(default="", metadata={"positional": True, "metavar": "RUN"})
    """Run directory; its newest good checkpoint is played."""
    game: str | None = None
    """Which game of a run that plays games in sequence; none: the one that it played at that checkpoint."""
    episodes: int | None = setting(None, at_least=1)
    """Games to play; none: the protocol's number."""
    seed: int | None = setting(None, at_least=0)
    """Seed of the games; none: that of the run's own evaluation."""
    device: str | None = None
    """Device of the network: cpu, cuda, cuda:1 ...; none: the run's."""
    video: str | None = None
    """Film the first game: a file .mp4, or a folder for one. In colour with the ale backend, at real speed. An
    existing file is replaced."""
    video_episodes: int = setting(1, at_least=1)
    """Games in the video, one after another. They are games of the first of the 10 environments."""
    out: str | None = None
    """File .json for the score, its rules and each game: return, length, whether it was cut. An existing file is
    replaced."""

    def check(self) -> None:
        """Raise ConfigError for what cannot be played."""
        if not self.run:
            raise ConfigError("name a run directory: python -m agents.evaluate RUN")
        check_ranges(self)
        if self.video is None and self.video_episodes > 1:
            raise ConfigError(f"--video-episodes {self.video_episodes} needs --video: a file .mp4, or a folder")
        if self.out is not None:
            check_out(Path(self.out))


def check_out(path: Path) -> None:
    """ConfigError for a file of scores that cannot be written, or that would replace a run's result."""
    if path.suffix != ".json" or path.is_dir():
        raise ConfigError(f"--out {str(path)!r}: name a file that ends in .json")
    if path.name == "result.json":
        raise ConfigError(f"--out {str(path)!r}: that is the name of a run's own result, choose another")
    if not path.parent.is_dir():
        raise ConfigError(f"--out {str(path)!r}: there is no folder {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--out {str(path)!r}: nothing can be written in folder {str(path.parent)!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Load, play and print the score with its protocol."""
    with cli_session():
        with exit_on_bad_input():
            options = parse_cli(
                EvaluateConfig,
                argv,
                prog="python -m agents.evaluate",
                description="Play games with a saved agent, under the rules of its protocol.",
            )
            options.check()
            directory = RunDir.open(options.run)
            check_kind(directory)
            config = load_settings(DQNConfig, directory)
            config = replace(config, device=options.device or config.device).resolved()
            from agents.playing import evaluation
            from agents.playing.evaluation import evaluated_policy, format_score, rules_of, rules_played, score, summary
            from agents.run import load_agent
            from experiment.determinism import configure, environment

            configure(config.threads, config.seed)
            agent, step = load_agent(config, directory)
            episodes = options.episodes or config.rules.evaluation_episodes
            game, visit = played_game(config, options.game, step), config.tasks.after(step)
            seed = evaluation.evaluation_seed(config, visit, game) if options.seed is None else options.seed
            film = re.sub(r"[^\w.-]+", "-", f"{game}-{step}")
            recorder = _recorder(options, episodes, film)
        with exit_on_bad_input(), nullcontext() if recorder is None else closing(recorder):
            games = score(config, evaluated_policy(config, agent), episodes, seed, recorder=recorder, game=game)
        print(f"{game}, agent step {step:,}: {rules_of(config, games.limit).summary()}")
        print(format_score(config, game, games))
        if recorder is not None:
            print(recorder.summary())
        if options.out is None:
            return 0
        outcome = {
            "run": str(directory.path),
            "agent_steps": step,
            "agent": config.agent,
            "game": game,
            "score": summary(game, games),
            "protocol": rules_played(config, episodes, games.limit),
            "backend": config.backend,
            "seed": seed,
            "environment": environment(),
        }
        return _write(Path(options.out), outcome)


def played_game(config: DQNConfig, wanted: str | None, step: int) -> str:
    """The game to play with the agent of a step; ConfigError for one that the run does not play."""
    if wanted is None:
        return config.tasks.after(step).game
    try:
        game = resolve_game(wanted)
    except ValueError as error:
        raise ConfigError(f"--game: {error}") from None
    if game not in config.games:
        raise ConfigError(f"--game {wanted}: the run does not play it{suggest(game, config.games, list_all=True)}")
    return game


def _write(path: Path, outcome: dict[str, Any]) -> int:
    """The exit code: 1 if the file could not be written."""
    try:
        write_atomic(path, to_json(outcome, indent=2) + "\n")
    except OSError as error:
        print(f"warning: {path} could not be written: {error.strerror}", file=sys.stderr)
        return 1
    print(f"scores: {path}")
    return 0


def _recorder(options: EvaluateConfig, episodes: int, name: str) -> Recorder | None:
    """The recorder of the evaluation, or None without --video. Raises ConfigError for what cannot be filmed."""
    if options.video is None:
        return None
    from agents.playing.evaluation import most_filmed
    from agents.playing.video import Recorder, video_file

    if options.video_episodes > (most := most_filmed(episodes)):
        have = f"of {episodes} games the first environment plays {most}"
        raise ConfigError(f"--video-episodes is {options.video_episodes}, and {have}: give fewer, or more --episodes")
    return Recorder(video_file(options.video, name), options.video_episodes)


if __name__ == "__main__":
    raise SystemExit(main())
