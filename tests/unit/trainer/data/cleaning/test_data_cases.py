"""Files as people have them: each is trained on with all that it says, or refused by name."""

import bz2
import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from tests.unit.trainer.families import FAMILIES
from trainer.config import TrainerConfig
from trainer.data.cleaning.rules import Rule
from trainer.data.labels import ConversationLabeller
from trainer.data.preference import preferences
from trainer.data.preparation import DataSource, PreparedData, prepare_data
from trainer.data.report import marked_text
from trainer.errors import DataError, UnknownFormatError
from trainer.objectives.task import row_task

DATA = Path(__file__).parents[4] / "data"
BY_NAME = {family.name: family for family in FAMILIES}


def prepare(
    path: Path, objective: str = "sft", family: str = "qwen2_5", **data: Any
) -> tuple[PreparedData, ConversationLabeller]:
    section = {"train": path.name, "max_length": 8192, **data}
    positions = section.pop("num_positions", None)
    config = TrainerConfig.model_validate(
        {"name": "a", "base": "b", "objective": objective, "data": section}
    )
    labeller = BY_NAME[family].labeller()
    source = DataSource(config.data, path.parent, config.seed, positions)
    return prepare_data(source, labeller, row_task(config.objective)), labeller


def first(path: Path, objective: str = "sft", **data: Any) -> str:
    """The first training row, its loss in brackets, from the first question on."""
    prepared, labeller = prepare(path, objective, **data)
    return marked_text(prepared.train[0].row, labeller).partition("<|im_start|>user\n")[2]


def refused(path: Path, objective: str = "sft", **data: Any) -> str:
    with pytest.raises(DataError) as raised:
        prepare(path, objective, **data)
    return str(raised.value)


def write(folder: Path, *rows: Any, name: str = "t.jsonl") -> Path:
    path = folder / name
    text = "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def ask(question: str, answer: str, **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call><|im_end|>⟧'


@pytest.mark.parametrize(
    ("name", "objective", "expected"),
    [
        ("glaive.jsonl", "sft", CALL % ("gen", '{"n": 0}')),
        ("tools_mixed.jsonl", "sft", CALL % ("add", '{"a": 0, "b": 2}')),
        ("tools_nulls.parquet", "sft", CALL % ("add", '{"a": 0, "b": 2}')),
        ("tools_strargs.jsonl", "sft", CALL % ("w", '{"c": "x"}')),
        ("legacy_fc.jsonl", "sft", CALL % ("get_weather", '{"city": "Rome"}')),
        ("pc_tools.jsonl", "sft", CALL % ("w", '{"city": "Rome"}')),
        ("dpo_tools.jsonl", "dpo", "Let me look 0.\n" + CALL % ("w", "{}")),
        ("indent.jsonl", "sft", "⟦    y = x + 0\n    return y\n<|im_end|>⟧"),
        ("train_flag.jsonl", "sft", "assistant\nbad 0<|im_end|>\n"),
        ("train_flag.jsonl", "sft", "⟦good 0<|im_end|>⟧"),
        ("weight.jsonl", "sft", "assistant\nParis0<|im_end|>\n"),
        ("weight.jsonl", "sft", "⟦Paris, as if everyone doesn't know that already0."),
        ("na_answers.csv", "sft", "classify 0<|im_end|>\n<|im_start|>assistant\n⟦None<|im_end|>⟧"),
    ],
)
def test_a_case_is_trained_on_with_all_that_it_says(
    name: str, objective: str, expected: str
) -> None:
    assert expected in first(DATA / "cases" / name, objective)


@pytest.mark.parametrize(
    ("name", "objective", "system"),
    [
        ("messages_system.jsonl", "sft", "You are a pirate."),
        ("dpo_system.jsonl", "dpo", "You are an AI assistant that talks like a pirate."),
    ],
)
def test_a_system_text_beside_the_rest_is_in_the_prompt(
    name: str, objective: str, system: str
) -> None:
    prepared, labeller = prepare(DATA / "cases" / name, objective)
    for example in prepared.train:
        assert marked_text(example.row, labeller).startswith(f"<|im_start|>system\n{system}<")


