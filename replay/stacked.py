"""The replays of several runs that learn in step: each keeps its own steps and draws, one gather serves all."""

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict

from replay.frame_replay import FrameReplay
from replay.ring import FIELDS


class StackedReplay(FrameReplay):
    """N replays of the same sizes in one storage; each of them goes on as before, on its part of it.

    `sample` and `gather` work on all members: where an index of one replay is [K, B], theirs is [K, N, B]. A member
    with `alive` false is drawn from no more: it gets the draws of a living one.
    """

    def __init__(self, members: Sequence[FrameReplay]) -> None:
        first = members[0]
        self.members, self.alive = list(members), [True] * len(members)
        self.device, self.num_envs, self.stack, self.frame_shape = (
            first.device,
            first.num_envs,
            first.stack,
            first.frame_shape,
        )
        self._ring_size, self._zero_frame, self._table_size = first._ring_size, first._zero_frame, len(first.frames)
        self._outputs, self._offset_cache = {}, {}
        self._number = torch.arange(len(members), device=self.device)
        stored = ("frames", *FIELDS)
        whole = {name: getattr(first, name).new_empty(len(members), *getattr(first, name).shape) for name in stored}
        for number, member in enumerate(members):  # one after another: the memory of one more replay is enough
            for name in stored:
                whole[name][number].copy_(getattr(member, name))
                setattr(member, name, whole[name][number])
            member._host_views()
        for name in stored:
            setattr(self, name, whole[name].flatten(0, 1))

    def sample(self, batch_size: int, num_batches: int = 1, *, n_step: int = 1, **returns: Any) -> TensorDict:
        """Minibatches [K, N, B], each member's drawn by itself: see `FrameReplay.sample`."""
        drawn = [
            member.draw(batch_size, num_batches, n_step) if alive else None
            for member, alive in zip(self.members, self.alive, strict=True)
        ]
        spare = next(draw for draw in drawn if draw is not None)
        index, weight = (torch.stack(parts, 1) for parts in zip(*(draw or spare for draw in drawn), strict=True))
        batch = self.gather(index, n_step=n_step, **returns)
        batch["weight"] = weight
        return batch

    def update(self, index: torch.Tensor, loss: torch.Tensor) -> None:
        """Gives the members the unweighted losses [K, N, B] of their drawn transitions."""
        for number, member in enumerate(self.members):
            if self.alive[number]:
                member.update(index[:, number], loss[:, number])

    def _place(self, step: torch.Tensor) -> torch.Tensor:
        return self._of_members(super()._place(step), self._ring_size)

    def _pixels(self, table_index: torch.Tensor) -> torch.Tensor:
        return super()._pixels(self._of_members(table_index, self._table_size))

    def _of_members(self, places: torch.Tensor, size: int) -> torch.Tensor:
        """Places [K, N, ...] of the members, each with `size` of them, as places in the flat storage."""
        return places + (self._number * size).view(-1, *[1] * (places.ndim - 2))
