"""A process that changes a store, run by `test_store_processes`.

publish ROOT FOLDER COUNT          publish COUNT times; prints the versions
kill ROOT JOURNAL FOLDER...        for each order on stdin: a child changes the store at random,
                                   writing into the journal what it begins and ends, until it is
                                   killed after the order's delay; prints "killed"
"""

import contextlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from adapters.errors import AdapterError
from adapters.names import AdapterRef
from adapters.store import AdapterStore
from tests.unit.adapters.peft_folder import manifest

_NAMES = ("sql", "polite")


def _publish(root: str, folder: str, count: str) -> None:
    store = AdapterStore(Path(root))
    for _ in range(int(count)):
        version = store.publish("sql", Path(folder), manifest()).version
        sys.stdout.write(f"{version}\n")


def _kill(root: str, journal: str, *folders: str) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _change_forever(Path(root), Path(journal), folders, random.Random(order["seed"]))
        time.sleep(order["delay_seconds"])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sys.stdout.write("killed\n")
        sys.stdout.flush()


def _change_forever(
    root: Path, journal: Path, folders: tuple[str, ...], draw: random.Random
) -> None:
    store = AdapterStore(root)
    log = os.open(journal, os.O_WRONLY | os.O_APPEND)
    while True:
        operation = _draw_operation(store, draw, len(folders))
        os.write(log, (json.dumps(operation) + "\n").encode())
        # An operation may be refused, as the model expects it to be: nothing changed then.
        with contextlib.suppress(AdapterError):
            _apply(store, operation, folders)
        os.write(log, b"end\n")


def _draw_operation(store: AdapterStore, draw: random.Random, num_folders: int) -> dict[str, Any]:
    name = draw.choice(_NAMES)
    versions = (*store.versions(name), 99)
    kind = draw.choice(("publish", "publish", "alias", "rm"))
    if kind == "publish":
        folder, set_alias = draw.randrange(num_folders), draw.random() < 0.7
        return {"op": kind, "name": name, "folder": folder, "set_alias": set_alias}
    whole = kind == "rm" and draw.random() < 0.3
    return {"op": kind, "name": name, "version": None if whole else draw.choice(versions)}


def _apply(store: AdapterStore, operation: dict[str, Any], folders: tuple[str, ...]) -> None:
    name = operation["name"]
    if operation["op"] == "publish":
        folder = Path(folders[operation["folder"]])
        store.publish(name, folder, manifest(), set_alias=operation["set_alias"])
    elif operation["op"] == "alias":
        store.set_alias(name, operation["version"])
    else:
        store.remove(AdapterRef(name, operation["version"]))


if __name__ == "__main__":
    {"publish": _publish, "kill": _kill}[sys.argv[1]](*sys.argv[2:])
