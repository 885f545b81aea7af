"""Rainbow (Hessel et al. 2018): `python -m agents.rainbow`.

It is `DQN` with all six switches on: --double-q, --dueling, --noisy, --distribution c51, --n-step 3 and --prioritised,
each of which can be turned off again. The code is the same; the values are in configs/rainbow.yaml.
"""

if __name__ == "__main__":
    from agents.cli import main

    raise SystemExit(main("rainbow"))
