#!/usr/bin/env bash
# Tianshou 2.0.1: the TensorBoard tags of a DQN run with epsilon set by EpochTrainCallbackDQNEpsLinearDecay.
#
# The trainer writes the returns of training under `training/`; that callback of the high-level interface writes epsilon
# as `train/train/eps`, with a `train/env_step` of its own. Who looks for returns under `train/` finds a curve of
# env_step there and no returns. Seen:
#   test: env_step, returns_stat/mean
#   train: env_step, train/eps
#   training: env_step, returns_stat/mean
# The exit code is not 0 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
pip install --quiet torch==2.13.0 tianshou==2.0.1 gymnasium==1.4.0 tensorboard==2.21.0
cd "$folder"
python - 2>errors <<'PYTHON' || { tail -n 5 errors; exit 1; }
import gymnasium
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tianshou.algorithm import DQN
from tianshou.algorithm.modelfree.dqn import DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.highlevel.trainer import EpochTrainCallbackDQNEpsLinearDecay, TrainingContext
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils import TensorboardLogger
from tianshou.utils.net.common import Net
from torch.utils.tensorboard import SummaryWriter

envs = [DummyVectorEnv([lambda: gymnasium.make("CartPole-v1")]) for _ in range(2)]
network = Net(state_shape=(4,), action_shape=2, hidden_sizes=[16])
policy = DiscreteQLearningPolicy(model=network, action_space=gymnasium.spaces.Discrete(2))
algorithm = DQN(policy=policy, optim=AdamOptimizerFactory(lr=1e-3), target_update_freq=100)
logger = TensorboardLogger(SummaryWriter("log"))
epsilon, context = EpochTrainCallbackDQNEpsLinearDecay(1.0, 0.1, 1000), TrainingContext(algorithm, None, logger)
algorithm.run_training(
    OffPolicyTrainerParams(
        training_collector=Collector(algorithm, envs[0], VectorReplayBuffer(2000, 1)),
        test_collector=Collector(algorithm, envs[1]),
        training_fn=lambda epoch, env_step: epsilon.callback(epoch, env_step, context),
        max_epochs=1,
        epoch_num_steps=1200,
        collection_step_num_env_steps=100,
        test_step_num_episodes=2,
        update_step_num_gradient_steps_per_sample=0.01,
        batch_size=32,
        logger=logger,
    )
)
logger.finalize()
events = EventAccumulator("log")
events.Reload()
tags = set(events.Tags()["scalars"])
for scope in ("test", "train", "training"):
    shown = [tag for tag in ("env_step", "train/eps", "returns_stat/mean") if f"{scope}/{tag}" in tags]
    print(f"{scope}:", ", ".join(shown))
assert {"test/returns_stat/mean", "training/returns_stat/mean", "train/train/eps", "train/env_step"} <= tags, tags
assert "train/returns_stat/mean" not in tags, tags
PYTHON
