#!/usr/bin/env bash
# Tianshou 2.0.1: the TensorBoard tags of a DQN run through its high-level interface.
#
# The trainer writes the returns of training under `training/`. The callback that the high-level interface uses for
# epsilon writes under `train/`, each with its own `env_step`; 0.5 wrote all of it under `train/`. Who reads
# `train/returns_stat/mean` finds nothing, while `train/` is there. Seen:
#   test: env_step, returns_stat/mean
#   train: env_step, eps
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
import pathlib

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tianshou.highlevel.config import OffPolicyTrainingConfig
from tianshou.highlevel.env import EnvFactoryRegistered, VectorEnvType
from tianshou.highlevel.experiment import DQNExperimentBuilder, ExperimentConfig
from tianshou.highlevel.params.algorithm_params import DQNParams
from tianshou.highlevel.trainer import EpochTestCallbackDQNSetEps, EpochTrainCallbackDQNEpsLinearDecay

experiment = (
    DQNExperimentBuilder(
        EnvFactoryRegistered(task="CartPole-v1", venv_type=VectorEnvType.DUMMY),
        ExperimentConfig(watch=False, log_file_enabled=False, persistence_base_dir="log"),
        OffPolicyTrainingConfig(
            max_epochs=1, epoch_num_steps=1200, collection_step_num_env_steps=100, buffer_size=2000, batch_size=32,
            num_training_envs=2, num_test_envs=2, test_step_num_episodes=2,
        ),
    )
    .with_dqn_params(DQNParams())
    .with_model_factory_default(hidden_sizes=(16,))
    .with_epoch_train_callback(EpochTrainCallbackDQNEpsLinearDecay(1.0, 0.1, 1000))
    .with_epoch_test_callback(EpochTestCallbackDQNSetEps(0.0))
    .build()
)
experiment.run("run")
[file] = pathlib.Path("log").rglob("*tfevents*")
events = EventAccumulator(str(file))
events.Reload()
tags = events.Tags()["scalars"]
for scope in ("test", "train", "training"):
    found = [tag.removeprefix(f"{scope}/") for tag in tags if tag.startswith(f"{scope}/")]
    print(f"{scope}:", ", ".join(tag for tag in found if tag in ("env_step", "eps", "returns_stat/mean")))
assert {"test/returns_stat/mean", "training/returns_stat/mean", "train/eps", "train/env_step"} <= set(tags), tags
assert "train/returns_stat/mean" not in tags, tags
PYTHON
