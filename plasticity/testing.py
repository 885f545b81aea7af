"""The contract of methods, as a check for your own class: `check_method("my.module:MyMethod", period=3)`.

It trains small networks in a supervised loop (`plasticity.loops`). Nothing here needs pytest.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

import nap
from experiment.part import arguments, check_known
from experiment.storage.checkpoint import check_plain
from plasticity.loops import Build, Functional, Loop, cnn, linear, mlp
from plasticity.method import Method
from plasticity.registry import load, options_of, parse

UPDATES = 9
"""Updates that each check trains for."""
CUT = 4
"""Update after which the check of checkpoints goes on from a saved state."""
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}
"""Operations that wait for the device: they return a Python number, or a tensor whose size depends on data."""


class Calls(TorchDispatchMode):
    """The names of all operations inside, and whether one draws from a generator of its own.

    A boolean index counts as the `nonzero` that it needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.draws = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(name := func.overloadpacket.__name__)
        self.draws |= (kwargs or {}).get("generator") is not None
        if name in ("index", "index_put", "index_put_"):
            masked = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
            if masked and (name == "index" or args[2].numel() > 1):  # one value is filled in without
                self.names.add("nonzero")
        return func(*args, **(kwargs or {}))


def leaves(output: Tensor) -> set[int]:
    """The ids of the parameters that a computation reads."""
    found: set[int] = set()
    pending, seen = [output.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found |= {id(node.variable)} if hasattr(node, "variable") else set()
            pending += [following for following, _ in node.next_functions]
    return found


def check_ownership(network: nn.Module, optimizer: Optimizer, inputs: Tensor, step: Callable[[], object]) -> None:
    """AssertionError unless, through some updates, the optimiser owns the very parameters that the network uses.

    step: makes one update. Names, modules and identities stay, and all values are finite.
    """
    parameters, modules = dict(network.named_parameters()), [(name, type(m)) for name, m in network.named_modules()]
    for update in range(UPDATES + 1):
        if update:
            step()
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        now = dict(network.named_parameters())
        after = f"after update {update}" if update else "after attach"
        require([(name, type(m)) for name, m in network.named_modules()] == modules, f"modules are others {after}")
        require(now.keys() == parameters.keys(), f"parameters have other names {after}")
        for name, parameter in now.items():
            require(parameter is parameters[name], f"{name} is another object {after}: change parameters in place")
            values = [parameter, *(v for v in optimizer.state.get(parameter, {}).values() if isinstance(v, Tensor))]
            require(all(bool(v.isfinite().all()) for v in values), f"{name} or its moments are not finite {after}")
        used = {name for name, parameter in now.items() if id(parameter) in leaves(network(inputs).sum()) - owned}
        require(not used, f"the network uses {', '.join(sorted(used))}, which the optimiser does not own, {after}")
        require(owned <= set(map(id, now.values())), f"the optimiser owns what is not in the network {after}")


def require(right: bool, otherwise: str) -> None:
    """AssertionError that says what is wrong, without the help of a test runner."""
    if not right:
        raise AssertionError(otherwise)


@dataclass
class Subject:
    """A method that is checked: its class and the options that it is made with."""

    kind: type[Method]
    options: dict[str, Any]

    def loop(self, build: Build, weights: int = 0, own: Mapping[str, Any] = MappingProxyType({}), **loop: Any) -> Loop:
        """A loop with a new object of the method; `weights` seeds the network, `own` are further options."""
        return Loop(build, self.kind(**{**self.options, **own}), seed=weights, **loop)

    def run(self, build: Build, **options: Any) -> Loop:
        """The same, after `UPDATES` updates."""
        return self.loop(build, **options).run(UPDATES)

    @property
    def is_off(self) -> bool:
        return self.kind(**self.options).is_off


def check_method(method: str | type[Method], **options: Any) -> None:
    """AssertionError, in a line that names the method and the rule, for a method that breaks a rule of `Method`.

    method: a class, or a value of `--plasticity`: a name or module:Class, with or without options. options: keyword
    arguments of its constructor. The method must act within 9 updates (for example with a period of 3), since a rule
    cannot be checked on a method that does nothing. If the method's `is_off` is true, the check is that it changes no
    bit. A network that the method refuses with a ValueError of one line is skipped.
    Raises ValueError for a path or an option that does not exist.
    """
    subject = _subject(method, options)
    rules = [_off_changes_nothing] if subject.is_off else RULES
    plain: tuple[Build, ...] = (mlp, cnn)
    networks = [build for build in plain if _accepts(subject, build)]
    for build in networks:
        for rule in rules:
            with _named(subject, f"{rule.__doc__} (on a {build.__name__})"):
                rule(subject, build)
    odd: tuple[Build, ...] = (linear, Functional)
    for build in odd:
        if networks and _accepts(subject, build):
            with _named(subject, f"it accepts a network ({build.__name__}) and trains it"):
                subject.loop(build).run(3)
    require(bool(networks), f"{subject.kind.__name__}: it refuses an MLP and a CNN of torch's plainest layers")


def _subject(method: str | type[Method], options: dict[str, Any]) -> Subject:
    if isinstance(method, str):
        part = parse(method)
        kind = load(part)
        check_known(part.name, options, options_of(kind))
        return Subject(kind, arguments(part, kind, options_of(kind)) | options)
    require(isinstance(method, type) and issubclass(method, Method), f"{method!r} is no subclass of Method")
    check_known(method.__name__, options, options_of(method))
    return Subject(method, options)


def _accepts(subject: Subject, build: Build) -> bool:
    """Whether a method takes a network; it refuses one with a ValueError of one line."""
    with _named(subject, f"it takes a network or refuses it with a ValueError ({build.__name__})"):
        try:
            subject.loop(build)
        except ValueError as error:
            require(bool(str(error)) and "\n" not in str(error), f"its reason is not one line: {str(error)!r}")
            return False
        return True


@contextlib.contextmanager
def _named(subject: Subject, rule: str) -> Iterator[None]:
    """Names the method and the rule in what is raised inside; an error that is no assertion breaks the rule too."""
    try:
        yield
    except Exception as error:
        what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        raise AssertionError(f"{subject.kind.__name__}: {' '.join(f'{rule}: {what}'.split())}") from error


def _same(ones: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(ones) == len(others) and all(map(torch.equal, ones, others))


def _off_changes_nothing(subject: Subject, build: Build) -> None:
    """Off, no bit differs from a run without it"""
    without, ours = Loop(build).run(UPDATES), subject.loop(build)
    state = torch.get_rng_state()
    require(_same(ours.run(UPDATES).values(), without.values()), "weights differ")
    require(torch.equal(torch.get_rng_state(), state), "it draws random numbers")


def _acts(subject: Subject, build: Build) -> None:
    """It acts"""
    changed = not _same(subject.run(build).values(), Loop(build).run(UPDATES).values())
    require(
        changed,
        f"nothing differs after {UPDATES} updates; give options with which it acts in that time, or, where these "
        "switch it off, let its property is_off be true",
    )


def _repeats(subject: Subject, build: Build) -> None:
    """The same seed gives the same bits"""
    require(_same(subject.run(build).values(), subject.run(build).values()), "two runs differ")


def _draws_from_its_own_generator(subject: Subject, build: Build) -> None:
    """It draws from its own generator"""
    build(0, nn.ReLU)
    state = torch.get_rng_state()
    subject.run(build)
    require(torch.equal(torch.get_rng_state(), state), "torch's global generator moves; use make_generator")


def _uses_its_seed(subject: Subject, build: Build) -> None:
    """Another seed gives other bits"""
    if "seed" in options_of(subject.kind):
        runs = [subject.run(build, own={"seed": seed}).values() for seed in (1, 2)]
        require(not _same(*runs), "it takes a seed, and two seeds give the same weights")
        return
    loop, calls = subject.loop(build), Calls()
    for _ in range(UPDATES):
        loop.learn()
        with calls:  # what `attach` draws may be inputs to try the network on
            loop.after()
    require(not calls.draws, "it draws random numbers, and its constructor takes no seed")


def _owns(subject: Subject, build: Build) -> None:
    """The optimiser owns what the network uses"""
    loop = subject.loop(build)
    check_ownership(loop.network, loop.optimizer, loop.batch()[0], loop.step)
    assert loop.target is not None
    own, others = ({p.data_ptr() for p in network.parameters()} for network in (loop.network, loop.target))
    require(not own & others, "network and target share memory")


def _resumes(subject: Subject, build: Build) -> None:
    """A run resumed from a checkpoint ends like an uninterrupted one"""
    whole, first, second = subject.run(build), subject.loop(build).run(CUT), subject.loop(build, weights=1)
    try:
        check_plain(first.methods[0].state_dict(), "state_dict()")
    except TypeError as error:
        raise AssertionError(error) from None
    torch.save(first.state(), file := io.BytesIO())
    file.seek(0)
    second.load(torch.load(file, weights_only=True))
    require(_same(second.run(UPDATES - CUT).values(), whole.values()), "weights differ: is all in its state_dict?")


def _is_read_without_effect(subject: Subject, build: Build) -> None:
    """Saving, measuring and the penalties change nothing"""
    plain, watched = subject.run(build), subject.loop(build)
    probe = nap.Probe(watched.network, watched.batch()[0])
    for _ in range(UPDATES):
        watched.step()
        watched.state()
        watched.present_loss()
        probe.measure()
    require(_same(watched.values(), plain.values()), "weights differ")


def _never_waits(subject: Subject, build: Build) -> None:
    """After an update it never waits for the device"""
    loop = subject.loop(build)
    for _ in range(UPDATES):
        loop.learn()
        with Calls() as calls:
            loop.after()
            loop.present_loss()
        waits = ", ".join(sorted(WAITS & calls.names))
        require(not waits, f"it calls {waits}, as .item(), float(), a branch on a tensor and a boolean index do")


def _compiles(subject: Subject, build: Build) -> None:
    """The loss is one compiled graph"""
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled, eager = subject.run(build, backend=backend), subject.run(build)
    require(len(graphs) == 1, f"it is compiled {len(graphs)} times: its penalty reads a changing Python value")
    pairs = zip(compiled.values(), eager.values(), strict=True)
    require(all(torch.allclose(one, other, rtol=1e-3, atol=1e-4) for one, other in pairs), "it learns something else")


def _works_on_a_frozen_part(subject: Subject, build: Build) -> None:
    """It works with a partly frozen network, or refuses it"""
    with contextlib.suppress(ValueError):
        loop = subject.loop(build, frozen=True)
        require(all(bool(value.isfinite().all()) for value in loop.run(UPDATES).values()), "weights are not finite")


def _works_in_bf16(subject: Subject, build: Build) -> None:
    """It works with passes in bfloat16"""
    loop = subject.run(build, bf16=True)
    require(all(bool(value.isfinite().all()) for value in loop.values()), "weights are not finite")
    require({p.dtype for p in loop.network.parameters()} == {torch.float32}, "parameters have another type")


def _works_without_target(subject: Subject, build: Build) -> None:
    """It works without a target network"""
    subject.run(build, has_target=False)


RULES: list[Callable[[Subject, Build], None]] = [
    _acts,
    _owns,
    _repeats,
    _draws_from_its_own_generator,
    _uses_its_seed,
    _resumes,
    _is_read_without_effect,
    _never_waits,
    _compiles,
    _works_on_a_frozen_part,
    _works_in_bf16,
    _works_without_target,
]
