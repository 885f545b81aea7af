"""Whether trained networks still learn as fresh ones do: `python -m studies.warm_start.fit_probe RUNS...`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from experiment.config import ConfigError
from experiment.fit_probe import FitCommand, FitConfig
from experiment.storage.run_dir import RunDir, load_settings
from studies.warm_start.config import WarmStartConfig

if TYPE_CHECKING:
    from torch import nn

    from experiment.storage.checkpoint import Checkpoint
    from nap.metrics import FitCurves


class WarmStartFits(FitCommand):
    """Fits on training images, those of all phases."""

    program, inputs, source = "studies.warm_start.fit_probe", "images", "its training data"

    def curves(
        self, options: FitConfig, directory: RunDir, saved: Checkpoint, progress: Callable[[int], object]
    ) -> tuple[FitCurves, int]:
        import torch

        from experiment.determinism import configure, seeds
        from experiment.storage.checkpoint import checked_restore
        from nap.metrics import fit_random_targets
        from studies.warm_start.data import channel_statistics, load, prepare
        from studies.warm_start.networks import make_network
        from studies.warm_start.run import make_methods

        config = replace(load_settings(WarmStartConfig, directory), device="cpu").resolved()
        configure(config.threads, config.seed)
        data = load(config.dataset, config.data_dir)
        images = data.train_images
        if len(images) < options.states:
            raise ConfigError(f"{data.name} has {len(images):,} training images, fewer than --states {options.states}")

        def fresh() -> nn.Module:
            network = make_network(config, images.shape[1:], data.classes)
            for method in make_methods(config):
                method.prepare(network)
            return network

        network = fresh()
        with checked_restore(saved):
            network.load_state_dict(saved.state["learner"]["model"])
        seed = seeds(config.seed, "fit probe")["fit probe"] if options.seed is None else options.seed
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[: options.states]
        batch = prepare(images[chosen], *channel_statistics(images)).to(options.device)
        named = {"draws": options.draws, "updates": options.updates, "lr": options.lr, "seed": seed}
        curves = fit_random_targets(network.to(options.device), batch, fresh, **named, progress=progress)  # type: ignore[arg-type]
        return curves, int(saved.state["learner"]["counts"][0])


main = WarmStartFits().main

if __name__ == "__main__":
    raise SystemExit(main())
