"""The second minibatch that a method may want: where it comes from, and in which agents it works."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from agents import cli
from agents.run import build_trainer
from experiment.layout import compiled
from plasticity.method import Method
from tests.agents.test_command import result
from tests.agents.test_dqn import RAINBOW, block, learner
from tests.agents.test_plasticity import agent_with

C_CHAIN, INFER = "c-chain:strength=5,ratio=0.5,after=2,window=4", "infer:strength=0.1,scale=2"
BF16 = {"precision": "bf16"}
BOTH = (C_CHAIN, INFER, "redo:period=2,tau=0.3,samples=4")


class Looks(Method):
    """Keeps the data of each update."""

    wants_reference = wants_features = True

    def __init__(self):
        self.seen = []

    def batch_penalty(self, batch):
        self.seen.append(batch)


@pytest.mark.parametrize("batches", [1, 3])
def test_the_second_minibatch_is_the_next_one_of_a_block_with_one_more(batches):
    agent = agent_with(looks := Looks())
    assert agent.lookahead == 1
    drawn = block(batches=batches + 1)
    trained = agent.bootstrap(drawn)
    assert len(trained) == batches
    for batch in trained:
        metrics = agent.update(batch)
        assert looks.seen[-1].loss == metrics["loss"]
    for k, seen in enumerate(looks.seen):
        assert torch.equal(seen.inputs, drawn["obs"][k])
        assert torch.equal(seen.reference, drawn["obs"][k + 1])
        assert list(seen.features) == ["torso.1", "torso.4"]
        assert all(h.requires_grad for h in seen.features.values())


def test_without_such_a_method_a_block_is_as_large_as_before():
    agent = learner(plasticity=("redo", "c-chain:strength=0"))
    assert agent.lookahead == 0
    assert "reference" not in agent.bootstrap(block())[0]


@pytest.mark.parametrize("settings", [{}, BF16, {"nap": True}, RAINBOW, RAINBOW | BF16])
@pytest.mark.parametrize("batches", [1, 2])
def test_it_is_one_graph_that_learns_as_eager_code_does(settings, batches):
    torch._dynamo.reset()
    eager, graph = (learner(plasticity=BOTH, **settings) for _ in range(2))
    counter = CompileCounterWithBackend("aot_eager")
    graph._backward = compiled(graph.backward, graph.network, counter)
    for agent in (eager, graph):
        for seed in range(4 // batches):
            for batch in agent.bootstrap(block(batches=batches + 1, seed=seed)):
                agent.update(batch)
    assert counter.frame_count == 1
    tolerance = 3e-2 if "precision" in settings else 1e-3
    for ours, theirs in zip(graph.network.parameters(), eager.network.parameters(), strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_a_real_compilation_works_too():
    agent, eager = learner(plasticity=BOTH, compile="true"), learner(plasticity=BOTH)
    for one in (agent, eager):
        for batch in one.bootstrap(block(batches=4)):
            one.update(batch)
    for ours, theirs in zip(agent.network.parameters(), eager.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_noise_is_the_same_in_both_passes_so_that_only_weights_make_a_difference():
    agent = learner(plasticity=(C_CHAIN,), **RAINBOW)
    (method,) = agent.methods
    for seed in range(2):
        (batch,) = agent.bootstrap(block(batches=2, seed=seed))
        agent.optimizer.param_groups[0]["lr"].zero_()
        agent.update(batch)
        assert method._found[1] == 0
    assert agent.network.head.advantage.output.noise_in.abs().sum() > 0


@pytest.mark.parametrize("prioritised", [False, True])
def test_a_trainer_makes_as_many_updates_and_reports_the_losses_of_those(prioritised, monkeypatch):
    words = ["--env=Catch", "--steps=120", "--update-start=100", "--batch-size=8", "--block=4", "--utd=5"]
    words += ["--threads=1", "--compile=false", f"--plasticity={C_CHAIN}", *["--prioritised"] * prioritised]
    trainer = build_trainer(cli.settings("dqn", words).resolved())
    reported, sampled = [], []
    update, sample = trainer.replay.update, trainer.replay.sample
    monkeypatch.setattr(trainer.replay, "update", lambda i, losses: (reported.append((i, losses)), update(i, losses)))
    monkeypatch.setattr(
        trainer.replay, "sample", lambda *words, **options: (sampled.append(words[1]), sample(*words, **options))[1]
    )
    trainer.open()
    while not trainer.done:
        trainer.step()
    assert trainer.updates == 100
    assert sampled[:2] == [5, 2]  # blocks of 4 and 1
    assert all(index.shape == losses.shape for index, losses in reported)
    assert sum(len(index) for index, _ in reported) == 100


@pytest.mark.parametrize("spec", [C_CHAIN, INFER, "regrama:period=5,tau=0.5"])
def test_a_run_with_it_repeats_and_differs_from_one_without(spec, tmp_path):
    words = ["--env=Catch", "--steps=160", "--update-start=100", "--threads=1", "--compile=false", "--batch-size=8"]
    words += ["--eval-episodes=0", "--root", str(tmp_path)]
    for name, more in (("a", ["--plasticity", spec]), ("b", ["--plasticity", spec]), ("plain", [])):
        assert cli.main("dqn", [*words, "--name", name, *more]) == 0
    hashes = [result(tmp_path / name)["parameter_hash"] for name in ("a", "b", "plain")]
    assert hashes[0] == hashes[1] != hashes[2]
