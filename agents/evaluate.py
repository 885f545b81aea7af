"""Play a saved agent: `python -m agents.evaluate RUN`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agents.config import DQNConfig
from experiment.config import ConfigError, exit_on_bad_input, load_yaml, parse_cli
from experiment.interrupt import terminal_manners
from experiment.run_dir import RunDir

if TYPE_CHECKING:
    from agents.video import Recorder


@dataclass(frozen=True)
class EvaluateConfig:
    """What to play."""

    run: str = field(default="", metadata={"positional": True, "metavar": "RUN"})
    """Run directory; its newest good checkpoint is played."""
    episodes: int | None = None
    """Whole games to play; none: the protocol's number."""
    seed: int | None = None
    """Seed of the games; none: that of the run's own evaluation."""
    device: str | None = None
    """Device of the network: cpu, cuda, cuda:1 ...; none: the run's."""
    video: str | None = None
    """Film the first game in a file .mp4, or in a folder: in colour with the ale backend, at real speed. A file that
    is there is replaced."""
    video_episodes: int = 1
    """Games in the video, one after another: of those that the first of the 10 environments plays."""

    def check(self) -> None:
        """Raise ConfigError for what cannot be played."""
        if not self.run:
            raise ConfigError("name a run directory: python -m agents.evaluate RUN")
        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"--episodes is {self.episodes}: it has to be at least 1")
        if self.video_episodes < 1:
            raise ConfigError(f"--video-episodes is {self.video_episodes}: it has to be at least 1")
        if self.video is None and self.video_episodes > 1:
            raise ConfigError(f"--video-episodes {self.video_episodes} needs --video: a file .mp4, or a folder")
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"--seed is {self.seed}: it has to be at least 0")


def main(argv: Sequence[str] | None = None) -> int:
    """Load, play and print the score with its protocol."""
    with terminal_manners():
        with exit_on_bad_input():
            options = parse_cli(
                EvaluateConfig,
                argv,
                prog="python -m agents.evaluate",
                description="Play whole games with a saved agent, under the rules of its protocol.",
                presets={},
            )
            options.check()
            directory = RunDir.open(options.run)
            config = load_yaml(DQNConfig, directory.config)
            config = replace(config, device=options.device or config.device).resolved()
            from agents.evaluation import evaluated_policy, score, verdict
            from agents.run import load_agent
            from experiment.determinism import configure, seeds

            configure(config.threads, config.seed)
            agent, step = load_agent(config, directory)
            seed = seeds(config.seed, "evaluation")["evaluation"] if options.seed is None else options.seed
            episodes = options.episodes or config.rules.evaluation_episodes
            recorder = _recorder(options, episodes, f"{config.env.replace('/', '-')}-{step}")
        print(f"{config.env}, agent step {step:,}: {config.rules.summary()}")
        with nullcontext() if recorder is None else closing(recorder):
            scores = score(config, evaluated_policy(config, agent), episodes, seed, recorder=recorder)
        print(verdict(config, scores))
        if recorder is not None:
            print(recorder.summary())
    return 0


def _recorder(options: EvaluateConfig, episodes: int, name: str) -> Recorder | None:
    """What films the evaluation, if that is asked for. Raises ConfigError for what cannot be filmed."""
    if options.video is None:
        return None
    from agents.evaluation import most_filmed
    from agents.video import Recorder, video_file

    if options.video_episodes > (most := most_filmed(episodes)):
        have = f"of {episodes} games the first environment plays {most}"
        raise ConfigError(f"--video-episodes is {options.video_episodes}, and {have}: give fewer, or more --episodes")
    return Recorder(video_file(options.video, name), options.video_episodes)


if __name__ == "__main__":
    raise SystemExit(main())
