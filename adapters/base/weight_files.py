"""The safetensors files of a base: whole, readable, and full of numbers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from adapters.base.errors import BaseUnreadableError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"

_BITSANDBYTES_PARTS = {
    ".absmax": ("", ".quant_map"),
    ".quant_map": ("", ".absmax"),
    ".SCB": (".weight",),
    ".weight_format": (".weight", ".SCB"),
}
"""The tensors that a 4-bit and an 8-bit weight are stored as: by one, those that go with it."""


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files that transformers reads. Raises `BaseUnreadableError` where one isn't there."""
    single, index = folder / _SINGLE, folder / _INDEX
    if single.is_file():
        return (single,)
    if not index.is_file():
        raise BaseUnreadableError(
            f"it has neither {_SINGLE} nor {_INDEX}; save the model with save_pretrained"
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BaseUnreadableError(f"{_INDEX} is no index of weights; fetch it again") from error
    files = tuple(folder / str(name) for name in names)
    if absent := [file.name for file in files if not file.is_file()]:
        raise BaseUnreadableError(
            f"{_INDEX} names {absent[0]}, which isn't there ({len(absent)} of {len(files)} files "
            "are missing); fetch the model again"
        )
    return files


def check_weight_files(folder: Path) -> None:
    """Read every tensor of a base once.

    Raises `BaseUnreadableError` with the file's name if it is truncated or its header doesn't fit
    it, and with the tensor's name if that holds NaN or an infinity: such a model answers noise. A
    4-bit code wouldn't tell, for bitsandbytes passes over NaN in a block. Costs one pass over the
    file, which loading then finds in memory; holds one tensor at a time.
    """
    files = weight_files(folder)
    names = {name for file in files for name in _names(file)}
    if lacking := sorted(_lacking_parts(names)):
        raise BaseUnreadableError(
            f"its files lack {lacking[0]}, a part of quantised weights ({len(lacking)} such "
            "parts); fetch the model again"
        )
    for file in files:
        for name, tensor in _tensors(file):
            # Codes may be kept as the bytes of a floating-point dtype.
            if f"{name}.absmax" not in names and not _is_finite(tensor):
                raise BaseUnreadableError(
                    f"the tensor {name} in {file.name} holds NaN or infinite values; fetch the "
                    "model again, or save it from a sound checkpoint"
                )


def _lacking_parts(names: set[str]) -> set[str]:
    """What bitsandbytes' weights lack: a code goes with its scales."""
    wanted: set[str] = set()
    for sign, parts in _BITSANDBYTES_PARTS.items():
        stems = {name.removesuffix(sign) for name in names if name.endswith(sign)}
        wanted |= {stem + part for stem in stems for part in parts}
    return wanted - names


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise BaseUnreadableError(
            f"{file.name} is truncated or damaged ({error}); fetch it again"
        ) from error


def _names(file: Path) -> list[str]:
    with _opened(file) as opened:
        return list(opened.keys())


def _tensors(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    with _opened(file) as opened:
        for name in opened.keys():  # noqa: SIM118 - it is no mapping
            yield name, opened.get_tensor(name)


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether floating-point values are all numbers; without a copy of more than a row of it."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.dtype.itemsize == 1:  # float8: no reductions
        tensor = tensor.to(torch.bfloat16)
    low, high = torch.aminmax(tensor)  # both are NaN where a value is
    return bool(low.isfinite() & high.isfinite())
