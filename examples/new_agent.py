"""A new agent is a subclass that overrides one point of the computation; every option of the family is its option too.

python -m agents.dqn --agent examples.new_agent:AdvantageLearning:alpha=0.5 --env Pong --nap --utd 2 --prioritised
"""

from agents.dqn import DQN
from agents.values import chosen


class AdvantageLearning(DQN):
    """Widens the gap between the best action and the others (Bellemare et al. 2016, arXiv 1512.04860, eq. 7).

    The reward loses `alpha` times what the action taken is worth less than the best one, by the target network.
    """

    def __init__(self, *parts, alpha: float = 0.9, **options):
        super().__init__(*parts, **options)
        self.alpha = alpha

    def targets(self, batch):
        values = self.values.mean(self.target(batch["obs"])).float()
        gap = values.amax(-1) - chosen(values, batch["action"])
        return super().targets(batch.replace({"reward": batch["reward"] - self.alpha * gap}))
