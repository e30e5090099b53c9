"""What `eval` and `compare` share: options, and the way from names to a table."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from trainer.errors import ConfigError

DataPath = Annotated[Path, typer.Option("--data", help="Held-out rows, in any known format.")]
Metrics = Annotated[
    str, typer.Option(help="Of perplexity, bleu, rouge, exact_match, judge; with commas between.")
]
MaxRows = Annotated[int, typer.Option(min=1, help="Rows, evenly spread over the file.")]
AnswerTokens = Annotated[int, typer.Option(min=1, help="How long an answer may be.")]
Language = Annotated[str, typer.Option(help="en, zh or auto: how BLEU and ROUGE split words.")]
BaseRef = Annotated[str | None, typer.Option("--base", help="Default: what the adapter says.")]
Out = Annotated[Path | None, typer.Option(help="Default: RUNS/NAME/eval-TIME.")]
JudgeUrl = Annotated[str | None, typer.Option(help="OpenAI-compatible endpoint of the judge.")]
JudgeModel = Annotated[str | None, typer.Option(help="The judge's model name there.")]
JudgeKeyEnv = Annotated[str, typer.Option(help="The variable that holds the judge's key.")]
Questions = Annotated[
    Path | None, typer.Option(help="MT-Bench questions for the judge; default: the held-out rows.")
]
DEFAULT_METRICS = "perplexity,bleu,rouge,exact_match"

_KNOWN = ("perplexity", "bleu", "rouge", "exact_match", "judge")
_JUDGE_TOKENS = 256


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What was asked for on the command line."""

    names: Sequence[str]
    data: Path
    metrics: str
    max_rows: int
    answer_tokens: int
    language: str
    base: str | None
    store: Path
    runs: Path
    out: Path | None
    server: str | None
    api_key: str | None
    judge_url: str | None
    judge_model: str | None
    judge_key_env: str
    questions: Path | None


def run_evaluation(request: EvaluationRequest, console: Console, *, chart: bool) -> Path:
    """Measure, print the table, write the report; returns its folder.

    Raises `ConfigError` for options that can't be, else `TrainerError` or `AdapterError`.
    """
    from adapters.base.loading import load_base
    from adapters.base.training_guard import prepare_for_training
    from adapters.store import AdapterStore
    from trainer import defaults
    from trainer.candidates import common_base, find_candidate, quantization_of
    from trainer.comparison import Measuring, measure_all, read_held_out
    from trainer.comparison_report import CHART_FILE, comparison_table, draw_bars, write_report
    from trainer.labels import ConversationLabeller
    from trainer.metrics.judge import chat, read_questions

    metrics: Any = _metrics(request)
    store = AdapterStore(request.store)
    candidates = [find_candidate(name, store, request.base) for name in request.names]
    base = load_base(common_base(candidates), quantization_of(candidates[0]))
    prepare_for_training(base.model)
    labeller = ConversationLabeller(base.tokenizer, base.template.text)
    held_out = read_held_out(
        request.data,
        labeller,
        max_rows=request.max_rows,
        language=request.language,
        max_length=getattr(base.model.config, "max_position_embeddings", 0) or 1 << 20,
    )
    ask = None
    if request.judge_url is not None and request.judge_model is not None:
        key = os.environ.get(request.judge_key_env)
        ask = chat(request.judge_url, request.judge_model, key, max_tokens=_JUDGE_TOKENS)
    measuring = Measuring(
        metrics=metrics,
        answer_tokens=request.answer_tokens,
        batch_tokens=defaults.EVAL_BATCH_TOKENS,
        server=request.server,
        api_key=request.api_key,
        ask_judge=ask,
        questions=() if request.questions is None else read_questions(request.questions),
    )
    results = measure_all(base, candidates, held_out, labeller, measuring, console.print)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = request.out or request.runs / candidates[0].name / f"eval-{stamp}"
    settings = {
        "metrics": list(metrics),
        "answer_tokens": request.answer_tokens,
        "answered_by": request.server or "this process",
        "judge": request.judge_model,
    }
    write_report(folder, results, held_out, candidates[0].base, settings)
    if chart:
        draw_bars(results, folder / CHART_FILE)
    console.print(comparison_table(results, held_out))
    console.print(f"written to {folder}", highlight=False, soft_wrap=True)
    return folder


def _metrics(request: EvaluationRequest) -> tuple[str, ...]:
    metrics = tuple(name.strip() for name in request.metrics.split(",") if name.strip())
    problems = [
        f"--metrics: {name!r} is no metric; there are {', '.join(_KNOWN)}"
        for name in metrics
        if name not in _KNOWN
    ]
    if not metrics:
        problems.append(f"--metrics: name at least one of {', '.join(_KNOWN)}")
    if request.language not in ("auto", "en", "zh"):
        problems.append(f"--language: {request.language!r} is none of auto, en, zh")
    if "judge" in metrics and (request.judge_url is None or request.judge_model is None):
        problems.append("--metrics judge needs --judge-url and --judge-model")
    if problems:
        raise ConfigError(problems)
    return metrics
