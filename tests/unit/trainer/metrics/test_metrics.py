"""Metrics against values worked out by hand, in both languages."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.unit.trainer.endpoint import chat_endpoint
from trainer.errors import DataError
from trainer.metrics.bleu import bleu
from trainer.metrics.exact_match import exact_match
from trainer.metrics.judge import (
    RATING,
    Form,
    Question,
    chat,
    judge,
    parse_rating,
    read_questions,
)
from trainer.metrics.language import detect_language
from trainer.metrics.pairwise import VERDICT, Outcome, compare_pairs
from trainer.metrics.rouge import rouge


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["Hello there"], "en"), (["你好，世界"], "zh"), (["用 Python 写一个函数"], "zh"),
        (["The word 你好 means hello in Chinese"], "en"), ([""], "en"),
    ],
)  # fmt: skip
def test_language_is_told_by_script(texts: list[str], language: str) -> None:
    assert detect_language(texts) == language


def test_bleu_of_equal_texts_is_100_and_chinese_is_split_by_character() -> None:
    english, chinese = ["the cat sat on the mat"], ["今天天气很好"]
    assert bleu(english, english, "en") == pytest.approx(100)
    assert bleu(chinese, chinese, "zh") == pytest.approx(100)
    # Unsplit, a Chinese sentence is one word and a single wrong character leaves nothing.
    assert bleu(["今天天气真好"], chinese, "en") == 0
    assert bleu(["今天天气真好"], chinese, "zh") > 40


def test_rouge() -> None:
    scores = rouge(["the cat sat", "a b"], ["the cat slept", "a b"], "en")
    assert scores["rouge1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert scores["rouge2"] == pytest.approx(100 * (1 / 2 + 1) / 2)
    chinese = rouge(["我喜欢北京", ""], ["我喜欢北京", "我"], "zh")
    assert chinese["rougeL"] == pytest.approx(50, abs=0.01)


def test_exact_match_compares_json_as_values() -> None:
    answers = ['{"b": 2, "a": 1}', "yes ", "{broken", "no"]
    assert exact_match(answers, ['{"a":1,"b":2}', "yes", "{broken", "yes"]) == 75


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Good. Rating: [[7]]", 7), ("[[8.5]]", 8.5), ("First [[3]], on reflection [[4]]", 4),
        ("Rating: 6", 6), ("**Score**: 9/10", 9), ("I give it 10 out of 10.", 10), ("评分：8", 8),
        ("5", 5), ("Rating: [[11]]", None), ("Rating: [[0]]", None), ("It is fine.", None),
        ("", None), ("in 2019 there were 3 cats", None),
    ],
)  # fmt: skip
def test_ratings_are_read_robustly_and_never_guessed(reply: str, rating: float | None) -> None:
    assert parse_rating(reply) == rating


def test_judge_counts_what_it_cannot_read() -> None:
    asked: list[str] = []

    def ask(prompt: str, form: Form) -> str:
        asked.append(prompt)
        return {1: "Rating: [[4]]", 2: "no idea", 3: "Rating: [[8]]"}[len(asked)]

    judgement = judge([Question("q", "ref"), Question("q"), Question("q")], ["a", "b", "c"], ask)
    assert (judgement.mean, judgement.num_rated, judgement.num_unparseable) == (6, 2, 1)
    assert "[Reference answer]\nref" in asked[0]
    assert "Reference" not in asked[1]
    assert judge([Question("q")], ["a"], lambda *_: "hm").mean is None


@pytest.mark.parametrize("held_to_form", [False, True])
def test_a_judge_may_be_held_to_a_form(held_to_form: bool) -> None:
    forms = {"rating": '{"rating": 7}', "verdict": '{"verdict":"A"}'}

    def reply(body: dict[str, Any]) -> str:
        if "response_format" not in body:
            return "I like both."
        schema = body["response_format"]["json_schema"]["schema"]
        (key,) = schema["required"]
        jsonschema.validate(json.loads(forms[key]), schema)
        assert body["messages"][0]["content"].endswith(
            {"rating": RATING, "verdict": VERDICT}[key].request
        )
        return forms[key]

    with chat_endpoint(reply) as endpoint:
        ask = chat(endpoint.url, "j", None, max_tokens=9, held_to_form=held_to_form)
        judgement = judge([Question("q")], ["a"], ask)
        (duel,) = compare_pairs([Question("q")], ["a"], ["b"], ask)
    assert judgement.mean == (7 if held_to_form else None)
    assert duel.outcome == (Outcome.INCONSISTENT if held_to_form else Outcome.UNREADABLE)


def test_mt_bench_questions(tmp_path: Path) -> None:
    path = tmp_path / "question.jsonl"
    rows = [
        {"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Shorter."]},
        {"question_id": 101, "category": "math", "turns": ["2+2?"], "reference": ["4"]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_questions(path) == (Question("Write a poem."), Question("2+2?", "4"))
    path.write_text('{"question": "?"}', encoding="utf-8")
    with pytest.raises(DataError, match="MT-Bench"):
        read_questions(path)
