"""The list of runs is given back as it was saved, and a damaged one is reported in one line."""

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiment.sweeps.manifest import NAME, Entry, Manifest
from experiment.values import ConfigError

ENTRY = Entry("der-Pong-s0", "der", "Pong", 0, "ab12", ("python", "-m", "agents.der"))


@settings(max_examples=25)
@given(
    suite=st.text(),
    words=st.lists(st.text(), min_size=1),
    arms=st.sets(st.text(string.printable, min_size=1), min_size=1),
)
def test_what_is_saved_is_loaded(tmp_path_factory, suite, words, arms):
    folder = tmp_path_factory.mktemp("root")
    runs = [Entry(f"run{i}", arm, "Pong", i, "ab", tuple(words)) for i, arm in enumerate(sorted(arms))]
    manifest = Manifest(suite, tuple(runs))
    manifest.save(folder)
    assert Manifest.load(folder) == manifest
    assert [path.name for path in folder.iterdir()] == [NAME]


def change(**values) -> str:
    run = {"name": "a", "arm": "a", "task": "Pong", "seed": 0, "config_hash": "ab", "command": ["x"]} | values
    return json.dumps({"layout": 2, "suite": "s", "runs": [run]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: it is not JSON"),
        ("[" * 100_000, "is damaged: it is not JSON"),
        ("[]", "has layout None, and this version reads the layouts 1 and 2"),
        ('{"layout": 3}', "has layout 3, and this version reads the layouts 1 and 2"),
        ('{"layout": 1, "suite": "s"}', "it has no suite or no list of runs"),
        ('{"layout": 1, "suite": "s", "runs": []}', "it has no suite or no list of runs"),
        (change(extra=1), "run 1 does not have just name, arm"),
        (change(seed=True), "run 1: seed has to be a whole number of at least 0, not True"),
        (change(seed=-1), "not -1"),
        (change(arm=3), "have to be text"),
        (change(command="x"), "command has to be a list of words"),
        (change(name="../x"), "one directory name, not '../x'"),
    ],
)
def test_a_damaged_one_is_one_line(tmp_path, text, message):
    Path(tmp_path / NAME).write_text(text)
    with pytest.raises(ConfigError) as error:
        Manifest.load(tmp_path)
    assert message in str(error.value)
    assert str(tmp_path / NAME) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_old_layout_is_read_and_saved_as_the_new_one(tmp_path):
    plain = {name: value for name, value in vars(ENTRY).items() if value is not None}
    old = plain | {"game": ENTRY.task}
    del old["task"]
    (tmp_path / NAME).write_text(json.dumps({"layout": 1, "suite": "s", "runs": [old]}))
    loaded = Manifest.load(tmp_path)
    assert loaded == Manifest("s", (ENTRY,))
    loaded.save(tmp_path)
    assert json.loads((tmp_path / NAME).read_text())["runs"][0] == plain | {"command": list(ENTRY.command)}
    (tmp_path / NAME).write_text(json.dumps({"layout": 1, "suite": "s", "runs": [old | {"game": 3}]}))
    with pytest.raises(ConfigError, match="run 1: name, arm, game and config_hash have to be text"):
        Manifest.load(tmp_path)


def test_none_and_two_of_a_kind_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no sweep in "):
        Manifest.load(tmp_path)
    (tmp_path / NAME).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not JSON"):
        Manifest.load(tmp_path)
    for other in (ENTRY, Entry("b", *list(vars(ENTRY).values())[1:])):
        Manifest("s", (ENTRY, other)).save(tmp_path)
        with pytest.raises(ConfigError, match="two runs have the same"):
            Manifest.load(tmp_path)
