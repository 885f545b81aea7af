"""A wide sum tree: draws an index with probability proportional to its priority, on any device with float64."""

from typing import Any

import torch


class SumTree:
    """Priorities of `capacity` indices, with the sums that let `find` invert their cumulative sum in a few levels.

    A sum is recomputed from its children each time one of them changes, never corrected by a difference, so errors do
    not accumulate. Leaves are float32, the precision of the losses, which halves the memory that a draw reads. Sums are
    float64, so that a prefix sum over millions of leaves stays exact enough. The tree is `branching` wide because a
    level costs the same few operations at any width. Nothing waits for the device and no shape depends on data. One
    extra leaf takes the dropped writes, and stays 0.
    """

    def __init__(self, capacity: int, device: torch.device | str = "cpu", branching: int = 128) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        if branching < 2:
            raise ValueError(f"branching must be at least 2, got {branching}")
        self.capacity, self.branching, self.device = capacity, branching, torch.device(device)
        nodes = -(-(capacity + 1) // branching)
        self._levels = [torch.zeros(nodes, branching, device=self.device)]  # [nodes, children], the leaves first
        while nodes > 1:
            nodes = -(-nodes // branching)
            self._levels.append(torch.zeros(nodes, branching, dtype=torch.float64, device=self.device))
        self._total = torch.zeros(1, dtype=torch.float64, device=self.device)
        self._zero, self._lowest = torch.tensor([0.0, -torch.inf], dtype=torch.float64, device=self.device)
        self._flat = [*(level.view(-1) for level in self._levels), self._total]

    @property
    def nbytes(self) -> int:
        return sum(level.nbytes for level in self._flat)

    def total(self) -> torch.Tensor:
        """Sum of all priorities: float64, no dimensions; later changes write to the same tensor."""
        return self._total[0]

    def get(self, index: torch.Tensor) -> torch.Tensor:
        """Priorities at indices of any shape: float32."""
        return self._flat[0].take(index)

    def set(self, index: torch.Tensor, priority: torch.Tensor, keep: torch.Tensor | None = None) -> None:
        """Writes finite priorities >= 0 at indices of the same shape (not checked: it would wait).

        Where the bool tensor `keep` is false nothing is written. If an index is given twice, the last priority counts,
        on every device: the result is that of single writes in row-major order.
        """
        if keep is not None:
            index = torch.where(keep, index, self.capacity)
        index, order = index.flatten().sort(stable=True)
        index[:-1].masked_fill_(index[:-1] == index[1:], self.capacity)
        self._flat[0].index_put_((index,), priority.flatten().take(order).to(torch.float32))
        self._flat[0][self.capacity :].zero_()
        for children, parents in zip(self._levels, self._flat[1:], strict=True):
            index = index // self.branching
            parents.index_put_((index,), children.index_select(0, index).sum(-1, dtype=torch.float64))

    def set_range(self, first: int, stop: int, priority: torch.Tensor) -> None:
        """Writes the priorities of the indices first <= index < stop, [stop - first] or one number for all, [].

        Much faster than `set` for many; the bounds are known on the host. Raises ValueError outside of 0..capacity.
        """
        if not 0 <= first <= stop <= self.capacity:
            raise ValueError(f"a range must lie in 0..{self.capacity}, the tree's capacity, got {first}..{stop}")
        if first == stop:
            return
        self._flat[0][first:stop].copy_(priority)
        for children, parents in zip(self._levels, self._flat[1:], strict=True):
            first, stop = first // self.branching, (stop - 1) // self.branching + 1
            parents[first:stop] = children[first:stop].sum(-1, dtype=torch.float64)

    def find(self, mass: torch.Tensor) -> torch.Tensor:
        """The indices whose share of the cumulative sum holds each mass, float64 of any shape: int64 of that shape.

        Index i holds sum(p[:i]) <= mass < sum(p[:i + 1]); a mass outside of [0, total) gives the first or the last
        index of positive priority. An index of priority 0 is never found, whatever rounding does to the mass, unless
        all are 0 (then 0 is).
        """
        left = mass.flatten().unsqueeze(-1)
        node = torch.zeros_like(left, dtype=torch.int64)
        for depth in range(len(self._levels) - 1, -1, -1):
            children = self._levels[depth].index_select(0, node.view(-1))
            upto = children.cumsum(-1, dtype=torch.float64)
            # A device adds in parallel: a sum may then differ from the one before it although its own child is 0.
            ends = torch.where(children > 0, upto, -1.0)
            left = left.clamp(self._zero, torch.nextafter(ends.amax(-1, keepdim=True), self._lowest))
            child = (ends > left).byte().argmax(-1, keepdim=True)  # the first
            node = child.add(node, alpha=self.branching)
            if depth > 0:
                left = left - upto.gather(1, child) + children.gather(1, child)
        return node.view(mass.shape)

    def state_dict(self) -> dict[str, Any]:
        """Capacity, branching and every level, so that a resumed tree has the same bits."""
        return {"capacity": self.capacity, "branching": self.branching, "levels": [x.clone() for x in self._flat]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back a `state_dict`. Raises ValueError, with nothing loaded, if it is of a tree of other sizes."""
        for name in ("capacity", "branching"):
            if state[name] != getattr(self, name):
                raise ValueError(f"the saved sum tree has {name} {state[name]}, this one {getattr(self, name)}")
        for level, saved in zip(self._flat, state["levels"], strict=True):
            level.copy_(saved)

    def check(self) -> None:
        """Raises AssertionError naming the first broken invariant."""
        leaves = self._flat[0]
        assert torch.isfinite(leaves).all(), "priorities: one is NaN or infinite"
        assert (leaves >= 0).all(), "priorities: one is negative"
        assert (leaves[self.capacity :] == 0).all(), "priorities: one beyond the capacity is not 0"
        for depth, (children, parents) in enumerate(zip(self._levels, self._flat[1:], strict=True)):
            sums = children.sum(-1, dtype=torch.float64)
            off = (parents[: len(sums)] - sums).abs() > 1e-12 * sums
            assert not off.any(), f"sums: one is not that of its children, {depth + 1} levels above the priorities"
            assert (parents[len(sums) :] == 0).all(), f"sums: one without children is not 0, at level {depth + 1}"
