"""UPGD, utility-based perturbed gradient descent (Elsayed & Mahmood 2024)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from plasticity.method import SEED, Method, check_number, check_whole, make_generator
from plasticity.trainable import trainable_parameters


class UPGD(Method):
    """Protect useful weights, perturb the others.

    A weight's utility is the running mean (with `beta`) of −∇loss·w, which estimates by how much the loss would rise if
    the weight were 0. Each step of the optimiser becomes w ← (1 − lr·decay)·w + 2·(1 − u)·(step − lr·sigma·ξ). There u
    is the sigmoid of the utility, corrected for its start at 0, over the largest uncorrected utility of all weights,
    and ξ is standard normal noise. A weight of utility 0 (u = 1/2) takes the usual step, the most useful one about half
    of it, and harmful ones more. If all utilities are negative, so is the largest, and the order turns round: steps are
    at most about half of the usual, and the most harmful weight takes the shortest. In the first 1/(1 − beta) updates
    the correction makes u nearly 0 or 1. Both are as in the authors' code.

    The optimiser makes its own step; two hooks of it change the result before any other method sees it. With Adam this
    is the authors' AdaptiveUPGD, with SGD their UPGD. A decay inside the optimiser's step is scaled as the step is.
    With `hyperball` a step keeps its direction and loses its length. The target network is not changed.

    sigma: noise per unit of learning rate. decay: in addition to the optimiser's. There is no value that switches the
    method off. Source: arXiv 2404.00781 and its authors' code, with the values of its AdaptiveUPGD for PPO. There is no
    published value for Atari.
    """

    def __init__(self, sigma: float = 1e-3, beta: float = 0.999, decay: float = 1e-3, seed: int = SEED):
        self.sigma = check_number("upgd: sigma", sigma)
        self.beta = check_number("upgd: beta", beta, high=1.0)
        if beta == 1:
            raise ValueError("upgd: beta=1: utilities would stay 0; it has to be below 1")
        self.decay = check_number("upgd: decay", decay)
        self.seed = check_whole("upgd: seed", seed)

    def attach(self, network: nn.Module, target: nn.Module | None, optimizer: Optimizer) -> None:
        """Hook the optimiser's step."""
        self.generator = make_generator(network, self.seed)
        self.parameters = trainable_parameters(network)
        self.before = [torch.empty_like(parameter) for parameter in self.parameters]
        self.utilities = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)

    @torch.no_grad()
    def _before_step(self, *_: object) -> None:
        torch._foreach_copy_(self.before, [parameter.detach() for parameter in self.parameters])

    @torch.no_grad()
    def _after_step(self, optimizer: Optimizer, *_: object) -> None:
        self.steps += 1
        learned = {}
        for parameter, weight, utility in zip(self.parameters, self.before, self.utilities, strict=True):
            if parameter.grad is not None:
                new = (parameter.grad * weight).neg_().nan_to_num_(0.0, 0.0, 0.0)  # an overflow would stay for good
                utility.lerp_(new, 1 - self.beta)
                learned[parameter] = weight, utility
        largest = torch.stack([utility.max() for utility in self.utilities]).max()
        largest = torch.where(largest == 0, 1, largest)
        skipped = getattr(optimizer, "found_inf", 0)  # then there was no step: no noise and no decay either
        for group in optimizer.param_groups:
            lr = group["lr"] * (1 - skipped)
            for parameter in filter(learned.__contains__, group["params"]):
                weight, utility = learned[parameter]
                step = torch.empty_like(parameter).normal_(generator=self.generator)
                step.mul_(-lr * self.sigma).add_(parameter).sub_(weight)
                gate = (utility / -largest).div_(1 - self.beta**self.steps).sigmoid_()  # 1 - u
                parameter.copy_(weight).mul_(1 - lr * self.decay).addcmul_(gate, step, value=2.0)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state(), "utilities": self.utilities, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"].cpu())
        self.steps = state["steps"]
        for utility, saved in zip(self.utilities, state["utilities"], strict=True):
            utility.copy_(saved)
