"""What a checkpoint of a run holds, so that going on from it equals never having stopped."""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from trainer.errors import ResumeError
from trainer.loop.checkpoints import CheckpointWriter
from trainer.loop.hooks import MethodHooks

WEIGHTS = "weights.safetensors"
BEST = "best.safetensors"
PROGRESS = "progress.json"
METHOD = "method.pt"
# transformers' own names: its `Trainer` reads these four when it goes on.
OPTIMIZER, SCHEDULER, TRAINER_STATE = "optimizer.pt", "scheduler.pt", "trainer_state.json"
FIRST_RANDOM_STATE = "rng_state.pth"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the run stands beside its weights: what decides about early stopping and the best."""

    step: int
    num_processes: int
    best_loss: float | None = None
    best_step: int | None = None
    evaluations_without_progress: int = 0
    ended: bool = False
    seconds: float = 0.0


def write_state(
    writer: CheckpointWriter,
    *,
    trainer: Any,
    weights: Mapping[str, torch.Tensor],
    optimizer_state: Mapping[str, Any],
    hooks: MethodHooks,
    progress: Progress,
    random_states: list[dict[str, Any]],
    best: Path | None,
) -> None:
    """Fill a checkpoint of transformers' `trainer`; `random_states` has one for each process."""
    from safetensors.torch import save

    writer.add(WEIGHTS, lambda file: _write(file, save(dict(weights))))
    writer.add(OPTIMIZER, lambda file: torch.save(optimizer_state, file))
    writer.add(SCHEDULER, lambda file: torch.save(trainer.lr_scheduler.state_dict(), file))
    writer.add(METHOD, lambda file: torch.save(dict(hooks.state()), file))
    for rank, state in enumerate(random_states):
        writer.add(
            random_state_name(rank, len(random_states)),
            lambda file, state=state: torch.save(state, file),  # type: ignore[misc]
        )
    state_text = json.dumps(asdict(trainer.state), indent=2, sort_keys=True) + "\n"
    writer.add(TRAINER_STATE, lambda file: _write(file, state_text.encode()))
    progress_text = json.dumps(asdict(progress), indent=2) + "\n"
    writer.add(PROGRESS, lambda file: _write(file, progress_text.encode()))
    if best is not None:
        writer.link(BEST, best)


def read_progress(folder: Path) -> Progress:
    """The `Progress` of a whole checkpoint."""
    document = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return Progress(**document)


def restore_weights(model: nn.Module, hooks: MethodHooks, folder: Path) -> None:
    """Put a checkpoint's trainable weights and the method's own state into `model`.

    Raises `ResumeError` when they don't fit: the checkpoint is of another base or method.
    """
    from safetensors.torch import load_file

    stored = load_file(str(folder / WEIGHTS))
    parameters = trainable_parameters(model)
    if stored.keys() != parameters.keys():
        odd = sorted(stored.keys() ^ parameters.keys())
        raise ResumeError(
            f"{folder.name} holds {len(stored)} trained tensors, the model has {len(parameters)}; "
            f"they differ in {', '.join(odd[:3])}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != stored[name].shape:
                raise ResumeError(
                    f"{folder.name}: {name} is {tuple(stored[name].shape)}, the model's is "
                    f"{tuple(parameter.shape)}"
                )
            parameter.copy_(stored[name])
    hooks.restore(model, torch.load(folder / METHOD, map_location="cpu", weights_only=True))


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by name: the same for every method, PEFT's or the whole model."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the trainable weights on the CPU, in their own dtype."""
    return {
        name: parameter.detach().to("cpu", copy=True).contiguous()
        for name, parameter in trainable_parameters(model).items()
    }


def random_state() -> dict[str, Any]:
    """States of every random generator of this process, as transformers reads them."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        states["cuda"] = (
            torch.cuda.get_rng_state_all() if several else torch.cuda.random.get_rng_state()
        )
    return states


def random_state_name(rank: int, count: int) -> str:
    """The file of one process, as transformers names it."""
    return FIRST_RANDOM_STATE if count == 1 else f"rng_state_{rank}.pth"


def _write(file: Any, content: bytes) -> None:
    file.write(content)
