#!/usr/bin/env bash
# The observation of a game's end depends on the frame of the skip in which it ends, and differs between the two fast
# Atari environments. Frame skip 4, the picture being the pixelwise maximum of the last two frames while a game goes on:
#   ends in frame     ale-py 0.12.1 AtariVectorEnv                  envpool 1.2.5
#   1, 2              the observation before it, once more          the observation before it, once more
#   3                 the observation before it, once more          the third frame alone
#   4                 maximum of that observation and frame 3       maximum of frames 3 and 4, as always
# So a terminal observation often shows a state from before the last action, and ale-py's never the game's last frame.
#
# Both are played next to the emulator with the same actions, at 210x160 so that nothing is scaled; 4 games, 8 seeds.
# Exit code 0 while it is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'envpool==1.2.5' 'ale-py==0.12.1' 'gymnasium==1.4.0' numpy
"$folder/venv/bin/python" - <<'PYTHON'
import collections
import sys

import envpool
import numpy as np
from ale_py import ALEInterface, LoggerMode, roms
from ale_py.vector_env import AtariVectorEnv

ALEInterface.setLoggerMode(LoggerMode.Error)
SIZE = {"img_height": 210, "img_width": 160, "use_fire_reset": False, "repeat_action_probability": 0.0}


def open_ale(rom, seed):
    env = AtariVectorEnv(rom, 1, stack_num=1, frameskip=4, noop_max=0, reward_clipping=False, **SIZE)
    return env, env.reset(seed=seed)[0][0, 0], 0


def open_envpool(rom, seed):
    env = envpool.make_gymnasium(f"{rom.capitalize()}-v5", num_envs=1, seed=seed, stack_num=1, noop_max=1, **SIZE)
    return env, env.reset()[0][0, 0], 1


def last_frame(opened, rom, seed):
    """The frame of the skip in which the game ended, and what its observation was made of; None: it did not end."""
    env, before, noops = opened
    emulator = ALEInterface()
    emulator.setInt("random_seed", seed)
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(roms.get_rom_path(rom))
    emulator.reset_game()
    for _ in range(noops):
        emulator.act(0)
    actions, random = emulator.getMinimalActionSet(), np.random.default_rng(seed)
    before = before.copy()
    for _ in range(1_500):
        action, frames = int(random.integers(len(actions))), []
        while len(frames) < 4 and not emulator.game_over():
            emulator.act(actions[action])
            frames.append(emulator.getScreenGrayscale().copy())
        observation, _, terminated, _, _ = env.step(np.array([action]))
        picture = observation[0, 0]
        if emulator.game_over():
            assert terminated[0]
            made_of = {"before": before, f"frame {len(frames)}": frames[-1]}
            if len(frames) == 4:
                made_of |= {"before|3": np.maximum(before, frames[2]), "3|4": np.maximum(frames[2], frames[3])}
            return len(frames), [name for name, shown in made_of.items() if np.array_equal(shown, picture)]
        assert np.array_equal(picture, np.maximum(frames[-2], frames[-1]))
        before = picture.copy()
    return None


EXPECTED = {
    "ale-py": {1: "before", 2: "before", 3: "before", 4: "before|3"},
    "envpool": {1: "before", 2: "before", 3: "frame 3", 4: "3|4"},
}
as_described = True
for name, open_env in (("ale-py", open_ale), ("envpool", open_envpool)):
    seen = collections.Counter()
    for rom in ("breakout", "pong", "qbert", "seaquest"):
        for seed in range(8):
            found = last_frame(open_env(rom, seed), rom, seed)
            if found is not None:
                as_described &= EXPECTED[name][found[0]] in found[1]
                seen[found[0]] += 1
    as_described &= set(seen) == {1, 2, 3, 4}
    print(f"{name}: ends in frame 1, 2, 3, 4 of the skip: {[seen[frame] for frame in (1, 2, 3, 4)]} times")
sys.exit(0 if as_described else 1)
PYTHON
