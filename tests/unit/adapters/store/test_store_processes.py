"""Several processes, and processes that die: what a store must survive.

`python -m loadtests.store_kills` is the long version, with merges.
"""

import subprocess
import sys
from pathlib import Path

from adapters.store.store import AdapterStore
from loadtests.store_kills import LOCAL_KINDS, kill_rounds, remote_kill_rounds
from tests.unit.adapters.peft_folder import write_folder

ROOT = Path(__file__).parents[4]
NUM_KILLS = 30


def _start(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "loadtests.harness.store_kill_worker", *arguments],
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


def test_kill_at_any_moment_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    report = kill_rounds(
        tmp_path / "store", tmp_path, kills=NUM_KILLS, kinds=LOCAL_KINDS, seed=7,
        longest_seconds=0.03,
    )  # fmt: skip
    assert report.num_cut_off >= NUM_KILLS // 4, "too few kills met an operation at work"
    assert report.num_changes >= NUM_KILLS // 4


def test_kill_leaves_a_remote_store_whole(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    report = remote_kill_rounds(url, tmp_path, kills=10, seed=3, longest_seconds=0.05)
    assert report.num_cut_off >= 2
