"""Preference rows go through the `data` section like all others."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config import TrainerConfig
from trainer.data.cleaning.rules import Rule
from trainer.data.labels import ConversationLabeller
from trainer.data.preference import PreferenceExample
from trainer.data.preparation import DataSource, PreparedData, prepare_data
from trainer.errors import DataError
from trainer.objectives.task import row_task


def pair(prompt: str, chosen: str = "yes", rejected: str = "no") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


ROWS = [pair(f"q{index}") for index in range(10)]


def prepare(
    folder: Path,
    labeller: ConversationLabeller,
    rows: list[dict[str, Any]],
    objective: str = "dpo",
    **data: Any,
) -> PreparedData:
    (folder / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    document = {"name": "p", "base": "b", "objective": objective, "data": {"train": "p.jsonl"}}
    document["data"] = {"train": "p.jsonl", "eval": 0.2, **data}
    config = TrainerConfig.model_validate(document)
    source = DataSource(config.data, folder, config.seed)
    return prepare_data(source, labeller, row_task(config.objective))


def texts(data: PreparedData) -> list[str]:
    """Prompts of both splits."""
    return sorted(e.conversation.prompt[-1].content for e in (*data.train, *data.held_out))


def test_columns_system_message_and_limits(tmp_path: Path, labeller: ConversationLabeller) -> None:
    rows = [{"frage": r["prompt"], "gut": r["chosen"], "schlecht": r["rejected"]} for r in ROWS]
    data = prepare(
        tmp_path,
        labeller,
        rows,
        columns={"prompt": "frage", "chosen": "gut", "rejected": "schlecht"},
        system="Be kind.",
        max_train_rows=3,
    )
    assert (len(data.train), len(data.held_out)) == (3, 2)
    assert "max_train_rows: 3 of 8 rows drawn" in data.notes
    example = data.train[0]
    assert isinstance(example, PreferenceExample)
    assert example.conversation.turns[0].content == "Be kind."
    for row in (example.row, example.other):
        assert "Be kind." in labeller.decode(row.token_ids)
    assert data.counts[Rule.SYSTEM_ADDED] == 10


def test_both_answers_are_cleaned_and_a_rule_drops_the_row(
    tmp_path: Path, labeller: ConversationLabeller
) -> None:
    odd = [
        pair("html", "<b>good</b>", "<p>bad</p>"),
        pair("same", "<b>xx</b>", "xx"),
        pair("empty", "yes", "  "),
        pair("short", "yes", "a"),
        pair("", "yes", "no"),
        ROWS[3],
        {"prompt": [{"role": "alien", "content": "q"}], "chosen": "a1", "rejected": "b1"},
    ]
    cleaning = {"html": "strip", "min_answer_chars": 2}
    data = prepare(tmp_path, labeller, [*ROWS, *odd], cleaning=cleaning)
    assert texts(data) == sorted(["html", *(row["prompt"] for row in ROWS)])
    for rule, count in (
        (Rule.SAME_ANSWERS, 1), (Rule.SHORT_ANSWER, 1), (Rule.EMPTY_TURN, 2),
        (Rule.DUPLICATE, 1), (Rule.UNKNOWN_ROLE, 1),
    ):  # fmt: skip
        assert data.counts[rule] == count, rule
    stripped = next(
        e for e in (*data.train, *data.held_out) if e.conversation.prompt[-1].content == "html"
    )
    assert isinstance(stripped, PreferenceExample)
    assert stripped.conversation.answer == "good"
    assert "bad" in labeller.decode(stripped.other.token_ids)
    assert "<p>" not in labeller.decode(stripped.other.token_ids)


@pytest.mark.parametrize(("rule", "kept"), [("drop", 1), ("keep", 2)])
def test_duplicates_and_overlap_follow_the_config(
    tmp_path: Path, labeller: ConversationLabeller, rule: str, kept: int
) -> None:
    rows = [{"prompt": "q", "completion": "a", "label": True}] * 2
    rows += [{"prompt": f"r{i}", "completion": "a", "label": False} for i in range(5)]
    data = prepare(
        tmp_path, labeller, rows, "kto", cleaning={"duplicates": rule, "eval_overlap": "keep"}
    )
    assert texts(data).count("q") == kept


def test_a_held_out_prompt_is_not_trained_on(
    tmp_path: Path, labeller: ConversationLabeller
) -> None:
    (tmp_path / "e.jsonl").write_text(json.dumps(pair("q1", "other", "words")), encoding="utf-8")
    data = prepare(tmp_path, labeller, ROWS, eval="e.jsonl")
    assert data.counts == {Rule.OVERLAP: 1}
    assert (len(data.train), len(data.held_out)) == (9, 1)


def test_nothing_left_is_told(tmp_path: Path, labeller: ConversationLabeller) -> None:
    with pytest.raises(DataError, match=r"no row of p\.jsonl is left after cleaning"):
        prepare(tmp_path, labeller, [pair("", "yes", "no")])
