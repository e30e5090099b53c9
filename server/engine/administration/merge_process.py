"""Merges in a process of its own: its torch, its memory and its crashes aren't the server's."""

import asyncio
import contextlib
import json
import sys
from pathlib import Path

from server.core.administration import MergeOrder, MergeResult
from server.core.errors import MergeFailedError

_LIMIT_SECONDS = 1800.0
_ERROR_PREFIX = "error: "


class MergeProcess:
    """An `AdapterMerger`: the command `adapters merge` on the server's store. One at a time."""

    def __init__(self, store: str | Path) -> None:
        self._store = str(store)
        self._one_at_a_time = asyncio.Lock()

    async def merge(self, order: MergeOrder) -> MergeResult:
        """See `core.administration.AdapterMerger.merge`."""
        async with self._one_at_a_time:
            process = await asyncio.create_subprocess_exec(
                *self._command(order),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(_LIMIT_SECONDS):
                    output, errors = await process.communicate()
            except TimeoutError as error:
                raise MergeFailedError(
                    f"the merge took more than {_LIMIT_SECONDS:.0f} s and was ended; run "
                    "`adapters merge` beside the server instead"
                ) from error
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if process.returncode != 0:
            raise MergeFailedError(_reason(errors.decode(errors="replace"), process.returncode))
        told = json.loads(output)
        return MergeResult(
            label=told["label"],
            digest=told["digest"],
            rank=told["rank"],
            error=told["error"],
            parents=tuple((p["label"], p["digest"], p["weight"]) for p in told["parents"]),
        )

    def _command(self, order: MergeOrder) -> list[str]:
        # repr gives the shortest text that reads back as the same float; no exponent's plus sign.
        terms = [f"{reference}:{weight!r}" for reference, weight in order.parents]
        options = {"--method": order.method, "--seed": order.seed, "--store": self._store}
        optional = {"--rank": order.rank, "--density": order.density}
        options |= {flag: value for flag, value in optional.items() if value is not None}
        flags = [f"{flag}={value}" for flag, value in options.items()]
        return [
            sys.executable, "-m", "adapters.commands.cli", "merge", "--json", *flags,
            "--", order.name, *terms,
        ]  # fmt: skip


def _reason(errors: str, status: int | None) -> str:
    """The message that the command ended with."""
    start = errors.rfind(_ERROR_PREFIX)
    if start >= 0:
        return errors[start + len(_ERROR_PREFIX) :].strip()
    last = errors.strip().splitlines()[-1:] or ["it said nothing"]
    return f"the merging process ended with status {status}: {last[0]}"
