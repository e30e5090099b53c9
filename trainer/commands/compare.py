"""`trainer compare`: several adapters against their base in one table and one chart."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer import defaults
from trainer.commands.evaluating import (
    DEFAULT_METRICS,
    AnswerTokens,
    BaseRef,
    DataPath,
    EvaluationRequest,
    JudgeKeyEnv,
    JudgeModel,
    JudgeUrl,
    Language,
    MaxRows,
    Metrics,
    Out,
    Questions,
    run_evaluation,
)
from trainer.commands.options import ApiKey, RunsPath, ServerUrl, StorePath
from trainer.commands.telling import load_libraries, told_in_one_line


def register(app: typer.Typer) -> None:
    app.command("compare")(compare)


def compare(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME|FOLDER...", help="In the store, or folders.")
    ],
    data: DataPath,
    metrics: Metrics = DEFAULT_METRICS,
    max_rows: MaxRows = 200,
    answer_tokens: AnswerTokens = 256,
    language: Language = "auto",
    base: BaseRef = None,
    store: StorePath = Path(defaults.STORE),
    runs: RunsPath = Path(defaults.RUNS),
    out: Out = None,
    server: ServerUrl = None,
    api_key: ApiKey = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_key_env: JudgeKeyEnv = "OPENAI_API_KEY",
    questions: Questions = None,
) -> None:
    """Measure adapters and their one base on the same held-out rows; draws a bar chart."""
    console = Console()
    with told_in_one_line(console):
        request = EvaluationRequest(
            names, data, metrics, max_rows, answer_tokens, language, base, store, runs, out,
            server, api_key, judge_url, judge_model, judge_key_env, questions,
        )  # fmt: skip
        load_libraries(console)
        run_evaluation(request, console, chart=True)
