"""Scan a checkpoint of any model: `python -m nap.scan CHECKPOINT --model module:factory`."""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn, optim

from nap.graph.weights import find_weights
from nap.metrics.probe import untouched
from nap.scanning import Loss, ScanReport, scan_model
from nap.suggest import suggest

KEYS = ("model", "state_dict", "model_state_dict", "network", "net", "module")
PREFIXES = ("module.", "_orig_mod.")
"""What `nn.DataParallel`, its distributed form and `torch.compile` put before every name."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = _Parser(
        prog="python -m nap.scan",
        description="Norms, effective rates, ranks and spectra of a model's weights, dead and dormant units on a "
        "batch, and what to try. Import paths are module:name, from the current folder too.",
        allow_abbrev=False,
    )
    made.add_argument("checkpoint", metavar="CHECKPOINT", help="file of torch.save; loaded with weights_only=True")
    made.add_argument("--model", required=True, metavar="MODULE:FACTORY", help="what makes the model, or the model")
    made.add_argument("--key", help="where the state dict is in the checkpoint, a.b for nested; default: found")
    made.add_argument("--batch", metavar="MODULE:BATCH", help="a tensor, a tuple of arguments, or what makes one")
    made.add_argument("--loss", metavar="MODULE:LOSS", help="of the model's output; default: a random sum of outputs")
    made.add_argument("--layers", nargs="+", metavar="NAME", help="whose outputs are features, with *; default: found")
    made.add_argument("--outputs", nargs="+", metavar="NAME", help="the output layers; default: found")
    made.add_argument("--optimizer", metavar="NAME", help="for the effective rates: a class of torch.optim, as Adam")
    made.add_argument("--lr", type=float, help="its learning rate; default: that of the checkpoint's optimiser state")
    made.add_argument("--out", metavar="FOLDER|FILE", help="writes scan.json and scan.html there; or one such file")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Scan, print and write; a mistake of the user ends in one line and exit code 2."""
    options = parser().parse_args(argv)
    sys.path[:0] = [] if os.getcwd() in sys.path or "" in sys.path else [os.getcwd()]
    try:
        report = scan(options)
        files = [] if options.out is None else report.save(options.out)
    except (ValueError, OSError) as error:
        text = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        print("error:", " ".join(text.split()), file=sys.stderr)
        return 2
    print(report.table(shutil.get_terminal_size((100, 24)).columns))
    if files:
        print("\nwritten:", *files)
    return 0


def scan(options: argparse.Namespace) -> ScanReport:
    """The report that the options ask for. Raises ValueError or OSError for a mistake of the user."""
    if options.out is not None:
        ScanReport.files(options.out)  # before anything is measured
    if options.lr is not None and not options.optimizer:
        raise ValueError("--lr needs --optimizer, whose steps decide what the rate is divided by: --optimizer Adam")
    saved = load_checkpoint(Path(options.checkpoint))
    model = _made("model", options.model, nn.Module)
    untrained = copy.deepcopy(model)
    load_weights(model, state_in(saved, options.key), options)
    batch = None if options.batch is None else _made("batch", options.batch, (Tensor, tuple))
    loss = None if options.loss is None else imported("loss", options.loss)
    if batch is not None:
        check_pass(model, batch, loss, options)
    elif loss is not None or options.layers:
        raise ValueError(f"--{'layers' if loss is None else 'loss'} needs --batch")
    return scan_model(
        model,
        batch,
        optimizer=None if options.optimizer is None else make_optimizer(model, options, saved),
        initial_norms=initial_norms(saved),
        untrained=untrained,
        loss=loss,
        layers=options.layers,
        outputs=options.outputs,
        title=f"{Path(options.checkpoint).name} ({options.model})",
    )


def check_pass(model: nn.Module, batch: Any, loss: Loss | None, options: argparse.Namespace) -> None:
    """Raises ValueError for a batch that the model does not take, and for a loss that gives no scalar."""
    args = batch if isinstance(batch, tuple) else (batch,)
    with torch.no_grad(), untouched(model):
        try:
            output = copy.deepcopy(model)(*args)
        except Exception as error:  # whatever the user's model raises
            shapes = ", ".join(str(list(v.shape)) if isinstance(v, Tensor) else type(v).__name__ for v in args)
            refused = f"--batch {options.batch} is {shapes}, which {options.model} does not take"
            raise ValueError(f"{refused}: {error}") from None
        try:
            value = None if loss is None else loss(output)
        except Exception as error:  # whatever the user's loss raises
            raise ValueError(f"--loss {options.loss}: calling it failed: {error}") from None
    if loss is not None and not (isinstance(value, Tensor) and value.numel() == 1):
        raise ValueError(f"--loss {options.loss} has to give a tensor of one number")


def load_checkpoint(path: Path) -> Any:
    """What a file of torch.save holds, on the CPU. Raises ValueError, in one line, for any other file."""
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder: name a file of torch.save")
    if not path.exists():
        near = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        raise ValueError(f"no checkpoint {str(path)!r}" + (f"; {_near(path.name, near)}" if near else ""))
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (found := str(error).partition("GLOBAL ")[2]) or zipfile.is_zipfile(path):
            what = found.split()[0] if found else "objects"
            raise ValueError(f"{path} holds {what}, which weights_only=True refuses: save a state dict") from None
        raise ValueError(f"{path} is not a checkpoint of torch.save") from None
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError):
        raise ValueError(f"{path} is not a checkpoint of torch.save, or is damaged") from None


