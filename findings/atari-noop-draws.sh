#!/usr/bin/env bash
# `noop_max=n` draws other numbers of no-ops in each Atari environment, and in none of the two below from 0 to n.
#   envpool 1.2.5:                 1 to n; if FIRE is pressed after a reset (use_fire_reset, the default, in a game that
#                                  has FIRE): 0 to n - 1, then FIRE
#   ale-py 0.12.1 AtariVectorEnv:  0 to n - 1; with FIRE (pressed first) it counts as one of them: 1 to n - 1 frames
# So for up to 30 no-ops ale-py has to be given 31, and envpool has no way to draw none (`noop_max=1` is always one).
#
# Seen here with noop_max=4 over 40 seeds, as frames before the first action, FIRE's included:
#   envpool without FIRE: [1, 2, 3, 4]; with: [1, 2, 3, 4]
#   ale-py  without FIRE: [0, 1, 2, 3]; with: [1, 2, 3]
# Exit code 0 while it is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'envpool==1.2.5' 'ale-py==0.12.1' 'gymnasium==1.4.0' numpy
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import envpool
import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv

ALEInterface.setLoggerMode(LoggerMode.Error)


def memories(fire):
    """The console's memory after 0 to 5 frames: no-ops, and at last FIRE if it is pressed."""
    found = []
    for frames in range(6):
        emulator = ALEInterface()
        emulator.setFloat("repeat_action_probability", 0.0)
        emulator.loadROM(roms.get_rom_path("breakout"))
        emulator.reset_game()
        for frame in range(frames):
            emulator.act(1 if fire and frame == frames - 1 else 0)
        found.append(emulator.getRAM().tobytes())
    assert len(set(found)) == len(found)
    return found


def envpools(fire):
    known, drawn = memories(fire), set()
    for seed in range(40):
        env = envpool.make_gymnasium("Breakout-v5", num_envs=1, seed=seed, noop_max=4, use_fire_reset=fire)
        _, info = env.reset()
        drawn.add(known.index(np.asarray(info["ram"][0]).astype(np.uint8).tobytes()))
        env.close()
    return sorted(drawn)


def ales(fire):
    env, drawn = AtariVectorEnv("breakout", 1, noop_max=4, use_fire_reset=fire, repeat_action_probability=0.0), set()
    for seed in range(40):
        _, info = env.reset(seed=seed)
        drawn.add(int(info["episode_frame_number"][0]))
    return sorted(drawn)


seen = [envpools(False), envpools(True), ales(False), ales(True)]
print(f"envpool {envpool.__version__} without FIRE: {seen[0]}; with: {seen[1]}")
print(f"ale-py without FIRE: {seen[2]}; with: {seen[3]}")
sys.exit(0 if seen == [[1, 2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3], [1, 2, 3]] else 1)
PYTHON
