"""What a person should see of the data before step 1."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trainer.data.examples import Examples
from trainer.data.labels import ConversationLabeller, LabelledRow
from trainer.data.preparation import PreparedData

OPEN_MARK, CLOSE_MARK = "⟦", "⟧"
"""Put around loss-bearing text where colour can't show it."""


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Token lengths of one split; `loss_share` is the part of all tokens that carries loss."""

    num_rows: int
    num_tokens: int
    p50: int
    p95: int
    longest: int
    loss_share: float


def summarize_lengths(examples: Examples) -> LengthSummary:
    """Nearest-rank percentiles over at least one row."""
    lengths = np.sort(examples.lengths)
    total = int(lengths.sum())
    return LengthSummary(
        num_rows=len(lengths),
        num_tokens=total,
        p50=int(lengths[-(-50 * len(lengths) // 100) - 1]),
        p95=int(lengths[-(-95 * len(lengths) // 100) - 1]),
        longest=int(lengths[-1]),
        loss_share=int(examples.loss_counts.sum()) / total,
    )


def loss_spans(row: LabelledRow) -> Iterator[tuple[bool, tuple[int, ...]]]:
    """Runs of tokens that all carry loss, or all don't, in order."""
    pairs = zip(row.carries_loss, row.token_ids, strict=True)
    for carries_loss, run in groupby(pairs, key=lambda pair: pair[0]):
        yield carries_loss, tuple(token_id for _, token_id in run)


def marked_text(row: LabelledRow, labeller: ConversationLabeller) -> str:
    """The rendered row with the loss-bearing text in double brackets."""
    return "".join(
        f"{OPEN_MARK}{labeller.decode(ids)}{CLOSE_MARK}" if carries_loss else labeller.decode(ids)
        for carries_loss, ids in loss_spans(row)
    )


def data_report(data: PreparedData, labeller: ConversationLabeller) -> RenderableType:
    """Format, rules with counts and examples, lengths, and three rows with their loss marked."""
    lines = [f"format: {data.row_format.name} ({data.row_format.description})"]
    lines += [f"rows read: {data.num_rows_read}", *data.notes]
    for rule, count in sorted(data.counts.items()):
        if count:
            lines.append(f"{rule.value}: {count}")
            lines += [f"    e.g. {text}" for text in data.examples.get(rule, ())[:1] if text]
    table = Table(title="Data", title_justify="left")
    for heading in ("split", "rows", "tokens", "p50", "p95", "longest", "carry loss"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split, examples in (("train", data.train), ("eval", data.held_out)):
        summary = summarize_lengths(examples)
        table.add_row(
            split,
            *(f"{n:,}" for n in (summary.num_rows, summary.num_tokens)),
            *(str(n) for n in (summary.p50, summary.p95, summary.longest)),
            f"{summary.loss_share:.0%}",
        )
    panels = [
        _example_panel(what, data.train[index].row, labeller)
        for what, index in _shown_rows(data.train).items()
    ]
    return Group(table, Text("\n".join(lines)), *panels)


def report_json(data: PreparedData, labeller: ConversationLabeller) -> dict[str, Any]:
    """The report as a document for the run folder."""
    return {
        "format": data.row_format.name,
        "rows_read": data.num_rows_read,
        "digest": data.digest,
        "notes": list(data.notes),
        "rules": {
            rule.value: {"count": count, "examples": list(data.examples.get(rule, ()))}
            for rule, count in sorted(data.counts.items())
        },
        "lengths": {
            "train": asdict(summarize_lengths(data.train)),
            "eval": asdict(summarize_lengths(data.held_out)),
        },
        "rendered": {
            what: marked_text(data.train[index].row, labeller)
            for what, index in _shown_rows(data.train).items()
        },
    }


def _shown_rows(train: Examples) -> dict[str, int]:
    """A short, a median and a long row, by what they are; fewer where there are fewer."""
    order = np.argsort(train.lengths, kind="stable")
    chosen = {
        "a row of median length": int(order[len(order) // 2]),
        "a short row": int(order[len(order) // 20]),
        "a long row": int(order[-(len(order) // 20) - 1]),
    }
    # One row can be several of these; it is shown once.
    return {what: index for index, what in {i: what for what, i in chosen.items()}.items()}


def _example_panel(what: str, row: LabelledRow, labeller: ConversationLabeller) -> Panel:
    text = Text()
    for carries_loss, ids in loss_spans(row):
        piece = labeller.decode(ids)
        if carries_loss:
            text.append(f"{OPEN_MARK}{piece}{CLOSE_MARK}", style="bold green")
        else:
            text.append(piece, style="dim")
    title = f"{what}; {OPEN_MARK}loss is computed here{CLOSE_MARK}"
    return Panel(text, title=title, title_align="left")