def state_in(saved: Any, key: str | None) -> dict[str, Tensor]:
    """The state dict in a checkpoint: at `key`, itself, or under the one key that holds one."""
    if key is not None:
        for part in key.split("."):
            if not isinstance(saved, Mapping) or part not in saved:
                known = list(map(str, saved)) if isinstance(saved, Mapping) else []
                raise ValueError(f"--key {key}: the checkpoint has no {part!r}; {_near(part, known)}")
            saved = saved[part]
    if _is_state(saved):
        names = list(saved)
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in names):
                return {name.removeprefix(prefix): saved[name] for name in names}
        return dict(saved)
    if not isinstance(saved, Mapping):
        raise ValueError(f"the checkpoint holds a {type(saved).__name__}, and no state dict")
    found = [name for name in saved if _is_state(saved[name])]
    best = next((name for name in KEYS if name in found), found[0] if len(found) == 1 else None)
    if best is None:
        keys = ", ".join(map(str, found or saved)) or "none"
        why = "several state dicts" if found else "no state dict"
        raise ValueError(f"the checkpoint holds {why} under its keys: name it with --key; keys: {keys}")
    return state_in(saved[best], None)


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(isinstance(item, Tensor) or name.endswith("_extra_state") for name, item in value.items())
    )


def load_weights(model: nn.Module, state: dict[str, Tensor], options: argparse.Namespace) -> None:
    """Loads a state dict. Raises ValueError for the first entry that does not fit."""
    own = model.state_dict()
    where = f"{options.checkpoint} does not fit --model {options.model}"
    if strange := [name for name in state if name not in own]:
        raise ValueError(f"{where}: it has {strange[0]!r}, which the model does not have; {_near(strange[0], own)}")
    if missing := [name for name in own if name not in state]:
        more = f" (and {len(missing) - 1} others)" if len(missing) > 1 else ""
        raise ValueError(f"{where}: it has no {missing[0]!r}{more}, which the model has; {_near(missing[0], state)}")
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape != own[name].shape:
            shapes = f"{list(value.shape)} in the checkpoint and {list(own[name].shape)} in the model"
            raise ValueError(f"{where}: {name} is {shapes}")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{where}: {error}") from None


def make_optimizer(model: nn.Module, options: argparse.Namespace, saved: Any) -> optim.Optimizer:
    """An optimiser of the named class, with the rate that is given or that its saved state has."""
    kinds = {name: kind for name, kind in vars(optim).items() if isinstance(kind, type) and name != "Optimizer"}
    if options.optimizer not in kinds:
        raise ValueError(f"--optimizer {options.optimizer}: torch.optim has none; {_near(options.optimizer, kinds)}")
    lr = _saved_rate(saved) if options.lr is None else options.lr
    try:
        return kinds[options.optimizer]([weight.parameter for weight in _matrices(model)], lr=lr)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--optimizer {options.optimizer}: {error}") from None


def _matrices(model: nn.Module) -> list[Any]:
    """One weight for each parameter that holds some."""
    return list({id(weight.parameter): weight for weight in find_weights(model).values()}.values())


def _saved_rate(saved: Any) -> float:
    states = [value for value in _mappings(saved) if isinstance(value.get("param_groups"), list)]
    rates = {float(group["lr"]) for state in states for group in state["param_groups"] if "lr" in group}
    if len(rates) != 1:
        found = f"has several: {sorted(rates)}" if rates else "has no optimiser state"
        raise ValueError(f"--optimizer needs --lr: the checkpoint {found}")
    return rates.pop()


def initial_norms(saved: Any) -> Mapping[str, Tensor] | None:
    """Those that the state of a `Projection` in the checkpoint keeps."""
    found = [value["initial_norms"] for value in _mappings(saved) if isinstance(value.get("initial_norms"), Mapping)]
    return found[0] if len(found) == 1 else None


def _mappings(saved: Any) -> list[Mapping[str, Any]]:
    """The checkpoint, and the mappings directly in it."""
    whole = [saved] if isinstance(saved, Mapping) else []
    return whole + [value for each in whole for value in each.values() if isinstance(value, Mapping)]


def imported(option: str, path: str) -> Any:
    """What an import path names. Raises ValueError, in one line, if there is none."""
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"--{option} {path!r} is no import path: give module:name")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(f"--{option} {path}: {module_name} cannot be imported: {error}") from None
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            known = [each for each in vars(value) if not each.startswith("_")]
            raise ValueError(f"--{option} {path}: {module_name} has no {part!r}; {_near(part, known)}")
        value = getattr(value, part)
    return value


def _made(option: str, path: str, kinds: Any) -> Any:
    """The object that an import path names, or that what it names makes."""
    value = imported(option, path)
    if not isinstance(value, kinds) and callable(value):
        try:
            value = value()
        except Exception as error:  # whatever the user's factory raises
            raise ValueError(f"--{option} {path}: calling it failed: {error}") from None
    if not isinstance(value, kinds):
        wanted = "a model" if kinds is nn.Module else "a tensor or a tuple of arguments"
        raise ValueError(f"--{option} {path} gives a {type(value).__name__}, not {wanted}")
    return value


def _near(word: str, known: Any) -> str:
    names = list(known)
    return suggest(word, names) if len(names) <= 20 or "did" in suggest(word, names) else "no name is close"


if __name__ == "__main__":
    raise SystemExit(main())
