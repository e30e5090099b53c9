"""The loss curve as a PNG."""

from collections.abc import Sequence
from pathlib import Path

from trainer.history import StepRecord


def draw_loss_curve(records: Sequence[StepRecord], path: Path, *, title: str, measure: str) -> None:
    """Training loss by step, held-out loss where it was measured; no display is needed.

    `measure` is what the loss is, with its unit.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    trained = [(r.step, r.loss) for r in records if r.loss is not None]
    measured = [(r.step, r.eval_loss) for r in records if r.eval_loss is not None]
    if trained:
        axes.plot(*zip(*trained, strict=True), color="tab:blue", alpha=0.6, label="training loss")
    if measured:
        axes.plot(
            *zip(*measured, strict=True), color="tab:orange", marker="o", label="held-out loss"
        )
    axes.set_xlabel("step")
    axes.set_ylabel(measure)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if trained or measured:
        axes.legend()
    canvas.print_png(str(path))
