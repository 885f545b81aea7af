"""The pretend device itself: what it makes, what it refuses, what it counts."""

import copy

import pytest
import torch
from torch import nn

from tests.pretend_device import HERE, PretendTensor, waits


def ones(*shape, **options):
    return torch.ones(shape, device=HERE, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(3, device=HERE),
        lambda: torch.arange(2, 5, device=HERE),
        lambda: torch.randperm(5, device=HERE, generator=torch.Generator(HERE)),
        lambda: torch.tensor([1, 2], device=HERE),
        lambda: torch.ones(2).to(HERE),
        lambda: ones(2, 3).t()[1:] + 1,
        lambda: ones(2) * torch.tensor(2.0),  # a scalar of the CPU is welcome on CUDA too
    ],
)
def test_what_is_made_there_is_there(make):
    assert isinstance(make(), PretendTensor)
    assert make().device == torch.device(HERE, 0)


@pytest.mark.parametrize(
    "mix",
    [
        lambda: ones(2) + torch.ones(2),
        lambda: ones(2, 2) @ torch.ones(2, 2),
        lambda: torch.stack([ones(), torch.ones(())]),
        lambda: torch.ones(()).add_(ones()),
        lambda: nn.Linear(2, 2)(ones(1, 2)),
        lambda: torch._foreach_add_([ones(2)], [torch.ones(2)]),
        lambda: ones(3).index_select(0, torch.tensor([0])),
        lambda: torch.randint(3, (2,), device=HERE, generator=torch.Generator()),
        lambda: torch.randint(3, (2,), generator=torch.Generator(HERE)),
        lambda: ones(2).uniform_(generator=torch.Generator()),
    ],
)
def test_devices_do_not_mix(mix):
    with pytest.raises(RuntimeError, match=r"same device|device type for generator"):
        mix()


def test_numpy_sees_nothing_there():
    with pytest.raises(RuntimeError, match="numpy"):
        ones(2).numpy()


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda: ones().item(), "_local_scalar_dense"),
        (lambda: bool(ones() > 0), "_local_scalar_dense"),
        (lambda: ones(2).tolist(), "copy to cpu"),
        (lambda: ones(2).cpu(), "copy to cpu"),
        (lambda: torch.ones(2).copy_(ones(2)), "copy to cpu"),
        (lambda: torch.tensor(1.0, device=HERE), "copy to pretend"),
        (lambda: ones(3)[torch.tensor([0, 1])], "copy to pretend"),
        (lambda: ones(3)[ones(3, dtype=torch.bool)], "index"),
        (lambda: ones(3).nonzero(), "nonzero"),
    ],
)
def test_what_the_host_waits_for_counts(wait, name):
    with waits() as found:
        wait()
    assert found == {name: 1}


def test_what_it_does_not_wait_for_does_not():
    source, mask = torch.ones(2), ones(2, dtype=torch.bool)
    with waits() as found:
        a = ones(2)
        a[mask] = 0
        a[1:].fill_(3).add_(1)
        a.copy_(source, non_blocking=True)
        torch.where(mask, a, 0.0).sum().sqrt()
    assert found == {}


def test_generators_draw_what_the_cpus_draw():
    there, here = (torch.Generator(device).manual_seed(3) for device in (HERE, "cpu"))
    assert (there.device, here.device) == (torch.device(HERE), torch.device("cpu"))
    assert torch.randn(4, device=HERE, generator=there).tolist() == torch.randn(4, generator=here).tolist()


def test_a_network_moves_and_learns_as_on_the_cpu():
    made = []
    for device in ("cpu", HERE):
        torch.manual_seed(0)
        convs = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        network = nn.Sequential(convs, nn.Linear(27, 2))
        parameters = list(network.parameters())
        network.to(device).to(memory_format=torch.channels_last)
        assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
        twin = copy.deepcopy(network)
        optimizer = torch.optim.AdamW(network.parameters(), lr=torch.tensor(1e-2, device=device), fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            inputs = torch.arange(200.0, device=device).view(4, 2, 5, 5).div(200)
            network(inputs).square().mean().backward()
            optimizer.step()
        assert twin[1].weight.device.type == torch.device(device).type
        assert not torch.equal(twin[1].weight, network[1].weight)
        made.append([parameter.tolist() for parameter in network.to("cpu").state_dict().values()])
    assert made[0] == made[1]
