"""A new agent is a subclass that overrides one point of the computation; every option of the family is its option too.

python -m examples.new_agent --env Pong --nap --utd 2 --distribution c51 --prioritised
"""

from __future__ import annotations

if __name__ == "__main__":  # the command line answers before torch is imported
    from agents.cli import main

    raise SystemExit(main("examples.new_agent:AdvantageLearning"))

from agents.dqn import DQN
from agents.values import chosen


class AdvantageLearning(DQN):
    """Widens the gap between the best action and the others (Bellemare et al. 2016, arXiv 1512.04860, eq. 7).

    The reward loses `alpha` times what the action taken is worth less than the best one, by the target network.
    """

    alpha = 0.9

    def targets(self, batch):
        values = self.values.mean(self.target(batch["obs"])).float()
        gap = values.amax(-1) - chosen(values, batch["action"])
        return super().targets(batch.replace({"reward": batch["reward"] - self.alpha * gap}))
