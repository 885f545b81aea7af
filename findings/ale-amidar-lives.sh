#!/usr/bin/env bash
# ale-py 0.12.1, Amidar: lives() is 0 after a reset and 11 one frame later, though the game gives 3 lives. It then counts
# 11, 10, 9, 8, and the game is over from there: a bit that is no part of the count is read with it. An environment that
# compares the lives of two steps sees them rise after the first frame, and one that ends at lives() == 0 ends at once.
#
# Seen with random actions: after the reset 0; then 11, 10, 9, 8; game over.
# Exit code 0 while it is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ale-py==0.12.1' numpy
"$folder/venv/bin/python" - <<'PYTHON'
import random
import sys

from ale_py import ALEInterface, LoggerMode, roms

ALEInterface.setLoggerMode(LoggerMode.Error)
emulator = ALEInterface()
emulator.setFloat("repeat_action_probability", 0.0)
emulator.loadROM(roms.get_rom_path("amidar"))
emulator.reset_game()
choose, seen = random.Random(0), [emulator.lives()]
for _ in range(20_000):
    emulator.act(choose.choice(emulator.getMinimalActionSet()))
    if emulator.game_over():
        break
    if emulator.lives() != seen[-1]:
        seen.append(emulator.lives())
print("lives after the reset, then as they change:", seen, "game over:", emulator.game_over())
sys.exit(0 if seen == [0, 11, 10, 9, 8] and emulator.game_over() else 1)
PYTHON
