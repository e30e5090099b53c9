"""The loss curve as a PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.loop.history import StepRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_loss_curve(
    records: Sequence[StepRecord], path: Path, *, title: str, measure: str, base_loss: float
) -> None:
    """Write `loss_curve` as a PNG; no display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = loss_curve(records, title=title, measure=measure, base_loss=base_loss)
    FigureCanvasAgg(figure).print_png(str(path))


def loss_curve(
    records: Sequence[StepRecord], *, title: str, measure: str, base_loss: float
) -> "Figure":
    """Training loss by step, held-out loss where it was measured, and the base's to be under.

    `measure` is what the loss is, with its unit; `base_loss` is on the same held-out rows.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    trained = [(r.step, r.loss) for r in records if r.loss is not None]
    measured = [(r.step, r.eval_loss) for r in records if r.eval_loss is not None]
    axes.axhline(base_loss, color="tab:gray", linestyle="--", label="base, held-out loss")
    if trained:
        axes.plot(*zip(*trained, strict=True), color="tab:blue", alpha=0.6, label="training loss")
    if measured:
        axes.plot(
            *zip(*measured, strict=True), color="tab:orange", marker="o", label="held-out loss"
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("step")
    axes.set_ylabel(measure)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
