"""Several processes, and processes that die: what a store must survive."""

import json
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.digest import adapter_digest
from adapters.names import AdapterRef
from adapters.store import AdapterStore
from adapters.store_lock import exclusive_lock
from tests.unit.adapters.peft_folder import lora_tensors, write_folder

ROOT = Path(__file__).parents[3]
NUM_KILLS = 40


def _start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.unit.adapters.store_worker", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def test_concurrent_publishes_get_distinct_versions(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "trained")
    store = AdapterStore(tmp_path / "store")
    workers = [_start("publish", str(store.root), str(folder), "6") for _ in range(3)]
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    versions = [int(line) for output in outputs for line in output.split()]
    assert sorted(versions) == list(range(1, 19))
    assert store.versions("sql") == tuple(range(1, 19))
    assert store.current_version("sql") == 18


@dataclass
class Model:
    """What a store holds, as it should be: name -> version -> digest, and each name's alias."""

    versions: dict[str, dict[int, str]] = field(default_factory=dict)
    alias: dict[str, int] = field(default_factory=dict)
    highest: dict[str, int] = field(default_factory=dict)

    def after(self, operation: dict[str, Any], digests: list[str]) -> "Model":
        """The state after `operation`; the same state where the store must refuse it."""
        new = Model(
            {name: dict(versions) for name, versions in self.versions.items()},
            dict(self.alias),
            dict(self.highest),
        )
        name = operation["name"]
        there = new.versions.get(name, {})
        match operation["op"]:
            case "publish":
                version = new.highest[name] = new.highest.get(name, 0) + 1
                new.versions.setdefault(name, {})[version] = digests[operation["folder"]]
                if operation["set_alias"]:
                    new.alias[name] = version
            case "alias" if operation["version"] in there:
                new.alias[name] = operation["version"]
            case "rm" if operation["version"] is None or set(there) == {operation["version"]}:
                new.versions.pop(name, None)
                new.alias.pop(name, None)
                new.highest.pop(name, None)
            case "rm" if (
                operation["version"] in there and new.alias.get(name) != (operation["version"])
            ):
                del there[operation["version"]]
        return new


def _state(store: AdapterStore) -> tuple[dict[str, dict[int, str]], dict[str, int]]:
    versions = {
        name: {v: store.get(AdapterRef(name, v)).digest for v in store.versions(name)}
        for name in store.names()
    }
    return versions, {stored.name: stored.version for stored in store.list()}


def test_kill_at_any_moment_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    # Large enough that a good part of the kills meet a copy half done.
    tensors = [lora_tensors({"m.q_proj": (512, 256 * size)}, fill=size) for size in (1, 2, 8)]
    folders = [write_folder(tmp_path / str(i), tensors=t) for i, t in enumerate(tensors)]
    digests = [adapter_digest(folder) for folder in folders]
    root, journal = tmp_path / "store", tmp_path / "journal"
    draw = random.Random(7)
    model = Model()
    num_begun_only = num_operations = 0
    worker = _start("kill", str(root), str(journal), *map(str, folders))
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        for _ in range(NUM_KILLS):
            journal.write_text("")
            order = {"seed": draw.randrange(1 << 30), "delay_seconds": draw.uniform(0.0, 0.06)}
            worker.stdin.write(json.dumps(order) + "\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "killed\n"
            begun = None
            for line in journal.read_text().splitlines():
                if line == "end":
                    model = model.after(begun, digests)
                    begun = None
                    num_operations += 1
                else:
                    begun = json.loads(line)
            # A reader that holds no lock sees one of the two before anybody has cleared up,
            before = _state(_unswept(root)) if (root / ".lock").exists() else ({}, {})
            # and so does whoever opens the store next.
            store = AdapterStore(root)
            found = _state(store)
            possible = [model] if begun is None else [model, model.after(begun, digests)]
            assert found in [(m.versions, m.alias) for m in possible], (begun, found, possible)
            assert before == found
            assert list((root / ".staging").iterdir()) == []
            assert list(root.rglob(".publishing")) == []
            model = next(m for m in possible if (m.versions, m.alias) == found)
            num_begun_only += begun is not None
            for stored in store.list():
                assert adapter_digest(stored.path) == stored.digest
    finally:
        worker.stdin.close()
        worker.wait(timeout=30)
        worker.stdout.close()
    assert worker.returncode == 0
    assert num_begun_only >= NUM_KILLS // 4, "too few kills met an operation at work"
    assert num_operations >= NUM_KILLS // 4


def _unswept(root: Path) -> AdapterStore:
    """The store as a process sees it that opened it earlier: nothing swept."""
    with exclusive_lock(root / ".lock"):
        return AdapterStore(root)
