"""Whether trained networks of agents still learn as fresh ones do: `python -m agents.fit_probe RUNS...`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from agents.checks import check_kind
from agents.config import DQNConfig
from experiment.config import ConfigError
from experiment.fit_probe import FitCommand, FitConfig
from experiment.storage.run_dir import RunDir, load_settings

if TYPE_CHECKING:
    from experiment.storage.checkpoint import Checkpoint
    from nap.metrics import FitCurves


class AgentFits(FitCommand):
    """Fits on states of the replay of a checkpoint."""

    program, inputs, source = "agents.fit_probe", "states", "its replay"
    check_kind = staticmethod(check_kind)  # type: ignore[assignment]

    def curves(
        self, options: FitConfig, directory: RunDir, saved: Checkpoint, progress: Callable[[int], object]
    ) -> tuple[FitCurves, int]:
        from agents.build import build_agent, build_env, build_fit_probe, build_replay
        from agents.run import restore_agent
        from experiment.determinism import configure
        from experiment.storage.checkpoint import checked_restore
        from experiment.storage.segments import Segments

        if "replay" not in saved.state or saved.rows is None:
            raise ConfigError(f"checkpoint {saved.path} holds no replay, whose states the networks are fitted on")
        config = replace(load_settings(DQNConfig, directory), device="cpu").resolved()
        configure(config.threads, config.seed)
        with closing(build_env(config, config.num_envs, seed=0)) as env:
            agent = build_agent(config, env.frame_shape, env.num_actions, 0, env.stack)
            restore_agent(agent, saved)
            replay = build_replay(config, env, seed=0)
            with checked_restore(saved):
                replay.load_state_dict(saved.state["replay"])
                saved.load_rows(Segments(replay))
            named = {name: getattr(options, name) for name in ("draws", "updates", "lr", "states")}
            probe = build_fit_probe(config, env, **named)
            if options.seed is not None:
                probe = replace(probe, seed=options.seed)
            curves = probe.curves(agent.network.to(options.device), replay, progress)
        if curves is None:
            held = f"its replay has {replay.num_legal():,} states"
            raise ConfigError(f"checkpoint {saved.path}: {held}, fewer than --states {options.states}")
        return curves, agent.updates


main = AgentFits().main

if __name__ == "__main__":
    raise SystemExit(main())
