"""kill -9 in the middle of changes to a store: the old state or the new one, each time.

A process publishes as the trainer does, loads as the server does, and runs the commands alias
(also as a canary), rm, import of an archive and merge, at random; it is killed at a random moment.
Whoever opens the store next must find exactly the state before the change that was cut off, or
after it.
Then the same on a remote store (a folder through fsspec): every version that is visible must be
whole, every name must mean a readable version, and publishing must go on.

Takes about 2 minutes on 2 cores for 100 kills of each.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from adapters.format.digest import adapter_digest
from adapters.format.manifest import Manifest
from adapters.names import AdapterRef
from adapters.store.lock import exclusive_lock
from adapters.store.remote_store import open_store
from adapters.store.soundness import damage
from adapters.store.store import AdapterStore
from adapters.store.transfer.archive import write_archive
from loadtests.fixtures.tiny_adapter import write_tiny_adapter
from loadtests.harness.command import MeasurementError, Report, make_parser, run_command
from loadtests.harness.store_kill_worker import MERGE_TERMS, NUM_FOLDERS
from loadtests.harness.store_model import StoreModel, state_of

LOCAL_KINDS = ("publish", "publish", "load", "archive", "alias", "alias", "rm")
_MAX_CHANGES = 4
_ROOT = Path(__file__).parents[1]
_FOLDER_ROWS = (256, 512, 2048)
"""Outputs of the adapters published: large enough that kills meet copies half done."""


@dataclass(frozen=True, slots=True)
class KillReport:
    """`num_cut_off` kills met a change at work; `num_changes` were completed."""

    num_kills: int
    num_cut_off: int
    num_changes: int


def prepare(work: Path) -> list[str]:
    """Folders, archives and run folders to publish from; returns the folders' digests."""
    digests = []
    for index, rows in enumerate(_FOLDER_ROWS[:NUM_FOLDERS]):
        folder = write_tiny_adapter(work / str(index), {"m.q_proj": (512, rows)}, fill=index + 1)
        (folder / "shape.json").write_text(json.dumps([512, rows]))
        write_archive(folder, work / f"{index}.tar")
        (work / f"run-{index}").mkdir()
        (work / f"run-{index}" / "adapter").symlink_to(folder)
        digests.append(adapter_digest(folder))
    return digests


def kill_rounds(
    root: Path, work: Path, *, kills: int, kinds: Sequence[str], seed: int, longest_seconds: float
) -> KillReport:
    """Kill so often, and compare the store with the model each time.

    Raises `MeasurementError` at the first state that is neither.
    """
    digests = prepare(work)
    journal = work / "journal"
    draw, model = random.Random(seed), StoreModel()
    if "merge" in kinds:
        model = _merge_parents(root, work, digests)
    num_cut_off = num_changes = 0
    with _worker(str(root), journal, work, kinds) as worker:
        for _ in range(kills):
            _kill_once(worker, journal, draw, longest_seconds)
            begun, ended = _read(journal)
            for operation in ended:
                model = model.after(operation, digests)
            num_changes += len(ended)
            num_cut_off += begun is not None
            possible = [model] if begun is None else [model, model.after(begun, digests)]
            # A reader that holds no lock sees one of the two before anybody has cleared up,
            if (root / ".lock").exists():
                with exclusive_lock(root / ".lock"):
                    _find(state_of(AdapterStore(root)), possible, begun)
            # and so does whoever opens the store next.
            store = AdapterStore(root)
            model = _find(state_of(store), possible, begun)
            check_clean(store)
    return KillReport(kills, num_cut_off, num_changes)


def remote_kill_rounds(
    url: str, work: Path, *, kills: int, seed: int, longest_seconds: float
) -> KillReport:
    """The same over a remote store, whose changes are several moves: what is visible is whole."""
    digests = set(prepare(work))
    journal, draw = work / "journal", random.Random(seed)
    num_cut_off = num_changes = 0
    kinds = ("publish", "publish", "archive", "alias", "rm")
    with _worker(url, journal, work, kinds) as worker:
        for index in range(kills):
            _kill_once(worker, journal, draw, longest_seconds)
            begun, ended = _read(journal)
            num_changes += len(ended)
            num_cut_off += begun is not None
            store = open_store(url, work / f"check-{index}")
            if store.quarantined():
                raise MeasurementError(f"{begun}: {store.quarantined()[0].reason}")
            for name in store.names():
                for version in store.versions(name):
                    stored = store.get(AdapterRef(name, version))
                    reason = damage(stored.path, stored.digest)
                    if reason is not None or stored.digest not in digests:
                        raise MeasurementError(f"{begun}: {stored.label}: {reason}")
                if set(store.alias(name).versions) - set(store.versions(name)):
                    raise MeasurementError(f"{begun}: {name} points at what isn't there")
    manifest = Manifest(name="sql", created_unix_seconds=1, method="lora", rank=2)
    open_store(url, work / "last").publish("sql", work / "0", manifest)
    return KillReport(kills, num_cut_off, num_changes)


