import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from experiment import command_line
from experiment.config import ConfigError, dump_yaml, exit_on_bad_input, from_mapping, load_yaml, parse_cli, suggest
from experiment.values import coerce


@dataclass(frozen=True)
class Base:
    seed: int = 0
    """Seed of everything that is random."""
    run: str | None = field(default=None, metadata={"positional": True})
    """Run directory."""


@dataclass(frozen=True)
class Config(Base):
    utd: Fraction = Fraction(1, 4)
    """Updates per agent step,
    any positive rational."""
    num_envs: int = 1
    """Environments side by side."""
    lr: float | None = None
    """Peak learning rate."""
    clip: float = 10.0
    """Largest gradient norm."""
    nap: bool = False
    """Shorthand for --plasticity nap."""
    deep: bool = True
    """Deep network."""
    name: str = "a"
    """Name of the run."""
    amp: Literal["off", "on", "auto"] = "auto"
    """Mixed precision."""
    methods: tuple[str, ...] = ()
    """Methods, in order."""


def cli(*argv: str, **options) -> Config:
    options = {"presets": {}} | options
    return parse_cli(Config, argv, prog="prog", description="Does it.", **options)


def complaint(call: Callable[[], object]) -> str:
    """The message of the ConfigError, or "" if there is none; any other exception passes through."""
    try:
        call()
    except ConfigError as error:
        return str(error)
    return ""


TEXT = st.text(st.characters(codec="utf-8"))
CONFIGS = st.builds(
    Config,
    seed=st.integers(-(2**63), 2**63 - 1),
    run=st.none() | TEXT.filter(lambda text: text.lower() not in ("none", "null", "~")),
    utd=st.fractions(),
    num_envs=st.integers(-(2**63), 2**63 - 1),
    lr=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    clip=st.floats(allow_nan=False, allow_infinity=False),
    nap=st.booleans(),
    deep=st.booleans(),
    name=TEXT
    | st.sampled_from(
        ["\x85", "on", "no", "null", "~", "1e-4", "", "1_0", "a: b", "- a", "#a", "a\nb", "=", "<<", "\udcff/x"]
    ),
    amp=st.sampled_from(["off", "on", "auto"]),
    methods=st.lists(TEXT).map(tuple),
)


@given(config=CONFIGS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_yaml_round_trip_is_exact(tmp_path, config):
    (tmp_path / "c.yaml").write_text(dump_yaml(config), encoding="utf-8", newline="")
    assert load_yaml(Config, tmp_path / "c.yaml") == config
    assert from_mapping(Config, dataclasses.asdict(config), "here") == config


@given(
    utd=st.fractions(),
    seed=st.integers(-(2**63), 2**63 - 1),
    lr=st.floats(allow_nan=False, allow_infinity=False),
    nap=...,
)
@settings(max_examples=40, deadline=None)
def test_flags_mean_what_the_values_mean(utd: Fraction, seed: int, lr: float, nap: bool):
    joined = cli(f"--utd={utd}", f"--seed={seed}", f"--lr={lr!r}", "--nap" if nap else "--no-nap")
    spaced = cli("--no-nap" if not nap else "--nap", "--utd", str(utd), "--seed", str(seed), "--lr", repr(lr))
    assert joined == spaced == Config(utd=utd, seed=seed, lr=lr, nap=nap)


@pytest.mark.parametrize(
    ("text", "field_name", "value"),
    [
        ("utd: 0.1", "utd", Fraction(1, 10)),
        ("utd: 3/7", "utd", Fraction(3, 7)),
        ("utd: 1e-3", "utd", Fraction(1, 1000)),
        ("lr: 1e-4", "lr", 1e-4),
        ("lr:", "lr", None),
        ("lr: none", "lr", None),
        ("amp: off", "amp", "off"),
        ("amp: on", "amp", "on"),
        ("nap: on", "nap", True),
        ("name: on", "name", "on"),
        ("name: 0123", "name", "0123"),
        ("seed: 1e5", "seed", 100_000),
        ("seed: 100_000", "seed", 100_000),
        ("methods: [nap, redo]", "methods", ("nap", "redo")),
        ("methods: nap, redo", "methods", ("nap", "redo")),
        ("", "seed", 0),
    ],
)
def test_yaml_values_are_read_by_the_type_of_the_field(tmp_path, text, field_name, value):
    (tmp_path / "c.yaml").write_text(text)
    assert getattr(load_yaml(Config, tmp_path / "c.yaml"), field_name) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nnum_env: 2", r"c.yaml line 2: unknown key 'num_env'; did you mean 'num_envs'\?$"),
        ("seed: x", r"c.yaml line 1: seed: expected an integer, got 'x'$"),
        (
            "seed: 1" + "0" * 22,
            r"seed: an integer has to be from -9,2\d\d,.* to 9,223,372,036,854,775,807, not 10{22}$",
        ),
        ("seed: 1e60", "seed: an integer has to be from .*, not 1e60$"),
        (f"seed: -{2**63 + 1}", "seed: an integer has to be from -9,223,372,036,854,775,808 to "),
        ("seed: 1\nseed: 2", "line 2: key 'seed' stands twice$"),
        ("seed: {a: 1}", "line 1: seed: expected one value or a list"),
        ("seed: [", "line 1: not valid YAML"),
        ("- seed", "expected lines of 'key: value'$"),
        ("[a]: 1", "line 1: expected a name"),
        ("seed: \x01", "not valid YAML"),
        ("lr: nan", "lr: expected a finite number or none, got 'nan'$"),
        ("clip: .inf", "clip: expected a finite number, got '.inf'$"),
        ("utd: 1e999999999", "utd: expected a rational"),
        ("utd: 1/0", "utd: expected a rational"),
        ("amp: true", r"amp: expected one of off, on, auto, got 'true'$"),
        ("[" * 1500, "nested too deeply|not valid YAML"),
    ],
)
def test_mistakes_in_a_file_are_one_line(tmp_path, text, message):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(Config, tmp_path / "c.yaml")
    assert "\n" not in str(caught.value)


