import pytest

from benchmarks import networks

TINY = ["--rounds", "1", "--seconds", "0.01", "--no-compile"]


def test_the_table_has_a_row_for_each_network(capsys):
    assert networks.main([*TINY, "--networks", "small", "impala:width=0.25"]) == 0
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("| ")
    ][2:]
    assert [row[:2] for row in rows] == [["small", "0.20 M"], ["impala:width=0.25", "0.26 M"]]
    assert all(float(cell) > 0 for row in rows for cell in row[2:])


@pytest.mark.parametrize(("options", "said"), [(("--networks", "natur"), "nature"), (("--precision", "fp8"), "fp8")])
def test_bad_settings_end_in_one_line(options, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        networks.main([*TINY, *options])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line
