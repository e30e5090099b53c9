"""Where a run's curve can be watched: TensorBoard files, Weights & Biases, MLflow, or nowhere."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from trainer.errors import ConfigError
from trainer.loop.checkpoints import replace_file

TrackerName = Literal["tensorboard", "wandb", "mlflow", "none"]

_EXTRA = {"tensorboard": "train", "wandb": "wandb", "mlflow": "mlflow"}
_MLFLOW_RUN = "mlflow_run_id"


class Tracker(Protocol):
    """Receives numbers and texts by step."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def text(self, step: int, tag: str, markdown: str) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """Nothing is tracked; also on every process but the main one."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Dropped."""

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Dropped."""

    def close(self) -> None:
        """Nothing to close."""


class TensorBoardTracker:
    """Event files in a folder; of a run that goes on, those after `done_steps` are superseded."""

    def __init__(self, folder: Path, done_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(
            str(folder), purge_step=done_steps + 1 if done_steps else None
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, tag: str, markdown: str) -> None:
        self._writer.add_text(tag, markdown, step)

    def close(self) -> None:
        self._writer.close()


class WandbTracker:
    """A run of Weights & Biases under the id `run_id`, so that a resumed run goes on in it."""

    def __init__(
        self, wandb: Any, project: str, run_name: str, run_id: str, config: Mapping[str, Any]
    ) -> None:
        self._wandb = wandb
        self._run = wandb.init(
            project=project, name=run_name, id=run_id, resume="allow", config=dict(config)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def text(self, step: int, tag: str, markdown: str) -> None:
        self._run.log({tag: self._wandb.Html(f"<pre>{_escaped(markdown)}</pre>")}, step=step)

    def close(self) -> None:
        self._run.finish()


class MlflowTracker:
    """A run in an MLflow experiment; `marker` holds its id for when the training goes on."""

    def __init__(
        self, mlflow: Any, project: str, run_name: str, marker: Path, config: Mapping[str, Any]
    ) -> None:
        self._mlflow = mlflow
        mlflow.set_experiment(project)
        if marker.is_file():
            mlflow.start_run(run_id=marker.read_text(encoding="utf-8"))
            return
        run = mlflow.start_run(run_name=run_name)
        replace_file(marker, str(run.info.run_id).encode())
        mlflow.log_params(flat(config))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(values), step=step)

    def text(self, step: int, tag: str, markdown: str) -> None:
        self._mlflow.log_text(markdown, f"{tag.replace('/', '-')}-{step:08d}.md")

    def close(self) -> None:
        self._mlflow.end_run()


def require_tracker(name: TrackerName) -> Any:
    """The library of tracker `name`, imported; None for `none`.

    Raises `ConfigError` with the command that installs it when it isn't there.
    """
    if name == "none":
        return None
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            [
                f"training.logging.to: {name}, but it isn't installed ({error}); "
                f"pip install 'switchyard[{_EXTRA[name]}]', or use tensorboard or none"
            ]
        ) from None


def open_tracker(
    name: TrackerName,
    *,
    project: str,
    run_name: str,
    folder: Path,
    config: Mapping[str, Any],
    done_steps: int,
) -> Tracker:
    """Begin tracking the run in `folder`, or go on with it after `done_steps` steps.

    Raises `ConfigError` when the library isn't installed, or says that it can't begin: nobody is
    logged in, or MLflow is to write into a folder, which it takes only when told twice.
    """
    library = require_tracker(name)
    if name == "tensorboard":
        return TensorBoardTracker(folder / "tensorboard", done_steps)
    try:
        if name == "wandb":
            run_id = f"{run_name}-{folder.name}".replace("/", "-")
            return WandbTracker(library, project, run_name, run_id, config)
        if name == "mlflow":
            return MlflowTracker(library, project, run_name, folder / _MLFLOW_RUN, config)
    except _own_error(name, library) as error:
        raise ConfigError([f"training.logging.to: {name} can't begin: {error}"]) from error
    return NoTracker()


def _own_error(name: TrackerName, library: Any) -> type[Exception]:
    """The base of the errors that a tracker's library raises on purpose."""
    found: type[Exception] = (
        library.exceptions.MlflowException if name == "mlflow" else library.errors.Error
    )
    return found


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    leaves: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
