"""Every option of every command at hostile values: it is taken, or one line says what is wrong, with exit code 2."""

import dataclasses
import json
import os
import pty
import sys
import typing
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agents import build, cli, evaluate
from agents.config import DQNConfig
from experiment.config import ConfigError, as_plain, from_mapping, load_yaml
from experiment.storage.tracking import Tracker
from experiment.values import members
from studies.grokking.config import GrokkingConfig
from studies.warm_start.config import WarmStartConfig
from tests.agents.test_command import refused
from tests.agents.toys import CATCH, catch_trainer, play


@dataclass(frozen=True)
class Command:
    """A config class with the settings that others are added to, and what checks them."""

    config: type
    bases: tuple[Any, ...]
    check: Callable[[Any], Any] = lambda config: config.resolved()


COMMANDS = [
    Command(DQNConfig, tuple(load_yaml(DQNConfig, path) for path in cli.presets("dqn").values())),
    Command(GrokkingConfig, (GrokkingConfig(), GrokkingConfig(optimizer="omnigrok", projection="off"))),
    Command(WarmStartConfig, (WarmStartConfig(), WarmStartConfig(nap=True, schedule="cusum"))),
    Command(evaluate.EvaluateConfig, (evaluate.EvaluateConfig("run"),), lambda config: config.check() or config),
]
NUMBERS = ["0", "-1", "0.5", "-0.0", "5e-324", "1e300", "1" + "0" * 30, "1" + "0" * 15, "nan", "-inf", "", "1/0", "x"]
NEVER = {"-1", "1e300", "1" + "0" * 30, "nan", "-inf", "", "1/0", "x"}  # no number of any command may be one
SIGNED = {"v_min", "v_max"}  # but for these, which may be -1
NOBODY = 65534  # the user id


def fields(kind: type) -> dict[str, tuple[Any, ...]]:
    """Every field of a config with the types that it may have."""
    hints = typing.get_type_hints(kind)
    return {field.name: members(hints[field.name]) for field in dataclasses.fields(kind)}


def numeric(kind: type) -> list[str]:
    return [name for name, kinds in fields(kind).items() if {int, float, Fraction} & set(kinds)]


def choices(kind: type) -> dict[str, tuple[str, ...]]:
    found = {
        name: next((k for k in kinds if typing.get_origin(k) is Literal), None) for name, kinds in fields(kind).items()
    }
    return {name: typing.get_args(literal) for name, literal in found.items() if literal}


def complaint(command: Command, base: Any, values: dict[str, str]) -> str:
    """The line that answers the settings, "" if they are taken; any other exception passes through."""
    try:
        config = command.check(from_mapping(command.config, values, "here", base))
    except ValueError as error:
        line = str(error)
        assert line, values
        assert "\n" not in line, line
        return line
    assert from_mapping(command.config, as_plain(config), "here") == config
    assert command.check(config) == config, "resolved settings are resolved"
    return ""


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.config.__name__)
def test_every_number_at_every_extreme_is_taken_or_answered_in_one_line(command):
    for base in command.bases:
        for name in numeric(command.config):
            option = name.replace("_", "-")
            for text in NUMBERS:
                line = complaint(command, base, {name: text})
                assert line or text not in NEVER or (text == "-1" and name in SIGNED), f"--{option} {text} was taken"
                assert not line or name in line or option in line or "steps" in line or "batch" in line, line


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.config.__name__)
def test_every_misspelt_choice_is_answered_with_the_near_one(command):
    for name, known in choices(command.config).items():
        for choice in known:
            for wrong in (choice + "x", choice[:-1] + choice[-1] * 2, choice.upper() + "_"):
                line = complaint(command, command.bases[0], {name: wrong})
                assert any(f"did you mean {near!r}?" in line for near in known), (name, wrong, line)
        assert "expected one of" in complaint(command, command.bases[0], {name: ""})


