"""What it costs that chat templates are rendered in processes of their own.

    python -m loadtests.rendering [--orders 2000]

A short conversation is rendered with the default base's template, again and again: in this process,
as a server would that trusted its templates, and by the server's own renderer, one order after the
other and 32 at once. Then one template of another caller loops all the time beside it. What the
renderer adds to a request is the difference of the first two medians. Takes about 15 seconds.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import uvloop

from adapters.base.loading import load_tokenizer
from adapters.base.reference import DEFAULT_BASE, resolve_base
from loadtests.harness.command import Report, make_parser, run_command
from loadtests.harness.report import format_table, percentile
from server.core.chat import ChatPrompt, RenderOrder
from server.core.errors import RequestError
from server.model.rendering.render_pool import RenderPool
from server.model.rendering.render_worker import rendered
from server.model.tokenizer import TransformersTokenizer

TARGET_MS = 1.0
_NUM_AT_ONCE = 32
_TIMEOUT_SECONDS = 5.0
_MEMORY_MIB = 512
_MESSAGES = (
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Tell me about the river."},
)
_LOOPING = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@dataclass(frozen=True, slots=True)
class Way:
    """How long an order took, wait included, in milliseconds."""

    name: str
    p50_ms: float
    p99_ms: float
    per_second: float


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser("rendering", str(__doc__), quick="200 orders each way")
    parser.add_argument("--orders", type=int, default=2000, help="each way (%(default)s)")
    return parser.parse_args(argv)


def short_order() -> tuple[RenderOrder, str]:
    """A short conversation for the default base, and that base's template."""
    tokenizer, _ = load_tokenizer(resolve_base(DEFAULT_BASE))
    ours = TransformersTokenizer(tokenizer, eos_token_ids=frozenset())
    return ours.render_order(ChatPrompt(_MESSAGES), 2048), ours.chat_template


def measure_here(order: RenderOrder, num_orders: int) -> Way:
    """Rendered in this process."""
    times, start = [], time.perf_counter()
    for _ in range(num_orders):
        begun = time.perf_counter()
        rendered(order)
        times.append(time.perf_counter() - begun)
    return _way("in this process", times, start)


async def measure_pool(order: RenderOrder, template: str, num_orders: int) -> list[Way]:
    """Rendered by the server's renderer, in three ways."""
    pool = RenderPool(
        timeout_seconds=_TIMEOUT_SECONDS, memory_mib=_MEMORY_MIB, warm_template=template
    )
    pool.start()
    try:
        await pool.render(order, caller="a", timeout_seconds=None)
        ways = [
            await _measure(pool, order, "one after the other", num_orders, 1),
            await _measure(pool, order, f"{_NUM_AT_ONCE} at once", num_orders, _NUM_AT_ONCE),
        ]
        looping = asyncio.create_task(_loop_for_ever(pool))
        ways.append(await _measure(pool, order, "beside a loop", num_orders, 1))
        looping.cancel()
        await asyncio.gather(looping, return_exceptions=True)
        return ways
    finally:
        await pool.close()


async def _measure(
    pool: RenderPool, order: RenderOrder, name: str, num_orders: int, num_clients: int
) -> Way:
    times: list[float] = []
    start = time.perf_counter()

    async def client(number: int) -> None:
        for _ in range(num_orders // num_clients):
            begun = time.perf_counter()
            await pool.render(order, caller=f"client {number}", timeout_seconds=None)
            times.append(time.perf_counter() - begun)

    await asyncio.gather(*(client(number) for number in range(num_clients)))
    return _way(name, times, start)


async def _loop_for_ever(pool: RenderPool) -> None:
    order = RenderOrder("a bad adapter", _LOOPING, _MESSAGES)
    while True:
        with contextlib.suppress(RequestError):
            await pool.render(order, caller="bad", timeout_seconds=None)


def _way(name: str, times: Sequence[float], start: float) -> Way:
    seconds = time.perf_counter() - start
    return Way(
        name,
        statistics.median(times) * 1000,
        percentile(times, 99) * 1000,
        len(times) / seconds,
    )


def measure(arguments: argparse.Namespace) -> Report:
    """All four ways, and what the renderer adds."""
    num_orders = 200 if arguments.quick else arguments.orders
    order, template = short_order()
    rendered(order)  # compiles the template
    ways = [
        measure_here(order, num_orders),
        *uvloop.run(measure_pool(order, template, num_orders)),
    ]
    lines = [
        (way.name, f"{way.p50_ms:.3f}", f"{way.p99_ms:.3f}", f"{way.per_second:,.0f}")
        for way in ways
    ]
    print(f"\n{format_table(('short chats', 'p50 ms', 'p99 ms', 'a second'), lines)}\n")
    added = ways[1].p50_ms - ways[0].p50_ms
    verdict = "reached" if added <= TARGET_MS else "missed"
    print(f"added to a short chat: {added:.3f} ms at the median; {TARGET_MS:g} ms {verdict}")
    return {"ways": [asdict(way) for way in ways], "added_ms": added, "target_ms": TARGET_MS}


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return run_command("rendering", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    sys.exit(main())
