"""`python -m studies.warm_start.fit_probe`: checkpoints of the study are measured as those of agents are."""

import json

import pytest
import torch

from nap.metrics import fit_random_targets
from studies.warm_start.data import channel_statistics, load, prepare
from studies.warm_start.fit_probe import main
from studies.warm_start.networks import make_network
from tests.studies.test_resume import train

pytest.importorskip("sklearn")
FIT = ("--draws", "2", "--updates", "3", "--states", "64", "--seed", "5")


def test_each_checkpoint_is_a_row_of_what_the_measure_gives(tmp_path, capsys):
    from experiment.storage.run_dir import RunDir, load_settings
    from studies.warm_start.config import WarmStartConfig

    assert train("warm-start", tmp_path, "run", "--plasticity", "infer") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    capsys.readouterr()
    out = tmp_path / "fits.json"
    assert main([f"{tmp_path}/run@all", *FIT, "--json", str(out)]) == 0
    printed, rows = capsys.readouterr().out, json.loads(out.read_text())["rows"]
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert [(row["step"], row["updates"]) for row in rows] == [(12, 12), (14, 14)]
    assert rows[0]["errors"] != rows[1]["errors"]
    assert "3 updates of Adam at rate 0.001, minibatches of 32 of 64 images, 2 draws" in printed
    assert f"{rows[1]['ratio']['value']:.2f} [" in printed

    config = load_settings(WarmStartConfig, RunDir(tmp_path / "run")).resolved()
    data = load("digits", None)

    def network():
        from plasticity.registry import make

        made = make_network(config, data.train_images.shape[1:], data.classes)
        for method in make(["infer"], config.seed):
            method.prepare(made)
        return made

    aged = network()
    saved = torch.load(tmp_path / "run" / "checkpoints" / f"{14:012d}" / "learner.pt", weights_only=True)
    aged.load_state_dict(saved["model"])
    chosen = torch.randperm(len(data.train_images), generator=torch.Generator().manual_seed(5))[:64]
    batch = prepare(data.train_images[chosen], *channel_statistics(data.train_images))
    curves = fit_random_targets(aged, batch, network, draws=2, updates=3, seed=5)
    for name in ("aged", "fresh"):
        torch.testing.assert_close(torch.tensor(rows[1]["errors"][name]), getattr(curves, name))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name a run directory: python -m studies.warm_start.fit_probe RUN"),
        (("{}/warm-start@7",), "no checkpoint of step 7 in"),
        (("{}/warm-start", "--states", "90000"), "digits has 1,297 training images, fewer than --states 90000"),
        (("{}/grokking",), "unknown"),
    ],
)
def test_what_cannot_be_fitted_ends_in_one_line(words, says, tmp_path, capsys):
    for study in ("warm-start", "grokking") if words else ():
        assert train(study, tmp_path, study) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([word.format(tmp_path) for word in words])
    printed = capsys.readouterr()
    assert (stopped.value.code, printed.out) == (2, "")
    assert says in printed.err
    assert printed.err.count("\n") == 1
