"""Runs one of the study's experiments: `python -m studies.warm_start.suite headline`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from experiment.config import ConfigError
from experiment.setting import setting
from experiment.sweeps.gpus import FIXED
from experiment.sweeps.workload import Workload
from studies import suite
from studies.suite import StudyRuns, StudySweep, SuiteSettings
from studies.warm_start.__main__ import settings
from studies.warm_start.config import WarmStartConfig
from studies.warm_start.download import ensure
from studies.warm_start.files import is_there, remedy
from studies.warm_start.suites import SUITES

DATASET = WarmStartConfig.dataset
"""What all suites train on."""
IMAGES = 60_000 * 3 * 32 * 32
"""Bytes of its images."""
PER_IMAGE = {"cnn": 2**15, "resnet18": 2**18}
"""Bytes of an image's activations in a batch, both passes, for each channel of the first convolution."""


@dataclass(frozen=True)
class WarmStartSuiteSettings(SuiteSettings):
    """What to run, on which data, and where."""

    data_dir: str | None = setting(None, "runs")
    """Folder of the data; none: $REWARM_DATA, else ~/.cache/rewarm."""


class WarmStartRuns(StudyRuns[WarmStartConfig]):
    """Runs of `python -m studies.warm_start`."""

    program, command, report = "studies.warm_start", "studies.warm_start.suite", "studies.warm_start.figures"
    config_class, suites, task, lengths = WarmStartConfig, SUITES, "protocol", frozenset({"phase_updates"})
    parse = staticmethod(settings)

    def length(self, config: WarmStartConfig, updates: int) -> list[str]:
        return ["--phase-updates", str(updates // config.phases)]

    def workload(self, config: WarmStartConfig) -> Workload:
        assert config.width is not None, "resolved() comes first"
        need = FIXED + IMAGES + config.batch_size * config.width * PER_IMAGE[config.network]
        return Workload(config.budget, bytes=need)


class WarmStartSweep(StudySweep):
    """A suite of the study: its runs share a folder of data, which are downloaded once, before them."""

    kind = WarmStartRuns()
    settings: WarmStartSuiteSettings

    def resume_options(self) -> tuple[str, ...]:
        return () if self.settings.data_dir is None else ("--data-dir", self.settings.data_dir)

    def prepare(self) -> None:
        folder = self.settings.data_dir
        ensure(DATASET, folder)
        if not is_there(DATASET, folder):
            raise ConfigError(f"{folder}: CIFAR-10 is not there; {remedy(DATASET, folder)}")


DEFAULTS = WarmStartSuiteSettings(root="run/warm-start", log_interval=500)
main = partial(suite.main, WarmStartSweep, DEFAULTS)

if __name__ == "__main__":
    raise SystemExit(main())
