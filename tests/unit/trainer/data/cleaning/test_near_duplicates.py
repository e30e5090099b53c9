"""MinHash finds what repeats, whatever the script, and leaves the rest alone."""

import random

import pytest

from trainer.data.cleaning.near_duplicates import NearDuplicateIndex, shingles


def words(seed: int, count: int = 120) -> list[str]:
    generator = random.Random(seed)
    return [f"w{generator.randrange(10_000)}" for _ in range(count)]


def jaccard(one: str, other: str) -> float:
    a, b = set(shingles(one)), set(shingles(other))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("num_changed", [1, 12])
def test_threshold_is_about_jaccard(num_changed: int) -> None:
    found, expected = 0, 0
    for seed in range(40):
        text = words(seed)
        other = list(text)
        for position in range(num_changed):
            other[position * 9 + 3] = "changed"
        index = NearDuplicateIndex(0.85)
        assert not index.add(" ".join(text))
        found += index.add(" ".join(other))
        expected += jaccard(" ".join(text), " ".join(other)) >= 0.85
    assert expected in (0, 40)
    assert abs(found - expected) <= 1


def test_different_texts_are_not_duplicates() -> None:
    index = NearDuplicateIndex(0.8)
    assert not any(index.add(" ".join(words(seed))) for seed in range(300))


def test_chinese_is_compared_by_characters() -> None:
    index = NearDuplicateIndex(0.75)
    text = "长城是中国古代为防御外敌而修筑的军事工程，也是世界上最伟大的奇迹之一，全长两万公里。"
    assert not index.add(text)
    assert index.add(text.replace("之一", "之二"))
    assert not index.add("床前明月光，疑是地上霜。举头望明月，低头思故乡。")


def test_short_and_empty_texts() -> None:
    assert shingles("Hi there") == ["hi there"]
    index = NearDuplicateIndex(0.9)
    assert not index.add("")
    assert not index.add("hi there")
    assert index.add("Hi there")


def test_a_full_index_still_compares() -> None:
    index = NearDuplicateIndex(0.9, max_texts=1)
    assert not index.add("a b c d")
    assert not index.add("e f g h")
    assert not index.add("e f g h")
    assert index.add("a b c d")


def test_a_thousand_texts_take_about_a_megabyte() -> None:
    index = NearDuplicateIndex(0.9)
    for seed in range(1000):
        index.add(" ".join(words(seed, 12)))
    assert index.num_bytes <= 1000 * 1100
