"""Answers scored by a model behind any OpenAI-compatible endpoint, after MT-Bench.

The single-answer grading of MT-Bench (arXiv:2306.05685): the judge sees question and answer and
ends with `Rating: [[7]]`. A judge that doesn't say a rating is counted, never guessed.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import DataError
from trainer.metrics.chat_client import ChatClient

_LOWEST, _HIGHEST = 1, 10
_PROMPT = """Rate the answer to the question on a scale of 1 to 10 for helpfulness, relevance, \
accuracy and level of detail. Give a short reason, then end with the rating in exactly this form: \
Rating: [[5]]

[Question]
{question}
{reference}
[Answer]
{answer}
[End]"""
_NUMBER = r"(10(?:\.0+)?|[1-9](?:\.\d+)?)"
_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"\[\[\s*{_NUMBER}\s*(?:/\s*10)?\s*\]\]",
        rf"(?:rating|score|评分|得分|分数)\W{{0,8}}{_NUMBER}(?![\d.]*\d)",
        rf"(?<![\d.]){_NUMBER}\s*(?:/|out of)\s*10\b",
        rf"^\W*{_NUMBER}\W*$",
    )
)
"""From the form that was asked for to what small judges write instead; the last match counts."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a judge that is held to a form may say: an object with one key and one of `values`."""

    key: str
    values: tuple[str | int, ...]

    @property
    def schema(self) -> dict[str, Any]:
        """As a JSON schema."""
        return {
            "type": "object",
            "properties": {self.key: {"enum": list(self.values)}},
            "required": [self.key],
            "additionalProperties": False,
        }

    @property
    def request(self) -> str:
        """What the judge is told of it, behind a prompt that asks for something else."""
        values = ", ".join(map(json.dumps, self.values))
        return f'Give no reason and no other form, only {{"{self.key}": ...}} with one of {values}.'


Ask = Callable[[str, Form], str]
"""A prompt, and the form that an answer may be held to, to the judge's reply."""

RATING = Form("rating", tuple(range(_LOWEST, _HIGHEST + 1)))


@dataclass(frozen=True, slots=True)
class Question:
    """One question for a model to answer; `reference` is "" where nobody knows the answer."""

    text: str
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge said of one answer; `rating` is None where none from 1 to 10 can be read."""

    rating: float | None
    reply: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """One verdict for each answer, in order."""

    verdicts: tuple[Verdict, ...]

    @property
    def ratings(self) -> tuple[float, ...]:
        """Those that could be read."""
        return tuple(v.rating for v in self.verdicts if v.rating is not None)

    @property
    def mean(self) -> float | None:
        """Mean of the ratings (1 to 10) that could be read; None when none could."""
        return sum(self.ratings) / len(self.ratings) if self.ratings else None

    @property
    def num_rated(self) -> int:
        return len(self.ratings)

    @property
    def num_unparseable(self) -> int:
        return len(self.verdicts) - len(self.ratings)


def read_questions(path: Path) -> tuple[Question, ...]:
    """MT-Bench's JSONL: `turns` (the first is asked), optionally `reference`."""
    questions = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        for line in filter(str.strip, lines):
            document = json.loads(line)
            references = document.get("reference") or [""]
            questions.append(Question(str(document["turns"][0]), str(references[0])))
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is no file of MT-Bench questions (a JSON object with `turns` on each line): "
            f"{error}"
        ) from error
    if not questions:
        raise DataError(f"{path} holds no questions")
    return tuple(questions)


def judge(questions: Sequence[Question], answers: Sequence[str], ask: Ask) -> Judgement:
    """Have every answer rated once."""
    return Judgement(
        tuple(
            _verdict(question, answer, ask)
            for question, answer in zip(questions, answers, strict=True)
        )
    )


def _verdict(question: Question, answer: str, ask: Ask) -> Verdict:
    reference = f"\n[Reference answer]\n{question.reference}\n" if question.reference else ""
    prompt = _PROMPT.format(question=question.text, answer=answer, reference=reference)
    reply = ask(prompt, RATING)
    return Verdict(parse_rating(reply), reply)


def parse_rating(reply: str) -> float | None:
    """The rating in a reply, or None when there is none from 1 to 10."""
    for pattern in _PATTERNS:
        found = pattern.findall(reply.strip())
        if found and _LOWEST <= float(found[-1]) <= _HIGHEST:
            return float(found[-1])
    return None


def chat(
    url: str, model: str, api_key: str | None, *, max_tokens: int, held_to_form: bool = False
) -> Ask:
    """Asks `model` at the OpenAI-compatible endpoint `url` (with or without `/v1`), greedily.

    `held_to_form` asks for a structured output (`response_format` with a JSON schema), so that each
    reply is a verdict. The function raises `EvaluationError` when the endpoint can't be reached or
    refuses.
    """
    client = ChatClient(url, model, api_key, max_tokens=max_tokens)

    def ask(prompt: str, form: Form) -> str:
        if not held_to_form:
            return client.ask([{"role": "user", "content": prompt}])
        message = {"role": "user", "content": f"{prompt}\n\n{form.request}"}
        return client.ask([message], schema=form.schema)

    return ask
