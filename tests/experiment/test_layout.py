"""Which memory format a network gets, and where its code is kept. No convolution runs backwards here."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from agents.build import build_learner, head_options
from agents.config import DQNConfig
from agents.names import NETWORKS
from agents.networks.convolution import PixelConv2d
from agents.networks.encoders import Encoder, QNetwork, make_network
from experiment import layout
from experiment.layout import NARROW, compiled, memory_format
from studies.warm_start.networks import ResNet18, convolution, small_cnn

LAST, PLAIN = torch.channels_last, torch.contiguous_format
NAMES = [*NETWORKS, "impala:width=0.0625", "impala:width=0.25", "impala:width=0.5"]
SAFE = {name: partial(make_network, name, 4, (84, 84), 6) for name in NAMES} | {
    "cnn": lambda: small_cnn((3, 32, 32), 10, 32, 256, (2, 2, 1)),
    "narrow cnn": lambda: small_cnn((3, 16, 16), 10, 4, 8, (2, 2, 1)),
    "resnet18": lambda: ResNet18((3, 32, 32), 10),
    "resnet18 of width 16": lambda: ResNet18((3, 32, 32), 10, NARROW),
}
"""Networks that never come near the fault: their format, and with it their bits and speed, stay."""


class Narrow(Encoder, nn.Sequential):
    hidden = 8


def is_channels_last(x):
    """Whether torch's convolutions take x for channels_last; a size of 1 makes it both, and then it does not matter."""
    return x.is_contiguous(memory_format=LAST) and not x.is_contiguous()


@pytest.mark.parametrize("name", SAFE)
def test_networks_without_narrow_shortcuts_are_channels_last(name):
    assert memory_format(SAFE[name]()) == LAST


@pytest.mark.parametrize("width", [2, 8, NARROW - 1])
def test_a_narrow_resnet_is_contiguous_on_a_cpu_and_channels_last_elsewhere(width):
    assert memory_format(ResNet18((3, 16, 16), 10, width)) == PLAIN
    with torch.device("meta"):
        assert memory_format(ResNet18((3, 16, 16), 10, width)) == LAST


@pytest.mark.parametrize("width", [2, NARROW])
def test_a_compiled_network_keeps_its_format(monkeypatch, width):
    given = {}
    monkeypatch.setattr(torch, "compile", lambda function, **options: given.update(options))
    network = ResNet18((3, 16, 16), 10, width)
    compiled(network.forward, network)
    assert given["fullgraph"]
    assert ("layout_optimization" in given["options"]) == (width < NARROW)


def test_on_a_cpu_each_graph_is_one_file_of_cpp(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    files = lambda: len(list(tmp_path.rglob("*.main.cpp")))  # noqa: E731
    linear = nn.Linear(4, 4)
    loss = compiled(lambda x: (linear(x.sin()).relu() @ x.cos()).softmax(-1).square().sum(), linear)(torch.ones(4, 4))
    assert files() == 1  # by default one for each of its kernels
    loss.backward()
    assert files() == 2


def test_vector_registers_are_taken_on_trust_only_if_torch_itself_uses_them(monkeypatch):
    given = {}
    monkeypatch.setattr(torch, "compile", lambda function, **options: given.update(options))
    monkeypatch.setattr(layout, "instruction_sets", lambda: frozenset({"avx2", "avx512f"}))
    for capability, trusted in (("AVX512", True), ("AVX2", False), ("DEFAULT", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        compiled(torch.sin, nn.Linear(2, 2))
        assert ("cpp.vec_isa_ok" in given["options"]) == trusted


DOUBLED = """
import torch
from experiment.layout import compiled
linear = torch.nn.Linear(2, 2)
x = torch.linspace(-1, 1, 4096)
with torch.no_grad():
    assert torch.equal(compiled(lambda x: (2 * x).relu(), linear)(x), (2 * x).relu())
"""


def test_processors_that_share_a_folder_of_compiled_code_compute_the_same(tmp_path):
    """The second would else find the graph of the first, and build it for its own vector registers."""
    for kind in ({}, {"ATEN_CPU_CAPABILITY": "avx2"}):
        environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)} | kind
        subprocess.run([sys.executable, "-c", DOUBLED], env=environment, check=True)
    folders = list(tmp_path.glob("processor-*"))
    assert len(folders) == (2 if "avx512f" in layout.instruction_sets() else 1)
    assert all(list(folder.rglob("*.main.cpp")) for folder in folders)


def test_the_folder_of_a_process_that_another_started_is_not_within_that_ones(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    layout.keep_code_apart()
    own = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert own.parent == tmp_path
    layout.keep_code_apart()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == own
    monkeypatch.setattr(layout, "instruction_sets", lambda: frozenset({"another"}))
    layout.keep_code_apart()
    other = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert other.parent == tmp_path
    assert other != own


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_process_compiles_as_many_networks_as_it_likes():
    torch.compiler.reset()
    networks, x = [Doubled(3, 2) for _ in range(12)], torch.randn(4, 3)
    for network in networks:
        assert torch.equal(compiled(network, network, backend=lambda graph, _: graph)(x), network(x))


@pytest.mark.parametrize("width", [2, NARROW])
def test_every_image_within_a_q_network_has_the_chosen_format(width):
    config = DQNConfig(compile="false", threads=1).resolved()
    narrow = Narrow(PixelConv2d(4, width, 3), nn.ReLU(), convolution(width, 4, 1, 2), nn.ReLU())
    network = QNetwork(narrow, 4, (16, 16), 3, **head_options(config))
    online = build_learner(config, network).online
    images = []
    for part in online.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda _, args, out: images.extend([args[0], out]))
    with torch.no_grad():
        online(torch.zeros(2, 4, 16, 16, dtype=torch.uint8))
    assert {is_channels_last(image) for image in images[1:]} == {width == NARROW}  # the first are the pixels themselves
    assert len(images) == 4
