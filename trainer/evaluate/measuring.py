"""What is measured of one model on held-out rows: perplexity, answers, and what a judge says."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adapters.base.loading import LoadedBase
from trainer.batches.collator import pad_token_id
from trainer.config import EvaluationSection
from trainer.config.evaluation import JUDGED, Metric
from trainer.data.conversation import ASSISTANT, USER, Conversation, Turn
from trainer.data.examples import Example
from trainer.data.labels import ConversationLabeller, LabelledRow
from trainer.evaluate.generation import answer_prompts, answers_from_server
from trainer.evaluate.held_out import HeldOut
from trainer.loop.held_out_loss import held_out_loss, perplexity
from trainer.metrics.bleu import bleu
from trainer.metrics.exact_match import exact_match
from trainer.metrics.judge import (
    Ask,
    Judgement,
    Question,
    Verdict,
    chat,
    judge,
    read_questions,
)
from trainer.metrics.pairwise import Duel, Outcome, compare_pairs, tally
from trainer.metrics.rouge import rouge

BASE_LABEL = "base"
_JUDGE_TOKENS = 256
"""A reason and a rating."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is computed, and how. `server` answers instead of the model in this process.

    The judge sees answers to `questions`, or without them those to the held-out rows.
    """

    metrics: tuple[Metric, ...]
    answer_tokens: int
    batch_tokens: int
    server: str | None = None
    api_key: str | None = None
    ask_judge: Ask | None = None
    judge_model: str | None = None
    questions: tuple[Question, ...] = ()

    @property
    def asks_a_judge(self) -> bool:
        return bool(set(JUDGED) & set(self.metrics))

    @property
    def needs_answers(self) -> bool:
        """Whether the held-out rows have to be answered."""
        return bool({"bleu", "rouge", "exact_match"} & set(self.metrics)) or (
            self.asks_a_judge and not self.questions
        )


def measuring_for(
    section: EvaluationSection,
    folder: Path,
    *,
    server: str | None = None,
    api_key: str | None = None,
) -> Measuring:
    """What an `evaluation` section asks for; its paths are relative to `folder`.

    The judge's key comes from the environment. Raises `DataError` for a questions file that can't
    be used.
    """
    asked = section.judge
    ask = None
    judged = set(JUDGED) & set(section.metrics)
    if judged and asked.url is not None and asked.model is not None:
        key = os.environ.get(asked.api_key_env)
        ask = chat(
            asked.url, asked.model, key, max_tokens=_JUDGE_TOKENS, held_to_form=asked.held_to_form
        )
    return Measuring(
        metrics=section.metrics,
        answer_tokens=section.answer_tokens,
        batch_tokens=section.batch_tokens,
        server=server,
        api_key=api_key,
        ask_judge=ask,
        judge_model=asked.model,
        questions=()
        if asked.questions is None
        else read_questions(folder / Path(asked.questions).expanduser()),
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of the base or of one adapter, and what they come from.

    `answers` are to the held-out rows, in their order. `verdicts` and `duels` are on `judged`,
    answers to the questions that were given, or on `answers` where none were.
    """

    label: str
    figures: dict[str, float]
    answers: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    duels: tuple[Duel, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON values, for `parse_measured`."""
        return asdict(self)


def parse_measured(document: Any) -> Measured:
    """The `Measured` that wrote this document. Raises `KeyError` or `TypeError` for another."""
    return Measured(
        str(document["label"]),
        dict(document["figures"]),
        tuple(document["answers"]),
        tuple(document["judged"]),
        tuple(Verdict(**verdict) for verdict in document["verdicts"]),
        tuple(Duel(Outcome(d["outcome"]), tuple(d["replies"])) for d in document["duels"]),
    )


class Meter:
    """Measures one model after the other on the same rows in the same way."""

    def __init__(
        self,
        base: LoadedBase,
        held_out: HeldOut,
        labeller: ConversationLabeller,
        measuring: Measuring,
    ) -> None:
        self._base = base
        self._held_out = held_out
        self._labeller = labeller
        self._measuring = measuring

    def measure(
        self,
        model: Any,
        label: str,
        served_name: str,
        *,
        loss: float | None = None,
        against: Measured | None = None,
    ) -> Measured:
        """Figures and answers of `model`, which a server knows as `served_name`.

        `loss` is the mean held-out loss where it is known already; `against` is whose answers the
        judge sees beside these. Raises `EvaluationError` when the server or the judge can't be
        asked.
        """
        measuring, held_out = self._measuring, self._held_out
        figures: dict[str, float] = {}
        if "perplexity" in measuring.metrics and held_out.examples:
            if loss is None:
                loss = held_out_loss(
                    model,
                    held_out.examples.rows,
                    batch_tokens=measuring.batch_tokens,
                    pad_id=pad_token_id(self._base.tokenizer),
                ).mean
            figures |= {"loss": loss, "perplexity": perplexity(loss)}
        answers: list[str] = []
        if measuring.needs_answers:
            answers = self._answers(model, served_name, held_out.asked)
            figures |= _text_figures(measuring.metrics, answers, held_out)
        judged: list[str] = []
        verdicts: tuple[Verdict, ...] = ()
        duels: tuple[Duel, ...] = ()
        if measuring.ask_judge is not None:
            questions = measuring.questions or _questions(held_out)
            if measuring.questions:
                judged = self._answers(model, served_name, [_asking(q.text) for q in questions])
            if "judge" in measuring.metrics:
                judgement = judge(questions, judged or answers, measuring.ask_judge)
                verdicts = judgement.verdicts
                figures |= _ratings(judgement)
            if "pairwise" in measuring.metrics and against is not None:
                opponents = against.judged or against.answers
                duels = compare_pairs(questions, judged or answers, opponents, measuring.ask_judge)
                figures |= tally(duels)
        return Measured(label, figures, tuple(answers), tuple(judged), verdicts, duels)

    def _answers(self, model: Any, served_name: str, examples: Sequence[Example]) -> list[str]:
        measuring = self._measuring
        if measuring.server is not None:
            return answers_from_server(
                measuring.server, served_name, measuring.api_key, examples, measuring.answer_tokens
            )
        return answer_prompts(model, self._base, self._labeller, examples, measuring.answer_tokens)


def _text_figures(
    metrics: Sequence[Metric], answers: Sequence[str], held_out: HeldOut
) -> dict[str, float]:
    references = held_out.references
    figures: dict[str, float] = {}
    if "bleu" in metrics:
        figures["bleu"] = bleu(answers, references, held_out.language)
    if "rouge" in metrics:
        figures |= rouge(answers, references, held_out.language)
    if "exact_match" in metrics:
        figures["exact_match"] = exact_match(answers, references)
    return figures


def _ratings(judgement: Judgement) -> dict[str, float]:
    mean = {} if judgement.mean is None else {"judge": judgement.mean}
    return {
        **mean,
        "judge_rated": float(judgement.num_rated),
        "judge_unparseable": float(judgement.num_unparseable),
    }


def _questions(held_out: HeldOut) -> tuple[Question, ...]:
    return tuple(Question(e.conversation.question, e.conversation.answer) for e in held_out.asked)


def _asking(question: str) -> Example:
    conversation = Conversation((Turn(USER, question), Turn(ASSISTANT, "")))
    return Example(conversation, LabelledRow((), ()))
