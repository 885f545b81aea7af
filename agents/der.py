"""Data-Efficient Rainbow (van Hasselt et al. 2019): `python -m agents.der`.

DER is Rainbow with an update at every step, 100k steps, longer returns and less noise. The code is the same. The values
are in configs/der.yaml (Dopamine's, on its network) and configs/der-small.yaml (`--config small`: the paper's own
network, several times quicker).
"""

if __name__ == "__main__":
    from agents.cli import main

    raise SystemExit(main("der"))
