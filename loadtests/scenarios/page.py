"""A run as a page: one picture of what the clients saw, and a table in HTML around it."""

import base64
import html
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.harness.report import percentile
from loadtests.scenarios.records import Outcome, Record, count_outcomes, jain_index
from loadtests.scenarios.run import Outage, Sample, Verdict, longest_life

_DONE = (Outcome.RIGHT, Outcome.UNCHECKED)
_MAX_BARS = 30
_INK, _ACCENT, _ALARM = "#334155", "#2563eb", "#dc2626"


def finished(records: Sequence[Record]) -> list[Record]:
    """Requests that got a whole answer with text."""
    return [r for r in records if r.outcome in _DONE and r.ttft is not None]


def tokens_by_model(records: Sequence[Record]) -> dict[str, int]:
    """Model -> tokens of its whole answers, the most served first."""
    totals: dict[str, int] = {}
    for record in records:
        totals[record.model] = totals.get(record.model, 0) + record.num_tokens
    return dict(sorted(totals.items(), key=lambda item: -item[1]))


def summary_rows(verdict: Verdict) -> list[tuple[str, str]]:
    """The figures of a run as label and text."""
    done = finished(verdict.records)
    rows = [(str(o), str(n)) for o, n in sorted(count_outcomes(verdict.records).items())]
    if done:
        start = min(r.started for r in done)
        wall = max(r.started + r.seconds for r in done) - start
        ttfts = [1e3 * r.ttft for r in done if r.ttft is not None]
        gaps = [1e3 * gap for r in done for gap in r.gaps] or [0.0]
        gap_p50, gap_p99 = percentile(gaps, 50), percentile(gaps, 99)
        tokens = sum(r.num_tokens for r in done)
        by_model = list(tokens_by_model(done).values())
        rows += [
            ("tokens/s", f"{tokens / wall:.1f}"),
            ("TTFT p50 / p99, ms", f"{percentile(ttfts, 50):.0f} / {percentile(ttfts, 99):.0f}"),
            ("between tokens p50 / p99, ms", f"{gap_p50:.1f} / {gap_p99:.1f}"),
            ("Jain's index over adapters, tokens", f"{jain_index(by_model):.3f}"),
        ]
    before, after = verdict.idle_before, verdict.idle_after
    mib = 2**20
    rows += [
        ("memory idle before / after, MiB",
         f"{before.resident_bytes / mib:.0f} / {after.resident_bytes / mib:.0f}"),
        ("  of it adapters in the host cache",
         f"{before.cached_bytes / mib:.0f} / {after.cached_bytes / mib:.0f}"),
        ("  everything else, which must be flat",
         f"{before.other_bytes / mib:.0f} / {after.other_bytes / mib:.0f}"),
        *_within_a_life(verdict.samples),
        ("open files idle before / after", f"{before.num_files} / {after.num_files}"),
        ("held at the end: running, waiting, KV, pins",
         " / ".join("?" if v is None else f"{v:g}" for v in verdict.held_after.values())),
        ("kills; seconds until ready again", f"{len(verdict.outages)}; "
         + ", ".join(f"{outage.seconds:.1f}" for outage in verdict.outages[:8])),
        ("exit status on SIGTERM", str(verdict.exit_status)),
    ]  # fmt: skip
    return rows


def _within_a_life(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    settled = longest_life(samples)
    if not settled:
        return []
    first, last = settled[0], settled[-1]
    text = f"{first.vitals.other_bytes / 2**20:.0f} / {last.vitals.other_bytes / 2**20:.0f}"
    return [(f"  the same under load, {first.seconds:.0f} s / {last.seconds:.0f} s", text)]


def write_page(verdict: Verdict, title: str, folder: Path) -> Path:
    """Write `report.png` and `report.html` (self-contained); returns the page's path."""
    picture = draw(verdict, title)
    (folder / "report.png").write_bytes(picture)
    rows = "\n".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"
        for name, text in summary_rows(verdict)
    )
    problems = "".join(f"<li>{html.escape(text)}</li>" for text in verdict.problems[:50])
    found = f"<h2>Problems</h2><ul>{problems}</ul>" if problems else "<p>No problem was found.</p>"
    page = folder / "report.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title>"
        "<style>body{font:15px system-ui;margin:2rem auto;max-width:60rem;color:#334155}"
        "td{padding:.2rem 1.5rem .2rem 0;border-bottom:1px solid #e2e8f0}img{width:100%}</style>"
        f"<h1>{html.escape(title)}</h1><table>{rows}</table>{found}"
        f'<img alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{base64.b64encode(picture).decode()}">\n'
    )
    return page


def draw(verdict: Verdict, title: str) -> bytes:
    """Throughput over time, TTFT, gaps, tokens by adapter, memory: one PNG."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    done = finished(verdict.records)
    figure, axes = plt.subplots(2, 3, figsize=(15, 7.5), layout="constrained")
    figure.suptitle(title)
    start = min((r.started for r in done), default=0.0)
    _throughput(axes[0][0], done, start, verdict.outages)
    _histogram(axes[0][1], [1e3 * r.ttft for r in done if r.ttft is not None], "TTFT, ms")
    _histogram(axes[0][2], [1e3 * g for r in done for g in r.gaps], "between two tokens, ms")
    totals = list(tokens_by_model(done).items())[:_MAX_BARS]
    axes[1][0].bar(range(len(totals)), [n for _, n in totals], color=_ACCENT)
    axes[1][0].set_xticks(range(len(totals)), [m[-14:] for m, _ in totals], rotation=90, fontsize=7)
    axes[1][0].set_title(f"tokens by adapter, Jain {jain_index([n for _, n in totals]):.3f}")
    by_model: dict[str, list[float]] = {}
    for record in done:
        if record.ttft is not None:
            by_model.setdefault(record.model, []).append(1e3 * record.ttft)
    medians = [statistics.median(by_model[m]) for m, _ in totals]
    axes[1][1].bar(range(len(totals)), medians, color=_ACCENT)
    axes[1][1].set_title("median TTFT by adapter, ms")
    axes[1][1].set_xticks([])
    times = [s.seconds for s in verdict.samples]
    axes[1][2].plot(times, [s.vitals.resident_bytes / 2**20 for s in verdict.samples], color=_INK)
    axes[1][2].plot(times, [s.vitals.other_bytes / 2**20 for s in verdict.samples], color=_ACCENT)
    axes[1][2].set_title("memory, MiB (blue: without cached adapters)")
    axes[1][2].set_xlabel("s")
    axes[1][2].set_ylim(0, 1.1 * axes[1][2].get_ylim()[1])
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return buffer.getvalue()


def _throughput(axis: Any, done: Sequence[Record], start: float, outages: Sequence[Outage]) -> None:
    seconds: dict[int, float] = {}
    for record in done:
        at = record.started - start + (record.ttft or 0.0)
        for gap in (0.0, *record.gaps):
            at += gap
            seconds[int(at)] = seconds.get(int(at), 0.0) + 1.0
    span = range(max(seconds, default=0) + 1)
    axis.plot(span, [seconds.get(s, 0.0) for s in span], color=_ACCENT, linewidth=0.8)
    for outage in outages:
        axis.axvspan(outage.killed - start, outage.ready - start, color=_ALARM, alpha=0.25)
    axis.set_title("tokens/s (red: killed, starting again)" if outages else "tokens/s")
    axis.set_xlabel("s")


def _histogram(axis: Any, values: Sequence[float], title: str) -> None:
    shown = sorted(values)[: max(1, int(len(values) * 0.995))]
    axis.hist(shown, bins=60, color=_ACCENT)
    axis.set_title(title)
