#!/usr/bin/env bash
# ale-py 0.12.1: a state of Qbert that `cloneState(include_rng=True)` took does not go on as the game did when it is
# restored in another emulator, though no action is sticky; the states of most other games do. (The clone lacks
# whether the frame under way is complete.)
#
# Seen here, of the 200 frames after a restore those that differ in memory, reward or lives, and in the picture:
#   Breakout, BankHeist, Seaquest: 0 and 0          Qbert: 200 and 176
# Exit code 0 while it is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ale-py==0.12.1' 'gymnasium==1.4.0' numpy
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from ale_py import ALEInterface, ALEState, LoggerMode, roms

ALEInterface.setLoggerMode(LoggerMode.Error)


def emulator(rom):
    opened = ALEInterface()
    opened.setInt("random_seed", 1)
    opened.setFloat("repeat_action_probability", 0.0)
    opened.loadROM(roms.get_rom_path(rom))
    return opened


def differing(rom):
    """Of 200 frames after a restore: how many differ in memory, reward or lives, and how many in the picture."""
    played, random = emulator(rom), np.random.default_rng(0)
    actions = played.getMinimalActionSet()
    for choice in random.integers(len(actions), size=101):
        played.act(actions[choice])
    fresh = emulator(rom)
    fresh.restoreState(ALEState(played.cloneState(include_rng=True).serialize()))
    states = pictures = 0
    for choice in random.integers(len(actions), size=200):
        rewards = [each.act(actions[choice]) for each in (played, fresh)]
        seen = [(each.getRAM().tobytes(), each.lives(), each.game_over()) for each in (played, fresh)]
        states += rewards[0] != rewards[1] or seen[0] != seen[1]
        pictures += not np.array_equal(played.getScreen(), fresh.getScreen())
    return states, pictures


found = {rom: differing(rom) for rom in ("breakout", "bank_heist", "seaquest", "qbert")}
print("of 200 frames differ in memory, reward or lives, and in the picture:", found)
others = all(found[rom] == (0, 0) for rom in ("breakout", "bank_heist", "seaquest"))
sys.exit(0 if others and min(found["qbert"]) > 50 else 1)
PYTHON