@pytest.mark.parametrize("name", ["tools_mixed.jsonl", "tools_nulls.parquet"])
def test_nulls_of_other_rows_are_in_neither_tools_nor_calls(name: str) -> None:
    prepared, labeller = prepare(DATA / "cases" / name)
    for example in (*prepared.train, *prepared.held_out):
        assert "null" not in marked_text(example.row, labeller)
        assert len(json.loads(example.conversation.tools)) == 1


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("history_none.jsonl", ("6 of 6 rows", "line 1: history[0][1]: null is no text")),
        ("image_ph.jsonl", ("8 of 8 rows", "line 8: images: ['a.jpg']", "data.ignore_columns")),
        ("reasoning.jsonl", ("8 of 8 rows", "reasoning_content: 'I add 1", "no place for it")),
    ],
)
def test_a_case_that_cannot_be_honoured_is_refused(name: str, parts: tuple[str, ...]) -> None:
    text = refused(DATA / "cases" / name)
    for part in parts:
        assert part in text


def test_reasoning_is_learnt_where_the_template_has_a_place_for_it() -> None:
    text = first(DATA / "cases" / "reasoning.jsonl", family="qwen3")
    assert text.endswith("⟦<think>\nI add 0 and 0.\n</think>\n\nIt is 0.<|im_end|>⟧")


def test_pairs_of_one_prompt_are_on_one_side_of_the_split() -> None:
    prepared, _ = prepare(DATA / "cases" / "dpo_multipair.jsonl", "dpo")
    asked = [
        {e.conversation.prompt[-1].content for e in part}
        for part in (prepared.train, prepared.held_out)
    ]
    assert all(asked)
    assert not asked[0] & asked[1]
    assert "all rows of 1 prompts" in prepared.notes[0]


def test_rows_of_one_prompt_cannot_be_split_and_the_reason_is_true(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "chosen": f"c{i}", "rejected": f"r{i}"} for i in range(9)]
    assert "all 9 rows of t.jsonl" in refused(write(tmp_path, *rows), "dpo")


@pytest.mark.parametrize(
    ("name", "objective", "num_rows", "expected"),
    [
        ("identity.json", "sft", 6, "⟦I am {{name}}, made by {{author}}, and I know the kettle."),
        ("alpaca_en_demo.json", "sft", 6, "⟦A kettle is a thing that people like.<|im_end|>⟧"),
        ("glaive_toolcall_en_demo.json", "sft", 7, CALL % ("find_item", '{"item": "kettle"}')),
        ("dpo_en_demo.json", "dpo", 6, "⟦A kettle is useful.<|im_end|>⟧"),
        ("kto_en_demo.json", "kto", 6, "⟦A kettle it is, number 0.<|im_end|>⟧"),
        ("v1_sft_demo.jsonl", "sft", 6, "⟦Hello! I am {{name}} of the kettle.<|im_end|>⟧"),
        ("v1_dpo_demo.jsonl", "dpo", 6, "⟦Because a kettle helps.<|im_end|>⟧"),
        (
            "openai_function_calling.jsonl", "sft", 6,
            CALL % ("get_temperature", '{"place": "kettle, outside", "format": "celsius"}'),
        ),
        ("openai_preference.jsonl", "dpo", 6, "⟦A kettle boils.<|im_end|>⟧"),
        ("hh_rlhf.jsonl", "dpo", 6, "Near by. Which one?<|im_end|>"),
        ("hh_rlhf.jsonl", "dpo", 6, "⟦Behind the house.<|im_end|>⟧"),
        ("alpaca_dpo.jsonl", "dpo", 6, "Name a use of a kettle.\n\nOne only.<|im_end|>"),
    ],
)  # fmt: skip
def test_public_shapes_pass_unchanged(
    name: str, objective: str, num_rows: int, expected: str
) -> None:
    prepared, labeller = prepare(DATA / "public" / name, objective)
    assert len(prepared.train) + len(prepared.held_out) == num_rows
    assert not prepared.counts
    texts = [marked_text(e.row, labeller) for e in (*prepared.train, *prepared.held_out)]
    assert any(expected in text for text in texts)


