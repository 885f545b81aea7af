"""How a module's forward is run on real inputs while the operations are recorded, as `torch.fx` would write them."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nap.graph.kinds import Kind, function_kind
from nap.graph.tracer import as_root, is_one_operation, wrapped

_CONSTANTS = (int, float, bool, complex, str, type(None), type(...), torch.dtype, torch.device)
_REFLECTED = {"rsub": "sub", "rdiv": "div", "rtruediv": "div", "rpow": "pow", "rmatmul": "matmul"}


def as_call(inputs: Any, meta: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, in new tensors: of one tensor, a tuple of arguments, or a dict of keyword arguments."""
    inputs = _fresh(inputs, meta)
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def record(module: nn.Module, inputs: Any, training: bool, meta: bool) -> fx.Graph:
    """The operations that a module's forward runs on these inputs. The module is changed: give a copy.

    training: the mode to run in. meta: the module's tensors have no values, and the inputs then have none either.
    Raises what the forward raises.
    """
    args, kwargs = as_call(inputs, meta)
    root = as_root(module)
    recorder = _Recorder(root)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one kernel, in which no operation is seen
    try:
        for name, part in root.named_modules():
            part.training = training
            part.__dict__["forward"] = recorder.follow(name, part, part.forward)
        for tensor in tensors_in((args, kwargs)):
            recorder.know(tensor, recorder.graph.placeholder("input"))
        with torch.no_grad(), torch.device("meta") if meta else nullcontext(), recorder.made, recorder:
            out = module(*args, **kwargs)
        recorder.graph.output(tuple(recorder.node(tensor) for tensor in tensors_in(out)))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return recorder.graph


def tensors_in(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """The tensors in a value: in its containers, dataclasses and other objects."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from (tensor for item in value.values() for tensor in tensors_in(item, depth))
    elif isinstance(value, tuple | list):
        yield from (tensor for item in value for tensor in tensors_in(item, depth))
    elif depth and not isinstance(value, nn.Module | type) and hasattr(value, "__dict__"):
        yield from tensors_in(list(vars(value).values()), depth - 1)


class _Made(TorchDispatchMode):
    """Remembers the storage of each tensor that is made. Through it the operations of TorchScript are recorded too."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.storages: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        self.storages.update(map(_storage, tensors_in(out)))
        return out


class _Recorder(TorchFunctionMode):
    """Writes each call of a torch function, of a tensor's method or of a module that is one operation as a node.

    A tensor's node is found by the tensor's identity, so every tensor is kept. A tensor whose version has changed since
    was written in place through another view. A tensor that no recorded call returned, made during the run, comes from
    code that torch does not show, such as `torch.vmap`: it may depend on every value that nothing has used yet.
    """

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.inside, self.made = False, _Made()
        self.places: list[tuple[str, type]] = [("", type(root))]
        self.known: dict[int, tuple[Tensor, fx.Node, int]] = {}
        self.writers: dict[int, fx.Node] = {}
        self.names = {id(value): name for name, value in [*root.named_buffers(), *root.named_parameters()]}

    def follow(self, name: str, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in for a module's forward during the run."""

        @wraps(forward)
        def followed(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return forward(*args, **kwargs)
            if (inner := wrapped(module)) is not None:
                return inner[1](*args, **kwargs)
            if is_one_operation(module, args, kwargs):
                return self._record("call_module", name, forward, args, kwargs)
            self.places.append((name, type(module)))
            try:
                return forward(*args, **kwargs)
            finally:
                self.places.pop()

        return followed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside:
            return func(*args, **kwargs or {})
        return self._record("call_method", _name(func), func, args, kwargs or {})

    def _record(self, op: str, target: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.inside = True  # what this method itself asks of tensors is no part of the forward
        try:
            given = [(tensor, _version(tensor)) for tensor in tensors_in((args, kwargs))]
            made = self._arguments(args), self._arguments(kwargs)
            out = function(*args, **kwargs)
            if target in _REFLECTED and op == "call_method":
                target, made = _REFLECTED[target], (made[0][::-1], made[1])
            if target == "getitem" and op == "call_method":
                node = self.graph.call_function(operator.getitem, *made)
            else:
                node = self.graph.create_node(op, target, *made)
            path = self.places[-1]
            node.meta["nn_module_stack"] = {path[0]: path}
            for tensor, version in given:
                if _version(tensor) != version:
                    self.writers[_storage(tensor)] = node
                    self.know(tensor, node)
            self._know_all(out, node)
        finally:
            self.inside = False
        return out

    def _know_all(self, value: Any, node: fx.Node) -> None:
        """Maps the tensors of a result to the node, each through its place in the result."""
        if isinstance(value, Tensor):
            node.meta["shape"] = tuple(value.shape)
            self.know(value, node)
        elif isinstance(value, dict | tuple | list):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if any(True for _ in tensors_in(item)):
                    self._know_all(item, self.graph.call_function(operator.getitem, (node, key)))
        else:
            for tensor in tensors_in(value):
                self.know(tensor, node)

    def know(self, tensor: Tensor, node: fx.Node) -> None:
        self.known[id(tensor)] = (tensor, node, _version(tensor))

    def node(self, tensor: Tensor) -> fx.Node:
        """The node whose value a tensor is now."""
        if id(tensor) not in self.known:
            name = self.names.get(id(tensor), "")
            hidden = not name and _storage(tensor) in self.made.storages
            self.know(tensor, self._hidden() if hidden else self.graph.get_attr(name))
        _, node, version = self.known[id(tensor)]
        if _version(tensor) != version:
            writer = self.writers.get(_storage(tensor))
            node = self.graph.create_node("call_method", "setitem", (node,) if writer is None else (node, writer))
            self.know(tensor, node)
        return node

    def _hidden(self) -> fx.Node:
        """A node for code that is not seen."""
        unused = [n for n in self.graph.nodes if all(function_kind(user) is Kind.SHAPE for user in n.users)]
        node = self.graph.create_node("call_method", "hidden_code", tuple(unused))
        node.meta["nn_module_stack"] = {self.places[-1][0]: self.places[-1]}
        return node

    def _arguments(self, value: Any) -> Any:
        """The arguments of a call with nodes for the tensors; of other objects, the tensors that they hold."""
        if isinstance(value, Tensor):
            return self.node(value)
        if isinstance(value, tuple | list):
            return tuple(map(self._arguments, value)) if isinstance(value, tuple) else list(map(self._arguments, value))
        if isinstance(value, dict):
            return {str(key): self._arguments(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*(self._arguments(part) for part in (value.start, value.stop, value.step)))
        return value if isinstance(value, _CONSTANTS) else tuple(self.node(tensor) for tensor in tensors_in(value))


def _name(func: Any) -> str:
    """The plain name of a function, of an operator (`add`) or of a tensor's attribute (`shape`)."""
    if isinstance(func, torch._ops.OpOverload):
        return func.overloadpacket.__name__
    name = func.__self__.__name__ if func.__name__ == "__get__" else getattr(func, "__name__", str(func))
    return name.strip("_") if name.startswith("__") else name


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage()._cdata
    except NotImplementedError:  # sparse tensors, and those inside torch.func's transforms
        return id(tensor)


def _fresh(value: Any, meta: bool) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_like(value, device="meta") if meta else value.detach().clone()
    if type(value) in (tuple, list):
        return type(value)(_fresh(item, meta) for item in value)
    if isinstance(value, dict):
        return {key: _fresh(item, meta) for key, item in value.items()}
    return copy.deepcopy(value)
