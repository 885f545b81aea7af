"""Runs one of the study's experiments: `python -m studies.warm_start.suite headline`."""

from __future__ import annotations

from dataclasses import dataclass

from experiment.config import ConfigError
from studies.suite import Study, SuiteConfig
from studies.warm_start.__main__ import settings
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.download import ensure
from studies.warm_start.files import is_there, remedy
from studies.warm_start.suites import SUITES

DATASET = WarmStartConfig.dataset
"""What all suites train on."""


@dataclass(frozen=True)
class WarmStartSuiteConfig(SuiteConfig):
    """What to run, on which data."""

    data_dir: str | None = None
    """Folder of the data; none: $REWARM_DATA, else ~/.cache/rewarm."""


class WarmStartStudy(Study):
    """The warm-start study: its runs share a folder of data, which are downloaded once, before them."""

    def place(self, config: SuiteConfig) -> list[str]:
        assert isinstance(config, WarmStartSuiteConfig)
        return [] if config.data_dir is None else ["--data-dir", config.data_dir]

    def prepare(self, config: SuiteConfig) -> None:
        assert isinstance(config, WarmStartSuiteConfig)
        ensure(DATASET, config.data_dir)
        if not is_there(DATASET, config.data_dir):
            raise ConfigError(f"{config.data_dir}: CIFAR-10 is not there; {remedy(DATASET, config.data_dir)}")


DEFAULTS = WarmStartSuiteConfig(root="run/warm-start", log_interval=500)
STUDY = WarmStartStudy("studies.warm_start", settings, SUITES, DEFAULTS)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
