"""What `adapters import --fold` does."""

from pathlib import Path

import typer

from adapters.base.quantization import QuantizationSpec
from adapters.errors import FoldError
from adapters.folding.order import MAX_ERROR, FoldSpec
from adapters.store.alias_notes import publish_note
from adapters.store.remote_store import open_store


def fold_into(
    store: str,
    name: str,
    folder: Path,
    base: str | None,
    quantization: str,
    rank: int | None,
    max_error: float | None,
    *,
    stage: bool = False,
) -> None:
    """Fold, publish, and print what was lost. Raises `AdapterError`."""
    if base is None:
        raise FoldError("--fold needs the base that the adapter is for: give it with --base")
    if folder.suffix == ".tar":
        raise FoldError(f"{folder} is an archive: --fold takes a PEFT folder")
    spec = FoldSpec(
        name, base, _format(quantization), rank, MAX_ERROR if max_error is None else max_error
    )
    opened = open_store(store)
    # Folding needs torch and PEFT; the rest of the command starts without.
    from adapters.folding.fold import fold_adapter

    before = opened.alias(name)
    folded = fold_adapter(opened, folder, spec, set_alias=not stage)
    stored = folded.stored
    typer.echo(
        f"folded {folded.method} into {stored.label} {stored.digest}, a LoRA of rank "
        f"{stored.rank}\n"
        f"lost of a module's change: {folded.worst_error:.3%} at most, {folded.mean_error:.3%} on "
        f"average (Frobenius)\n"
        f"logits on the golden prompts: at most {folded.logit_difference:.2g} from PEFT's own "
        f"model, of the {folded.logit_effect:.2g} that the adapter changes them by"
    )
    typer.echo(publish_note(stored, before, opened.alias(name)), nl=False)


def _format(quantization: str) -> QuantizationSpec:
    if quantization not in ("nf4", "fp4", "none"):
        raise FoldError(f"--quantization is {quantization!r}; it is nf4, fp4 or none")
    if quantization == "none":
        return QuantizationSpec(scheme="none", double_quant=False)
    return QuantizationSpec(scheme="fp4" if quantization == "fp4" else "nf4")