@given(st.data())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_settings_that_contradict_a_preset_or_one_another_are_taken_or_answered_in_one_line(data):
    command = data.draw(st.sampled_from(COMMANDS[:3]))
    base = data.draw(st.sampled_from(command.bases))
    known = choices(command.config)
    names = data.draw(st.lists(st.sampled_from(list(fields(command.config))), min_size=2, max_size=5, unique=True))
    values = {}
    for name in names:
        if name in known:
            values[name] = data.draw(st.sampled_from(known[name]))
        elif name in numeric(command.config):
            values[name] = data.draw(st.sampled_from(["0", "1", "2", "7", "100", "0.5", "1e-3", "1000000", "none"]))
        elif bool in fields(command.config)[name]:
            values[name] = data.draw(st.sampled_from(["true", "false"]))
        elif name == "plasticity":
            values[name] = data.draw(st.sampled_from(["nap", "nap,nap", "redo", "redo:tau", "l2-init", "os:path", ":"]))
    complaint(command, base, values)


@pytest.mark.parametrize(
    ("preset", "words", "said"),
    [
        ("200m", "--frames 200000000", "--steps none"),
        ("200m", "--steps 20000", "--update-start"),
        ("200m", "--replay-capacity 30", "replay"),
        ("200m", "--nap --lr 1e-7", "--lr-floor"),
        ("atari100k", "--frames 6400", "--update-start"),
        ("atari100k", "--schedule cyclic --cycles 100001", "--cycles"),
        ("atari100k", "--nap --cycle-fraction 5e-5", "--cycles"),
        ("atari100k", "--schedule cusum --lr-warmup 10001", "--lr-warmup"),
        ("atari100k", "--schedule delayed-cosine --lr-delay 100001", "--lr-delay"),
        ("atari100k", "--lr 10 --weight-decay 0.2", "--weight-decay"),
        ("atari100k", "--num-envs 4096 --n-step 30", "--num-envs"),
        ("atari100k", "--plasticity nap:every=3", "--nap-every"),
        ("atari100k", "--plasticity redo redo", "twice"),
        ("atari100k", "--device cuda:-1", "--device"),
    ],
)
def test_a_flag_that_contradicts_its_preset(preset, words, said, tmp_path, capsys):
    assert said in refused(capsys, ["--config", preset, *words.split(), "--root", tmp_path / "run"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("switch", "options"), [(switch, options) for switch, _, options in cli.PARTS])
def test_an_option_of_a_part_is_refused_without_its_switch_and_taken_with_it(switch, options, tmp_path, capsys):
    turned_on = switch.partition(" or ")[0].split()
    values = {"--n-step-final": ["3"], "--sequence": ["minatar3", "--task-steps", "20000"]}
    turned_on += values.get(turned_on[-1], [])
    for option in options:
        flag, value = f"--{option.replace('_', '-')}", getattr(DQNConfig, option)
        words = [flag] if value is False else [f"{flag}={value}"]
        line = refused(capsys, [*words, "--root", tmp_path / "run"])
        assert f"{flag} does nothing without {switch}" in line
        assert getattr(cli.settings("dqn", [*words, *turned_on]), option) == (value or True)
    assert not (tmp_path / "run").exists()


def test_a_preset_may_turn_on_the_part_and_a_word_may_turn_it_off_again(capsys):
    assert cli.settings("der", ["--atoms", "21"]).atoms == 21
    words = ["--distribution", "none", "--atoms", "21"]
    with pytest.raises(ConfigError, match="--atoms does nothing without --distribution c51"):
        cli.settings("der", words)


@pytest.mark.parametrize("name", sorted(set(numeric(DQNConfig)) - {"threads", "steps", "frames", "update_start"}))
def test_every_number_that_is_taken_can_be_built_and_trains(name):
    base = replace(CATCH, steps=60, update_start=40, batch_size=2)
    for text in ("0", "1", "0.5", "1e-12", "7", "1" + "0" * 15):
        if complaint(COMMANDS[0], base, {name: text}):
            continue
        config = from_mapping(DQNConfig, {name: text}, "here", base).resolved()
        trainer = catch_trainer(**{field: getattr(config, field) for field in fields(DQNConfig)})
        trainer.open()
        play(trainer, 30)
        trainer.agent_step = 42
        trainer.step()


BASE = ["--env=Catch", "--steps=60", "--update-start=40", "--batch-size=4", "--threads=1", "--compile=false"]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root, who may write anywhere, is nobody in here; others are who they are."""
    user = os.geteuid()
    if user == 0:
        os.chmod(".", 0o755)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--root", "file"], "a file stands in the way"),
        (["--root", "file/below"], "a file stands in the way"),
        (["--root", ""], "has no name"),
        (["--root", "x" * 300], "name too long"),
        (["--root", "/proc/nowhere"], "runs cannot be kept in '/proc/nowhere'"),
        (["--root", "locked/run"], "Permission denied"),
        (["--name", "."], "one directory name"),
        (["--name", "x" * 300], "one directory name"),
        (["--config", "missing.yaml"], "No such file"),
        (["--config", "folder/"], "Is a directory"),
        (["--config", ""], "no preset or file"),
        (["--config", "locked.yaml"], "Permission denied"),
        (["--config", "binary.yaml"], "UTF-8"),
        (["--resume", "missing"], "no such directory"),
        (["--resume", "file"], "is not a run: it is no directory"),
        (["--resume", "folder"], "no config.yaml"),
        (["--resume", ""], "not a run"),
        (["--resume", "other"], "line 1"),
        (["--plasticity", "missing.module:Method"], "cannot be imported"),
        (["--plasticity", "os:path"], "no plasticity.method.Method"),
        (["--plasticity", "broken_module:Method"], "broken_module"),
        (["--plasticity", "folder:Method"], "folder"),
    ],
)
def test_a_path_that_is_missing_or_of_the_wrong_kind_is_one_line(words, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("file").write_text("")
    Path("binary.yaml").write_bytes(b"\xff\xfe")
    Path("broken_module.py").write_text("class Method(:\n")
    Path("locked.yaml").write_text("")
    for folder in ("folder", "other", "locked"):
        Path(folder).mkdir()
    Path("other/config.yaml").write_text("a key of another program: 1\n")
    Path("locked").chmod(0o500)
    Path("locked.yaml").chmod(0)
    before = sorted(tmp_path.rglob("*"))
    with unprivileged() if "locked" in words[1] else nullcontext():
        assert said in refused(capsys, BASE + words).replace("File name", "name")
    assert [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in str(path)] == before


def test_what_cannot_be_held_in_memory_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build, "_main_memory", lambda: 8_000_000_000)
    words = [*BASE, "--steps=1000000000000000", "--root", tmp_path / "run"]
    assert "--replay-capacity" in refused(capsys, [*words, "--replay-capacity", "1" + "0" * 15])
    assert "--batch-size 10000" in refused(capsys, [*words, "--batch-size=10000", "--block=1024"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["pipe", "terminal", "full disk", "closed"])
def test_a_run_outlives_whoever_reads_it_and_a_full_disk(kind, tmp_path, monkeypatch):
    reader, writer = pty.openpty() if kind == "terminal" else os.pipe()
    if kind == "full disk":
        os.dup2(os.open("/dev/full", os.O_WRONLY), writer)
    streams = [os.fdopen(os.dup(writer), "w") for _ in range(2)]
    os.close(writer)
    os.close(reader)
    if kind == "closed":
        for stream in streams:
            stream.close()
    log = Tracker.log
    monkeypatch.setattr(Tracker, "log", lambda *given: log(*given) or warnings.warn("a warning", stacklevel=1))
    with monkeypatch.context() as patch:
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        code = cli.main("dqn", [*BASE, "--root", str(tmp_path), "--name=a", "--eval-episodes=1", "--probe-interval=0"])
    assert code == 0
    assert json.loads((tmp_path / "a" / "result.json").read_text())["updates"] == 20
    for stream in streams:
        stream.close()  # as Python does when it ends: nothing fails now
