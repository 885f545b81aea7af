#!/usr/bin/env bash
# MinAtar 1.0.15, Seaquest: surfacing with six divers sets their count to 0 and then takes one away, so that it is -1.
# A game ends at the surface with a count of exactly 0. From -1 on the submarine may surface for air as often as it
# likes without a diver, and the count goes on falling; the picture shows no divers from -1 on as at 0. So after the
# first full rescue the game has lost its rule that air costs a diver, until as many divers are picked up again. Scores
# of agents that get there are those of an easier game.
#
# Seen: divers 6, surfaced: -1, over False; surfaced: -2, over False; surfaced: -3, over False
# Exit code 0 while it is so, 1 when it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'MinAtar==1.0.15' 'numpy<3'
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from minatar.environments.seaquest import Env

game = Env(ramping=True)
game.random.seed(0)
game.reset()
game.diver_count = 6
up = game.action_map.index("u")
seen = []
for _ in range(3):
    game.sub_y, game.surface = 1, False  # one step below the surface
    game.e_fish, game.e_subs, game.e_bullets = [], [], []
    _, over = game.act(up)
    seen.append((game.diver_count, over))
    print(f"surfaced: {game.diver_count}, over {over}; divers in the picture: {game.state()[9, :9, 8].sum()}")
print("MinAtar", version("MinAtar"))
sys.exit(0 if seen == [(-1, False), (-2, False), (-3, False)] else 1)
PYTHON
