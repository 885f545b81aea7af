"""The methods by name. A user writes `redo`, `redo:period=1000,tau=0.1` or `my.file:MyMethod`.

Imports no torch, so that a command line can list and check names at once.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from experiment import part
from experiment.part import Part
from experiment.values import ConfigError
from plasticity.pairs import check_pairs

if TYPE_CHECKING:
    from plasticity.method import Method


@dataclass(frozen=True)
class Entry:
    """The import path of a method's class, and a line on what it does."""

    path: str
    line: str


METHODS: dict[str, Entry] = {
    "nap": Entry("plasticity.nap:NaP", "norms, and weights at their initial norm"),
    "hyperball": Entry("plasticity.hyperball:Hyperball", "NaP whose steps turn each weight matrix by a fixed angle"),
    "layer-norm": Entry("plasticity.layer_norm:LayerNorm", "the norms of nap without its projection"),
    "reset": Entry("plasticity.reset:Reset", "re-initialise the last layers periodically"),
    "shrink-perturb": Entry("plasticity.shrink_perturb:ShrinkPerturb", "move weights towards freshly drawn ones"),
    "redo": Entry("plasticity.redo:ReDo", "recycle dormant units periodically"),
    "snr": Entry("plasticity.snr:SNR", "recycle units that are silent for unusually long"),
    "cbp": Entry("plasticity.cbp:ContinualBackprop", "continual backprop: replace little-used units"),
    "fire": Entry("plasticity.fire:FIRE", "make weight matrices the nearest orthogonal ones"),
    "l2-init": Entry("plasticity.l2_init:L2Init", "penalise the distance from the initial weights"),
    "crelu": Entry("plasticity.crelu:CReLU", "concatenated relu(x) and relu(-x)"),
    "injection": Entry(
        "plasticity.injection:PlasticityInjection", "freeze the head once, learn a fresh one next to it"
    ),
    "hare-tortoise": Entry("plasticity.hare_tortoise:HareTortoise", "reset fast weights to their slow average"),
    "spectral": Entry("plasticity.spectral:SpectralRegularization", "penalise spectral norms away from 1"),
    "parseval": Entry("plasticity.parseval:Parseval", "penalise weight matrices that are not orthogonal"),
    "weight-clipping": Entry("plasticity.weight_clipping:WeightClipping", "clip weights to their initial range"),
    "dash": Entry("plasticity.dash:DASH", "shrink weights by their alignment with gradients"),
    "c-chain": Entry("plasticity.c_chain:CChain", "hold outputs on other inputs near the previous ones"),
    "infer": Entry("plasticity.infer:InFeR", "regress random heads on features to their initial outputs"),
    "regrama": Entry("plasticity.regrama:ReGraMa", "re-initialise units that get little gradient, periodically"),
    "weight-decay": Entry("plasticity.weight_decay:WeightDecay", "L2 penalty or decoupled decay (AdamW)"),
    "optimizer-reset": Entry(
        "plasticity.optimizer_reset:OptimizerReset", "zero the optimiser's moments and step counts"
    ),
    "adam-rel": Entry("plasticity.adam_rel:AdamRel", "Adam's step counts restart at a change of target"),
    "upgd": Entry("plasticity.upgd:UPGD", "protect useful weights, perturb the others"),
}


PROJECTIONS = ("hyperball", "nap")
"""Methods that keep norms: they come after all others, in this order."""
NAMES = {entry.path: name for name, entry in METHODS.items()}


def listing() -> str:
    """One line for each method."""
    width = max(map(len, METHODS))
    return "\n".join(f"  {name:{width}}  {entry.line}" for name, entry in METHODS.items())


def parse(spec: str) -> Part:
    """Reads `name[:key=value,...]` or `module:Class[:key=value,...]`; ValueError for an unknown name or form."""
    found = part.parse(spec, METHODS, "method")
    return replace(found, name=NAMES.get(found.name, found.name))


def parse_all(specs: Sequence[str]) -> list[Part]:
    """Reads each spec; ValueError for a method that is named twice."""
    parsed = [parse(spec) for spec in specs]
    names = [spec.name for spec in parsed]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is named twice: give each method once, with all its options")
    return parsed


def parse_option(specs: Sequence[str]) -> list[Part]:
    """`parse_all` of what --plasticity was given; a mistake is a ConfigError that names the option."""
    try:
        return parse_all(specs)
    except ValueError as error:
        raise ConfigError(f"--plasticity: {error}") from None


def ordered(specs: Sequence[str]) -> list[Part]:
    """The specs, read, in the order in which their methods act: as given, but projections last."""
    return sorted(
        parse_all(specs), key=lambda spec: PROJECTIONS.index(spec.name) + 1 if spec.name in PROJECTIONS else 0
    )


def make(specs: Sequence[str], seed: int = 0) -> list[Method]:
    """The methods of the specs, in the order of `ordered`; each draws from a seed made of `seed` and its name.

    Raises ValueError, in one line, for an unknown method or option, for a value that the method refuses, and for two
    active methods that do not go together.
    """
    parsed = ordered(specs)
    methods = [_make(spec, seed) for spec in parsed]
    check_pairs([spec.name for spec, method in zip(parsed, methods, strict=True) if not method.is_off])
    return methods


def load(spec: Part) -> type[Method]:
    """The class of a method; ValueError, in one line, if there is none."""
    from plasticity.method import Method

    return part.load(METHODS[spec.name].path if spec.name in METHODS else spec.name, Method)


def options_of(kind: type[Method]) -> dict[str, inspect.Parameter]:
    """The options of a method by name, its seed among them."""
    from plasticity.method import Method

    return part.options_of(kind, Method)


def _make(spec: Part, seed: int) -> Method:
    kind = load(spec)
    known = options_of(kind)
    values = part.arguments(spec, kind, known)
    if "seed" in known:
        values.setdefault("seed", _seed(seed, spec.name))
    try:
        return kind(**values)
    except ValueError:  # a method names itself
        raise
    except Exception as error:
        raise ValueError(f"{spec.name}: {part.described(error)}") from None


def _seed(seed: int, name: str) -> int:
    """A seed in 0..2³¹−1 that depends on the run's seed and the method's name alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4]) >> 1
