"""Seeds on the command line."""

import pytest

from experiment.config import ConfigError
from experiment.seeds import as_text, parse_seeds, split


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-9", list(range(10))), ("7", [7]), ("0,3,5-7", [0, 3, 5, 6, 7]), (" 2 , 1", [2, 1])]
)
def test_numbers_and_ranges(text, seeds):
    assert parse_seeds(text) == seeds
    assert parse_seeds(as_text(seeds)) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no seed"),
        ("a", "'a' is no seed; give numbers and ranges, as 0-9"),
        ("-3", "is no seed"),
        ("3-1", "ends before it begins; 1-3 would be right"),
        ("0-3,2", "the seed 2 is there twice"),
        ("0-5000", "at most 1,000 members"),
        ("0-998,1000-1001", "at most 1,000 members"),
        ("1" * 5000, "is no seed"),
    ],
)
def test_anything_else_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_seeds(text)


def test_the_option_is_taken_from_the_command_line():
    assert split(["--env", "Catch", "--seeds", "0-2", "--utd", "2"]) == ("0-2", ["--env", "Catch", "--utd", "2"])
    assert split(["--seeds=1,2"]) == ("1,2", [])
    assert split(["--seed", "1"]) == (None, ["--seed", "1"])
    with pytest.raises(ConfigError, match="give one of them"):
        split(["--seed", "1", "--seeds", "0-2"])
    with pytest.raises(ConfigError, match="give numbers and ranges"):
        split(["--seeds"])
