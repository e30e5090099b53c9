"""Predictions for a person to read."""

from dataclasses import fields

from rich.table import Table

from trainer.prediction.memory import MemoryPrediction

_NAMES = {
    "weights": "weights of the base",
    "adapter": "what is trained",
    "gradients": "its gradients",
    "optimizer": "the optimiser's moments",
    "activations": "activations",
    "logits": "logits at loss tokens",
    "process": "interpreter, libraries, data",
    "holes": "holes between tensors",
}


def memory_table(prediction: MemoryPrediction, title: str = "Peak memory, predicted") -> Table:
    """One row for each part."""
    table = Table(title=title, title_justify="left", show_header=False)
    for part in fields(prediction):
        table.add_row(_NAMES[part.name], size_text(getattr(prediction, part.name)))
    table.add_row("in all", size_text(prediction.total), style="bold")
    return table


def size_text(num_bytes: int) -> str:
    """`1.23 GB`, or `45 MB` below a tenth of that."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"


def memory_line(predicted: int, measured: int) -> str:
    """The two beside each other."""
    return (
        f"peak memory: predicted {size_text(predicted)}, measured {size_text(measured)} "
        f"({predicted / measured - 1:+.0%})"
    )


def duration_text(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
