"""What `benchmarks.gpu` checks and measures; each section is a function of a device and a clock, and yields findings.

A section runs in a process of its own (`serve`), so that neither a fault of CUDA nor a hang is another section's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict

from agents.build import build_agent
from agents.config import DQNConfig
from agents.dqn import DQN
from benchmarks.speed import learners
from benchmarks.speed.alternate import Contestant, alternate
from benchmarks.speed.counting import SYNCS, OpCounter
from benchmarks.speed.learners import FRAME_SHAPE, NUM_ACTIONS, PRECISIONS, update_block
from benchmarks.speed.measurement import finished
from benchmarks.speed.replays import add_run
from benchmarks.speed.settings import NETWORKS, Settings
from experiment.determinism import configure
from experiment.processor import available_cores
from experiment.values import counted, one_line
from replay import PrioritisedReplay

COMPILING = 60.0
"""Seconds that have to be left for a learner to be compiled."""
ROUNDS, SECONDS = 3, 0.4
"""Rounds of a measurement, and of one learner's turn in a round."""


class Finding(NamedTuple):
    """One line of the report; `passed` is None for what is measured and not judged."""

    name: str
    text: str
    passed: bool | None = None


class Task(NamedTuple):
    """What a section is given: the device, a clock of the seconds that it has left, and what the run is to be."""

    device: str
    left: Callable[[], float]
    command: Sequence[str] = ()


CASES: dict[str, dict[str, Any]] = {
    "DQN, small network": {},
    "DQN, Nature network": {"network": "nature"},
    "DQN, small network, NaP": {"nap": True},
    "C51, dueling, small network": {"distribution": "c51", "dueling": True},
    "quantile, small network": {"distribution": "quantile"},
    "DQN, small network, bf16": {"precision": "bf16"},
}
"""Learners that draw nothing in an update: a GPU draws other numbers than a CPU from the same seed."""
TOLERANCES = {"fp32": (1e-4, 2e-3), "bf16": (0.1, 0.2)}
"""How far losses may be apart, relatively, and parameters, as a share of the way that they went. Two ways to compute on
a CPU are 1e-6 apart in both, bf16 and fp32 0.02 and 0.08; TF32 in the place of fp32 would show."""


def learner(device: str, **settings: Any) -> DQN:
    config = DQNConfig(device=device, compile="false", threads=torch.get_num_threads(), **settings)
    return build_agent(config.resolved(), FRAME_SHAPE, NUM_ACTIONS, seed=0)


def parameters(agent: DQN) -> torch.Tensor:
    """All weights as one vector on the CPU."""
    return torch.cat([parameter.detach().cpu().flatten() for parameter in agent.network.parameters()])


def blocks(count: int) -> list[TensorDict]:
    """Blocks of minibatches on the CPU, from a replay of noise."""
    replay = learners.learner_replay("cpu")
    return [replay.sample(learners.BATCH, learners.BLOCK).clone() for _ in range(count)]


def correctness(task: Task) -> Iterator[Finding]:
    """The same updates of the same network on the device and on the CPU."""
    given = blocks(2)
    for name, settings in CASES.items():
        yield _compared(name, task.device, given, settings)


def _compared(name: str, device: str, given: Sequence[TensorDict], settings: dict[str, Any]) -> Finding:
    here, there = learner("cpu", **settings), learner(device, **settings)
    first = parameters(here)
    losses = [_losses(agent, [block.to(place) for block in given]) for agent, place in ((here, "cpu"), (there, device))]
    apart = float(((losses[1] - losses[0]).abs() / losses[0].abs()).max())
    moved = float((parameters(here) - first).norm())
    share = float((parameters(there) - parameters(here)).norm()) / moved
    most, most_share = TOLERANCES[settings.get("precision", "fp32")]
    text = f"losses of {len(losses[0])} updates apart by {apart:.1e}, at most {most:g}; "
    text += f"parameters by {share:.1e} of the way that they went, at most {most_share:g}"
    return Finding(name, text, apart <= most and share <= most_share)


def _losses(agent: DQN, given: Sequence[TensorDict]) -> torch.Tensor:
    found = []
    for block in given:
        found += [agent.update(batch)["loss"] for batch in agent.bootstrap(block)]
        agent.sync_target()
    return torch.stack(found).cpu()


GRAPHED = CASES | {"DER's heads, small network": {"noisy": True, "dueling": True, "distribution": "c51"}}
Capture = Callable[[DQN, TensorDict], Callable[[], None]]
REPLAYS, MOST_APART = 3, 1e-6


def graph(
    task: Task, capture: Callable[[DQN, TensorDict], Callable[[], None]] = learners.captured
) -> Iterator[Finding]:
    """A block of updates captured as a CUDA graph, and replayed, against the same updates made eagerly."""
    for name, settings in GRAPHED.items():
        try:
            yield _graphed(name, task.device, settings, capture)
        except RuntimeError as error:
            yield Finding(name, f"cannot be captured: {one_line(error)}", False)


def _graphed(name: str, device: str, settings: dict[str, Any], capture: Capture) -> Finding:
    [block] = (given.to(device) for given in blocks(1))
    eager, replayed = learner(device, **settings), learner(device, **settings)
    replay = capture(replayed, block.clone())  # which makes the updates once
    for _ in range(REPLAYS):
        replay()
    for _ in range(1 + REPLAYS):
        update_block(eager, block)
    apart = (parameters(replayed) - parameters(eager)).abs().max()
    updates = REPLAYS * learners.BLOCK
    if settings.get("noisy"):  # a graph draws from another place of the generator's sequence
        return Finding(name, f"{updates} updates replayed, all finite", bool(parameters(replayed).isfinite().all()))
    text = f"{updates} updates replayed, parameters at most {float(apart):.1e} from those made eagerly"
    return Finding(name, text, bool(apart <= MOST_APART))


