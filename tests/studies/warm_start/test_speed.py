"""The speed command: FLOP by hand, a table, bad settings."""

import pytest

from studies.warm_start import speed
from studies.warm_start.config import WarmStartConfig


def test_flop_are_those_counted_by_hand():
    first, second, third = 16 * 16 * 32 * 3 * 25, 8 * 8 * 32 * 32 * 9, 8 * 8 * 32 * 32 * 9
    hidden, head = 32 * 8 * 8 * 256, 256 * 10
    # a multiply-add is two; the images want no gradient
    by_hand = 2 * (3 * (second + third + hidden + head) + 2 * first)
    assert speed.flop_per_image(WarmStartConfig().resolved()) == by_hand


def test_a_line_for_each_variant(capsys):
    assert (
        speed.main(["--rounds", "1", "--updates", "1", "--batch-size", "2", "--resnet-batch-size", "0", "--no-compile"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[:3] for line in lines] == [["cnn", "fp32", "eager"], ["cnn", "bf16", "eager"]]
    for line in lines:
        milliseconds, rate, allowed, ratio, _ = (float(cell.replace(",", "")) for cell in line.split()[3:])
        assert rate == pytest.approx(2 / milliseconds * 1e3, rel=0.1)
        assert ratio == pytest.approx(allowed / rate, rel=0.1)


@pytest.mark.parametrize("words", [["--rounds", "0"], ["--threads", "0"], ["--resnet-batch-size", "-1"]])
def test_bad_settings_are_one_line(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        speed.main(words)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