@given(data=st.binary() | st.text("-:[]{}\n ,'\"&*!|>%@`abseed01").map(str.encode))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_file_is_a_config_or_one_line(tmp_path, data):
    (tmp_path / "c.yaml").write_bytes(data)
    assert "\n" not in complaint(lambda: load_yaml(Config, tmp_path / "c.yaml"))


def test_unreadable_files(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read config"):
            load_yaml(Config, path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-env", "3"], r"^unknown option '--num-env'; did you mean '--num-envs'\?$"),
        (["--no-napp"], r"^unknown option '--no-napp'; did you mean '--no-nap'\?$"),
        (["--seed", "1", "--zzz"], "^unknown option '--zzz'$"),
        (["--utd"], "^--utd needs a value$"),
        (["--utd", "--seed", "1"], "^--utd needs a value$"),
        (["--utd", "x"], "^--utd: expected a rational such as 8, 0.25 or 3/7, got 'x'$"),
        (["--seed", "1.5"], "^--seed: expected an integer, got '1.5'$"),
        (["--seed", "1e99"], "^--seed: an integer has to be from"),
        (["--lr", "inf"], "^--lr: expected a finite number or none"),
        (["--amp", "of"], r"^--amp: expected one of off, on, auto, got 'of'; did you mean 'off'\?$"),
        (["--nap=false"], "^--nap takes no value"),
        (
            ["--config", "atari"],
            r"no preset or file is named 'atari' \(presets: atari100k\); did you mean 'atari100k'\?$",
        ),
        (["--config", "/no/such.yaml"], "cannot read config"),
        (["a", "b"], "^unexpected argument 'b'$"),
        (["-x"], "^unknown option '-x'"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(argv, message, capsys):
    with pytest.raises(ConfigError, match=message):
        cli(*argv, presets={"atari100k": Path("x.yaml")})
    assert capsys.readouterr() == ("", "")


@given(
    st.lists(st.text("-=nap seduti1/.", max_size=8) | st.sampled_from(["--utd", "--nap", "--seed=1", "x"]), max_size=5)
)
@settings(max_examples=60, deadline=None)
def test_any_command_line_is_a_config_or_one_line(argv):
    if not {"-h", "--help"} & set(argv):
        assert "\n" not in complaint(lambda: cli(*argv))


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("seed: 1\nutd: 8\nnap: true\n")
    presets = {"fast": tmp_path / "c.yaml"}
    by_file = Config(seed=1, utd=Fraction(8), nap=True)
    assert cli("--config", "fast", presets=presets) == by_file
    assert cli("--seed", "2", "--config", str(tmp_path / "c.yaml")) == dataclasses.replace(by_file, seed=2)
    assert cli("--no-nap", presets=presets, default_preset="fast") == dataclasses.replace(by_file, nap=False)
    assert cli("--seed=3", presets=presets, default_preset="fast", base=Config(name="b")) == Config(seed=3, name="b")


def test_spellings(tmp_path):
    assert cli("--num_envs", "3") == cli("--num-envs=3") == Config(num_envs=3)
    assert cli("--methods", "nap", "redo") == cli("--methods", "nap,redo") == Config(methods=("nap", "redo"))
    assert cli("--seed", "5", "runs/a") == cli("runs/a", "--seed", "5") == cli("--run", "runs/a", "--seed=5")
    assert cli("--seed", "-5") == Config(seed=-5)
    assert cli("--seed", "1", "--seed", "2") == Config(seed=2)


def test_help_shows_each_field_with_its_inherited_docstring_and_the_preset_default(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "c.yaml").write_text("utd: 0.1")
    with pytest.raises(SystemExit) as caught:
        cli("--config", "slow", "--help", presets={"slow": tmp_path / "c.yaml"})
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert "Updates per agent step, any positive rational. (default: 1/10)" in text
    assert "Seed of everything that is random. (default: 0)" in text
    assert "--nap, --no-nap" in text
    assert "{off,on,auto}" in text
    assert "Environments side by side. (default: 1)" in text
    assert all(f"--{f.name.replace('_', '-')}" in text for f in dataclasses.fields(Config) if f.name != "run")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_means_its_shortest_text_as_a_fraction(value):
    if 1e-90 < abs(value) < 1e90:
        assert coerce(value, Fraction) == Fraction(repr(value))


@pytest.mark.parametrize("value", [True, 1.0, None, [1], "", " ", "1/1", "0x1"])
def test_an_integer_is_never_guessed(value):
    with pytest.raises(ConfigError):
        coerce(value, int)


def test_suggest():
    assert suggest("braekout", ["Breakout", "Pong"]) == "; did you mean 'Breakout'?"
    assert suggest("zzz", ["Breakout"]) == ""


@pytest.mark.parametrize("error", [ConfigError("a\nb"), ValueError("a b"), FileNotFoundError(2, "b", "a")])
def test_bad_input_exits_with_one_line(error, capsys):
    with pytest.raises(SystemExit) as caught, exit_on_bad_input():
        raise error
    assert caught.value.code == 2
    assert capsys.readouterr().err.replace("a: b", "a b") == "error: a b\n"


def test_the_light_modules_import_no_torch():
    code = (
        "import sys, experiment.config, experiment.storage.run_dir, experiment.storage.tracking, experiment.progress,"
        " experiment.interrupt; assert not {'torch', 'numpy', 'tyro'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@dataclass(frozen=True)
class Many:
    runs: tuple[str, ...] = field(default=(), metadata={"positional": True})
    """Run directories."""
    out: str = "a"
    """File."""


ODD = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9) | st.binary(max_size=9).map(
    lambda data: os.fsdecode(data.replace(b"\0", b""))
)


@given(st.lists(ODD.filter(lambda word: not word.startswith("-")), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_each_word_of_a_list_of_paths_is_one_path(words):
    for written in (words, ["--runs", *words]):
        assert parse_cli(Many, ["--out=a b, c", *written], prog="p", description="d", presets={}) == Many(
            tuple(words), "a b, c"
        )


def test_a_path_with_spaces_and_commas_is_one_path_in_a_file_too(tmp_path):
    (tmp_path / "c.yaml").write_text("runs: my runs, all")
    assert load_yaml(Many, tmp_path / "c.yaml") == Many(("my runs, all",))
    assert parse_cli(Many, ["--runs=my runs, all"], prog="p", description="d", presets={}).runs == ("my runs, all",)


@given(st.lists(ODD, min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
@example(["a b", "it's", "$HOME", os.fsdecode(b"\xff'\\n")])
def test_what_is_printed_to_be_pasted_is_read_back_by_the_shell(words):
    script = f"printf '%s\\0' {command_line.shell(*words)}"
    printed = subprocess.run(["bash", "-c", os.fsencode(script)], capture_output=True, check=True).stdout
    assert printed.split(b"\0")[:-1] == [os.fsencode(word) for word in words]


@pytest.mark.parametrize("words", [["x", "y", "--out", "b"], ["--out", "b", "x", "y"], ["x", "--out", "b", "y"]])
def test_a_positional_list_takes_every_word_that_no_option_takes(words):
    assert parse_cli(Many, words, prog="p", description="d", presets={}) == Many(("x", "y"), "b")


def test_an_empty_default_is_not_shown(capsys):
    @dataclass
    class Empty:
        path: str = field(default="", metadata={"positional": True})
        other: str = ""
        third: str = "x"

    with pytest.raises(SystemExit):
        parse_cli(Empty, ["--help"], prog="p", description="d")
    assert capsys.readouterr().out.count("(default:") == 2  # of --config and --third
