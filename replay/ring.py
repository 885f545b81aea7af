"""A synchronous ring of single frames over several environments: the replay's storage, and its invariants."""

from typing import Any

import numpy as np
import torch

from replay.last_frames import LastFrames

TERMINATED, TRUNCATED, LIFE_LOST = 1, 2, 4
ENDED = TERMINATED | TRUNCATED

STAGED_ROWS, STAGED_BYTES = 256, 2**27  # most host rows written between two synchronisations with an accelerator
STEP = "action, reward, terminated, truncated, life_lost"
BOOL, BYTE = np.dtype(bool), np.dtype(np.uint8)
FIELDS = ("action", "reward", "flags", "ending", "start_step")


class FrameRing:
    """Stores each frame once, for `num_envs` environments that step together.

    Steps are counted from the first add: step = row * num_envs + env, kept at step % ring size in flat tensors. A step
    has the frame before the action, the action (uint8), the raw reward, the flag bits, the start (the step at which
    its episode began) and the ending. The ending is 0 inside an episode, otherwise the index of the table's frame that
    follows the episode's last step. The frame table [frames, pixels] has the rows of the ring, with the open row, then
    one frame of zeros (the ending of a termination), then the true last frames of truncated steps.

    Args: `capacity` in agent steps, rounded up to whole rows; `time_limit` is the least number of agent steps after
    which an episode can be truncated (None: never), `cut_period` that of rows between calls of `cut`. Both bound how
    many last frames are kept.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        frame_shape: tuple[int, ...] = (84, 84),
        stack: int = 4,
        time_limit: int | None = None,
        cut_period: int | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        if num_envs < 1 or stack < 1:
            raise ValueError(f"num_envs and stack must be at least 1, got {num_envs} and {stack}")
        if capacity < num_envs * (stack + 1):
            least = f"stack + 1 = {stack + 1} steps of {num_envs} environments"
            raise ValueError(f"capacity must hold {least}, got {capacity}")
        if time_limit is not None and time_limit < 1:
            raise ValueError(f"time_limit must be at least 1 agent step, or None for never, got {time_limit}")
        self.device = torch.device(device)
        self.num_envs, self.frame_shape, self.stack, self.time_limit = num_envs, tuple(frame_shape), stack, time_limit
        self.max_rows = -(-capacity // num_envs)
        self.capacity = self.max_rows * num_envs
        self.head = 0  # rows completed so far; row `head` is the open one
        self.cleared = 0  # rows before this one are there no more
        self.started = False
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self._ring_rows = self.max_rows + 1
        self._ring_size = self._ring_rows * num_envs
        self._zero_frame = self._ring_size
        self._outputs: dict[tuple[int, ...], torch.Tensor] = {}
        self._offset_cache: dict[tuple[int, int], torch.Tensor] = {}
        # Enough slots that the oldest one is free at the next truncation or cut.
        truncations = 0 if time_limit is None else self.max_rows // time_limit + 2
        self._allocate(truncations + (0 if cut_period is None else self.max_rows // cut_period + 1))

    def _allocate(self, last_frames: int) -> None:
        """Makes the storage, with room for so many last frames of each environment."""
        size = self._ring_size
        table = size + 1 + self.num_envs * last_frames
        self.frames = torch.zeros(table, int(np.prod(self.frame_shape)), dtype=torch.uint8, device=self.device)
        self.action = torch.zeros(size, dtype=torch.uint8, device=self.device)
        self.reward = torch.zeros(size, dtype=torch.float32, device=self.device)
        self.flags = torch.zeros(size, dtype=torch.uint8, device=self.device)
        self.ending = torch.zeros(size, dtype=torch.int32, device=self.device)
        self.start_step = torch.zeros(size, dtype=torch.int64, device=self.device)
        self._last_frames = LastFrames(self.num_envs, last_frames, self._zero_frame + 1)
        self._envs = np.arange(self.num_envs, dtype=np.int64)
        self._open_start = self._envs.copy()  # the first step of each environment's running episode
        self._host_views()

    def _host_views(self) -> None:
        """Sets up numpy arrays to write rows through: the storage itself on the CPU, else pinned rows to copy from.

        Numpy writes a small row several times faster than torch does.
        """
        rows, envs = self._ring_rows, self.num_envs
        self._rows = {name: getattr(self, name).view(rows, envs) for name in FIELDS}
        self._rows["frames"] = self.frames[: self._ring_size].view(rows, envs, *self.frame_shape)
        self._staged: dict[str, torch.Tensor] = {}
        self._slots, self._pinned = rows, self.device.type == "cuda"
        if self._needs_staging():
            row_bytes = sum(stored[0].nbytes for stored in self._rows.values())
            self._slots = max(2, min(STAGED_ROWS, STAGED_BYTES // row_bytes))
            for name, stored in self._rows.items():
                shape = (self._slots, *stored.shape[1:])
                self._staged[name] = torch.zeros(shape, dtype=stored.dtype, pin_memory=self._pinned)
        source = self._staged or self._rows
        self._action, self._reward, self._flags, self._ending, self._start_step = (source[k].numpy() for k in FIELDS)
        self._frames = source["frames"].numpy()
        self._frames_shape = self._frames.shape[1:]

    def _needs_staging(self) -> bool:
        return self.device.type != "cpu"

    def __len__(self) -> int:
        """Agent steps stored now, over all environments."""
        return (self.head - self._oldest) * self.num_envs

    @property
    def nbytes(self) -> int:
        """Bytes of everything that grows with the capacity, on the device."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def start(self, frames: np.ndarray | torch.Tensor) -> None:
        """Opens the first row with every environment's first frame: uint8 [num_envs, *frame_shape]."""
        if self.head:
            raise ValueError(f"start() opens an empty replay, but {len(self)} steps are stored: go on with add()")
        frames = np.asarray(frames)
        self._check_frames("frames", frames)
        self._frames[0] = frames
        self._start_step[0] = self._open_start
        if self._staged:
            self._upload(0, "frames", "start_step")
        self.started = True

    def add(
        self,
        action: np.ndarray | torch.Tensor,
        reward: np.ndarray | torch.Tensor,
        terminated: np.ndarray | torch.Tensor,
        truncated: np.ndarray | torch.Tensor,
        life_lost: np.ndarray | torch.Tensor,
        frame: np.ndarray | torch.Tensor,
        next_frame: np.ndarray | torch.Tensor,
    ) -> None:
        """Completes the open row with one step of every environment and opens the next row.

        All are arrays or CPU tensors over [num_envs]: actions in 0..255, raw rewards, three bools. `frame` is what
        the action led to; `next_frame` is the same, or the next episode's first frame where one ended; both uint8
        [num_envs, *frame_shape]. Raises ValueError, with nothing stored, on another shape, a frame that is not uint8,
        an action out of range, or a truncation earlier than `time_limit`.
        """
        action, reward, life_lost = np.asarray(action), np.asarray(reward), np.asarray(life_lost)
        terminated, truncated, next_frame = np.asarray(terminated), np.asarray(truncated), np.asarray(next_frame)
        self._check_step(action, reward, terminated, truncated, life_lost)
        self._check_frames("next_frame", next_frame)
        # `True in tolist()` takes a tenth of the time of any() on a short array.
        ended = True in terminated.tolist() or True in truncated.tolist()
        if ended:
            self._check_truncation(terminated, truncated, frame)
        slot, opened_slot = self.head % self._slots, (self.head + 1) % self._slots
        if self._pinned and opened_slot == 0:
            torch.cuda.current_stream(self.device).synchronize()  # the copies out of the staged rows are done
        self._action[slot] = action
        self._reward[slot] = reward
        self._flags[slot] = 0
        self._ending[slot] = 0
        if True in life_lost.tolist():
            self._flags[slot] = np.multiply(life_lost, LIFE_LOST, dtype=np.uint8)
        if ended:
            self._end(slot, terminated, truncated, np.asarray(frame))
        self._frames[opened_slot] = next_frame
        self._start_step[opened_slot] = self._open_start
        if self._staged:
            self._upload(self.head, "action", "reward", "flags", "ending")
            self._upload(self.head + 1, "frames", "start_step")
        self.head += 1

    def _end(self, slot: int, terminated: np.ndarray, truncated: np.ndarray, frame: np.ndarray) -> None:
        """Marks the ends of a row: nothing follows a termination, the true last frame follows a truncation."""
        self._flags[slot] += terminated + np.multiply(truncated, TRUNCATED, dtype=np.uint8)
        self._ending[slot, terminated] = self._zero_frame
        ended = terminated | truncated
        self._open_start[ended] = self._envs[ended] + (self.head + 1) * self.num_envs
        for env in np.flatnonzero(truncated & ~terminated).tolist():
            index = self._last_frames.take(env, self.head)
            self._ending[slot, env] = index
            self.frames[index].copy_(torch.tensor(frame[env]).flatten())

    def _upload(self, step: int, *names: str) -> None:
        for name in names:
            staged = self._staged[name][step % self._slots]
            self._rows[name][step % self._ring_rows].copy_(staged, non_blocking=self._pinned)

    def _check_step(self, action: np.ndarray, reward: np.ndarray, *bools: np.ndarray) -> None:
        if not self.started:
            raise ValueError("add() needs an open row: call start(frames) with the first frames")
        one, two, three = bools
        if not action.shape == reward.shape == one.shape == two.shape == three.shape == self._envs.shape:
            got = ", ".join(str(array.shape) for array in (action, reward, *bools))
            raise ValueError(f"{STEP} must each have shape {self._envs.shape}, got {got}")
        if not one.dtype == two.dtype == three.dtype == BOOL:
            raise ValueError(f"terminated, truncated, life_lost must be bool, got {[str(b.dtype) for b in bools]}")
        try:
            bytes(action.tolist())
        except (TypeError, ValueError):
            raise ValueError(f"actions must be integers in 0..255, got {action.tolist()}") from None

    def _check_frames(self, name: str, frames: np.ndarray) -> None:
        if frames.shape != self._frames_shape or frames.dtype != BYTE:
            raise ValueError(f"{name} must be uint8 {self._frames_shape}, got {frames.dtype} {frames.shape}")

    def _check_truncation(self, terminated: np.ndarray, truncated: np.ndarray, frame: Any) -> None:
        cut = np.flatnonzero(truncated & ~terminated)
        if not len(cut):
            return
        self._check_frames("frame", np.asarray(frame))
        length = self.head + 1 - int(self._open_start[cut].max()) // self.num_envs
        if self.time_limit is None or length < self.time_limit:
            limit = "time_limit=None (never)" if self.time_limit is None else f"time_limit={self.time_limit}"
            raise ValueError(f"an episode was truncated after {length} agent steps, but replay was built with {limit}")

    def _tensors(self) -> dict[str, torch.Tensor]:
        return {name: getattr(self, name) for name in ("frames", *FIELDS)}

    def cut(self, frames: np.ndarray) -> None:
        """Ends every running episode after the last row, as truncated, and opens others with `frames`.

        For environments that begin again, after a resume or with another game. The open row's frames become the true
        last observations. ValueError without a slot for them: see `cut_period`, and `spare` of `load_state_dict`.
        """
        self._check_frames("frames", frames)
        opened = self.head * self.num_envs + self._envs
        running = np.flatnonzero(self._open_start < opened)
        if len(running) and not self._last_frames.have_room(running, self._oldest):
            raise ValueError("no room to keep the last frames: load the replay with spare=1")
        for env in running.tolist():
            index, open_frame = self._last_frames.take(env, self.head - 1), opened[env] % self._ring_size
            self.frames[index] = self.frames[open_frame]
            step = (opened[env] - self.num_envs) % self._ring_size
            self.flags[step] |= TRUNCATED
            self.ending[step] = index
        self._open(frames)

    def clear(self, frames: np.ndarray) -> None:
        """Drops all rows, and opens episodes with `frames`. Steps are counted on."""
        self._check_frames("frames", frames)
        self.cleared = self.head
        self._open(frames)

    def _open(self, frames: np.ndarray) -> None:
        """Begins an episode in every environment with the open row."""
        self._open_start[:] = opened = self.head * self.num_envs + self._envs
        row = self.head % self._ring_rows
        self._rows["frames"][row].copy_(torch.tensor(frames))
        self._rows["start_step"][row].copy_(torch.from_numpy(opened))

    @property
    def _oldest(self) -> int:
        """The oldest row stored."""
        return max(self.cleared, self.head - self.max_rows)

    @property
    def stored_rows(self) -> tuple[int, int]:
        """The rows that are stored, first <= row < stop, counted from the first add."""
        return self._oldest, self.head

    @property
    def row_format(self) -> str:
        """The contents of a row of bytes; rows of another format cannot be loaded."""
        fields = (f"{name} {str(self._rows[name].dtype)[6:]}" for name in FIELDS)
        return f"{self.num_envs} x (frame uint8 {list(self.frame_shape)}, {', '.join(fields)})"

    @property
    def row_bytes(self) -> int:
        return sum(stored[0].nbytes for stored in self._rows.values())

    def read_rows(self, first: int, stop: int) -> np.ndarray:
        """Stored rows as bytes, uint8 [stop - first, row_bytes], copied."""
        slots = torch.arange(first, stop, device=self.device) % self._ring_rows
        fields = (stored.index_select(0, slots).flatten(1) for stored in self._rows.values())
        return torch.cat([field.view(torch.uint8) for field in fields], 1).cpu().numpy()

    def write_rows(self, first: int, rows: np.ndarray) -> None:
        """Puts back what `read_rows` gave, from row `first` on."""
        slots = torch.arange(first, first + len(rows), device=self.device) % self._ring_rows
        fields = torch.from_numpy(rows).split([stored[0].nbytes for stored in self._rows.values()], 1)
        for stored, field in zip(self._rows.values(), fields, strict=True):
            values = (
                field.clone(memory_format=torch.contiguous_format).view(stored.dtype).view(len(rows), *stored.shape[1:])
            )
            stored.index_copy_(0, slots, values.to(self.device))

    def state_dict(self) -> dict[str, Any]:
        """Everything but the stored rows, which `read_rows` gives: position, open row, last frames, generator."""
        open_row = self.head % self._ring_rows
        return {
            "capacity": self.capacity,
            "head": self.head,
            "cleared": self.cleared,
            "started": self.started,
            "open_frames": self._rows["frames"][open_row].clone(),
            "open_start": torch.tensor(self._open_start),
            "owner": torch.tensor(self._last_frames.owner),
            "last_frames": self.frames[self._zero_frame + 1 :].clone(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], spare: int = 0) -> None:
        """Loads a `state_dict` of a replay of the same sizes; `write_rows` loads the stored rows.

        `spare` adds slots for that many calls of `cut`. Raises ValueError, with nothing loaded, if sizes differ.
        """
        own, state = self.state_dict(), {"cleared": 0} | state  # earlier versions could not clear
        if own.keys() != state.keys():
            raise ValueError(f"replay state has keys {sorted(state)}, this replay has {sorted(own)}")
        for name, got, wanted in (
            ("capacity", state["capacity"], self.capacity),
            ("frames of shape", tuple(state["open_frames"].shape), self._frames_shape),
        ):
            if got != wanted:
                raise ValueError(f"the saved replay has {name} {got}, this one {wanted}")
        owner = np.pad(state["owner"].numpy(), ((0, 0), (0, spare)), constant_values=-1)
        if owner.shape != self._last_frames.owner.shape:
            self._rows.clear()  # so that old and new storage never stand in memory together
            del self.frames, self._frames
            self._allocate(owner.shape[1])
        self.head, self.cleared, self.started = state["head"], state["cleared"], state["started"]
        self._last_frames.owner[:] = owner
        self._open_start[:] = state["open_start"].numpy()
        open_row, last = self.head % self._ring_rows, self._zero_frame + 1
        self._rows["frames"][open_row].copy_(state["open_frames"])
        self._rows["start_step"][open_row].copy_(state["open_start"])
        self.frames[last : last + len(state["last_frames"])].copy_(state["last_frames"])
        self.generator.set_state(state["generator"].cpu())

    def check(self) -> None:
        """Raises AssertionError naming the first broken invariant; reads the whole replay but its pixels."""
        rows = np.arange(*self.stored_rows)
        stored = {name: self._rows[name].cpu().numpy() for name in FIELDS}
        flags, start, ending = (stored[name][rows % self._ring_rows] for name in ("flags", "start_step", "ending"))
        step = rows[:, None] * self.num_envs + self._envs
        ended = (flags & ENDED) != 0
        next_start = np.vstack([start[1:], self._open_start])
        opened = stored["start_step"][self.head % self._ring_rows]
        assert self.started or not self.head, "position: rows were added before start()"
        assert not self.frames[self._zero_frame].any(), "zero frame: it is no longer zero"
        assert (flags <= ENDED | LIFE_LOST).all(), "flags: unknown bits are set"
        assert (opened == self._open_start).all(), "start: the open row differs from the running episodes"
        assert ((start >= 0) & (start <= step)).all(), "start: an episode starts after its own step"
        assert (start % self.num_envs == self._envs).all(), "start: an episode starts in another environment"
        if len(rows):
            follows = np.where(ended, step + self.num_envs, start)
            assert (next_start == follows).all(), "start: it does not follow from the flags of the step before"
        assert (ending[~ended] == 0).all(), "ending: a step inside an episode has one"
        assert (ending[(flags & TERMINATED) != 0] == self._zero_frame).all(), "ending: a termination's is not zeros"
        self._last_frames.check(rows, (flags & ENDED) == TRUNCATED, ending, self._oldest)
