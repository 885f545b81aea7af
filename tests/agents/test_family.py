"""Every switch of the family alone and all of them together: a chain, Catch, a slow reference, every method."""

import itertools

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from agents import cli
from agents.cli import settings
from agents.playing.evaluation import evaluated_policy
from agents.run import build_trainer
from agents.training.acting import linear_epsilon
from experiment.config import ConfigError
from experiment.storage.run_dir import RunDir
from plasticity.registry import METHODS
from replay.priorities import Priorities
from tests.agents.test_dqn import RAINBOW, block, learner
from tests.agents.test_trainer import Waits
from tests.agents.toys import catch_trainer, run
from tests.plasticity.test_every_method import ACTIVE

LEAST = {"atoms": 21, "v_min": -2.0, "v_max": 2.0, "quantiles": 11, "noisy_sigma": 0.1}
SWITCHES = {
    "none": {"double_q": False},
    "double-q": {},
    "dueling": {"dueling": True},
    "dueling, shared": {"dueling": True, "streams": "shared"},
    "noisy": {"noisy": True},
    "c51": {"distribution": "c51"},
    "quantile": {"distribution": "quantile"},
    "prioritised": {"prioritised": True},
    "drq": {"augment": "drq"},
    "rainbow": RAINBOW,
    "rainbow, nap": RAINBOW | {"nap": True, "schedule": "linear"},
    "rainbow, quantiles": RAINBOW | {"distribution": "quantile"},
}
switches = pytest.mark.parametrize("options", SWITCHES.values(), ids=SWITCHES)
GAMMA, LENGTH = 0.8, 4
SPECS = [f"{name}{(ACTIVE | {'injection': ':at=2'})[name]}" for name in METHODS if name != "crelu"]  # cannot yet


def chain():
    """Every transition of a chain: action 1 goes right and earns 1 behind its end, the others go left."""
    state, action = torch.cartesian_prod(torch.arange(LENGTH), torch.arange(3)).unbind(1)
    right = action == 1
    end = right & (state == LENGTH - 1)
    after = torch.where(right, state + 1, state - 1).clamp(0, LENGTH - 1)
    frames = torch.zeros(LENGTH, 4, 10, 10, dtype=torch.uint8)
    for i in range(LENGTH):
        frames[i, :, 2 * i : 2 * i + 3, 2 * i : 2 * i + 4] = 255
    return frames, {
        "obs": frames[state],
        "next_obs": frames[after],
        "action": action,
        "reward": end.float(),
        "discount": torch.where(end, 0.0, GAMMA),
    }


@pytest.mark.parametrize("name", [name for name in SWITCHES if name != "drq"])  # its frames are too small to shift
def test_a_chain_is_solved(name):
    options = SWITCHES[name]
    agent = learner(**{"lr": 1e-3, "schedule": "constant"} | LEAST | options)
    frames, table = chain()
    replay = Priorities(3 * LENGTH, torch.Generator().manual_seed(0), alpha=0.5 if options.get("prioritised") else 0.0)
    replay.set_legal(0, 3 * LENGTH)
    for _ in range(30):
        index, weight = replay.sample(32, 8, beta=1.0)
        block = {name: values[index] for name, values in table.items()}
        batches = agent.bootstrap(TensorDict({**block, "weight": weight}, batch_size=index.shape))
        for batch in batches:
            agent.update(batch)
        replay.update(index, torch.stack([batch["losses"] for batch in batches]))
        agent.sync_target()
    assert agent.act_without_noise(frames).tolist() == [1] * LENGTH
    with torch.no_grad():
        values = agent.values.mean(agent.network.eval()(frames)).amax(-1)
    torch.testing.assert_close(values, GAMMA ** torch.arange(LENGTH - 1, -1, -1.0), atol=0.1, rtol=0.1)


def noise_of(network):
    return [buffer.clone() for name, buffer in network.named_buffers() if "noise" in name]


def test_every_update_has_noise_of_its_own_and_so_has_every_target():
    agent = learner(**LEAST | RAINBOW)
    agent.sync_target()
    target = noise_of(agent.target)
    batches = agent.bootstrap(block(batches=2).set("weight", torch.ones(2, 4)))
    assert not any(map(torch.equal, target, noise_of(agent.target)))
    assert not any(map(torch.equal, noise_of(agent.network), noise_of(agent.target)))
    for batch in batches:
        online = noise_of(agent.network)
        agent.update(batch)
        assert not any(map(torch.equal, online, noise_of(agent.network)))


