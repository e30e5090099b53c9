"""A process that changes a store until it is killed, run by `loadtests.store_kills`.

    kill ROOT JOURNAL WORK KINDS     ROOT is a store's folder or URL, WORK holds folders 0, 1, 2 and
                                     their archives 0.tar ..., KINDS are the changes, by commas

For each order on stdin a child changes the store at random, writing into JOURNAL what it begins and
ends. It is killed the order's delay after the change began that follows so many `changes`; then
"killed" is printed. The changes go through the code of whoever makes them: the trainer's
publishing, the server's catalog, the command line.
"""

import contextlib
import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from adapters.compatibility import ServedBase
from adapters.errors import AdapterError
from adapters.format.manifest import BaseLineage, Manifest
from adapters.names import AdapterRef
from adapters.store.remote_store import is_remote, open_store
from adapters.store.store import AdapterStore

NAMES = ("sql", "polite")
NUM_FOLDERS = 3
MERGE_TERMS = "left:0.5+right:0.5"
_NEVER_THERE = 99


class _Changer:
    """Changes one store, as the trainer, the server or an operator would."""

    def __init__(self, root: str, work: Path, kinds: list[str], draw: random.Random) -> None:
        self._root, self._work, self._kinds, self._draw = root, work, kinds, draw
        cache = work / f"cache-{os.getpid()}"
        self._store = open_store(root, cache if is_remote(root) else None)

    def draw_operation(self) -> dict[str, Any]:
        draw, name, kind = self._draw, self._draw.choice(NAMES), self._draw.choice(self._kinds)
        versions = (*self._store.versions(name), _NEVER_THERE)
        operation: dict[str, Any] = {"op": kind, "name": name}
        match kind:
            case "publish":
                operation |= {"folder": draw.randrange(NUM_FOLDERS)}
                operation |= {"set_alias": draw.random() < 0.7}
            case "load" | "archive":
                operation |= {"folder": draw.randrange(NUM_FOLDERS)}
            case "alias":
                chosen = draw.sample(versions, min(len(versions), draw.choice((1, 1, 2))))
                operation |= {"weights": {str(v): 1 / len(chosen) for v in chosen}}
            case "rm":
                whole = draw.random() < 0.3
                operation |= {"version": None if whole else draw.choice(versions)}
        return operation

    def apply(self, operation: dict[str, Any]) -> None:
        name = operation["name"]
        match operation["op"]:
            case "publish":
                self._as_trainer(name, operation)
            case "load":
                self._as_server(name, self._work / str(operation["folder"]))
            case "archive":
                archive = str(self._work / f"{operation['folder']}.tar")
                self._as_operator("import", name, archive)
            case "alias":
                weights = [f"{v}:{w!r}" for v, w in operation["weights"].items()]
                self._as_operator("alias", name, *weights)
            case "rm":
                self._as_operator("rm", "--yes", str(AdapterRef(name, operation["version"])))
            case "merge":
                self._as_operator("merge", name, *MERGE_TERMS.split("+"))

    def _as_trainer(self, name: str, operation: dict[str, Any]) -> None:
        from trainer.config import PublishSection
        from trainer.loop.run_folder import RunFolder
        from trainer.publish.publishing import publish_adapter

        manifest = Manifest(name=name, created_unix_seconds=1, method="lora", rank=2)
        run = self._work / f"run-{operation['folder']}"
        section = PublishSection(alias=operation["set_alias"])
        publish_adapter(self._store, manifest, RunFolder(run), section)

    def _as_server(self, name: str, folder: Path) -> None:
        from server.engine.hosting.catalog import StoreCatalog

        served = ServedBase(BaseLineage(reference="base", digest="sha256:served"))
        shapes = {"m.q_proj": json.loads((folder / "shape.json").read_text())}
        modules = {module: (shape[0], shape[1]) for module, shape in shapes.items()}
        catalog = StoreCatalog(
            self._store, served=served, base_modules=modules, allowed_roots=[self._work]
        )
        catalog.load(name, str(folder), replace=True)

    def _as_operator(self, *arguments: str) -> None:
        from adapters.commands.cli import app

        os.environ["SWITCHYARD_STORE"] = self._root
        # An operation may be refused, as the model expects it to be: nothing changed then.
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.suppress(SystemExit),
        ):
            app(list(arguments), standalone_mode=False)


def _change_forever(changer: _Changer, journal: Path) -> None:
    log = os.open(journal, os.O_WRONLY | os.O_APPEND)
    while True:
        operation = changer.draw_operation()
        os.write(log, (json.dumps(operation) + "\n").encode())
        with contextlib.suppress(AdapterError):
            changer.apply(operation)
        os.write(log, b"end\n")


def _kill(root: str, journal: str, work: str, kinds: str) -> None:
    _import_what_children_need(kinds)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            draw = random.Random(order["seed"])
            _change_forever(_Changer(root, Path(work), kinds.split(","), draw), Path(journal))
        while not _has_begun_after(Path(journal), order["changes"]):
            time.sleep(0.001)
        time.sleep(order["delay_seconds"])
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        sys.stdout.write("killed\n")
        sys.stdout.flush()


def _has_begun_after(journal: Path, num_changes: int) -> bool:
    """Whether so many changes have ended and another has begun; on a machine of any speed."""
    text = journal.read_text()
    is_at_work = bool(text) and not text.endswith("end\n")
    # With none to wait for, the next change may be over before anybody looks.
    return text.count("end\n") >= num_changes and (is_at_work or text.count("end\n") > num_changes)


def _import_what_children_need(kinds: str) -> None:
    """Kills shall meet changes at work, not imports."""
    import fsspec

    import adapters.commands.cli
    import server.engine.hosting.catalog
    import trainer.publish.publishing

    if "merge" in kinds:
        import peft

        import adapters.merging.merge

        assert peft, adapters.merging.merge
    assert fsspec, (
        adapters.commands.cli,
        server.engine.hosting.catalog,
        trainer.publish.publishing,
    )


def _publish(root: str, folder: str, count: str) -> None:
    """`publish ROOT FOLDER COUNT`: publish COUNT times; prints the versions."""
    store = AdapterStore(Path(root))
    manifest = Manifest(name="sql", created_unix_seconds=1, method="lora", rank=2)
    for _ in range(int(count)):
        sys.stdout.write(f"{store.publish('sql', Path(folder), manifest).version}\n")


if __name__ == "__main__":
    if sys.argv[1] == "publish":
        _publish(*sys.argv[2:])
    else:
        _kill(*sys.argv[2:])
