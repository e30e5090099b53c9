"""Base against adapters on the same held-out bytes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.base.loading import LoadedBase
from trainer.candidates import Candidate
from trainer.collator import pad_token_id
from trainer.config import CleaningSection
from trainer.config.evaluation import Metric
from trainer.data.cleaning import RowCleaner
from trainer.data.conversation import USER, Conversation, Turn
from trainer.data.examples import Example, ListedExamples
from trainer.data.formats import choose_format
from trainer.data.reading import read_rows
from trainer.data.rules import CleaningLog
from trainer.errors import DataError
from trainer.evaluation import held_out_loss
from trainer.generation import answer_prompts, answers_from_server
from trainer.labels import ConversationLabeller, LabelledRow
from trainer.methods.tuning import bare_base
from trainer.metrics.bleu import bleu
from trainer.metrics.exact_match import exact_match
from trainer.metrics.judge import Ask, Question, judge
from trainer.metrics.language import detect_language
from trainer.metrics.rouge import rouge

BASE_LABEL = "base"


@dataclass(frozen=True)
class HeldOut:
    """The rows that everybody is measured on; `digest` is the file's."""

    path: Path
    digest: str
    examples: ListedExamples
    language: str

    @property
    def references(self) -> list[str]:
        return [example.conversation.answer for example in self.examples]


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is computed, and how. `server` answers instead of the model in this process."""

    metrics: tuple[Metric, ...]
    answer_tokens: int
    batch_tokens: int
    server: str | None = None
    api_key: str | None = None
    ask_judge: Ask | None = None
    questions: tuple[Question, ...] = ()

    @property
    def needs_answers(self) -> bool:
        return bool({"bleu", "rouge", "exact_match"} & set(self.metrics)) or (
            "judge" in self.metrics and not self.questions
        )


@dataclass(frozen=True)
class Measured:
    """The figures of the base or of one adapter, and its answers in the order of the rows."""

    label: str
    figures: dict[str, float]
    answers: list[str] = field(default_factory=list)


def read_held_out(
    path: Path, labeller: ConversationLabeller, *, max_rows: int, language: str, max_length: int
) -> HeldOut:
    """At most `max_rows` clean rows, evenly spread over the file; longer ones than `max_length`
    are left out. Raises `DataError` when none is left."""
    rows = list(read_rows(path, str(path)))
    if not rows:
        raise DataError(f"{path} holds no rows")
    row_format = choose_format("auto", tuple(rows[0]), str(path))
    cleaner = RowCleaner(CleaningSection(), None, CleaningLog())
    conversations = [c for c in map(cleaner.clean, map(row_format.convert, rows)) if c is not None]
    count = min(max_rows, len(conversations))
    chosen = [conversations[i * len(conversations) // count] for i in range(count)]
    examples = []
    for conversation in chosen:
        labelled = labeller.label(conversation)[-1]
        if len(labelled.row) <= max_length:
            examples.append(Example(labelled.conversation, labelled.row))
    if not examples:
        raise DataError(f"no row of {path} is left to evaluate on")
    if language == "auto":
        language = detect_language(e.conversation.answer for e in examples)
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    return HeldOut(path, digest, ListedExamples(examples), language)


def measure_all(
    base: LoadedBase,
    candidates: Sequence[Candidate],
    held_out: HeldOut,
    labeller: ConversationLabeller,
    measuring: Measuring,
    tell: Callable[[str], None],
) -> list[Measured]:
    """The base first, then every adapter on that same base. The base is as before afterwards."""
    from peft import PeftModel

    measure = _Measure(base, held_out, labeller, measuring)
    tell(f"measuring {BASE_LABEL}")
    results = [measure(base.model, BASE_LABEL, base.resolved.model_id)]
    model: Any = base.model
    for candidate in candidates:
        tell(f"measuring {candidate.label}")
        peft_model = PeftModel.from_pretrained(model, str(candidate.folder)).eval()
        results.append(measure(peft_model, candidate.label, candidate.name))
        model = bare_base(peft_model)
    return results


class _Measure:
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

    def __call__(self, model: Any, label: str, served_name: str) -> Measured:
        measuring, held_out = self._measuring, self._held_out
        figures: dict[str, float] = {}
        if "perplexity" in measuring.metrics:
            loss = held_out_loss(
                model,
                held_out.examples.rows,
                batch_tokens=measuring.batch_tokens,
                pad_id=pad_token_id(self._base.tokenizer),
            )
            figures |= {"loss": loss.mean, "perplexity": loss.perplexity}
        answers: list[str] = []
        if measuring.needs_answers:
            answers = self._answers(model, served_name, held_out.examples)
            figures |= _text_figures(measuring.metrics, answers, held_out)
        if "judge" in measuring.metrics and measuring.ask_judge is not None:
            figures |= self._judged(model, served_name, answers, measuring.ask_judge)
        return Measured(label, figures, answers)

    def _answers(self, model: Any, served_name: str, examples: Sequence[Example]) -> list[str]:
        measuring = self._measuring
        if measuring.server is not None:
            return answers_from_server(
                measuring.server, served_name, measuring.api_key, examples, measuring.answer_tokens
            )
        return answer_prompts(model, self._base, self._labeller, examples, measuring.answer_tokens)

    def _judged(
        self, model: Any, served_name: str, answers: list[str], ask: Ask
    ) -> dict[str, float]:
        questions = self._measuring.questions
        if questions:
            answers = self._answers(model, served_name, [_asking(q.text) for q in questions])
        else:
            questions = tuple(
                Question(_last_question(e.conversation), e.conversation.answer)
                for e in self._held_out.examples
            )
        judgement = judge(questions, answers, ask)
        figures = {
            "judge_rated": float(judgement.num_rated),
            "judge_unparseable": float(judgement.num_unparseable),
        }
        return figures if judgement.mean is None else {"judge": judgement.mean, **figures}


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


def _asking(question: str) -> Example:
    conversation = Conversation((Turn(USER, question), Turn("assistant", "")))
    return Example(conversation, LabelledRow((), ()))


def _last_question(conversation: Conversation) -> str:
    asked = [turn.content for turn in conversation.prompt if turn.role == USER]
    return asked[-1] if asked else ""
