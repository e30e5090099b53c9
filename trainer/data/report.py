"""What a person should see of the data before step 1."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trainer.data.preparation import Example, PreparedData
from trainer.labels import ConversationLabeller, LabelledRow

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


def summarize_lengths(rows: Sequence[LabelledRow]) -> LengthSummary:
    """Nearest-rank percentiles over at least one row."""
    lengths = sorted(len(row) for row in rows)
    total = sum(lengths)
    return LengthSummary(
        num_rows=len(lengths),
        num_tokens=total,
        p50=lengths[-(-50 * len(lengths) // 100) - 1],
        p95=lengths[-(-95 * len(lengths) // 100) - 1],
        longest=lengths[-1],
        loss_share=sum(row.num_loss_tokens for row in rows) / total,
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
    """Format, rules with their counts, lengths, and one rendered row with its loss marked."""
    lines = [f"format: {data.row_format.name} ({data.row_format.description})"]
    lines += [f"rows read: {data.num_rows_read}", *data.notes]
    lines += [f"{rule.value}: {count}" for rule, count in sorted(data.counts.items()) if count]
    table = Table(title="Data", title_justify="left")
    for heading in ("split", "rows", "tokens", "p50", "p95", "longest", "carry loss"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split, examples in (("train", data.train), ("eval", data.held_out)):
        summary = summarize_lengths([example.row for example in examples])
        table.add_row(
            split,
            *(f"{n:,}" for n in (summary.num_rows, summary.num_tokens)),
            *(str(n) for n in (summary.p50, summary.p95, summary.longest)),
            f"{summary.loss_share:.0%}",
        )
    return Group(table, Text("\n".join(lines)), _example_panel(data.train, labeller))


def _example_panel(train: Sequence[Example], labeller: ConversationLabeller) -> Panel:
    by_length = sorted(train, key=lambda example: len(example.row))
    example = by_length[len(by_length) // 2]
    text = Text()
    for carries_loss, ids in loss_spans(example.row):
        piece = labeller.decode(ids)
        if carries_loss:
            text.append(f"{OPEN_MARK}{piece}{CLOSE_MARK}", style="bold green")
        else:
            text.append(piece, style="dim")
    title = f"a row of median length; {OPEN_MARK}loss is computed here{CLOSE_MARK}"
    return Panel(text, title=title, title_align="left")