def _merge_parents(root: Path, work: Path, digests: list[str]) -> StoreModel:
    """Publish the parents of the merges, and find out what a merge gives."""
    from adapters.merging.merge import merge_adapters
    from adapters.merging.order import MergeSpec
    from adapters.stack import parse_stack

    stores = (AdapterStore(root), AdapterStore(work / "trial"))
    for store in stores:
        for name, index in (("left", 0), ("right", 1)):
            folder = write_tiny_adapter(work / name, {"m.q_proj": (512, 256)}, fill=index + 1)
            store.import_folder(name, folder)
    merged = merge_adapters(stores[1], MergeSpec("m", parse_stack(MERGE_TERMS))).stored.digest
    versions, aliases = state_of(stores[0])
    return StoreModel(merged, versions, aliases, dict.fromkeys(versions, 1))


@contextmanager
def _worker(
    root: str, journal: Path, work: Path, kinds: Sequence[str]
) -> Iterator["subprocess.Popen[str]"]:
    arguments = ("kill", root, str(journal), str(work), ",".join(kinds))
    worker = subprocess.Popen(
        [sys.executable, "-m", "loadtests.harness.store_kill_worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
    )
    try:
        yield worker
    finally:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.close()
        worker.wait(timeout=60)
        worker.stdout.close()


def _kill_once(
    worker: "subprocess.Popen[str]", journal: Path, draw: random.Random, longest_seconds: float
) -> None:
    stdin: IO[str] | None = worker.stdin
    assert stdin is not None
    assert worker.stdout is not None
    journal.write_text("")
    order = {
        "seed": draw.randrange(1 << 30),
        "changes": draw.randrange(_MAX_CHANGES),
        "delay_seconds": draw.uniform(0.0, longest_seconds),
    }
    stdin.write(json.dumps(order) + "\n")
    stdin.flush()
    if worker.stdout.readline() != "killed\n":
        raise MeasurementError("the process that is to be killed died by itself")


def _read(journal: Path) -> tuple[dict[str, object] | None, list[dict[str, object]]]:
    """The change that was cut off, if any, and those that were completed."""
    begun, ended = None, []
    for line in journal.read_text().splitlines():
        if line == "end":
            assert begun is not None
            ended.append(begun)
            begun = None
        else:
            begun = json.loads(line)
    return begun, ended


def _find(found: object, possible: list[StoreModel], begun: object) -> StoreModel:
    for model in possible:
        if model.state == found:
            return model
    states = [model.state for model in possible]
    raise MeasurementError(f"{begun} was cut off, and the store is {found}, none of {states}")


def check_clean(store: AdapterStore) -> None:
    """Raises `MeasurementError` for anything left over, or a version that isn't whole."""
    left = [*(store.root / ".staging").iterdir(), *store.root.rglob(".publishing")]
    if left:
        raise MeasurementError(f"left over: {left}")
    for stored in store.list():
        reason = damage(stored.path, stored.digest)
        if reason is not None:
            raise MeasurementError(f"{stored.label}: {reason}")


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = make_parser("store_kills", str(__doc__), quick="10 kills of each")
    parser.add_argument("--kills", type=int, default=100, help="of each kind (%(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="(%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.kills = 10
    return arguments


def measure(arguments: argparse.Namespace) -> Report:
    """Run both and print what happened."""
    reports: Report = {}
    with tempfile.TemporaryDirectory(prefix="store-kills-") as folder:
        for title in ("local", "local with merges", "remote"):
            work = Path(folder, title.replace(" ", "-"))
            work.mkdir()
            options = {"kills": arguments.kills, "seed": arguments.seed}
            if title == "remote":
                url = f"file://{work}/remote"
                report = remote_kill_rounds(url, work, longest_seconds=0.2, **options)
            else:
                kinds = (*LOCAL_KINDS, "merge") if "merges" in title else LOCAL_KINDS
                seconds = 0.4 if "merges" in title else 0.1
                root = work / "store"
                report = kill_rounds(root, work, kinds=kinds, longest_seconds=seconds, **options)
            print(
                f"{title}: {report.num_kills} kills, {report.num_cut_off} in the middle of a "
                f"change, {report.num_changes} changes completed; the store was whole each time",
                flush=True,
            )
            reports[title] = {"kills": report.num_kills, "cut_off": report.num_cut_off}
    return reports


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when a store was neither as before nor as after."""
    return run_command("store_kills", argv, parse_arguments(argv), measure)


if __name__ == "__main__":
    raise SystemExit(main())