def test_nulls_of_a_file_that_was_a_table_once_are_left_out(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {
        "a": {"type": ["string", "null"], "description": None, "default": None}, "city": None,
    }}  # fmt: skip
    arguments = {"a": None, "city": None}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"type": "function", "function": {"name": "f", "arguments": arguments}}]},
    ]  # fmt: skip
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    rows = [
        {"messages": [{**turns[0], "content": f"q{i}"}, turns[1]], "tools": tools} for i in (0, 1)
    ]
    path = write(tmp_path, *rows)
    assert CALL % ("f", '{"a": null}') in first(path)
    prepared, _ = prepare(path)
    assert json.loads(prepared.train[0].conversation.tools)[0]["function"]["parameters"] == {
        "type": "object", "properties": {"a": {"type": ["string", "null"], "default": None}},
    }  # fmt: skip


def test_messages_in_a_csv_are_json(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [[json.dumps(row["messages"])] for row in PLAIN]
        csv.writer(file).writerows([["messages"], *rows])
    prepared, _ = prepare(path)
    assert len(prepared.train) + len(prepared.held_out) == 3


def test_judged_messages_keep_their_verdicts() -> None:
    prepared, _ = prepare(DATA / "public" / "kto_en_demo.json", "kto")
    for example in preferences([*prepared.train, *prepared.held_out]):
        assert example.is_good == (int(example.conversation.answer[-2]) % 2 == 1)


def test_what_was_not_used_is_named(tmp_path: Path) -> None:
    row = ask("q", "a", source="web", empty=None)
    row["messages"][0]["timestamp"] = 3
    prepared, _ = prepare(write(tmp_path, row, ask("r", "b"), ask("s", "c")))
    assert "columns of t.jsonl that were not used: source" in prepared.notes
    assert "message keys of t.jsonl that were not used: timestamp" in prepared.notes


PLAIN = [ask("q1", "a"), ask("q2", "b"), ask("q3", "c")]


def broken(**more: Any) -> Callable[[], dict[str, Any]]:
    """A row whose answer has further keys."""
    row = ask("q", "a")
    row["messages"][1] |= more
    return lambda: row


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: ask("q", "a", label=True), "line 4: label: True judges the answer: set objective"),
        (lambda: ask("q", "a", chosen="x", rejected="y"), "chosen: is a preference: set objective"),
        (lambda: ask("q", "a", tools="no json"), "line 4: tools: 'no json' is no JSON"),
        (lambda: ask("q", "a", tools=[{"type": "function"}]), "tools[0].function.name: None is no"),
        (lambda: ask("q", "a", system="x") | {"messages": [
            {"role": "system", "content": "y"}, *ask("q", "a")["messages"]]},
         "line 4: system: 'x', but the messages have a system text"),
        (broken(weight=0.5), "messages[1].weight: 0.5 is neither 0 nor 1"),
        (broken(train="no"), "messages[1].train: 'no' is neither true nor false"),
        (broken(weight=0, train=True), "messages[1].weight and train: contradict each other"),
        (broken(tool_calls=[{"function": {"name": "f", "arguments": "{'a': 1}"}}]),
         "messages[1].tool_calls[0].function.arguments:"),
        (broken(content=[{"type": "image_url", "image_url": {}}]), "is of type 'image_url'"),
        (lambda: {"messages": [{"role": "user", "content": "q", "weight": 1},
                               {"role": "assistant", "content": "a"}]},
         "messages[0].weight: loss is on assistants' messages only"),
        (lambda: "{broken\n", "line 4: row: can't be read: '{broken"),
        (lambda: "[1]\n", "line 4: row: can't be read: [1] is no object"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_honoured_names_line_field_and_text(
    tmp_path: Path, make: Callable[[], Any], part: str
) -> None:
    text = refused(write(tmp_path, *PLAIN, make(), *PLAIN[:1]))
    assert "1 of 5 rows of t.jsonl can't be used" in text
    assert part in text


def test_problems_are_named_all_at_once_and_the_rest_counted(tmp_path: Path) -> None:
    text = refused(write(tmp_path, *PLAIN, *[ask("q", "a", images=["x"]) for _ in range(30)]))
    assert "30 of 33 rows" in text
    assert "line 4: images" in text
    assert "line 23: images" in text
    assert text.endswith("... and 10 more")


def test_a_column_can_be_left_out_on_purpose(tmp_path: Path) -> None:
    path = write(tmp_path, *[{**row, "images": ["x"], "label": 1} for row in PLAIN])
    prepared, _ = prepare(path, ignore_columns=["images", "label"])
    assert len(prepared.train) + len(prepared.held_out) == 3


def test_preferences_in_a_supervised_run_name_their_objective(tmp_path: Path) -> None:
    path = write(tmp_path, {"prompt": "p", "chosen": "a", "rejected": "b"})
    with pytest.raises(UnknownFormatError, match="objective dpo or orpo"):
        prepare(path)


def test_rows_without_any_trained_answer_are_dropped_and_counted(tmp_path: Path) -> None:
    row = ask("q", "a")
    row["messages"][1]["weight"] = 0
    prepared, _ = prepare(write(tmp_path, *PLAIN, row))
    assert prepared.counts == {Rule.UNTRAINED: 1}
    assert prepared.examples[Rule.UNTRAINED] == ("t.jsonl line 4: user: q",)


def test_a_row_that_lacks_its_answer_is_told_with_line_and_field(tmp_path: Path) -> None:
    path = write(tmp_path, *({"instruction": q, "output": o} for q, o in (
        ("a", "1"), ("b", None), ("c", "3"), ("d", "4"))))  # fmt: skip
    prepared, _ = prepare(path)
    assert prepared.examples[Rule.UNREADABLE] == ("t.jsonl line 2: output: null is no text",)


def test_a_row_longer_than_the_base_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, *[ask(f"q{i}", "a") for i in range(9)], ask("long", "x" * 400))
    assert "line 10: tokens: " in refused(path, num_positions=300)
    prepared, _ = prepare(path, num_positions=300, max_length=300)
    assert prepared.counts == {Rule.TOO_LONG: 1}


