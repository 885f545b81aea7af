#!/usr/bin/env bash
# envpool 1.2.5 (2026) takes every Atari screen for 210 lines. 13 of the games have 214 to 250, and of those the agent sees
# the first 210: the rest is cut off, not scaled. In Pacman that is the lower 40 lines, the maze's lowest lanes and the
# score. Nothing warns of it. ale-py's own vector environment scales the whole screen.
#
# Seen with envpool 1.2.5 and ale-py 0.12.1 (both as emulator 0.12 and at one no-op after the reset):
#   pacman: the emulator's screen has 250 lines, envpool's picture of 210 lines equals its first 210: True
#   adventure ... space_war: the same; 13 games
#   breakout: 210 lines, equal: True
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

ALEInterface.setLoggerMode(LoggerMode.Error)
TALL = ["adventure", "air_raid", "carnival", "journey_escape", "keystone_kapers", "king_kong", "klax", "laser_gates",
        "mr_do", "pacman", "pooyan", "sir_lancelot", "space_war"]
as_described = True
for rom in [*TALL, "breakout"]:
    name = "".join(word.capitalize() for word in rom.split("_")) + "-v5"
    options = {"noop_max": 1, "use_fire_reset": False, "stack_num": 1, "img_height": 210, "img_width": 160}
    pool = envpool.make_gymnasium(name, num_envs=1, seed=1, **options)
    (((picture,),), _) = pool.reset()
    pool.close()
    emulator = ALEInterface()
    emulator.setInt("random_seed", 1)
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(roms.get_rom_path(rom))
    emulator.reset_game()
    emulator.act(0)
    screen = emulator.getScreenGrayscale()
    same = np.array_equal(picture, screen[:210])
    as_described &= same and (len(screen) > 210) == (rom in TALL)
    print(f"{rom}: the emulator's screen has {len(screen)} lines, envpool's picture equals its first 210: {same}")
print("envpool", envpool.__version__)
sys.exit(0 if as_described else 1)
PYTHON
