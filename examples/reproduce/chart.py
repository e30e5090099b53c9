"""One bar chart as a PNG; no display is needed."""

from collections.abc import Sequence
from pathlib import Path


def draw_bars(names: Sequence[str], values: Sequence[float], path: Path, *, title: str) -> None:
    """Horizontal bars with their values written at the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 0.4 * len(names)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bars = axes.barh(list(names), list(values), color="tab:blue", alpha=0.8)
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.set_title(title)
    axes.margins(x=0.12)
    canvas.print_png(str(path))
