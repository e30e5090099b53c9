"""Pins adapters on the device of a running server of ours, and lets them go."""

import asyncio
import urllib.error
import urllib.request
from collections.abc import Sequence

from loadtests.harness.http_client import HttpClientError

_LIMIT_SECONDS = 120.0


async def pin_on_device(url: str, names: Sequence[str]) -> None:
    """Put them onto the device and keep them there. Raises `HttpClientError`."""
    for name in names:
        await asyncio.to_thread(_post, f"{url}/v1/adapters/{name}/pin?tier=device")


async def unpin(url: str, names: Sequence[str]) -> None:
    """Let them be evicted again. Raises `HttpClientError`."""
    for name in names:
        await asyncio.to_thread(_post, f"{url}/v1/adapters/{name}/unpin")


def _post(url: str) -> None:
    request = urllib.request.Request(url, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_LIMIT_SECONDS) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        text = error.read().decode(errors="replace")[:500]
        raise HttpClientError(f"{url} answered {error.code}: {text}") from error
    except OSError as error:
        raise HttpClientError(f"{url} can't be reached: {error}") from error
