"""Where one run leaves its files: `RUNS/<name>/<timestamp>/`."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.config import TrainerConfig
from trainer.errors import ResumeError
from trainer.loop.checkpoints import replace_file


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What going on with a run needs to know beside its config and checkpoints.

    `config_folder` is what relative data paths start from. Digests name what the run began with;
    `published` is the version that it ended in, `name@3`.
    """

    config_folder: str
    store: str
    data_digest: str
    base_digest: str
    num_processes: int
    base_measured: dict[str, float]
    published: str | None = None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside the folder of one run. The adapter is written here before it is published."""

    path: Path

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def history(self) -> Path:
        return self.path / "history.jsonl"

    @property
    def loss_curve(self) -> Path:
        return self.path / "loss.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Trainable weights of the best evaluation so far."""
        return self.path / "best"

    @property
    def samples(self) -> Path:
        """Answers at each evaluation."""
        return self.path / "samples"

    @property
    def base_evaluation(self) -> Path:
        """What `evaluation.metrics` gave of the base."""
        return self.path / "base-evaluation.json"

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def _record(self) -> Path:
        return self.path / "run.json"

    def write_config(self, config: TrainerConfig) -> None:
        """The config with every default and override in it, as YAML that can be run again."""
        text = yaml.safe_dump(config.document(), sort_keys=False, allow_unicode=True)
        self.config.write_text(text, encoding="utf-8")

    def write_record(self, record: RunRecord) -> None:
        """Replace the record, whole or not at all."""
        replace_file(self._record, (json.dumps(asdict(record), indent=2) + "\n").encode())

    def read_record(self) -> RunRecord:
        """Raises `ResumeError` when this is no run folder, or the run ended before step 1."""
        try:
            document: dict[str, Any] = json.loads(self._record.read_text(encoding="utf-8"))
            return RunRecord(**document)
        except FileNotFoundError:
            what = "a run that ended before its first step" if self.config.is_file() else "no run"
            raise ResumeError(
                f"{self.path} holds {what}: there is no {self._record.name}. Give the folder that "
                "`trainer run` named, or start anew with `trainer run`"
            ) from None
        except (ValueError, TypeError) as error:
            raise ResumeError(f"{self._record} can't be read: {error}") from error

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
