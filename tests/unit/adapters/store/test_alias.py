"""What names mean: one version, or weights over several."""

import json
from pathlib import Path

import pytest

from adapters.errors import AdapterNotFoundError, InvalidAliasError, StoreError
from adapters.names import parse_ref
from adapters.store.alias import (
    Alias,
    canary,
    choose_target,
    parse_weights,
    read_alias_document,
    single,
)
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import manifest, write_folder


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    store = AdapterStore(tmp_path / "store")
    for fill in (1, 2, 3):
        store.publish("sql", write_folder(tmp_path / str(fill), fill=fill), manifest())
    return store


def test_the_heaviest_version_is_what_the_name_alone_means() -> None:
    assert canary({3: 0.9, 4: 0.1}).version == 3
    assert canary({4: 0.5, 3: 0.5}).version == 3
    assert Alias().version is None


@pytest.mark.parametrize("alias", [single(3, 7), canary({3: 0.9, 4: 0.1}, 7), Alias(highest=2)])
def test_files_read_back(alias: Alias) -> None:
    assert read_alias_document(json.loads(alias.to_json())) == alias


def test_files_of_before_and_of_later() -> None:
    assert read_alias_document({"version": 2, "highest": 5}) == single(2, 5)
    assert read_alias_document({"format": 9, "weights": {"3": 1.0}, "highest": 5}) == Alias((), 5)
    assert read_alias_document({"format": 2, "weights": {"3": 2}, "highest": 5}) == Alias((), 5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "0 versions are given"),
        ({1: 0.5, 2: 0.4}, "sum to 0.9; they must sum to 1"),
        ({1: 1.5, 2: -0.5}, "above 0 and at most 1"),
        ({1: float("nan")}, "above 0"),
        ({0: 1.0}, "0 isn't a version"),
    ],
)
def test_weights_that_cannot_be(weights: dict[int, float], message: str) -> None:
    with pytest.raises(InvalidAliasError, match=message):
        canary(weights)


@pytest.mark.parametrize("texts", [["x"], ["3:"], ["3:0.5", "3:0.5"], ["3:nan"]])
def test_weights_that_do_not_parse(texts: list[str]) -> None:
    with pytest.raises(InvalidAliasError):
        parse_weights("sql", texts)


def test_the_choice_is_sticky_fair_and_moves_few() -> None:
    keys = [f"user-{i}" for i in range(4000)]
    before = {key: choose_target("sql", ((3, 0.9), (4, 0.1)), key)[0] for key in keys}
    assert before == {key: choose_target("sql", ((3, 0.9), (4, 0.1)), key)[0] for key in keys}
    share = list(before.values()).count(4) / len(keys)
    assert 0.08 < share < 0.12
    after = {key: choose_target("sql", ((3, 0.8), (4, 0.2)), key)[0] for key in keys}
    moved = [key for key in keys if after[key] != before[key]]
    assert all(after[key] == 4 for key in moved), "nobody goes back to the old version"
    assert 0.07 < len(moved) / len(keys) < 0.13
    other = {key: choose_target("polite", ((3, 0.9), (4, 0.1)), key)[0] for key in keys}
    assert other != before, "the same users aren't the canaries of every name"


def test_a_canary_in_the_store(store: AdapterStore, tmp_path: Path) -> None:
    store.set_alias("sql", {1: 0.25, 3: 0.75})
    assert store.get(parse_ref("sql")).version == 3
    assert [(s.version, w) for s, w in store.targets("sql")] == [(1, 0.25), (3, 0.75)]
    assert AdapterStore(store.root).alias("sql").versions == (1, 3)
    with pytest.raises(StoreError, match="point it elsewhere"):
        store.remove(parse_ref("sql@1"))
    store.remove(parse_ref("sql@2"))
    with pytest.raises(AdapterNotFoundError, match="no version 2"):
        store.set_alias("sql", {2: 0.5, 3: 0.5})
    # A new version takes the whole name over.
    assert store.publish("sql", write_folder(tmp_path / "new", fill=9), manifest()).version == 4
    assert store.alias("sql").targets == ((4, 1.0),)


def test_pruning_keeps_what_the_name_points_at(store: AdapterStore) -> None:
    store.set_alias("sql", {1: 0.5, 2: 0.5})
    assert store.prune("sql", 1) == ()
    store.set_alias("sql", 1)
    assert store.prune("sql", 1) == (2,)
    assert store.versions("sql") == (1, 3)
