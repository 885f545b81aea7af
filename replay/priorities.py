"""Prioritised sampling of steps from a ring (Schaul et al. 2016, arXiv 1511.05952, section 3)."""

from typing import Any

import torch

from replay.sum_tree import SumTree


class Priorities:
    """Draws the legal steps of a ring with P(i) = p_i / sum(p), where p = (|error| + epsilon) ** alpha (eq. 1).

    Steps are counted from the first add, of all environments together, and kept at step % `capacity`. The legal ones
    are always one range, low <= step < high, which `set_legal` moves; all others have priority 0. A step that becomes
    legal for the first time gets the highest priority ever written, at first 1, as in Dopamine, DQN Zoo and Tianshou.
    A step that is not legal for a while, because the n-step window grew, gets its old priority back.

    All minibatches of one `sample` are drawn with the priorities at its time, so inside a block of K updates they are
    up to K - 1 updates old; K = 1 is the published algorithm. `sample` and `update` have fixed shapes, do not wait for
    the device and do not branch on data, so a CUDA graph can capture them. The host calls `set_legal` between them.

    Defaults are those of Dopamine's Rainbow and DER, sqrt(loss + 1e-10). `generator` lives on `device` and is saved by
    its owner.
    """

    def __init__(
        self,
        capacity: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        alpha: float = 0.5,
        epsilon: float = 1e-10,
    ) -> None:
        if not alpha >= 0:
            raise ValueError(f"alpha must be at least 0 (uniform), got {alpha}")
        if not epsilon > 0 or not epsilon**alpha >= torch.finfo(torch.float32).tiny:
            raise ValueError(
                f"epsilon must be positive and epsilon ** alpha at least 1.2e-38, or steps would never be drawn again, "
                f"got epsilon={epsilon} and alpha={alpha}"
            )
        self.capacity, self.device, self.generator = capacity, torch.device(device), generator
        self.alpha, self.epsilon = alpha, epsilon
        self.tree = SumTree(capacity, device)
        self.low = self.high = 0
        self._low, self._high = (torch.zeros((), dtype=torch.int64, device=self.device) for _ in range(2))
        self._kept = torch.zeros(0, device=self.device)  # priorities of the steps from `high` on that were legal before
        self._highest, self._zero = torch.ones((), device=self.device), torch.zeros((), device=self.device)

    def set_legal(self, low: int, high: int) -> None:
        """Makes exactly the steps low <= step < high legal; high <= low makes none so.

        Raises ValueError if the range is longer than the ring, or `low` falls: those steps are overwritten.
        """
        high = max(low, high)
        if low < self.low:
            raise ValueError(f"low is {self.low} and cannot fall to {low}: the steps before it are overwritten")
        if high - low > self.capacity:
            raise ValueError(f"{high - low} steps cannot be legal at once in a ring of {self.capacity}")
        self._write(self.low, min(low, self.high), self._zero)
        if high < self.high:
            self._kept = torch.cat([self.get(torch.arange(high, self.high, device=self.device)), self._kept])
            self._write(high, self.high, self._zero)
        else:
            known = self.high + len(self._kept)
            self._write(max(low, self.high), min(high, known), self._kept[max(0, low - self.high) :])
            self._write(max(low, known), high, self._highest)
            self._kept = self._kept[high - self.high :]
        self.low, self.high = low, high
        self._low.fill_(low)
        self._high.fill_(high)

    def forget(self, low: int) -> None:
        """Starts again with the steps from `low` on: none is legal, and the highest priority is that of the start."""
        self.set_legal(low, low)
        self._highest.fill_(1)

    def _write(self, first: int, stop: int, priority: torch.Tensor) -> None:
        """Writes consecutive steps, in two pieces if they cross the end of the ring."""
        while first < stop:
            slot = first % self.capacity
            count = min(stop - first, self.capacity - slot)
            self.tree.set_range(slot, slot + count, priority[:count] if priority.ndim else priority)
            first, priority = first + count, priority[count:] if priority.ndim else priority

    def get(self, step: torch.Tensor) -> torch.Tensor:
        """Priorities p of stored steps of any shape, 0 where one is not legal now: float32."""
        return self.tree.get(step % self.capacity)

    def sample(
        self, batch_size: int, num_batches: int = 1, *, beta: float | torch.Tensor = 0.5
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws minibatches of legal steps, with replacement, and their importance weights: both [K, B].

        Each minibatch is stratified on its own: one draw from each of B equal parts of the total (appendix B.2.1).
        Weights are `importance_weights`; `beta` is 0.5 for ever in Dopamine and grows from 0.4 to 1 in Schaul et al.
        Raises ValueError if no step is legal.
        """
        if self.low == self.high:
            raise ValueError("no step is a legal start: add more first")
        shape = (num_batches, batch_size)
        draw = torch.rand(shape, dtype=torch.float64, generator=self.generator, device=self.device)
        part = torch.arange(batch_size, dtype=torch.float64, device=self.device)
        slot = self.tree.find((part + draw) * (self.tree.total() / batch_size))
        step = self._low + (slot - self._low) % self.capacity
        return step, importance_weights(self.tree.get(slot), beta)

    def update(self, step: torch.Tensor, error: torch.Tensor) -> None:
        """Writes the priorities that follow from TD errors, or losses before they are weighted, one for each step.

        If a step is given twice, the last error counts, so a block [K, B] has the effect of K calls. An error is
        dropped if its step is no longer legal (it was overwritten after the draw) or if it is not finite.
        """
        priority = (error.detach().float().abs() + self.epsilon).pow(self.alpha)
        keep = (step >= self._low) & (step < self._high) & (priority < torch.inf)
        self.tree.set(step % self.capacity, priority, keep)
        torch.maximum(self._highest, torch.where(keep, priority, 0.0).amax(), out=self._highest)

    def state_dict(self) -> dict[str, Any]:
        """Everything but the generator."""
        tensors = {"kept": self._kept.clone(), "highest": self._highest.clone()}
        return {"low": self.low, "high": self.high, **tensors, "tree": self.tree.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back a `state_dict`. Raises ValueError, with nothing loaded, if it is of a ring of another size."""
        self.tree.load_state_dict(state["tree"])
        self.low, self.high = state["low"], state["high"]
        self._low.fill_(self.low)
        self._high.fill_(self.high)
        self._kept = state["kept"].to(self.device, copy=True)
        self._highest.copy_(state["highest"])

    def check(self) -> None:
        """Raises AssertionError naming the first broken invariant."""
        self.tree.check()
        assert (int(self._low), int(self._high)) == (self.low, self.high), "legal range: host and device differ"
        assert 0 <= self.high - self.low <= self.capacity, "legal range: longer than the ring"
        slots = torch.arange(self.low, self.high, device=self.device) % self.capacity
        legal = torch.zeros(self.capacity, dtype=torch.bool, device=self.device).index_fill_(0, slots, True)
        priority = self.tree.get(torch.arange(self.capacity, device=self.device))
        assert (priority[legal] > 0).all(), "priorities: that of a legal step is 0"
        assert (priority[~legal] == 0).all(), "priorities: that of a step which is not legal is not 0"
        assert (torch.cat([priority, self._kept]) <= self._highest).all(), "highest priority: a step has a higher one"
        assert (self._kept > 0).all(), "kept priorities: one is 0"


def importance_weights(priority: torch.Tensor, beta: float | torch.Tensor) -> torch.Tensor:
    """(N P(i)) ** -beta over the largest of its minibatch, the last dimension (section 3.4): float32, like `priority`.

    N and the total cancel: what is left is (smallest priority / priority) ** beta. Dopamine's 1 / sqrt(p + 1e-10) over
    its largest is the same for beta = 0.5, but for the 1e-10; so are DQN Zoo's and Rainbow's normalised weights.
    """
    priority = priority.double()
    return (priority.amin(-1, keepdim=True) / priority).pow(beta).float()
