"""Merges in a child process, through the command that an operator would run."""

from pathlib import Path

import pytest

from adapters.names import parse_ref
from adapters.store.store import AdapterStore
from server.core.administration import MergeOrder
from server.core.errors import MergeFailedError
from server.engine.administration.merge_process import MergeProcess
from tests.unit.adapters.peft_folder import write_folder

BOTH = (("a", 0.5), ("b@1", -0.25))


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    store = AdapterStore(tmp_path / "store")
    for fill, name in enumerate("ab", 1):
        store.import_folder(name, write_folder(tmp_path / name, fill=fill + 60))
    return store


@pytest.mark.slow
async def test_a_merge(store: AdapterStore) -> None:
    result = await MergeProcess(store.root).merge(MergeOrder("both", BOTH, "cat"))
    stored = store.get(parse_ref("both"))
    assert (result.label, result.digest, result.rank) == (stored.label, stored.digest, 4)
    assert result.error < 1e-5
    assert [(label, weight) for label, _, weight in result.parents] == [
        ("a@1", 0.5),
        ("b@1", -0.25),
    ]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (MergeOrder("both", (("a", 1.0), ("none", 1.0)), "cat"), "has no adapter none"),
        (MergeOrder("both", BOTH, "sum"), "unknown method 'sum'"),
        (MergeOrder("both", BOTH, "cat", density=0.5), "density is 0.5 with method cat"),
    ],
)
async def test_its_refusals_come_through(
    store: AdapterStore, order: MergeOrder, message: str
) -> None:
    with pytest.raises(MergeFailedError, match=message):
        await MergeProcess(store.root).merge(order)
    assert "both" not in store.names()
