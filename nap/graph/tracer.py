"""How `torch.fx` traces the forward of a module: which submodules it enters, and its stand-ins for arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import fx, jit, nn

from nap.graph.foreign import Role, role
from nap.graph.kinds import is_leaf


def wrapped(module: nn.Module) -> tuple[str, nn.Module] | None:
    """The module inside one of torch's wrappers (compiled, data parallel), with its name there."""
    if type(module).__module__.startswith("torch."):
        for name in ("_orig_mod", "module"):
            if module._modules.keys() == {name}:
                return name, module.get_submodule(name)
    return None


def is_followed(module: nn.Module) -> bool:
    """Whether a trace enters a module. Otherwise the module is one operation."""
    own = isinstance(module, nn.Sequential) or not type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    return own and not is_leaf(module) and not isinstance(module, jit.ScriptModule)


def as_root(module: nn.Module) -> nn.Module:
    """What to trace for a module: the module, or a container of it where a trace would not enter it."""
    return module if is_followed(module) else nn.Sequential(module)


def is_one_operation(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of a module is one operation. A role was found by a call with one tensor and holds for such."""
    if is_followed(module):
        return False
    if len(args) + len(kwargs) == 1 or role(module) is Role.UNKNOWN:
        return True
    defaults = {parameter.name: parameter.default for parameter in _arguments(module)}
    named = [*zip(defaults, args, strict=False), *kwargs.items()][1:]
    return all(value is None or value is defaults.get(name, inspect.Parameter.empty) for name, value in named)


class _Tracer(fx.Tracer):
    given = False
    arguments: tuple[Any, Any] = ((), {})

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_one_operation(m, *self.arguments)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if (inner := wrapped(m)) is not None:
            return inner[1](*args, **kwargs)
        self.arguments = args, kwargs
        if is_one_operation(m, args, kwargs) and has_hooks(m):
            path, before = self.path_of_module(m), vars(m).copy()
            vars(m)["forward"] = lambda *a, **k: self.create_proxy("call_module", path, a, k)
            try:
                return m._call_impl(*args, **kwargs)  # the hooks may compute something
            finally:
                vars(m).clear()
                vars(m).update(before)
        return super().call_module(m, lambda *a, **k: m._call_impl(*a, **k), args, kwargs)  # not what m.compile() made

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        # fx's own fails on decorated forwards. An argument with a default takes it, since a stand-in is never None; but
        # a first argument always stands for the input.
        parameters = _arguments(self.root)
        required = [self._stand_in(p.name) for p in parameters if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
        optional = [
            p for p in parameters if p.default is None and (self.given or (p is parameters[0] and not required))
        ]
        named = [p for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
        by_name = {p.name: self._stand_in(p.name) for p in optional + named if p.kind is not p.POSITIONAL_ONLY}
        return lambda root: root_fn(root, *required, **by_name), [self.root]

    def _stand_in(self, name: str) -> fx.Proxy:
        return self.create_proxy("placeholder", name, (), {})


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has forward hooks other than torch's own, which compute weights or move shards."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return any(not str(getattr(hook, "__module__", "")).startswith("torch.") for hook in hooks)


def _arguments(module: nn.Module) -> list[inspect.Parameter]:
    parameters = inspect.signature(module.forward).parameters.values()
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def has_options(module: nn.Module) -> bool:
    return not is_leaf(module) and any(parameter.default is None for parameter in _arguments(module)[1:])


def has_modes(module: nn.Module) -> bool:
    """Whether the code of a forward asks for the mode."""
    return any("training" in names_in(type(part).forward) for part in module.modules() if not is_leaf(part))


def names_in(method: Any) -> tuple[str, ...]:
    """The attributes and globals that a function's code names; none if it is not Python."""
    return getattr(getattr(inspect.unwrap(method), "__code__", None), "co_names", ())


def follow(root: nn.Module, given: bool, training: bool) -> fx.Graph:
    """The operations of a module's forward. The module may be changed: give a copy.

    given: arguments that default to None are stand-ins too. training: the mode to trace in.
    """
    if any(isinstance(module, jit.ScriptModule) for module in root.modules()):
        raise TypeError("TorchScript has no Python code to follow")
    tracer = _Tracer()
    tracer.given = given
    for module in root.modules():
        module.training = training
    return tracer.trace(root)
