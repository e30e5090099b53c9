"""From files to labelled rows."""

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
import pytest
from rich.console import Console

from tests.unit.trainer.tiny import FORGETFUL, byte_tokenizer
from trainer.config import TrainerConfig
from trainer.data.cleaning.rules import Rule
from trainer.data.conversation import Conversation, Turn
from trainer.data.examples import (
    ROWS_A_BATCH,
    Example,
    ExampleWriter,
    MappedExamples,
    row_lengths,
)
from trainer.data.labels import ConversationLabeller
from trainer.data.preparation import DataSource, PreparedData, prepare_data
from trainer.data.report import data_report, report_json, summarize_lengths
from trainer.data.rows_folder import RowsFolder
from trainer.errors import DataError

ROWS = [{"instruction": f"q{i}", "input": "", "output": f"answer {i}"} for i in range(20)]


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def prepare(folder: Path, labeller: ConversationLabeller, **data: Any) -> PreparedData:
    document = {"name": "a", "base": "b", "data": {"train": "train.jsonl", **data}}
    config = TrainerConfig.model_validate(document)
    return prepare_data(DataSource(config.data, folder, config.seed), labeller)


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
    assert "instruction, input, output (Alpaca, BELLE)" in text
    assert "dropped: exact duplicate: 1" in text
    assert "<|im_end|>⟧" in text
    summary = summarize_lengths(data.train)
    assert summary.p50 <= summary.p95 <= summary.longest
    assert 0.1 < summary.loss_share < 0.5
    document = report_json(data, labeller)
    assert json.loads(json.dumps(document)) == document
    assert document["rules"]["dropped: exact duplicate"]["examples"] == [
        "train.jsonl line 21: user: q0"
    ]
    assert document["lengths"]["train"]["num_rows"] == len(data.train)
    assert all("⟦answer" in text for text in document["rendered"].values())


def test_streamed_rows_are_the_same_rows_and_lie_on_disk(
    tmp_path: Path, labeller: ConversationLabeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHYARD_CACHE", str(tmp_path / "cache"))
    rows = [{"instruction": f"q{i}\u2028", "output": f"答案 {i}\nmore"} for i in range(1200)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    listed = prepare(tmp_path, labeller)
    mapped = prepare(tmp_path, labeller, streaming=True)
    assert isinstance(mapped.train, MappedExamples)
    assert mapped.train.path.is_relative_to(tmp_path / "cache")
    assert mapped.digest == listed.digest
    assert list(mapped.train) == list(listed.train)
    assert mapped.train[-1] == listed.train[len(listed.train) - 1]
    assert mapped.train[3:5] == listed.train[3:5]
    assert row_lengths(mapped.train.rows) == [len(example.row) for example in listed.train]
    assert list(mapped.train.loss_counts) == list(listed.train.loss_counts)
    assert list(mapped.held_out.rows) == list(listed.held_out.rows)
    with pytest.raises(IndexError):
        mapped.train[len(mapped.train)]
    path = mapped.train.path
    del mapped
    gc.collect()
    assert not path.exists()


def test_writer_holds_one_batch_at_a_time(
    tmp_path: Path, labeller: ConversationLabeller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHYARD_CACHE", str(tmp_path / "cache"))
    conversation = Conversation((Turn("user", "q"), Turn("assistant", "a")))
    example = Example(conversation, labeller.label(conversation)[0].row)
    writer = ExampleWriter("train", RowsFolder())
    most = 0
    for _ in range(3 * ROWS_A_BATCH + 5):
        writer.add(example)
        most = max(most, writer.num_held)
    assert most < ROWS_A_BATCH
    assert len(writer.finish()) == 3 * ROWS_A_BATCH + 5


def test_train_rows_can_be_drawn_and_given_a_system_text(
    tmp_path: Path, labeller: ConversationLabeller
) -> None:
    write_jsonl(tmp_path / "train.jsonl", ROWS)
    data = prepare(tmp_path, labeller, max_train_rows=5, system="Be kind.")
    assert len(data.train) == 5
    assert set(questions(data.train)) == {"Be kind."}
    assert "max_train_rows: 5 of 16 rows drawn" in data.notes


def test_conversations_with_a_rewritten_history_are_a_row_for_each_answer(tmp_path: Path) -> None:
    rows = [{"data": [f"q{i}", "an answer", "more?", f"answer {i}"]} for i in range(8)]
    write_jsonl(tmp_path / "train.jsonl", rows)
    data = prepare(tmp_path, ConversationLabeller(byte_tokenizer(), FORGETFUL))
    assert len(data.train) + len(data.held_out) == 16
    assert any("8 conversations are one row for each answer" in note for note in data.notes)
