"""Data-Efficient Rainbow (van Hasselt et al. 2019): `python -m agents.der`.

It is Rainbow that learns at every step from 100k steps, with longer returns and less noise. Nothing else is different;
the values are in configs/der.yaml (Dopamine's, on its network) and configs/der-small.yaml (`--config small`: the
paper's own network, several times quicker).
"""

if __name__ == "__main__":
    from agents.cli import main

    raise SystemExit(main("der"))
