#!/usr/bin/env bash
# ale-py 0.12.1: where AtariVectorEnv cuts an episode at `max_num_frames_per_episode`, the observation is not the maximum
# of the last two frames, as in every other step, but that of the observation before it and of the last frame but one.
# A truncated step is the one from whose last observation a learner bootstraps.
#
# Seen here at 210x160, so that nothing is scaled, with a limit of 100 frames and 8 seeds: 6 of 8 last observations in
# Breakout and 8 of 8 in MsPacman differ from those of an environment without the limit; the observation before is in all.
# Exit code 0 while it is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ale-py==0.12.1' 'gymnasium==1.4.0' numpy
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from ale_py.vector_env import AtariVectorEnv

SIZE = {"img_height": 210, "img_width": 160, "stack_num": 1, "noop_max": 0, "use_fire_reset": False}


def last_frames(rom):
    """Of 8 cut episodes: how many do not show the last two frames, and how many the mixture."""
    cut, free = (
        AtariVectorEnv(rom, 1, repeat_action_probability=0.0, max_num_frames_per_episode=limit, **SIZE)
        for limit in (100, 108_000)
    )
    other = mixed = 0
    for seed in range(8):
        cut.reset(seed=seed)
        free.reset(seed=seed)
        for action in np.random.default_rng(seed).integers(len(cut.ale.get_action_set()), size=(24, 1)):
            before, same = cut.step(action)[0][0, 0].copy(), free.step(action)[0][0, 0]
            assert np.array_equal(before, same)
        action = np.array([0])
        frame, _, terminated, truncated, _ = cut.step(action)
        whole = free.step(action)[0][0, 0]
        assert truncated[0] and not terminated[0]
        other += not np.array_equal(frame[0, 0], whole)
        mixed += bool((frame[0, 0] >= before).all())
    return other, mixed


found = {rom: last_frames(rom) for rom in ("breakout", "ms_pacman")}
print("of 8 cut episodes show other than the last two frames, and the one before in their maximum:", found)
sys.exit(0 if all(other >= 4 and mixed == 8 for other, mixed in found.values()) else 1)
PYTHON
