"""The tasks: every ordered pair (x, y) of a small set with the answer of a binary operation, split by a seed."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import torch
from torch import Tensor

from experiment.config import ConfigError
from studies.grokking.config import S5_ORDER


@dataclass(frozen=True)
class Task:
    """All ordered pairs of one operation, and which of them are for training.

    size: elements of the set, which are also the classes. pairs: int64 [N, 2]; answers: int64 [N]; train, test: int64
    indices into both.
    """

    size: int
    pairs: Tensor
    answers: Tensor
    train: Tensor
    test: Tensor

    def to(self, device: torch.device) -> Task:
        """The same task with its tensors on a device."""
        tensors = (self.pairs, self.answers, self.train, self.test)
        return Task(self.size, *(tensor.to(device) for tensor in tensors))

    def symmetric_floor(self) -> float:
        """The share of test pairs whose mirror image (y, x) is a training pair with the same answer.

        It is the test accuracy of a learner that memorises and knows that order does not matter.
        """
        table = self.answers.new_full((self.size, self.size), -1)
        x, y = self.pairs[self.train].unbind(1)
        table[x, y] = self.answers[self.train]
        x, y = self.pairs[self.test].unbind(1)
        return float((table[y, x] == self.answers[self.test]).double().mean())


def make_task(operation: str, modulus: int, fraction: float, seed: int) -> Task:
    """The task of an operation: `add`, `sub`, `mul`, `div` modulo `modulus`, or `s5`, composition of permutations.

    `fraction` of the ordered pairs, drawn by `seed`, are for training: (x, y) and (y, x) are two pairs.
    Division leaves out y = 0 and needs a prime modulus. Raises ConfigError for a split that leaves one side empty.
    """
    size, pairs, answers = _table(operation, modulus)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    count = round(fraction * len(pairs))
    if not 0 < count < len(pairs):
        raise ConfigError(f"--fraction {fraction} of {len(pairs)} pairs leaves none to train or none to test on")
    return Task(size, pairs, answers, order[:count].sort().values, order[count:].sort().values)


def _table(operation: str, modulus: int) -> tuple[int, Tensor, Tensor]:
    if operation == "s5":
        return S5_ORDER, *_compositions()
    pairs = torch.cartesian_prod(torch.arange(modulus), torch.arange(modulus))
    if operation == "div":
        pairs = pairs[pairs[:, 1] != 0]
    x, y = pairs.unbind(1)
    if operation == "div":
        y = torch.tensor([pow(b, -1, modulus) for b in y.tolist()])
    answers = {"add": x + y, "sub": x - y}.get(operation, x * y)
    return modulus, pairs, answers % modulus


def _compositions() -> tuple[Tensor, Tensor]:
    """Pairs of elements of S5, numbered in lexicographic order, and the number of x∘y (first y, then x)."""
    elements = list(permutations(range(5)))
    number = {element: i for i, element in enumerate(elements)}
    answers = [number[tuple(a[i] for i in b)] for a, b in product(elements, elements)]
    numbers = torch.arange(len(elements))
    return torch.cartesian_prod(numbers, numbers), torch.tensor(answers)
