"""From files to labelled rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
from rich.console import Console

from trainer.config import TrainerConfig
from trainer.config_loading import LoadedConfig
from trainer.data.cleaning import Rule
from trainer.data.preparation import PreparedData, prepare_data
from trainer.data.report import data_report, summarize_lengths
from trainer.errors import DataError
from trainer.labels import ConversationLabeller

ROWS = [{"instruction": f"q{i}", "input": "", "output": f"answer {i}"} for i in range(20)]


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def prepare(folder: Path, labeller: ConversationLabeller, **data: Any) -> PreparedData:
    document = {"name": "a", "base": "b", "data": {"train": "train.jsonl", **data}}
    return prepare_data(LoadedConfig(TrainerConfig.model_validate(document), folder), labeller)


def questions(examples: Sequence[Any]) -> list[str]:
    return [example.conversation.turns[0].content for example in examples]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_all_file_kinds_give_the_same_rows(
    tmp_path: Path, labeller: ConversationLabeller, suffix: str
) -> None:
    path = tmp_path / f"train.{suffix}"
    frame = pandas.DataFrame(ROWS)
    if suffix == "jsonl":
        write_jsonl(path, ROWS)
    elif suffix == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif suffix == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    data = prepare(tmp_path, labeller, train=path.name, eval=0.25)
    assert data.row_format.name == "instruction"
    assert data.num_rows_read == 20
    assert (len(data.train), len(data.held_out)) == (15, 5)
    assert sorted(questions([*data.train, *data.held_out])) == sorted(f"q{i}" for i in range(20))


def test_a_share_is_drawn_by_seed_and_recorded(
    tmp_path: Path, labeller: ConversationLabeller
) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    first, again = (prepare(tmp_path, labeller, eval=0.05) for _ in range(2))
    assert first.digest == again.digest
    assert len(first.held_out) == 4  # at least a fifth of small data
    assert "held out: 4 rows drawn from train.jsonl" in first.notes[0]


def test_held_out_file_and_overlap(tmp_path: Path, labeller: ConversationLabeller) -> None:
    write_jsonl(tmp_path / "train.jsonl", [*ROWS, ROWS[3]])
    write_jsonl(tmp_path / "eval.jsonl", [ROWS[0], {"instruction": "new", "output": "x"}])
    data = prepare(tmp_path, labeller, eval="eval.jsonl")
    assert questions(data.held_out) == ["q0", "new"]
    assert "q0" not in questions(data.train)
    assert data.counts == {Rule.DUPLICATE: 1, Rule.OVERLAP: 1}
    assert data.num_rows_read == 23


def test_digest_follows_the_rows(tmp_path: Path, labeller: ConversationLabeller) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    before = prepare(tmp_path, labeller).digest
    write_jsonl(tmp_path / "train.jsonl", [*ROWS[:-1], {**ROWS[-1], "output": "other"}])
    assert prepare(tmp_path, labeller).digest != before


def test_over_length_rows(tmp_path: Path, labeller: ConversationLabeller) -> None:
    long_answer = {"instruction": "long answer", "output": "x" * 300}
    long_prompt = {"instruction": "p" * 300, "output": "x"}
    write_jsonl(tmp_path / "train.jsonl", [*ROWS, long_answer, long_prompt])
    write_jsonl(tmp_path / "eval.jsonl", [{"instruction": "e", "output": "x"}])
    common = {"eval": "eval.jsonl", "max_length": 128}
    dropped = prepare(tmp_path, labeller, **common)
    assert dropped.counts == {Rule.TOO_LONG: 2}
    cut = prepare(tmp_path, labeller, over_length="truncate", **common)
    assert cut.counts == {Rule.TRUNCATED: 1, Rule.CUT_ANSWER: 1}
    assert max(len(example.row) for example in cut.train) == 128
    with pytest.raises(DataError, match=r"more than data.max_length 128: 'long answer'"):
        prepare(tmp_path, labeller, over_length="fail", **common)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no data file"),
        ("train.txt", "hello", "unknown suffix"),
        ("train.jsonl", "", "is empty"),
        ("train.jsonl", '{"a": 1}\n{"a": ', "can't be read"),
        ("train.jsonl", '{"a": 1}\n', "which fit no format"),
        ("train.jsonl", '{"instruction": "", "output": ""}\n', "no row is left to train on"),
    ],
)
def test_unusable_files_are_explained(
    tmp_path: Path, labeller: ConversationLabeller, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        prepare(tmp_path, labeller, train=name)


def test_rows_of_mixed_columns_are_counted_not_fatal(
    tmp_path: Path, labeller: ConversationLabeller
) -> None:
    write_jsonl(tmp_path / "train.jsonl", [*ROWS, {"instruction": "no answer"}])
    assert prepare(tmp_path, labeller).counts == {Rule.UNREADABLE: 1}


def test_report_shows_counts_lengths_and_marked_loss(
    tmp_path: Path, labeller: ConversationLabeller
) -> None:
    write_jsonl(tmp_path / "train.jsonl", [*ROWS, ROWS[0]])
    data = prepare(tmp_path, labeller)
    console = Console(record=True, width=120)
    with console.capture() as capture:
        console.print(data_report(data, labeller))
    text = capture.get()
    assert "instruction, input, output (Alpaca)" in text
    assert "dropped: exact duplicate: 1" in text
    assert "<|im_end|>⟧" in text
    summary = summarize_lengths([example.row for example in data.train])
    assert summary.p50 <= summary.p95 <= summary.longest
    assert 0.1 < summary.loss_share < 0.5
