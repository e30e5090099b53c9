"""Where one run leaves its files: `RUNS/<name>/<timestamp>/`."""

import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from trainer.config import TrainerConfig


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside the folder of one run. The adapter is written here before it is published."""

    path: Path

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def loss_curve(self) -> Path:
        return self.path / "loss.png"

    def write_config(self, config: TrainerConfig) -> None:
        """The config with every default and override in it, as YAML that can be run again."""
        text = yaml.safe_dump(config.document(), sort_keys=False, allow_unicode=True)
        (self.path / "config.yaml").write_text(text, encoding="utf-8")

    def write_text(self, name: str, text: str) -> None:
        (self.path / name).write_text(text, encoding="utf-8")


def create_run_folder(runs: Path, name: str) -> RunFolder:
    """A new empty folder, its name the local time and, within one second, a number."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    (runs / name).mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = runs / name / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return RunFolder(path)
