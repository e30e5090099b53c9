"""`trainer check`: everything that can be known before step 1."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainer.commands.options import (
    EPILOG,
    OVERRIDES,
    ApiKey,
    ConfigPath,
    ServerUrl,
    StoreReference,
)
from trainer.commands.telling import load_libraries, told_in_one_line
from trainer.config import defaults
from trainer.config.loading import LoadedConfig, load_config


def register(app: typer.Typer) -> None:
    app.command("check", context_settings=OVERRIDES, epilog=EPILOG)(check)


def check(
    context: typer.Context,
    config: ConfigPath,
    store: StoreReference = defaults.STORE,
    server: ServerUrl = None,
    api_key: ApiKey = None,
    model_shape: Annotated[
        str | None,
        typer.Option(
            help="Only predict this config's memory on llama-7b, llama-13b or llama-65b.",
        ),
    ] = None,
    trial: Annotated[
        bool, typer.Option(help="Take two forwards to predict how long the run takes.")
    ] = True,
) -> None:
    """Check everything that can be known before step 1, and predict memory and time.

    Config, data, chat template, method against base and against what a server accepts. Trains
    nothing, writes nothing. Exit code 1 means that the run, or a server, would refuse.
    """
    console = Console()
    with told_in_one_line(console):
        loaded = load_config(config, context.args)
        load_libraries(console)
        if model_shape is not None:
            _predict_for_shape(loaded, model_shape, console)
        else:
            _check(loaded, store, server, api_key, trial, console)


def _predict_for_shape(loaded: LoadedConfig, name: str, console: Console) -> None:
    from trainer.methods.model_shape import named_shape
    from trainer.methods.quantization import quantization_for
    from trainer.prediction.activations import ForwardSize
    from trainer.prediction.memory import BatchSizes, predict_memory
    from trainer.prediction.tables import memory_table

    config = loaded.config
    tokens = config.training.batch_tokens or config.data.max_length
    prediction = predict_memory(
        config,
        named_shape(name),
        quantization_for(config),
        BatchSizes(ForwardSize(tokens, tokens), ForwardSize(0, 0)),
        element_bytes=4 if config.training.compute_dtype == "float32" else 2,
    )
    title = f"{name}, {config.method}, {tokens} tokens a forward, predicted"
    console.print(memory_table(prediction, title))


def _check(
    loaded: LoadedConfig,
    store: str,
    server: str | None,
    api_key: str | None,
    trial: bool,
    console: Console,
) -> None:
    from adapters.base.modules import linear_modules
    from adapters.store.remote_store import is_remote, open_store
    from trainer.errors import ServingError
    from trainer.methods.quantization import quantization_for
    from trainer.methods.targets import BaseGeometry, match_modules
    from trainer.prediction.run_memory import predict_run_memory
    from trainer.prediction.tables import duration_text, memory_table
    from trainer.prediction.trial import predict_seconds
    from trainer.preflight.prepare import prepare_run
    from trainer.serving.base_check import require_servable
    from trainer.serving.serving_check import (
        base_problems,
        format_note,
        name_note,
        serving_problems,
    )
    from trainer.serving.serving_limits import ServingLimits, limits_of

    limits = ServingLimits() if server is None else limits_of(server, loaded.config.name, api_key)
    if loaded.config.training_method.publishes_adapter:
        with console.status("asking the server's code about the base"):
            require_servable(
                loaded.config.base, quantization_for(loaded.config), loaded.config.training.device
            )
    ready = prepare_run(loaded, console)
    run = ready.config
    problems = serving_problems(
        run,
        match_modules(run, linear_modules(ready.base.model)),
        BaseGeometry.of(ready.base.model.config),
        limits,
        num_steps=ready.plan.num_steps,
    )
    longest = int(ready.data.train.lengths.max())
    problems += base_problems(ready.base, ready.labeller, longest, limits)
    # Looking must not make a store where there is none.
    opened = open_store(store) if is_remote(store) or Path(store).is_dir() else None
    for note in (f"name: {name_note(run.name, opened, limits)}", format_note(ready.base, limits)):
        if note:
            console.print(note, highlight=False, soft_wrap=True)
    console.print(memory_table(predict_run_memory(ready)))
    if trial:
        predicted = predict_seconds(ready)
        console.print(
            f"time: about {duration_text(predicted.run_seconds)}, evaluations included "
            f"({predicted.trial_seconds:.1f} s for a forward and backward over "
            f"{predicted.trial_tokens} tokens)",
            highlight=False,
        )
    if problems and run.training_method.publishes_adapter:
        lines = "\n".join(f"- {problem}" for problem in problems)
        raise ServingError(f"a server would refuse this adapter:\n{lines}")
    console.print("all checks passed", style="bold green")
