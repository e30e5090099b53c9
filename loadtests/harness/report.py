"""Percentiles, cells of the grid, and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadtests.harness.http_client import StreamTimings


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` percent of `values` lie, interpolated between neighbours.

    The same as `numpy.percentile`'s default. Raises `ValueError` for no values or a share outside
    0..100.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    if not 0.0 <= share <= 100.0:
        raise ValueError(f"a percentile lies between 0 and 100, not at {share}")
    ordered = sorted(values)
    position = (len(ordered) - 1) * share / 100.0
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass(frozen=True, slots=True)
class CellResult:
    """One cell of the grid: so many clients over so many adapters. Times in milliseconds.

    `python_share` is the part of the wall time that our server didn't spend in the model's forward;
    None for a server that doesn't tell.
    """

    server: str
    num_clients: int
    num_adapters: int
    num_requests: int
    num_tokens: int
    wall_seconds: float
    tokens_per_second: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    client_cpu_share: float
    python_share: float | None = None


def summarise(
    server: str,
    num_clients: int,
    num_adapters: int,
    timings: Sequence[StreamTimings],
    client_cpu_seconds: float,
) -> CellResult:
    """One cell from its finished streams.

    Tokens/s is all tokens over the time from the first request's start to the last one's end, so
    prefills, ramp and tail count. `client_cpu_share` is the benchmark's own use of one core.
    """
    wall = max(t.finished for t in timings) - min(t.started for t in timings)
    num_tokens = sum(t.num_tokens for t in timings)
    ttfts = [t.ttft_seconds * 1e3 for t in timings]
    gaps = [gap * 1e3 for t in timings for gap in t.gaps_seconds] or [0.0]
    return CellResult(
        server=server,
        num_clients=num_clients,
        num_adapters=num_adapters,
        num_requests=len(timings),
        num_tokens=num_tokens,
        wall_seconds=wall,
        tokens_per_second=num_tokens / wall,
        ttft_p50_ms=percentile(ttfts, 50),
        ttft_p99_ms=percentile(ttfts, 99),
        gap_p50_ms=percentile(gaps, 50),
        gap_p99_ms=percentile(gaps, 99),
        client_cpu_share=client_cpu_seconds / wall,
    )


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell; the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "  ".join((first, *rest)).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, rows)])


CELL_HEADER = (
    "server", "clients", "adapters", "requests", "tokens/s", "TTFT p50 ms", "p99",
    "inter-token p50 ms", "p99", "client CPU", "Python",
)  # fmt: skip


def cell_row(cell: CellResult) -> tuple[str, ...]:
    """The cells of one line under `CELL_HEADER`."""
    return (
        cell.server,
        str(cell.num_clients),
        str(cell.num_adapters),
        str(cell.num_requests),
        f"{cell.tokens_per_second:.1f}",
        f"{cell.ttft_p50_ms:.0f}",
        f"{cell.ttft_p99_ms:.0f}",
        f"{cell.gap_p50_ms:.1f}",
        f"{cell.gap_p99_ms:.1f}",
        f"{cell.client_cpu_share:.1%}",
        "-" if cell.python_share is None else f"{cell.python_share:.1%}",
    )


def format_memory(memory: Mapping[tuple[str, str], int]) -> str:
    """A table of components in MiB with their sum per device."""
    rows: list[tuple[str, str, str]] = []
    for device in sorted({device for device, _ in memory}):
        parts = {component: size for (d, component), size in memory.items() if d == device}
        rows += [(device, name, f"{size / 2**20:.1f}") for name, size in sorted(parts.items())]
        rows.append((device, "sum", f"{sum(parts.values()) / 2**20:.1f}"))
    return format_table(("device", "component", "MiB"), rows)
