"""The crowd of adapters: choice, relative speeds, and a store of distinct ones."""

from collections import Counter
from pathlib import Path

import pytest

from adapters.store.store import AdapterStore
from loadtests.fixtures import adapter_crowd
from loadtests.fixtures.adapter_crowd import adapter_names, publish_crowd
from loadtests.harness.command import MeasurementError
from loadtests.harness.report import CellResult
from loadtests.many_adapters import (
    CrowdRun,
    check_disk,
    listing_seconds,
    parse_arguments,
    relative_speeds,
    zipf_choices,
)


def run(num_registered: int, tokens_per_second: float) -> CrowdRun:
    cell = CellResult("x", 1, 1, 1, 1, 1.0, tokens_per_second, 1.0, 1.0, 1.0, 1.0, 0.0)
    return CrowdRun(num_registered, 1, cell, 1.0, 0, None, None, 0, 0.0, 0.0)


def test_zipf_prefers_the_first_names() -> None:
    names = adapter_names(1000)
    counts = Counter(zipf_choices(names, 1.1, 20_000, seed=0))
    assert counts[names[0]] / counts[names[9]] == pytest.approx(10**1.1, rel=0.2)
    assert zipf_choices(names, 1.1, 10, seed=4) == zipf_choices(names, 1.1, 10, seed=4)
    assert zipf_choices(names, 1.1, 50, seed=4) != zipf_choices(names, 1.1, 50, seed=5)


def test_speeds_are_medians_over_the_first_number() -> None:
    runs = [run(8, 100.0), run(1000, 80.0), run(8, 120.0), run(1000, 96.0)]
    assert relative_speeds(runs) == {8: 1.0, 1000: pytest.approx(0.8)}


def test_a_disk_too_small_is_told_before_it_is_full(tmp_path: Path) -> None:
    check_disk(tmp_path, 1)
    with pytest.raises(MeasurementError, match="--workdir"):
        check_disk(tmp_path, 1 << 60)


def test_quick_is_small() -> None:
    arguments = parse_arguments(["--quick"])
    assert (arguments.registered, arguments.clients, arguments.repeats) == ((8, 32), 8, 1)
    assert parse_arguments([]).registered == (8, 100, 1000)


def test_every_adapter_of_a_crowd_has_bytes_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = {"layers.0.q_proj": (16, 16), "layers.0.k_proj": (16, 8)}
    monkeypatch.setattr(adapter_crowd, "base_module_shapes", lambda _: shapes)
    store_root = tmp_path / "store"
    published = list(publish_crowd(store_root, tmp_path, "some-base", 5, rank=8))
    assert [done for done, _ in published] == [1, 2, 3, 4, 5]
    listed = AdapterStore(store_root).list()
    assert [stored.name for stored in listed] == adapter_names(5)
    assert len({stored.digest for stored in listed}) == 5
    assert {stored.rank for stored in listed} == {8}
    assert listing_seconds(store_root) > 0
    assert not (tmp_path / "template").exists()
