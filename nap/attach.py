"""Attach: runs a projection around the updates of optimisers, each with the matrices that it holds."""

from __future__ import annotations

import copy
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from nap.identity import Identity, warn_of_a_new_count, warn_of_strangers


class Part(NamedTuple):
    """What one update projects: indices of matrices, and of scales and offsets of norms."""

    matrices: Sequence[int]
    affine: Sequence[int]


class Attached(ABC):
    """Runs around the updates of optimisers. An update is a step that changed the parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._counts = [Updates()]
        self._held: dict[int, set[int]] = {}
        """The ids of the parameters that each attached optimiser holds, by the optimiser's place among the counts."""
        self._parts: dict[int, Part] = {}
        self._handles: list[RemovableHandle] = []
        self._identity: Identity | None = None
        self.check()

    every: int

    @abstractmethod
    def _project(self, part: Part, due: Tensor | None = None) -> None:
        """Projects; if `due` is a tensor that is false, leaves all values as they are."""

    @abstractmethod
    def _whole(self) -> Part:
        """Everything that is projected."""

    @abstractmethod
    def _parameters_by_index(self) -> tuple[dict[int, list[nn.Parameter]], dict[int, list[nn.Parameter]]]:
        """The parameters of each matrix and of each scale and offset that the whole has."""

    @property
    def updates(self) -> int:
        """The updates counted so far; with several optimisers, those of the first."""
        return int(self._counts[0])

    def step(self) -> None:
        """Counts one update, and projects everything if it is an `every`-th one. `attach` calls it for you."""
        self.check()
        if self._counts[0].add(self.every, None) is not False:
            self._project(self._whole())

    def attach(self, *optimizers: torch.optim.Optimizer) -> Self:
        """Projects after the optimisers' updates from now on; returns this object.

        Each optimiser has a count of its own for `every`, and its updates project the matrices that it holds; those of
        the first also the matrices that none holds. A step that a `GradScaler` skips is no update. The wrappers of
        accelerate, Lightning and schedule-free are taken too. `copy.deepcopy` of the optimiser and the module attaches
        a copy of this object to the copies; pickle drops it, as every hook of an optimiser.
        Raises ValueError for an optimiser that holds none of the matrices. Warns at the first update of trained
        parameters that no attached optimiser holds, and of an optimiser that has made updates before.
        """
        for optimizer in map(unwrap, optimizers):
            if all(attachment.projection is not self for attachment in attachments(optimizer)):
                self.attach_at(optimizer, max(self._held, default=-1) + 1)
        return self

    def attach_at(self, optimizer: Any, place: int) -> None:
        """`attach` to one unwrapped optimiser, whose updates the count of that number counts."""
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        if (needed := self._ids()) and not needed & held:
            raise ValueError(
                "nap.Projection: the optimiser holds none of the projected matrices: build it from the parameters that "
                "the module has now, after nap.normalize, load_state_dict(assign=True) and sharding"
            )
        self._held[place] = held
        self._counts += [Updates() for _ in range(place + 1 - len(self._counts))]
        self._parts = {}
        self._handles += Attachment(self, optimizer, place).handles

    def detach(self) -> None:
        """Takes this object off every optimiser that it is attached to."""
        for handle in self._handles:
            handle.remove()
        self._held, self._parts, self._handles = {}, {}, []

    def before_update(self, optimizer: Any, place: int) -> None:
        """Called by an optimiser before its step: finds out whether the projection would miss a parameter."""
        self.check()
        if place not in self._parts or len(self._held[place]) != sum(len(g["params"]) for g in optimizer.param_groups):
            self._held[place] = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            self._parts[place] = self._part(place)
            warn_of_strangers(self._module, self._ids(), set().union(*self._held.values()))
            if not int(self._counts[place]):
                warn_of_a_new_count(optimizer, self._held[place])

    def after_update(self, place: int, skipped: Tensor | None) -> None:
        """Called by an optimiser after its step. skipped: on the device, whether it changed nothing; None: it did."""
        due = self._counts[place].add(self.every, skipped)
        if due is not False:
            self._project(self._parts[place], None if due is True else due)

    def check(self) -> None:
        """Raises ValueError, naming it, if a projected parameter is no longer the one that the module uses."""
        if self._identity is None:
            self._identity = Identity(self._module, self._ids())
        if missing := self._identity.missing():
            raise ValueError(
                f"nap.Projection: {missing[0]} was replaced by another parameter (load_state_dict(assign=True), "
                "fully_shard, a parametrization or pruning?): do that first, then build the optimiser, then call "
                "nap.Projection(model).attach(optimizer)"
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_held": {}, "_parts": {}, "_handles": [], "_identity": None}

    def _part(self, place: int) -> Part:
        """What the optimiser of that place holds; the first has also what none holds."""
        held = self._held[place]
        elsewhere = set().union(*(ids for other, ids in self._held.items() if other != place))
        first = place == min(self._held)

        def own(parameters: list[nn.Parameter]) -> bool:
            ids = {id(parameter) for parameter in parameters}
            return not ids.isdisjoint(held) or (first and ids.isdisjoint(elsewhere))

        return Part(*([i for i, group in groups.items() if own(group)] for groups in self._parameters_by_index()))

    def _ids(self) -> set[int]:
        groups = [group for part in self._parameters_by_index() for group in part.values()]
        return {id(parameter) for group in groups for parameter in group}


class Attachment:
    """The hooks of one projection on one unwrapped optimiser: they run around each of its steps.

    No hook runs on a step that a `GradScaler` skips, except of a fused optimiser, which finds out on the device.
    `skipped` is then a tensor there, true if nothing was updated; for every other optimiser it is None.
    """

    def __init__(self, projection: Attached, optimizer: Any, place: int) -> None:
        self.projection, self.place = projection, place
        self.handles: list[RemovableHandle]
        if isinstance(optimizer, Optimizer):
            hooks = optimizer.register_step_pre_hook(self.before), optimizer.register_step_post_hook(self.after)
            self.handles = list(hooks)
        else:
            _hook_step(optimizer)
            self.handles = [RemovableHandle(optimizer._nap_attachments)]
            optimizer._nap_attachments[self.handles[0].id] = self
        _copy_with_attachments(optimizer)

    def before(self, optimizer: Any, *_: Any) -> None:
        self.projection.before_update(optimizer, self.place)

    def after(self, optimizer: Any, *_: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # a GradScaler sets it for the time of a fused step
        self.projection.after_update(self.place, None if found_inf is None else found_inf > 0)


def unwrap(optimizer: Any) -> Any:
    """The optimiser whose steps are to be followed, inside the wrappers of accelerate and Lightning.

    A wrapper that changes the weights in its own `step`, as schedule-free's does, is followed itself.
    """
    while not hasattr(optimizer, "_optimizer_step_post_hooks") and hasattr(
        inner := getattr(optimizer, "optimizer", None), "step"
    ):
        optimizer = inner
    if not (callable(getattr(optimizer, "step", None)) and hasattr(optimizer, "param_groups")):
        raise TypeError(f"nap.Projection: attach takes an optimiser, not {type(optimizer).__name__}")
    return optimizer


def attachments(optimizer: Any) -> list[Attachment]:
    """Those that an unwrapped optimiser has."""
    if isinstance(optimizer, Optimizer):
        owners = [getattr(hook, "__self__", None) for hook in optimizer._optimizer_step_post_hooks.values()]
    else:
        owners = list(getattr(optimizer, "_nap_attachments", {}).values())
    return [owner for owner in owners if isinstance(owner, Attachment)]


def _hook_step(optimizer: Any) -> None:
    """Gives hooks to the `step` of an object that is not torch's `Optimizer`."""
    if hasattr(optimizer, "_nap_attachments"):
        return
    optimizer._nap_attachments = OrderedDict()
    step, owner = type(optimizer).step, weakref.ref(optimizer)

    def step_with_hooks(*args: Any, **kwargs: Any) -> Any:
        own = owner()
        for attachment in attachments(own):
            attachment.before(own)
        result = step(own, *args, **kwargs)
        for attachment in attachments(own):
            attachment.after(own)
        return result

    optimizer.step = step_with_hooks


def _copy_with_attachments(optimizer: Any) -> None:
    """Lets `copy.deepcopy` of the optimiser attach a copy of each projection, which follows the copied module.

    Torch leaves the hooks of an optimiser out of its copies.
    """
    owner = weakref.ref(optimizer)

    def deepcopy(memo: dict[int, Any]) -> Any:
        original: Any = owner()
        names = ["__deepcopy__", *(() if isinstance(original, Optimizer) else ("_nap_attachments", "step"))]
        hooks = {name: vars(original).pop(name) for name in names}
        try:
            copied = copy.deepcopy(original, memo)
        finally:
            vars(original).update(hooks)
        for attachment in attachments(original):
            copy.deepcopy(attachment.projection, memo).attach_at(copied, attachment.place)
        return copied

    optimizer.__deepcopy__ = deepcopy


class Updates:
    """A count of updates: of the steps that changed the parameters. Nothing waits for the device until it is read."""

    def __init__(self, done: int = 0) -> None:
        self.steps = done
        self._skipped: Tensor | None = None

    def add(self, every: int, skipped: Tensor | None) -> bool | Tensor:
        """Counts a step. Whether it was an `every`-th update: where only the device knows, a tensor on it."""
        self.steps += 1
        if skipped is not None:
            self._skipped = skipped.long() if self._skipped is None else self._skipped + skipped
        if self._skipped is None:
            return self.steps % every == 0
        due = (self.steps - self._skipped) % every == 0
        return due if skipped is None else due & ~skipped

    def __int__(self) -> int:
        return self.steps - (0 if self._skipped is None else int(self._skipped))