# Random play catches a ball of the first column in one game in thirty, and a policy that has not learned to catch it
# while it explored never does. So most of the budget explores, and the replay holds all of it; 64 units are too few.
LEARNING = {
    "steps": 16_000, "replay_capacity": 16_000, "epsilon_steps": 12_000, "lr": 1e-3, "schedule": "linear",
    "adam_eps": 1e-8, "n_step": 5, "units": 128,
}  # fmt: skip


@pytest.mark.slow
@switches
def test_catch_is_solved(options):
    enlarged = options.get("augment") == "drq"  # shifts by 4 pixels leave little of 10x10
    rows = run(catch_trainer(enlarged=enlarged, **LEARNING | LEAST | options))
    scores = [row["episode_return"] for row in rows if "episode_return" in row]
    assert np.mean(scores[:100]) < -0.3
    assert np.mean(scores[-200:]) > 0.8


def literal_c51_loss(support, logits, following, reward, discount):
    """Algorithm 1 of the paper, one atom after another."""
    first, width = support[0], support[1] - support[0]
    target = [0.0] * len(support)
    for probability, atom in zip(following.softmax(-1).tolist(), support, strict=True):
        place = (min(max(reward + discount * atom, first), support[-1]) - first) / width
        low = min(int(place + 1e-9), len(support) - 2)
        target[low] += probability * (low + 1 - place)
        target[low + 1] += probability * (place - low)
    return -sum(p * log for p, log in zip(target, logits.log_softmax(-1).tolist(), strict=True))


def test_losses_weights_and_priorities_of_five_updates_are_those_of_a_slow_loop():
    options = LEAST | RAINBOW | {"priority_epsilon": 0.01, "priority_alpha": 0.6}
    trainer = catch_trainer(steps=300, block=1, batch_size=6, log_interval=1_000, probe_interval=0, **options)
    agent, replay = trainer.agent, trainer.replay
    agent.noise.layers = []  # it stays as it is, so that a pass can be repeated
    support = agent.values.support.tolist()
    slow: dict[int, float] = {}
    update, done = agent.update, []

    def spy(batch):
        low, high = replay._legal_rows(3)
        for step in range(low, high):
            slow.setdefault(step, max(1.0, *slow.values(), 1.0))
        beta = 0.4 + 0.6 * len(replay) / 300
        with torch.no_grad():
            out, following = agent.online(batch["obs"]), agent.online(batch["next_obs"]).softmax(-1)
        best = (following * agent.values.support).sum(-1).argmax(-1)
        weights = [(len(slow) * slow[i] / sum(slow.values())) ** -beta for i in batch["index"].tolist()]
        losses = [
            literal_c51_loss(support, out[i, action], batch["target_next"][i, best[i]], reward, discount)
            for i, (action, reward, discount) in enumerate(
                zip(*(batch[name].tolist() for name in ("action", "reward", "discount")), strict=True)
            )
        ]
        assert batch["weight"].tolist() == pytest.approx([w / max(weights) for w in weights], rel=1e-4)
        metrics = update(batch)
        assert batch["losses"].tolist() == pytest.approx(losses, rel=1e-3, abs=1e-4)
        weighted = sum(w / max(weights) * loss for w, loss in zip(weights, losses, strict=True)) / len(losses)
        assert metrics["loss"].item() == pytest.approx(weighted, rel=1e-3)
        slow.update({i: (loss + 0.01) ** 0.6 for i, loss in zip(batch["index"].tolist(), losses, strict=True)})
        done.append(batch)
        return metrics

    agent.update = spy
    trainer.open()
    while len(done) < 5:
        trainer.step()
        if slow:
            every = torch.tensor(list(slow))
            assert replay.priorities.get(every).tolist() == pytest.approx(list(slow.values()), rel=1e-3)
    replay.check()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("spec", SPECS)
def test_every_method_works_on_rainbow(spec, precision):
    agent = learner(plasticity=(spec,), precision=precision, **RAINBOW)
    identities = [id(p) for p in agent.network.parameters()]
    for batch in agent.bootstrap(block(batches=3)):
        assert agent.update(batch)["loss"].isfinite()
    assert [id(p) for p in agent.network.parameters()] == identities
    assert all(p.isfinite().all() for p in agent.network.parameters())


