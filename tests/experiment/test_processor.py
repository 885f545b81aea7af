import pytest

from agents.config import DQNConfig
from experiment import processor
from experiment.values import ConfigError


@pytest.fixture
def flags(monkeypatch):
    """Lets a test say what the processor can do; bf16 then has no leave to be slow."""
    monkeypatch.delenv(processor.ALLOW, raising=False)
    return lambda *names: monkeypatch.setattr(processor, "instruction_sets", lambda: frozenset(names))


def test_bf16_is_refused_where_the_processor_lacks_it(flags):
    flags("avx2", "avx512f")
    with pytest.raises(ConfigError, match=r"has no instructions for bfloat16 .* give --precision fp32, or auto"):
        processor.check_precision("bf16", "cpu")
    processor.check_precision("fp32", "cpu")
    processor.check_precision("bf16", "cuda:1")


@pytest.mark.parametrize("names", [("avx512_bf16",), ("amx_bf16",), ("bf16",), ()])
def test_bf16_runs_where_it_can_or_where_nothing_is_known(names, flags):
    flags(*names)
    processor.check_precision("bf16", "cpu")


def test_a_resumed_run_goes_on_with_a_warning(flags, capsys):
    flags("avx2")
    processor.check_precision("bf16", "cpu", resumed=True)
    assert capsys.readouterr().err.startswith("warning: ")


@pytest.mark.parametrize(
    ("names", "device", "env", "expected"),
    [
        (("avx2",), "cpu", "Pong", "fp32"),
        (("avx512f", "avx512_bf16"), "cpu", "Pong", "bf16"),
        (("avx512f", "avx512_bf16"), "cpu", "MinAtar/Breakout", "fp32"),
        (("avx2",), "cuda", "Pong", "bf16"),
    ],
)
def test_auto_is_resolved_by_what_the_processor_has(names, device, env, expected, flags):
    flags(*names)
    assert DQNConfig(precision="auto", device=device, env=env).resolved().precision == expected


def test_torch_kept_from_avx_512_is_kept_from_its_bf16(monkeypatch):
    monkeypatch.setattr(processor, "_cpuinfo", lambda key: {"flags": "avx2 avx512f avx512_bf16 amx_bf16"}.get(key, ""))
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    processor.instruction_sets.cache_clear()
    try:
        assert processor.instruction_sets() == {"avx2"}
    finally:
        processor.instruction_sets.cache_clear()
