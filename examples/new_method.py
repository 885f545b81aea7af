"""A new method is one class behind the interface, and its import path is its name; nothing is edited.

python -m agents.dqn --env Pong --plasticity examples.new_method:MyMethod:scale=1e-4
"""

import torch

from plasticity.method import Method, check_number, make_generator


class MyMethod(Method):
    """Adds Gaussian noise to every weight matrix after each update, `scale` times the matrix's own spread."""

    def __init__(self, scale: float = 1e-3, seed: int = 0):
        self.scale, self.seed = check_number("MyMethod: scale", scale), seed

    @property
    def is_off(self):
        return not self.scale

    def attach(self, network, target, optimizer):
        self.weights = [p for p in network.parameters() if p.ndim > 1]
        self.generator = make_generator(network, self.seed)

    @torch.no_grad()
    def after_update(self, update, features=None):
        for weight in () if self.is_off else self.weights:
            noise = torch.empty_like(weight).normal_(generator=self.generator)
            weight.add_(noise * weight.std(), alpha=self.scale)

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"].cpu())
