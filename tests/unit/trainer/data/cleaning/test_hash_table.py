"""The packed table is a dict of hashes, and keeps to the bytes that it promises."""

import random

from hypothesis import given
from hypothesis import strategies as st

from trainer.data.cleaning.hash_table import HashTable

_TOP = 1 << 64
_KEYS = st.one_of(
    st.integers(0, _TOP - 1),
    # Neighbours, and such as want the last slots: they have to be set further on, round the end.
    st.integers(0, 40),
    st.integers(_TOP - 40, _TOP - 1),
)


@given(st.lists(st.tuples(_KEYS, st.integers(0, 2**32 - 1)), max_size=200))
def test_it_remembers_what_a_dict_would(entries: list[tuple[int, int]]) -> None:
    table, expected = HashTable(), dict[int, int]()
    for key, number in entries:
        stored = key or 1  # zero marks an empty slot
        assert table.get(key) == expected.get(stored)
        assert table.set_default(key, number) == expected.setdefault(stored, number)
        assert table.get(key) == expected[stored]
    assert len(table) == len(expected)


def test_thousands_of_entries_stay_and_take_few_bytes() -> None:
    draw = random.Random(5)
    keys = [draw.getrandbits(64) for _ in range(50_000)]
    table = HashTable()
    for number, key in enumerate(keys):
        table.set_default(key, number)
    assert len(table) == len(set(keys))
    assert all(table.get(key) == number for number, key in enumerate(keys))
    assert not any(table.get(draw.getrandbits(64)) is not None for _ in range(10_000))
    assert table.num_bytes <= 36 * len(table)
