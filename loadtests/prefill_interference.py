"""What a long prompt costs: its own wait, and what the running streams feel of it.

First long prompts come one after another with nothing else running. Then streams decode and the
same number of other long prompts comes in, with rests between. A gap between two tokens of a stream
counts as "during" when it overlaps a prompt's way to its first token, and as "without" when it lies
in a rest. Only the time in which all streams run counts.

Takes about 1 minute per budget on 2 cores.
"""

import argparse
import asyncio
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.harness.closed_loop import AnswerShape, chat_body
from loadtests.harness.command import (
    MeasurementError,
    Report,
    make_server_parser,
    run_command,
    whole_numbers,
)
from loadtests.harness.http_client import HttpConnection, StreamRecord, StreamTimings, read_timings
from loadtests.harness.prompts import chat_token_counter, long_prompt
from loadtests.harness.report import format_table, percentile
from loadtests.harness.server_process import base_model_id, running_server

TARGET_RATIO = 2.0
DEFAULT_MAX_SEQUENCES = 64
_PATH = "/v1/chat/completions"
_WARM_UP_TOKENS = 24
_MAX_STREAM_TOKENS = 1800
_HEADER = (
    "budget", "prompts", "TTFT alone ms", "with streams ms", "gap p50 without", "p99",
    "gap p50 during", "p99", "p99 / p50 without", "p99 / p50 during",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """`num_prompts` are sent in each of the two parts; each answers with one token."""

    num_streams: int
    num_prompts: int
    prompt_tokens: int
    rest_seconds: float


@dataclass(frozen=True, slots=True)
class Interference:
    """Medians and 99th percentiles in milliseconds; `num_prompts` met all streams running."""

    num_prompts: int
    ttft_alone_p50_ms: float
    ttft_with_streams_p50_ms: float
    gap_without_p50_ms: float
    gap_without_p99_ms: float
    gap_during_p50_ms: float
    gap_during_p99_ms: float

    @property
    def ratio(self) -> float:
        """p99 of the gaps during a prefill over the streams' p50 without one."""
        return self.gap_during_p99_ms / self.gap_without_p50_ms

    @property
    def ratio_during(self) -> float:
        """p99 over p50, both of the gaps during a prefill."""
        return self.gap_during_p99_ms / self.gap_during_p50_ms


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_server_parser(
        "prefill_interference", str(__doc__), quick="2 prompts and rests of 0.3 s (20 seconds)"
    )
    parser.add_argument(
        "--max-batch-tokens", type=whole_numbers, default=(), metavar="N,N...",
        help="token budgets of a step to compare, the server restarted with each; default: the "
        "server's own",
    )  # fmt: skip
    parser.add_argument("--streams", type=int, default=16, help="that decode (%(default)s)")
    parser.add_argument("--prompts", type=int, default=10, help="in each part (%(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=512, help="(%(default)s)")
    parser.add_argument(
        "--rest", type=float, default=0.7, metavar="SECONDS", help="between prompts (%(default)s)"
    )
    return parser.parse_args(argv)


def server_arguments(budget: int | None, num_streams: int, more: Sequence[str]) -> tuple[str, ...]:
    """Flags for this budget; a small one also needs fewer sequences than the default.

    Raises `MeasurementError` when the streams leave nothing of the budget for a prompt.
    """
    if budget is None:
        return tuple(more)
    if budget <= num_streams:
        raise MeasurementError(
            f"a budget of {budget} tokens leaves none for a prompt beside {num_streams} streams: "
            f"--max-batch-tokens must be at least {num_streams + 1}"
        )
    sequences = min(budget, DEFAULT_MAX_SEQUENCES)
    return (f"--max-batch-tokens={budget}", f"--max-num-sequences={sequences}", *more)


def judge(
    streams: Sequence[StreamTimings],
    prompts: Sequence[StreamTimings],
    alone: Sequence[StreamTimings],
) -> Interference:
    """Sort the streams' gaps by what ran beside them.

    Raises `MeasurementError` when no prompt met all the streams running or there was no rest.
    """
    begin = max(stream.text_arrivals[0] for stream in streams)
    end = min(stream.text_arrivals[-1] for stream in streams)
    met = [p for p in prompts if p.started >= begin and p.text_arrivals[0] <= end]
    during: list[float] = []
    without: list[float] = []
    for stream in streams:
        for before, after in itertools.pairwise(stream.text_arrivals):
            if before < begin or after > end:
                continue
            if any(p.started < after and before < p.text_arrivals[0] for p in met):
                during.append((after - before) * 1e3)
            elif not any(p.started < after and before < p.finished for p in prompts):
                without.append((after - before) * 1e3)
    if not during or not without:
        raise MeasurementError(
            f"{len(met)} of {len(prompts)} prompts met all streams running, with {len(without)} "
            "gaps in the rests: the streams were too short, take fewer --prompts or a shorter "
            "--rest"
        )
    return Interference(
        num_prompts=len(met),
        ttft_alone_p50_ms=percentile([p.ttft_seconds * 1e3 for p in alone], 50),
        ttft_with_streams_p50_ms=percentile([p.ttft_seconds * 1e3 for p in met], 50),
        gap_without_p50_ms=percentile(without, 50),
        gap_without_p99_ms=percentile(without, 99),
        gap_during_p50_ms=percentile(during, 50),
        gap_during_p99_ms=percentile(during, 99),
    )


class Interferer:
    """Sends the streams and the long prompts to one server."""

    def __init__(self, url: str, model: str, plan: Plan, count_tokens: Callable[[str], int]):
        self._url = url
        self._model = model
        self._plan = plan
        self._count_tokens = count_tokens
        self._serials = itertools.count()

    async def measure(self) -> Interference:
        """Warm up, then both parts. Raises `HttpClientError` when a request fails."""
        with closing(HttpConnection(self._url)) as visitor:
            await self._visit(visitor, self._long_body())
            warm = await self._stream_all(_WARM_UP_TOKENS)
            bodies = [self._long_body() for _ in range(2 * self._plan.num_prompts)]
            alone = [await self._visit(visitor, b) for b in bodies[: self._plan.num_prompts]]
            ramp_seconds = 1.2 * max(stream.ttft_seconds for stream in warm)
            num_tokens = self._stream_tokens(warm, alone, ramp_seconds)
            running = asyncio.create_task(self._stream_all(num_tokens))
            try:
                await asyncio.sleep(ramp_seconds)
                met = await self._visit_between(visitor, bodies[self._plan.num_prompts :], running)
                streams = await running
            finally:
                running.cancel()
        return judge(streams, met, alone)

    def _long_body(self) -> dict[str, Any]:
        text = long_prompt(next(self._serials), self._plan.prompt_tokens, self._count_tokens)
        body = chat_body(self._model, 0, AnswerShape(1))
        return {**body, "messages": [{"role": "user", "content": text}]}

    async def _visit(self, connection: HttpConnection, body: dict[str, Any]) -> StreamTimings:
        return read_timings(await connection.stream(_PATH, body))

    async def _visit_between(
        self,
        connection: HttpConnection,
        bodies: Sequence[dict[str, Any]],
        running: "asyncio.Task[list[StreamTimings]]",
    ) -> list[StreamTimings]:
        met: list[StreamTimings] = []
        for body in bodies:
            await asyncio.sleep(self._plan.rest_seconds)
            if running.done():
                break
            met.append(await self._visit(connection, body))
        await asyncio.sleep(self._plan.rest_seconds)
        return met

    async def _stream_all(self, num_tokens: int) -> list[StreamTimings]:
        shape = AnswerShape(num_tokens)
        bodies = [
            chat_body(self._model, next(self._serials), shape)
            for _ in range(self._plan.num_streams)
        ]

        async def stream(body: dict[str, Any]) -> StreamRecord:
            with closing(HttpConnection(self._url)) as connection:
                return await connection.stream(_PATH, body)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(stream(body)) for body in bodies]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [read_timings(task.result()) for task in tasks]

    def _stream_tokens(
        self, warm: Sequence[StreamTimings], alone: Sequence[StreamTimings], ramp_seconds: float
    ) -> int:
        """Long enough for all prompts and rests, should a prompt take twice as long as alone."""
        gap = percentile([gap for stream in warm for gap in stream.gaps_seconds], 50)
        ttft = percentile([visit.ttft_seconds for visit in alone], 50)
        rests = (self._plan.num_prompts + 1) * self._plan.rest_seconds
        needed = int((ramp_seconds + rests + 2 * self._plan.num_prompts * ttft) / gap)
        return max(_WARM_UP_TOKENS, min(_MAX_STREAM_TOKENS, needed))


async def measure_budget(
    arguments: argparse.Namespace,
    plan: Plan,
    budget: int | None,
    count_tokens: Callable[[str], int],
    scratch: Path,
) -> Interference:
    """Start the server with this budget and measure once."""
    flags = server_arguments(budget, plan.num_streams, arguments.server_arg)
    async with running_server(
        arguments.base, scratch / "store", scratch / "server.log", flags
    ) as url:
        return await Interferer(url, await base_model_id(url), plan, count_tokens).measure()


def measure(arguments: argparse.Namespace) -> Report:
    """Every budget in turn; prints the table."""
    plan = Plan(arguments.streams, arguments.prompts, arguments.prompt_tokens, arguments.rest)
    if arguments.quick:
        plan = dataclasses.replace(plan, num_prompts=2, rest_seconds=0.3)
    count_tokens = chat_token_counter(arguments.base)
    budgets: tuple[int | None, ...] = arguments.max_batch_tokens or (None,)
    results: dict[str, Interference] = {}
    with tempfile.TemporaryDirectory(prefix="switchyard-prefill-") as scratch:
        for budget in budgets:
            work = measure_budget(arguments, plan, budget, count_tokens, Path(scratch))
            results["default" if budget is None else str(budget)] = asyncio.run(work)
    print(f"\n{plan.prompt_tokens}-token prompts, {plan.num_streams} streams; milliseconds, p50")
    print(format_table(_HEADER, [_row(label, result) for label, result in results.items()]))
    print(f"target: p99 during a prefill at most {TARGET_RATIO:.0f}x the streams' p50")
    return {
        "plan": dataclasses.asdict(plan),
        "budgets": {
            label: {
                **dataclasses.asdict(result),
                "ratio": result.ratio,
                "ratio_during": result.ratio_during,
            }
            for label, result in results.items()
        },
    }


def _row(label: str, result: Interference) -> tuple[str, ...]:
    return (
        label,
        str(result.num_prompts),
        f"{result.ttft_alone_p50_ms:.0f}",
        f"{result.ttft_with_streams_p50_ms:.0f}",
        f"{result.gap_without_p50_ms:.1f}",
        f"{result.gap_without_p99_ms:.1f}",
        f"{result.gap_during_p50_ms:.1f}",
        f"{result.gap_during_p99_ms:.1f}",
        f"{result.ratio:.2f}x",
        f"{result.ratio_during:.2f}x",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when a request failed."""
    return run_command("prefill_interference", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
