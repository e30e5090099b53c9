"""`trainer verify`: does a running server compute what was trained?"""

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from trainer.commands.options import ApiKey, StoreReference, open_existing
from trainer.commands.telling import EXIT_FAILED, load_libraries, told_in_one_line
from trainer.config import defaults


def register(app: typer.Typer) -> None:
    app.command("verify")(verify)


def verify(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An adapter, or NAME@VERSION.")],
    server: Annotated[
        str,
        typer.Option("--server", metavar="URL", envvar="SWITCHYARD_SERVER", help="Where it runs."),
    ] = "http://127.0.0.1:8000",
    store: StoreReference = defaults.STORE,
    tokens: Annotated[int, typer.Option(min=1, help="Greedy tokens of each answer.")] = 16,
    api_key: ApiKey = None,
) -> None:
    """Compare a running server with the trainer's own forward: digests, greedy text, logprobs.

    The server must run in its default arithmetic. Exit code 1 when it serves other bytes, or
    answers otherwise.
    """
    console = Console()
    with told_in_one_line(console):
        load_libraries(console)
        from adapters.names import parse_ref
        from trainer.serving.parity import NEAR_TIE, verify_served

        stored = open_existing(store).get(parse_ref(name))
        report = verify_served(stored, server, api_key=api_key, num_tokens=tokens)
        same = report.digest_trained == report.digest_served
        console.print(
            f"digest: {'equal' if same else 'OTHER BYTES'} ({report.digest_trained[:23]}..., "
            f"served {report.digest_served[:23] or 'none'}...)",
            highlight=False,
        )
        for parity in report.prompts:
            console.print(Text(_line(parity.margin, parity.mine, parity.theirs, NEAR_TIE)))
        differences = [
            p.logprob_difference for p in report.prompts if p.logprob_difference is not None
        ]
        console.print(
            f"largest difference of a logprob: {max(differences):.4f}"
            if differences
            else "the server gives no logprobs; texts were compared",
            highlight=False,
        )
        if not report.holds:
            console.print("the server doesn't serve what was trained", style="bold red")
            raise typer.Exit(EXIT_FAILED)
        console.print(f"{stored.label} is served as it was trained", style="bold green")


def _line(margin: float | None, mine: str, theirs: str, near_tie: float) -> str:
    if margin is None:
        return f"equal: {mine!r}"
    verdict = "near tie" if margin < near_tie else "DIFFERENT"
    return f"{verdict} (margin {margin:.3f} logits): here {mine!r}, there {theirs!r}"
