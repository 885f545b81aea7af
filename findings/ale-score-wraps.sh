#!/usr/bin/env bash
# ale-py 0.12.1: a game's score is read from digits in the console's memory, and a reward is the difference between two
# readings. Where the digits go past their last number, most games hand out one reward that takes the whole score away:
# an agent that plays better than the counter can show is punished for it, and its return is that of a beginner. Some
# games add the counter's range instead (SpaceInvaders, Asteroids), some give 0 (Centipede, CrazyClimber).
#
# Each game's digits are set near their end with setRAM; then random actions score. The first negative reward seen, and the
# return of the episode before it:
#   wizard_of_wor: -199900 at 199900; asterix: -999950 at 999999; frostbite: -999990 at 999999; qbert: -999975 at 999999
#   demon_attack: -999990 at 999999; ms_pacman: -999990 at 999999; time_pilot: -999900 at 999900; tutankham: -9999 at 9999
#   space_invaders, asteroids, centipede: no negative reward, and points go on
# Exit code 0 while it is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'ale-py==0.12.1' numpy
"$folder/venv/bin/python" - <<'PYTHON'
import random
import sys

import ale_py
from ale_py import ALEInterface, LoggerMode, roms

ALEInterface.setLoggerMode(LoggerMode.Error)
DIGITS = {  # memory cells of the score's digits, two in each, as in ale-py's src/ale/games/supported
    "wizard_of_wor": (0x86, 0x88), "asterix": (0xE0, 0xDF, 0xDE), "frostbite": (0xCA, 0xC9, 0xC8),
    "qbert": (0xDB, 0xDA, 0xD9), "demon_attack": (0x85, 0x83, 0x81), "ms_pacman": (0xF8, 0xF9, 0xFA),
    "time_pilot": (0x8D, 0x8F), "tutankham": (0x9C, 0x9A),
    "space_invaders": (0xE8, 0xE6), "asteroids": (0xBE, 0xBD), "centipede": (0xF6, 0xF5, 0xF4),
}
UNSEEN = ("space_invaders", "asteroids", "centipede")


def first_loss(rom):
    """Return before the first negative reward and that reward, of 12,000 frames; or None. And whether points went on."""
    emulator = ALEInterface()
    emulator.setInt("random_seed", 1)
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(roms.get_rom_path(rom))
    choose, actions = random.Random(1), emulator.getMinimalActionSet()
    score, began, later = 0, False, 0
    for _ in range(12_000):
        if emulator.game_over():
            emulator.reset_game()
            score, began = 0, False
        if not began and emulator.getEpisodeFrameNumber() > 150:
            for cell in DIGITS[rom]:
                emulator.setRAM(cell & 0x7F, 0x99)
            emulator.act(0)
            score, began = score_read(emulator, rom), True
            continue
        reward = emulator.act(choose.choice(actions))
        if reward < 0:
            return (score, reward), True
        score += reward
        later += reward if began else 0
    return None, later > 0


def score_read(emulator, rom):
    """The return after the digits were set: what the next readings are compared with."""
    scale = {"wizard_of_wor": 100, "time_pilot": 100}.get(rom, 1)
    digits = 10 ** (2 * len(DIGITS[rom])) - 1
    return {"wizard_of_wor": 1999}.get(rom, digits) * scale


as_described = True
for rom in DIGITS:
    loss, points = first_loss(rom)
    as_described &= points and (loss is None) == (rom in UNSEEN)
    as_described &= loss is None or (loss[1] < -0.9 * loss[0])
    print(f"{rom}: " + ("no negative reward" if loss is None else f"{loss[1]} at {loss[0]}"))
print("ale-py", ale_py.__version__)
sys.exit(0 if as_described else 1)
PYTHON