def test_a_whole_step_with_prioritised_updates_never_waits_for_the_device():
    trainer = catch_trainer(steps=400, utd=8, log_interval=1_000, **RAINBOW, augment="drq", nap=True)
    trainer.open()
    while trainer.agent.updates < 16:
        trainer.step()
    with Waits() as waits:
        assert trainer.step() == []
    assert (waits.count, trainer.agent.updates) == (0, 24)


def test_noise_is_new_for_each_action_and_off_in_an_evaluation_unless_it_is_kept():
    agent = learner(noisy=True, noisy_sigma=5.0)
    obs = block(16)["obs"].flatten(0, 1)
    quiet = agent.act_without_noise(obs)
    assert torch.equal(quiet, agent.act_without_noise(obs))
    noisy = [agent.act(obs) for _ in range(3)]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations([quiet, *noisy], 2))
    assert all(part.training for part in agent.online.modules())
    kept, off = (settings("der", words) for words in (["--eval-noise"], []))
    assert not torch.equal(evaluated_policy(kept, agent)(obs), quiet)
    assert torch.equal(evaluated_policy(off, agent)(obs), quiet)


@pytest.mark.parametrize(
    ("agent", "preset", "layers", "millions"),
    [
        ("der", "der", {"torso.7", "head.advantage.output", "head.value.output"}, 8.375),
        ("der", "small", {f"head.{s}.{p}" for s in ("advantage", "value") for p in ("hidden", "output")}, 0.829),
        ("rainbow", "rainbow", {f"head.{s}.{p}" for s in ("advantage", "value") for p in ("hidden", "output")}, 6.869),
        ("dqn", "drq-eps", set(), 4.047),
    ],
)
def test_presets_build_the_published_networks(agent, preset, layers, millions):
    words = ["--config", preset, "--env=Pong", "--replay-capacity=1000", "--compile=false", "--threads=1"]
    trainer = build_trainer(settings(agent, words))
    network = trainer.agent.network
    noisy = {name.removesuffix(".weight_sigma") for name, _ in network.named_parameters() if "weight_sigma" in name}
    assert noisy == layers
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, rel=1e-3)
    trainer.env.close()


@pytest.mark.parametrize("agent", ["dqn", "rainbow", "der"])
def test_every_preset_resolves_for_its_agent_alone(agent):
    for name, path in cli.presets(agent).items():
        config = settings(agent, ["--config", name])
        assert config.agent == agent
        assert settings(agent, ["--config", str(path)]) == config


def test_an_own_agent_takes_the_short_names_of_its_command_and_all_full_names():
    own = ["--agent", "examples.new_agent:AdvantageLearning", "--config"]
    assert settings("dqn", [*own, "catch"]) == settings("dqn", [*own, "dqn-catch"])
    assert settings("rainbow", [*own, "bbf-like"]) == settings("dqn", [*own, "rainbow-bbf-like"])
    assert settings("dqn", [*own, "der-small"]).env == settings("der", ["--config", "small"]).env
    assert settings("examples.new_agent:AdvantageLearning", ["--config", "catch"]).env == "Catch"


@pytest.mark.parametrize("preset", ["der", "small"])
def test_der_explores_by_a_little_epsilon_from_the_first_step_on(preset):
    config = settings("der", ["--config", preset])
    assert [linear_epsilon(step, config.epsilon_final, config.epsilon_steps) for step in (0, 50_000)] == [0.01, 0.01]


def test_der_runs_from_the_command_line_and_tells_how_to_go_on(tmp_path, capsys):
    words = ["--config=small", "--env=Catch", "--steps=120", "--update-start=60", "--threads=1", "--compile=false"]
    assert cli.main("der", [*words, "--nap", "--eval-episodes=1", "--root", str(tmp_path), "--name=a"]) == 0
    shown = capsys.readouterr().out
    assert "der: small network" in shown
    assert "epsilon 0.001" in shown
    config = settings("der", ["--resume", str(tmp_path / "a")])
    assert (config.agent, config.n_step, config.prioritised, config.nap) == ("der", 20, True, True)
    with pytest.raises(ConfigError, match=r"for python -m agents\.der, not python -m agents\.rainbow"):
        settings("rainbow", ["--resume", str(tmp_path / "a")])
    assert RunDir.open(tmp_path / "a").result.is_file()
