"""Whether a network still learns as a fresh one does: fits of random targets on states of the replay."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from agents.training.monitor import STATES, draw_states
from experiment.fits import FitSummary
from nap.metrics import FitCurves, fit_random_targets
from replay import FrameReplay


@dataclass(frozen=True)
class FitProbe:
    """Fits copies of a network, and fresh ones, to random targets: `nap.metrics.fit_random_targets`.

    fresh: makes a network as the run's was at its start, of another draw each time. seed: of states and draws.
    """

    fresh: Callable[[], nn.Module]
    seed: int
    draws: int = 5
    updates: int = 200
    lr: float = 1e-3
    states: int = STATES

    def curves(
        self, network: nn.Module, replay: FrameReplay, progress: Callable[[int], object] = lambda done: None
    ) -> FitCurves | None:
        """The errors of the fits; None if the replay has too few states. Network, replay and generators stay."""
        states = draw_states(replay, self.states, self.seed)
        return None if states is None else self.curves_on(network, states, progress)

    def curves_on(
        self, network: nn.Module, states: Tensor, progress: Callable[[int], object] = lambda done: None
    ) -> FitCurves:
        """The errors of the fits on given states."""
        states = states.to(next(network.parameters()).device)
        options = {"draws": self.draws, "updates": self.updates, "lr": self.lr}
        return fit_random_targets(network, states, self.fresh, **options, seed=self.seed, progress=progress)  # type: ignore[arg-type]

    def metrics(self, network: nn.Module, replay: FrameReplay, agent_step: int) -> dict[str, float]:
        """What a run logs of the fits, nothing while the replay holds too few states."""
        try:
            curves = self.curves(network, replay)
        except ValueError as error:  # such as outputs that are NaN, which the monitor reports
            warnings.warn(f"agent step {agent_step:,}, no fits of random targets: {error}", stacklevel=2)
            curves = None
        return {} if curves is None else FitSummary.of(curves).metrics()
