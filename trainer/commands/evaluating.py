"""What `eval` and `compare` do, and the options they do it with."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console

from trainer.commands.options import ApiKey, RunsPath, ServerUrl, StoreReference, open_existing
from trainer.commands.telling import load_libraries, told_in_one_line
from trainer.config import EvaluationSection, JudgeSection, defaults
from trainer.config.evaluation import JUDGED, Metric
from trainer.errors import ConfigError

BaseRef = Annotated[str | None, typer.Option("--base", help="Default: what the adapter says.")]


def evaluate(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME|FOLDER...", help="In the store, or adapter or run folders."),
    ],
    data: Annotated[Path, typer.Option("--data", help="Held-out rows, in any known format.")],
    metrics: Annotated[
        str, typer.Option(help=f"Of {', '.join(get_args(Metric))}; with commas between.")
    ] = "perplexity,bleu,rouge,exact_match",
    max_rows: Annotated[
        int, typer.Option(min=1, help="Rows, evenly spread over the file.")
    ] = defaults.METRIC_ROWS,
    answer_tokens: Annotated[
        int, typer.Option(min=1, help="How long an answer may be.")
    ] = defaults.ANSWER_TOKENS,
    language: Annotated[
        str, typer.Option(help="en, zh or auto: how BLEU and ROUGE split words.")
    ] = "auto",
    base: BaseRef = None,
    store: StoreReference = defaults.STORE,
    runs: RunsPath = Path(defaults.RUNS),
    out: Annotated[Path | None, typer.Option(help="Default: RUNS/NAME/eval-TIME.")] = None,
    server: ServerUrl = None,
    api_key: ApiKey = None,
    judge_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint of the judge.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's model name there.")] = None,
    judge_key_env: Annotated[
        str, typer.Option(help="The variable that holds the judge's key.")
    ] = "OPENAI_API_KEY",
    judge_held_to_form: Annotated[
        bool,
        typer.Option(
            "--judge-held-to-form",
            help="Replies are verdicts alone, by a JSON schema; the judge's endpoint has to know "
            "structured outputs.",
        ),
    ] = False,
    questions: Annotated[
        Path | None,
        typer.Option(help="MT-Bench questions for the judge; default: the held-out rows."),
    ] = None,
) -> None:
    """Measure an adapter, or several of one base, and their base on the same held-out rows.

    Rows are read and cleaned as the config of the adapter's run says. Prints a table, draws bars.
    """
    console = Console()
    with told_in_one_line(console):
        section = _section(
            metrics, max_rows, answer_tokens, language,
            JudgeSection(
                url=judge_url, model=judge_model, api_key_env=judge_key_env,
                held_to_form=judge_held_to_form,
                questions=None if questions is None else str(questions),
            ),
        )  # fmt: skip
        load_libraries(console)
        _evaluate(_Asked(names, data, base, store, runs, out, server, api_key), section, console)


@dataclass(frozen=True, slots=True)
class _Asked:
    names: Sequence[str]
    data: Path
    base: str | None
    store: str
    runs: Path
    out: Path | None
    server: str | None
    api_key: str | None


def _evaluate(asked: _Asked, section: EvaluationSection, console: Console) -> None:
    """Measure, print the table, write the report.

    Raises `TrainerError` or `AdapterError`.
    """
    from adapters.base.loading import load_base
    from adapters.base.training_guard import prepare_for_training
    from trainer.data.labels import ConversationLabeller
    from trainer.evaluate.candidates import (
        common_base,
        common_reading,
        find_candidate,
        quantization_of,
    )
    from trainer.evaluate.comparison import measure_all
    from trainer.evaluate.comparison_report import (
        CHART_FILE,
        comparison_table,
        draw_bars,
        write_report,
    )
    from trainer.evaluate.held_out import read_held_out
    from trainer.evaluate.measuring import Meter, measuring_for

    def tell(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    measuring = measuring_for(section, Path(), server=asked.server, api_key=asked.api_key)
    candidates = [
        find_candidate(name, lambda: open_existing(asked.store), asked.base) for name in asked.names
    ]
    reading = common_reading(candidates, asked.data, tell)
    base = load_base(common_base(candidates), quantization_of(candidates[0]))
    prepare_for_training(base.model)
    labeller = ConversationLabeller(base.tokenizer, base.template.text)
    held_out = read_held_out(
        asked.data,
        reading,
        labeller,
        max_rows=section.max_rows,
        language=section.language,
        max_length=getattr(base.model.config, "max_position_embeddings", 0) or 1 << 20,
        tell=tell,
    )
    results = measure_all(base, candidates, Meter(base, held_out, labeller, measuring), tell)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = asked.out or asked.runs / candidates[0].name / f"eval-{stamp}"
    write_report(folder, results, held_out, candidates[0].base, measuring)
    draw_bars(results, folder / CHART_FILE)
    console.print(comparison_table(results, held_out))
    tell(f"written to {folder}")


def _section(
    metrics: str, max_rows: int, answer_tokens: int, language: str, judge: JudgeSection
) -> EvaluationSection:
    """The options as the section that a config has for the same. Raises `ConfigError`."""
    known = get_args(Metric)
    names = tuple(name.strip() for name in metrics.split(",") if name.strip())
    problems = [
        f"--metrics: {name!r} is no metric; there are {', '.join(known)}"
        for name in names
        if name not in known
    ]
    if not names:
        problems.append(f"--metrics: name at least one of {', '.join(known)}")
    if language not in ("auto", "en", "zh"):
        problems.append(f"--language: {language!r} is none of auto, en, zh")
    judged = [name for name in JUDGED if name in names]
    if judged and (judge.url is None or judge.model is None):
        problems.append(f"--metrics {judged[0]} needs --judge-url and --judge-model")
    if not judged:
        problems += [
            f"{option}: has no effect without {' or '.join(JUDGED)} in --metrics"
            for option, value in (
                ("--judge-url", judge.url),
                ("--judge-model", judge.model),
                ("--judge-held-to-form", judge.held_to_form or None),
                ("--questions", judge.questions),
            )
            if value is not None
        ]
    if problems:
        raise ConfigError(problems)
    return EvaluationSection.model_validate(
        {
            "metrics": names, "max_rows": max_rows, "answer_tokens": answer_tokens,
            "language": language, "judge": judge,
        }
    )  # fmt: skip
