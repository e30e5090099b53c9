"""The generated chats are what they are said to be, and the table says what was measured."""

import json
from pathlib import Path

from loadtests.streaming_data import ANSWER_WORDS, Prepared, format_results, write_chats


def test_chats_fill_the_file_and_some_repeat(tmp_path: Path) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    write_chats(one, 400_000, seed=1)
    write_chats(other, 400_000, seed=1)
    assert one.read_bytes() == other.read_bytes()
    lines = one.read_text(encoding="utf-8").splitlines()
    assert 400_000 <= one.stat().st_size < 400_000 + len(lines[-1]) + 2
    assert 0 < len(lines) - len(set(lines)) < 0.1 * len(lines)
    for line in lines:
        asked, answered = json.loads(line)["messages"]
        assert (asked["role"], answered["role"]) == ("user", "assistant")
        assert ANSWER_WORDS[0] <= len(answered["content"].split()) <= ANSWER_WORDS[1]


def test_growth_is_the_peak_above_the_start() -> None:
    result = Prepared(
        file_bytes=500_000_000, num_read=1000, num_train=900, num_tokens=400_000, seconds=10.0,
        start_bytes=600_000_000, peak_bytes=750_000_000,
    )  # fmt: skip
    assert result.grown_bytes == 150_000_000
    row = format_results([result]).splitlines()[-1]
    assert row == "| 0.5 GB | 1,000 | 0.4 M | 100 | 50.00 | 600 | 750 | 150 MB |"
