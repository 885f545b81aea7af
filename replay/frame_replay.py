"""Sampling of n-step transitions from a ring of single frames, uniformly or by priority."""

from typing import Any

import numpy as np
import torch
from tensordict import TensorDict

from replay.n_step import n_step_return
from replay.priorities import Priorities
from replay.ring import FrameRing


class FrameReplay(FrameRing):
    """Frame replay that builds stacks and n-step transitions when sampling, on its own device.

    Masked stack positions point at a frame of zeros and a truncated bootstrap at its stored last frame, so that one
    `index_select` gathers every pixel of a batch. Host counters alone decide which starts are legal: sampling has no
    rejection, no host synchronisation and no shape that depends on data.
    """

    def num_legal(self, n_step: int = 1) -> int:
        """Steps that can start a transition: n_step window complete, no frame of the stack overwritten."""
        low, high = self._legal_rows(n_step)
        return max(0, high - low) * self.num_envs

    def ready(self, batch_size: int, n_step: int = 1) -> bool:
        """Whether `sample` has at least `batch_size` legal starts to draw from."""
        return self.num_legal(n_step) >= batch_size

    def _legal_rows(self, n_step: int) -> tuple[int, int]:
        """Legal starting rows, low <= row < high, counted from the first add."""
        oldest = self.head - self.max_rows
        low = 0 if oldest <= 0 else oldest + self.stack - 1
        return max(low, self.cleared), self.head - n_step + 1

    def sample(
        self,
        batch_size: int,
        num_batches: int = 1,
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        cut_at_life_loss: bool = False,
        clip_reward: float | None = None,
    ) -> TensorDict:
        """Draws `num_batches` minibatches, with replacement, over the legal starts: see `gather`.

        They have one more key, `weight` float32 [K, B], by which each transition's loss is to be multiplied. Raises
        ValueError if fewer than `batch_size` starts are legal.
        """
        index, weight = self.draw(batch_size, num_batches, n_step=n_step)
        batch = self.gather(
            index, n_step=n_step, gamma=gamma, cut_at_life_loss=cut_at_life_loss, clip_reward=clip_reward
        )
        batch["weight"] = weight
        return batch

    def draw(self, batch_size: int, num_batches: int, n_step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Legal starts and their weights, both [num_batches, batch_size]: uniform ones, of weight 1."""
        index = self.sample_index(batch_size, num_batches, n_step=n_step)
        return index, torch.ones(index.shape, device=self.device)

    def update(self, index: torch.Tensor, loss: torch.Tensor) -> None:
        """Receives the unweighted losses [K, B] of drawn transitions; uniform sampling ignores them."""

    def sample_index(self, batch_size: int, num_batches: int = 1, *, n_step: int = 1) -> torch.Tensor:
        """Uniform legal starts as steps, row * num_envs + env since the first add: int64 [num_batches, batch_size]."""
        self._check_draw(batch_size, num_batches, n_step)
        low, high = (row * self.num_envs for row in self._legal_rows(n_step))
        shape = (num_batches, batch_size)
        return torch.randint(low, high, shape, generator=self.generator, device=self.device)

    def _check_draw(self, batch_size: int, num_batches: int, n_step: int) -> None:
        if min(batch_size, num_batches, n_step) < 1:
            sizes = f"{batch_size}, {num_batches} and {n_step}"
            raise ValueError(f"batch_size, num_batches and n_step must be at least 1, got {sizes}")
        if not self.ready(batch_size, n_step):
            raise ValueError(
                f"a batch of {batch_size} needs as many legal starts, but n_step={n_step} leaves "
                f"{self.num_legal(n_step)} of the {len(self)} steps stored: add more first"
            )

    def gather(
        self,
        index: torch.Tensor,
        *,
        n_step: int = 1,
        gamma: float = 0.99,
        cut_at_life_loss: bool = False,
        clip_reward: float | None = None,
    ) -> TensorDict:
        """Builds the transitions that start at steps `index`, int64 [K, B], legal ones (not checked: it would wait).

        Keys, each [K, B]: `obs` and `next_obs` uint8 [K, B, stack, *frame_shape], oldest frame first, zeros before
        the episode's first frame; `action` int64; `reward` the n-step return, each reward clipped to
        +-`clip_reward` first if given; `discount` of next_obs's value; `index`. The window is cut after the first
        step that terminated, truncated or, with `cut_at_life_loss`, lost a life; `next_obs` is what its last action
        led to (its newest frame is zeros after a termination, where discount is 0). Pixels lie in a buffer that the
        next call of the same sizes overwrites; with n_step=1 obs and next_obs overlap in it.
        """
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {gamma}")
        if clip_reward is not None and clip_reward <= 0:
            raise ValueError(f"clip_reward must be positive, or None for raw rewards, got {clip_reward}")
        at = self._place(index)
        window = at.unsqueeze(-1) if n_step == 1 else self._window(index, n_step)
        reward = self.reward.take(window)
        if clip_reward is not None:
            reward = reward.clamp(-clip_reward, clip_reward)
        reward, discount, count = n_step_return(reward, self.flags.take(window), gamma, cut_at_life_loss)
        last = index if n_step == 1 else index + (count - 1) * self.num_envs
        obs, next_obs = self._observations(index, last, n_step)
        batch = {
            "obs": obs,
            "next_obs": next_obs,
            "action": self.action.take(at).long(),
            "reward": reward,
            "discount": discount,
            "index": index,
        }
        return TensorDict(batch, batch_size=index.shape)

    def _window(self, index: torch.Tensor, n_step: int) -> torch.Tensor:
        return self._place(index.unsqueeze(-1) + self._offsets(0, n_step))

    def _place(self, step: torch.Tensor) -> torch.Tensor:
        """Where steps lie in the flat tensors."""
        return step % self._ring_size

    def _offsets(self, first: int, stop: int) -> torch.Tensor:
        """Offsets from a step to the same environment's steps `first` to `stop` - 1 rows later."""
        if (first, stop) not in self._offset_cache:
            rows = torch.arange(first, stop, device=self.device)
            self._offset_cache[first, stop] = rows * self.num_envs
        return self._offset_cache[first, stop]

    def _observations(self, first: torch.Tensor, last: torch.Tensor, n_step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The stack before step `first` and the one after step `last` of the same episode."""
        stack = self.stack
        if n_step == 1:  # last is first: one window of stack + 1 frames holds both
            pixels = self._pixels(self._entries_through(last, 1 - stack))
            return self._frames_of(pixels, 0), self._frames_of(pixels, 1)
        before, after = self._entries(first, 1 - stack, 1), self._entries_through(last, 2 - stack)
        pixels = self._pixels(torch.cat([before, after], -1))
        return self._frames_of(pixels, 0), self._frames_of(pixels, stack)

    def _frames_of(self, pixels: torch.Tensor, first: int) -> torch.Tensor:
        """A stack of the frames [..., frames, *frame_shape] from `first` on."""
        return pixels.narrow(-1 - len(self.frame_shape), first, self.stack)

    def _entries(self, step: torch.Tensor, first: int, stop: int) -> torch.Tensor:
        """Frame-table entries of rows `first` to `stop` - 1 after each step, the zero frame before its episode."""
        step = step.unsqueeze(-1)
        start = self.start_step.take(self._place(step))
        frame = step + self._offsets(first, stop)
        return torch.where(frame < start, self._zero_frame, frame % self._ring_size)

    def _entries_through(self, step: torch.Tensor, first: int) -> torch.Tensor:
        """Frame-table entries from `first` rows after each step to the frame that its action led to."""
        entries = self._entries(step, first, 2)
        ending = self.ending.take(self._place(step))
        entries[..., -1] = torch.where(ending == 0, entries[..., -1], ending)
        return entries

    def _pixels(self, table_index: torch.Tensor) -> torch.Tensor:
        shape = tuple(table_index.shape)
        if shape not in self._outputs:
            self._outputs[shape] = self.frames.new_empty(table_index.numel(), self.frames.shape[1])
        out = torch.index_select(self.frames, 0, table_index.flatten(), out=self._outputs[shape])
        return out.view(*shape, *self.frame_shape)


class PrioritisedReplay(FrameReplay):
    """Frame replay that draws transitions by their last losses: see `Priorities`.

    All minibatches of one `sample` are drawn with the priorities at its time: where K updates share a call, they are up
    to K - 1 updates old. Weights are importance weights, whose exponent goes linearly from `beta` to `beta_final` while
    the first `beta_steps` steps are added. The other arguments are those of `FrameRing`.
    """

    def __init__(
        self,
        *args: Any,
        alpha: float = 0.5,
        epsilon: float = 1e-10,
        beta: float = 0.4,
        beta_final: float = 1.0,
        beta_steps: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if beta_steps < 1:
            raise ValueError(f"beta_steps must be at least 1, got {beta_steps}")
        self.betas, self.beta_steps = (beta, beta_final), beta_steps
        self.priorities = Priorities(self.capacity, self.generator, self.device, alpha, epsilon)

    @property
    def beta(self) -> float:
        """The exponent of the importance weights now."""
        (first, last), share = self.betas, min(self.head * self.num_envs / self.beta_steps, 1.0)
        return first + (last - first) * share

    def draw(self, batch_size: int, num_batches: int, n_step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Legal starts by priority and their importance weights, both [num_batches, batch_size]."""
        self._check_draw(batch_size, num_batches, n_step)
        low, high = (row * self.num_envs for row in self._legal_rows(n_step))
        self.priorities.set_legal(low, high)
        return self.priorities.sample(batch_size, num_batches, beta=self.beta)

    def update(self, index: torch.Tensor, loss: torch.Tensor) -> None:
        """Makes the losses [K, B] of steps [K, B] their priorities, on the device; see `Priorities.update`."""
        self.priorities.update(index, loss)

    def clear(self, frames: np.ndarray) -> None:
        super().clear(frames)
        self.priorities.forget(self.head * self.num_envs)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"priorities": self.priorities.state_dict()}

    def load_state_dict(self, state: dict[str, Any], spare: int = 0) -> None:
        super().load_state_dict(state, spare)
        self.priorities.load_state_dict(state["priorities"])

    def check(self) -> None:
        super().check()
        self.priorities.check()