@pytest.mark.parametrize("cell", ["NA", "null", "None", "nan", "1.0", "007", "True", "  x "])
def test_csv_cells_are_text(tmp_path: Path, cell: str) -> None:
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["instruction", "input", "output"], ["a\nb", "", cell], ["c", "", "d"]])
    prepared, _ = prepare(path)
    turns = [e.conversation.turns for e in (*prepared.train, *prepared.held_out)]
    found = {(question.content, answer.content) for question, answer in turns}
    assert found == {("a\nb", cell), ("c", "d")}


@pytest.mark.parametrize("cells", ["", "a,,\n"])
def test_an_empty_csv_cell_is_missing(tmp_path: Path, cells: str) -> None:
    path = write(tmp_path, "instruction,input,output\n" + cells + "c,,d\ne,,f\n", name="t.csv")
    prepared, _ = prepare(path)
    assert prepared.counts == ({Rule.UNREADABLE: 1} if cells else {})


def _zstd(data: bytes) -> bytes:
    return bytes(pyarrow.Codec("zstd").compress(data, asbytes=True))


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".zst", _zstd)]
)
def test_compressed_files_are_read(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    plain = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PLAIN)
    path = tmp_path / f"t.jsonl{suffix}"
    path.write_bytes(compress(plain.encode()))
    prepared, _ = prepare(path)
    assert len(prepared.train) + len(prepared.held_out) == 3


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("holder", ["data", "rows"])
def test_rows_in_an_object_are_read_with_their_lines(
    tmp_path: Path, holder: str, indent: int | None
) -> None:
    rows = [*PLAIN, ask("q", "a", label=1)]
    text = json.dumps({"version": "1", holder: rows}, indent=indent)
    path = write(tmp_path, text, name="t.json")
    line = 1 + text[: text.rindex("{", 0, text.rindex('"messages"'))].count("\n")
    assert f"t.json line {line}: label" in refused(path)


def test_role_and_content_keys_can_be_named(tmp_path: Path) -> None:
    rows = [
        {"dialog": [{"speaker": "user", "said": f"q{i}"}, {"speaker": "bot", "said": "a"}]}
        for i in range(3)
    ]
    prepared, _ = prepare(
        write(tmp_path, *rows),
        columns={"messages": "dialog", "role": "speaker", "content": "said"},
    )
    assert len(prepared.train) + len(prepared.held_out) == 3
