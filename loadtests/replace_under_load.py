"""Replace an adapter by new bytes, again and again, while streams run on it.

Clients stream greedy answers of the adapter `sql` without a pause; meanwhile its bytes are replaced
through /v1/load_lora_adapter. Every answer says which version served it. Afterwards the idle server
is asked for the same answers version by version: each answer must be its version's, token for
token. At the end only the last version may be in memory.

Takes about 2 minutes on 2 cores, and 51 adapters of about 5 MB below --workdir.
"""

import argparse
import asyncio
import json
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.store.store import AdapterStore
from loadtests.fixtures.adapters_factory import base_module_shapes, write_random_adapter
from loadtests.harness.command import (
    MeasurementError,
    Report,
    add_workdir,
    make_server_parser,
    run_command,
)
from loadtests.harness.server_process import running_server

_PROMPTS = ("Name three rivers.", "What is a lock?", "Tell me about bread.", "Why is the sky blue?")
_TIMEOUT_SECONDS = 120
_SETTLE_SECONDS = 10.0


@dataclass
class Answers:
    """What the clients got: (served model, prompt, text), and what went wrong."""

    found: list[tuple[str, str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_server_parser(
        "replace_under_load", str(__doc__), quick="5 replacements, 4 clients"
    )
    parser.add_argument("--replacements", type=int, default=50, help="(%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--tokens", type=int, default=32, help="per answer (%(default)s)")
    parser.add_argument("--rank", type=int, default=8, help="of each adapter (%(default)s)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between (%(default)s)")
    add_workdir(parser)
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.replacements, arguments.clients = 5, 4
    return arguments


def ask(url: str, model: str, prompt: str, tokens: int) -> tuple[str, str]:
    """The served model and the text of one streamed greedy answer."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    served, text = "", ""
    with _post(url, "/v1/chat/completions", body) as answer:
        for line in answer:
            data = line.decode().strip().removeprefix("data: ")
            if not data or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                raise MeasurementError(f"a stream of {model} failed: {event['error']['message']}")
            served = event["model"]
            text += "".join(c["delta"].get("content") or "" for c in event["choices"])
    return served, text


def _post(url: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)


def _client(url: str, answers: Answers, stop: threading.Event, place: int, tokens: int) -> None:
    serial = place
    while not stop.is_set():
        prompt = _PROMPTS[serial % len(_PROMPTS)]
        serial += 1
        try:
            served, text = ask(url, "sql", prompt, tokens)
        except (OSError, MeasurementError) as error:
            with answers.lock:
                answers.failures.append(str(error))
            return
        with answers.lock:
            answers.found.append((served, prompt, text))


def _run(url: str, arguments: argparse.Namespace, folders: Sequence[Path]) -> Report:
    answers, stop = Answers(), threading.Event()
    clients = [
        threading.Thread(target=_client, args=(url, answers, stop, place, arguments.tokens))
        for place in range(arguments.clients)
    ]
    for client in clients:
        client.start()
    start = time.perf_counter()
    try:
        for folder in folders:
            time.sleep(arguments.pause)
            body = {"lora_name": "sql", "lora_path": str(folder), "load_inplace": True}
            _post(url, "/v1/load_lora_adapter", body).close()
        time.sleep(arguments.pause)
    finally:
        stop.set()
        for client in clients:
            client.join()
    seconds = time.perf_counter() - start
    if answers.failures:
        raise MeasurementError(f"{len(answers.failures)} answers failed: {answers.failures[0]}")
    resident = _resident(url)
    by_version = Counter(served for served, _, _ in answers.found)
    print(
        f"{len(answers.found)} answers in {seconds:.0f} s while {len(folders)} replacements went "
        f"on; {len(by_version)} versions answered",
        flush=True,
    )
    expected = {
        (served, prompt): ask(url, served, prompt, arguments.tokens)[1]
        for served, prompt in sorted({(served, prompt) for served, prompt, _ in answers.found})
    }
    wrong = [(s, p) for s, p, text in answers.found if text != expected[s, p]]
    distinct = len({expected[key] for key in expected if key[1] == _PROMPTS[0]})
    print(
        f"answers that aren't their version's, token for token: {len(wrong)}; the versions give "
        f"{distinct} different answers to the first prompt; in memory at the end: "
        f"{', '.join(resident)}"
    )
    if wrong:
        raise MeasurementError(f"answers that mix versions, such as {wrong[0]}")
    if len(resident) > 1:
        raise MeasurementError(f"old versions are still in memory: {resident}")
    return {
        "answers": len(answers.found),
        "replacements": len(folders),
        "versions_that_answered": len(by_version),
        "wrong": len(wrong),
        "distinct_answers": distinct,
        "resident": resident,
        "seconds": seconds,
    }


def _resident(url: str) -> list[str]:
    """Versions in host or device memory, once the last streams' pages are given back."""
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        with urllib.request.urlopen(f"{url}/v1/adapters/sql", timeout=_TIMEOUT_SECONDS) as answer:
            versions = json.load(answer)["versions"]
        resident = [f"sql@{v['version']}" for v in versions if v["residency"] != "disk"]
        if len(resident) <= 1 or time.monotonic() > deadline:
            return resident
        time.sleep(0.2)


def measure(arguments: argparse.Namespace) -> Report:
    """Make the adapters, serve the first, replace it by the others."""
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="replace-", dir=arguments.workdir) as folder:
        scratch = Path(folder).resolve()
        shapes = base_module_shapes(arguments.base)
        folders = [
            write_random_adapter(
                scratch / f"sql-{seed}", shapes, rank=arguments.rank, seed=seed,
                base_reference=arguments.base,
            )
            for seed in range(arguments.replacements + 1)
        ]  # fmt: skip
        AdapterStore(scratch / "store").import_folder("sql", folders[0])
        flags = (f"--adapter-root={scratch}", *arguments.server_arg)

        async def serve_and_run() -> Report:
            log = scratch / "server.log"
            async with running_server(arguments.base, scratch / "store", log, flags) as url:
                return await asyncio.to_thread(_run, url, arguments, folders[1:])

        return asyncio.run(serve_and_run())


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when an answer mixed versions or an old version stayed."""
    return run_command("replace_under_load", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