def waits(task: Task) -> Iterator[Finding]:
    """How often the host waits in a block of updates, prioritised sampling and priorities included."""
    replay = PrioritisedReplay(learners.STEPS, 1, FRAME_SHAPE, 4, device=task.device)
    add_run(replay)(learners.STEPS)
    for name, settings in GRAPHED.items():
        agent = learner(task.device, **settings)

        def work(agent: DQN = agent) -> None:
            block = replay.sample(learners.BATCH, learners.BLOCK, n_step=3)
            batches = agent.bootstrap(block)
            for batch in batches:
                agent.update(batch)
            replay.update(block["index"], torch.stack([batch["losses"] for batch in batches]))

        work()
        count, kernels = _waits_of(work, task.device), OpCounter()
        with kernels:
            work()
        text = f"{count} waits in {learners.BLOCK} updates; {kernels.total() / learners.BLOCK:.1f} kernels an update"
        yield Finding(name, text, count == 0)


def _waits_of(work: Callable[[], None], device: str) -> int:
    """What CUDA itself says, elsewhere the operations that would wait."""
    if not device.startswith("cuda"):
        with OpCounter() as counter:
            work()
        return counter.total(*SYNCS)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def memory(task: Task) -> Iterator[Finding]:
    """Most memory of the device that a learner and its blocks take, without the replay."""
    if not task.device.startswith("cuda"):
        yield Finding("peak memory", f"not counted on {task.device}")
        return
    [given] = blocks(1)
    for network in NETWORKS:
        for precision in PRECISIONS:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            agent, block = learner(task.device, network=network, precision=precision), given.to(task.device)
            for _ in range(3):
                update_block(agent, block)
            yield Finding(f"{network}, {precision}", f"{torch.cuda.max_memory_allocated() / 1e6:,.0f} MB")
            del agent, block


def run(task: Task) -> Iterator[Finding]:
    """A whole run by its own command."""
    began = time.monotonic()
    directory = Path(task.command[task.command.index("--root") + 1]) / task.command[task.command.index("--name") + 1]
    try:
        done = subprocess.run(task.command, capture_output=True, text=True, timeout=max(task.left(), 1))
    except subprocess.TimeoutExpired:
        rows = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        step = json.loads(rows[-1])["agent_step"] if rows else 0
        text = f"stopped after its {time.monotonic() - began:.0f} s, past agent step {step:,}"
        yield Finding("run", text, None if step else False)
        return
    if done.returncode:
        yield Finding("run", f"exit code {done.returncode}: {one_line(done.stderr[-400:])}", False)
        return
    result = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    yield Finding(
        "wall time", f"{time.monotonic() - began:.0f} s, of which {result['training_seconds']:.0f} s of training"
    )
    yield Finding("updates", f"{result['updates']:,} in {result['agent_steps']:,} agent steps", result["updates"] > 0)
    score = result["score"]
    yield Finding("score", f"{score['mean']:.1f}, the mean of {counted(score['episodes'], 'game')}")


def speed(task: Task) -> Iterator[Finding]:
    """Updates a second, eager, graphed and compiled, in alternation; a learner is left out when time is short."""
    for network, precision, nap in product(NETWORKS, PRECISIONS, ("plain", "NaP")):
        settings = Settings(device=task.device, networks=(network,), threads=torch.get_num_threads())
        ready: list[Contestant] = []
        for one in _chosen(settings, precision, nap):
            made = _warmed(one, task.left() - 3 * ROUNDS * SECONDS * (1 + len(ready)))
            if isinstance(made, Finding):
                yield made
            else:
                ready.append(made)
        for series in alternate(ready, ROUNDS, SECONDS):
            low, high = series.range
            yield Finding(f"{network}, {series.name}", f"{series.median:,.0f} updates/s ({low:,.0f}-{high:,.0f})")
        torch._dynamo.reset()


def _chosen(settings: Settings, precision: str, nap: str) -> list[Contestant]:
    """The learners of this precision with or without NaP, compiled ones last."""
    found = [each for each in learners.contestants(settings) if each.name.split(", ")[::2] == [precision, nap]]
    if settings.device.startswith("cuda"):
        found = [replace(each, setup=finished(each.setup)) for each in found]
    return sorted((each for each in found if "sampling" not in each.name), key=lambda each: "compiled" in each.name)


def _warmed(contestant: Contestant, left: float) -> Contestant | Finding:
    """The same, set up and run once, or why not."""
    title = f"{contestant.task.removeprefix('learner ')}, {contestant.name}"
    if left < (COMPILING if "compiled" in contestant.name else 0):
        return Finding(title, "left out: no time")
    try:
        run = contestant.setup()
        run(1)
    except Exception as error:
        return Finding(title, one_line(error), False)
    return replace(contestant, setup=lambda: run)


SECTIONS: dict[str, Callable[[Task], Iterator[Finding]]] = {
    "correctness": correctness, "graph": graph, "waits": waits, "memory": memory, "run": run, "speed": speed,
}  # fmt: skip


def serve(section: str, device: str, seconds: str, *command: str) -> None:
    """Run one section; each finding is a line of JSON on stdout, and an error is the last of them."""
    end, out = time.monotonic() + float(seconds), sys.stdout

    def tell(finding: Finding) -> None:
        print(json.dumps(finding), file=out, flush=True)

    with redirect_stdout(sys.stderr):
        configure(available_cores(), seed=0)
        try:
            for finding in SECTIONS[section](Task(device, lambda: end - time.monotonic(), command)):
                tell(finding)
        except Exception as error:
            tell(Finding("error", f"{type(error).__name__}: {one_line(error)}", False))
            raise
