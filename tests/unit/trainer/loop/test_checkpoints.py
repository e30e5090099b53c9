"""A checkpoint is whole or not there, and a disk that refuses one leaves the others alone."""

import errno
import json
from pathlib import Path

import pytest
import torch

from trainer.errors import CheckpointError
from trainer.loop.checkpoints import MANIFEST, Checkpoints, CheckpointWriter, replace_file


def fill(content: bytes = b"weights") -> object:
    def into(writer: CheckpointWriter) -> None:
        writer.add("weights", lambda file: file.write(content))
        writer.add("optimizer", lambda file: torch.save({"a": torch.zeros(1000)}, file))

    return into


def written(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    checkpoints = Checkpoints(folder, keep)
    for step in steps:
        checkpoints.write(step, fill())  # type: ignore[arg-type]
    return checkpoints


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 1, 2, 30)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000030"]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == 30
    assert torch.load(newest.path / "optimizer")["a"].shape == (1000,)
    assert Checkpoints(tmp_path / "none", 1).newest() is None


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no manifest", "half a manifest"])
def test_one_that_is_not_whole_is_never_picked(tmp_path: Path, damage: str) -> None:
    checkpoints = written(tmp_path, 1, 2)
    weights, manifest = tmp_path / "step-00000002/weights", tmp_path / "step-00000002" / MANIFEST
    if damage == "cut":
        weights.write_bytes(b"weig")
    elif damage == "changed":
        weights.write_bytes(b"weighs!")
    elif damage == "gone":
        weights.unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:40])
    told: list[str] = []
    newest = checkpoints.newest(told.append)
    assert newest is not None
    assert newest.step == 1
    assert len(told) == 1
    assert "step-00000002 is not whole" in told[0]


@pytest.mark.parametrize("place", ["in a file", "in torch.save", "at the rename"])
def test_a_full_disk_is_told_and_the_last_good_one_stays(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = written(tmp_path, 7)

    class Full:
        """Takes some bytes, then is full."""

        def __init__(self, file: object) -> None:
            self._file = file

        def write(self, content: bytes) -> int:
            self._file.write(content[:10])  # type: ignore[attr-defined]
            raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            """As a file has it."""

    def into(writer: CheckpointWriter) -> None:
        if place == "in a file":
            writer.add("weights", lambda file: Full(file).write(b"w" * 100))
        elif place == "in torch.save":
            writer.add("optimizer", lambda file: torch.save({"a": torch.zeros(9)}, Full(file)))
        else:
            writer.add("weights", lambda file: file.write(b"weights"))

    if place == "at the rename":

        def refused(self: Path, target: Path) -> Path:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(CheckpointError) as raised:
        checkpoints.write(8, into)
    for part in ("step 8", "No space left on device", "step 7 is kept", "free some space"):
        assert part in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.step == 7


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".partial-00000005").mkdir()
    (tmp_path / ".partial-00000005/weights").write_bytes(b"half")
    assert Checkpoints(tmp_path, 1).newest() is None
    written(tmp_path, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000005"]


def test_the_same_step_may_be_written_again(tmp_path: Path) -> None:
    checkpoints = written(tmp_path, 5)
    checkpoints.write(5, fill(b"other"))  # type: ignore[arg-type]
    assert (tmp_path / "step-00000005/weights").read_bytes() == b"other"
    assert checkpoints.newest() is not None


def test_a_linked_file_costs_no_bytes_and_outlives_its_source(tmp_path: Path) -> None:
    best = tmp_path / "best"
    replace_file(best, b"best weights")
    checkpoints = Checkpoints(tmp_path / "c", 1)
    found = checkpoints.write(1, lambda writer: writer.link("best", best))
    assert (found.path / "best").stat().st_ino == best.stat().st_ino
    replace_file(best, b"better weights")
    assert (found.path / "best").read_bytes() == b"best weights"
    assert checkpoints.newest() == found
    manifest = json.loads((found.path / MANIFEST).read_text())
    assert manifest["files"]["best"]["bytes"] == 12
