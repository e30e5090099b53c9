"""Base against adapters, for people: a table, JSON and Markdown, and bars."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from trainer.data.conversation import as_messages
from trainer.evaluate.held_out import HeldOut
from trainer.evaluate.measuring import Measured, Measuring

JSON_FILE, MARKDOWN_FILE, CHART_FILE = "evaluation.json", "evaluation.md", "comparison.png"
_BETTER = {"loss": "lower is better", "perplexity": "lower is better",
           "judge": "1 to 10, higher is better"}  # fmt: skip
_COUNTS = ("judge_", "pairwise_")
"""How figures begin that are counts of answers: in tables, not among the bars."""


def comparison_table(results: Sequence[Measured], held_out: HeldOut) -> Table:
    """One line for each figure, one column for each model: figures are many, models few."""
    title = f"{len(held_out.examples)} rows of {held_out.source} ({held_out.language})"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(result.label, justify="right")
    for name in _figure_names(results):
        table.add_row(name, *(_cells(result, [name])[0] for result in results))
    return table


def write_report(
    folder: Path, results: Sequence[Measured], held_out: HeldOut, base: str, measuring: Measuring
) -> None:
    """`evaluation.json` with every answer and verdict, and `evaluation.md` with the table."""
    folder.mkdir(parents=True, exist_ok=True)
    judges_rows = not measuring.questions
    document = {
        "base": base,
        "data": {
            "file": held_out.source,
            "digest": held_out.digest,
            "num_rows": len(held_out.examples),
            "language": held_out.language,
        },
        "settings": {
            "metrics": list(measuring.metrics),
            "answer_tokens": measuring.answer_tokens,
            "answered_by": measuring.server or "this process",
            "judge": measuring.judge_model,
        },
        "figures": {result.label: result.figures for result in results},
        "rows": [
            {
                "prompt": as_messages(example.conversation.prompt),
                "reference": example.conversation.answer,
                "answers": {r.label: r.answers[i] for r in results if r.answers},
                **(_verdicts(results, i) if judges_rows else {}),
            }
            for i, example in enumerate(held_out.asked)
        ],
        "questions": [
            {
                "question": question.text,
                "reference": question.reference,
                "answers": {r.label: r.judged[i] for r in results if r.judged},
                **_verdicts(results, i),
            }
            for i, question in enumerate(measuring.questions)
        ],
    }
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    (folder / MARKDOWN_FILE).write_text(_markdown(results, held_out, base), encoding="utf-8")


def _verdicts(results: Sequence[Measured], index: int) -> dict[str, Any]:
    """What the judge said of each model's answer, alone and beside the base's, where it did."""
    verdicts = {r.label: asdict(r.verdicts[index]) for r in results if r.verdicts}
    duels = {r.label: asdict(r.duels[index]) for r in results if r.duels}
    return {
        **({"verdicts": verdicts} if verdicts else {}),
        **({"against_base": duels} if duels else {}),
    }


def draw_bars(results: Sequence[Measured], path: Path) -> None:
    """One small chart for each figure, one bar for each model."""
    from matplotlib.figure import Figure

    names = [name for name in _figure_names(results) if not name.startswith(_COUNTS)]
    figure = Figure(figsize=(max(3.0, 2.6 * len(names)), 3.2), layout="constrained")
    axes = figure.subplots(1, max(1, len(names)), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=False):
        shown = [result for result in results if name in result.figures]
        heights = [result.figures[name] for result in shown]
        colours = ["#999999" if result is results[0] else "#3465a4" for result in shown]
        bars = axis.bar(range(len(shown)), heights, color=colours)
        axis.bar_label(bars, fmt="%.3g", fontsize=7)
        axis.set_xticks(range(len(shown)), [r.label for r in shown], rotation=30, ha="right")
        axis.tick_params(labelsize=7)
        axis.set_title(f"{name} ({_BETTER.get(name, 'higher is better')})", fontsize=8)
    figure.savefig(path, dpi=150)


def _figure_names(results: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result.figures))


def _cells(result: Measured, names: Sequence[str]) -> list[str]:
    return [f"{result.figures[n]:.4g}" if n in result.figures else "-" for n in names]


def _markdown(results: Sequence[Measured], held_out: HeldOut, base: str) -> str:
    names = _figure_names(results)
    lines = [
        f"# {' against '.join(result.label for result in results)}",
        "",
        f"Base `{base}`; {len(held_out.examples)} rows of `{Path(held_out.source).name}` "
        f"(`{held_out.digest}`), words split as {held_out.language}.",
        "",
        f"| model | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
        *(f"| {r.label} | {' | '.join(_cells(r, names))} |" for r in results),
    ]
    return "\n".join(lines) + "\n"
