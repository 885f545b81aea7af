#!/usr/bin/env bash
# Stable-Baselines3 2.9.0 with ale-py 0.12.1: what the column `l` of an Atari monitor.csv counts.
#
# make_atari_env puts Monitor inside AtariWrapper, so Monitor counts steps of the environment below the frame skip:
# also the no-ops after a reset, the two presses after it (FIRE and the next action), and the no-op and the presses
# after each lost life. 1,500 random actions in BreakoutNoFrameskip-v4 gave 6,619 of its steps, not 6,000.
# ALE/Breakout-v5 already repeats an action for 4 frames, and AtariWrapper repeats each 4 times more: an agent's action
# is then 16 frames, and a step that Monitor counts is 4. No warning says so. Seen:
#   BreakoutNoFrameskip-v4: 1500 actions, 6619 steps of Monitor, 1 frames each; an action is 4 frames
#   ALE/Breakout-v5: 1500 actions, 8199 steps of Monitor, 4 frames each; an action is 16 frames
#   warnings about the frame skip: 0
# The exit code is not 0 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
. "$folder/venv/bin/activate"
pip install --quiet torch==2.13.0 stable-baselines3==2.9.0 gymnasium==1.4.0 ale-py==0.12.1 \
    opencv-python-headless==5.0.0.93
cd "$folder"
python - <<'PYTHON'
import warnings

import ale_py
import gymnasium
import numpy as np
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.monitor import Monitor

gymnasium.register_envs(ale_py)


def count(name):
    """Steps that Monitor counted in 1,500 random actions, frames of one of them, and frames of one action."""
    envs = make_atari_env(name, n_envs=1, seed=0)
    envs.action_space.seed(0)
    monitor = envs.envs[0]
    while not isinstance(monitor, Monitor):
        monitor = monitor.env
    envs.reset()
    for _ in range(1500):
        envs.step([envs.action_space.sample()])
    counted, frame = monitor.get_total_steps(), monitor.unwrapped.ale.getFrameNumber
    envs.envs[0].reset()
    before, steps = frame(), monitor.get_total_steps()
    envs.envs[0].step(0)
    action, inner = frame() - before, monitor.get_total_steps() - steps
    each = action // inner
    print(f"{name}: 1500 actions, {counted} steps of Monitor, {each} frames each; an action is {action} frames")
    return counted, each, action


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    plain, v5 = count("BreakoutNoFrameskip-v4"), count("ALE/Breakout-v5")
caught = [str(each.message) for each in caught if "skip" in str(each.message).lower()]
print("warnings about the frame skip:", len(caught))
assert plain[0] > 6000 and plain[1:] == (1, 4), plain
assert v5[0] > 6000 and v5[1:] == (4, 16), v5
assert not caught, caught
PYTHON
