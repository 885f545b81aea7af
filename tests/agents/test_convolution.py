import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agents.networks import convolution
from agents.networks.convolution import Conv2d, channels_last


@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3, 4, 5]), st.integers(1, 9), st.integers(1, 9)),
    first=st.integers(0, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_channels_last_is_a_cast_and_nothing_else(shape, first, dtype, seed):
    batch, planes, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    window = torch.randint(0, 256, (batch, planes + 3, height, width), dtype=torch.uint8, generator=generator)
    pixels = window[:, first : first + planes]
    cast = channels_last(pixels, dtype)
    assert torch.equal(cast, pixels.to(dtype))
    assert cast.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_cast_is_the_same_with_and_without_avx_512(wide, dtype, monkeypatch):
    monkeypatch.setattr(convolution, "WIDE", wide)
    torch._dynamo.reset()
    pixels = torch.randint(256, (3, 4, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    cast = torch.compile(channels_last, fullgraph=True)(pixels, dtype)
    assert torch.equal(cast, pixels.to(dtype))
    assert cast.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("size", "kernel", "stride"), [(20, 4, 2), (9, 3, 1), (17, 5, 5), (11, (3, 2), (2, 3))])
def test_gradients_in_bfloat16_agree_with_those_of_float32(size, kernel, stride, bias, compiled):
    torch.manual_seed(0)
    exact = nn.Conv2d(6, 8, kernel, stride, bias=bias).bfloat16().float()
    fast = Conv2d(6, 8, kernel, stride, bias=bias).bfloat16().to(memory_format=torch.channels_last)
    fast.load_state_dict(exact.state_dict())
    x = torch.randn(4, 6, size, size).bfloat16().to(memory_format=torch.channels_last)
    inputs = [x.float().requires_grad_(), x.clone().requires_grad_()]
    forward = torch.compile(fast, fullgraph=True, backend="aot_eager") if compiled else fast
    outputs = [exact(inputs[0]), forward(inputs[1])]
    weights = torch.randn_like(outputs[0]).bfloat16()
    for output in outputs:
        (output * weights.to(output)).sum().backward()
    for wanted, got in [*zip(exact.parameters(), fast.parameters(), strict=True), inputs]:
        assert got.grad.dtype == torch.bfloat16
        scale = wanted.grad.abs().max()
        assert (got.grad.float() - wanted.grad).abs().max() < 0.01 * scale


def test_a_padded_convolution_is_left_to_the_library():
    conv = Conv2d(2, 3, 3, padding=1).bfloat16()
    out = conv(torch.randn(1, 2, 5, 5).bfloat16())
    out.sum().backward()
    assert out.shape == (1, 3, 5, 5)
    assert "PatchGradient" not in type(out.grad_fn).__name__
