import pytest

from benchmarks import methods
from plasticity.registry import METHODS
from plasticity.registry import parse as parse_spec

TINY = ["--updates", "3", "--rounds", "1", "--seconds", "0.01", "--no-compile"]


def test_the_table_has_a_row_for_none_and_each_method(monkeypatch, capsys):
    monkeypatch.setattr(methods, "METHODS", {name: METHODS[name] for name in ("redo", "nap")})
    assert methods.main(TINY) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row.split("|")[1].strip() for row in rows] == ["none", "redo", "nap"]
    assert rows[0].endswith("| 1.00 |")
    assert all("3 updates, finite" in row for row in rows)


def test_a_run_that_blows_up_is_an_error(monkeypatch):
    config = methods.agent_config(methods.MethodsConfig(updates=2, compile=False), "weight-decay:strength=1e30")
    with pytest.raises(ArithmeticError, match="not finite"):
        methods.play(config)


def test_every_shortened_method_is_a_known_one():
    for name, spec in methods.ACTING.items():
        assert parse_spec(spec).name == name


@pytest.mark.parametrize(("option", "value"), [("--rounds", "0"), ("--seconds", "nan"), ("--updates", "-1")])
def test_bad_settings_end_in_one_line(option, value, capsys):
    with pytest.raises(SystemExit) as stopped:
        methods.main([option, value])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
