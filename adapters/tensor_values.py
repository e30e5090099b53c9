"""What an adapter's numbers say: all finite, and not without effect. Reads every tensor once."""

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from adapters.errors import InspectionError, TensorFileError
from adapters.folder_files import WEIGHTS_FILE
from adapters.tensor_header import DTYPE_BYTES, TensorEntry, read_tensor_header

_CHUNK_BYTES = 1 << 20

# dtype -> the bits, of the last two little-endian bytes, that are all set in NaN and infinity.
_EXPONENTS: Mapping[str, int] = {
    "F64": 0x7FF0, "F32": 0x7F80, "F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C00,
    "F8_E4M3": 0x7F00,
}  # fmt: skip
_MAX_NAMED = 3


def check_values(folder: Path) -> None:
    """Raises `InspectionError` where the numbers of a PEFT folder can't be meant.

    That is NaN or infinity in a tensor, or a LoRA whose every delta is zero because each lora_B is.
    Raises `OSError` when the file can't be read.
    """
    path = folder / WEIGHTS_FILE
    try:
        entries = read_tensor_header(path)
    except TensorFileError as error:
        raise InspectionError(f"the adapter in {folder} can't be used:", error.problems) from error
    not_finite: list[str] = []
    is_zero: dict[str, bool] = {}
    with path.open("rb") as file:
        for entry in entries.values():
            file.seek(entry.begin)
            finite, zero = _read(file, entry)
            is_zero[entry.name] = zero
            if not finite:
                not_finite.append(entry.name[:200])
    problems = []
    if not_finite:
        more = len(not_finite) - _MAX_NAMED
        problems.append(
            f"{WEIGHTS_FILE} holds NaN or infinite values in {', '.join(not_finite[:_MAX_NAMED])}"
            + (f" and {more} more tensors" if more > 0 else "")
            + ": the training that made it diverged"
        )
    elif _has_no_effect(is_zero):
        problems.append(
            "every lora_B is zero, so that every delta is: the adapter has no effect (is it "
            "untrained?)"
        )
    if problems:
        raise InspectionError(f"the adapter in {folder} can't be used:", problems)


def _has_no_effect(is_zero: Mapping[str, bool]) -> bool:
    """Whether there are only LoRA factors and every B is zero."""
    sides = [name.rpartition(".lora_")[2] for name in is_zero]
    if not sides or not all(side in ("A.weight", "B.weight") for side in sides):
        return False
    return all(zero for name, zero in is_zero.items() if name.endswith(".lora_B.weight"))


def _read(file: BinaryIO, entry: TensorEntry) -> tuple[bool, bool]:
    """Whether the tensor that begins here is finite, and whether it is zero."""
    left = entry.end - entry.begin
    finite = zero = True
    while left:
        chunk = file.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise OSError(f"{entry.name} became shorter while it was read")
        left -= len(chunk)
        finite = finite and _is_finite(chunk, entry.dtype)
        zero = zero and _is_zero(chunk, entry.dtype)
    return finite, zero


def _is_finite(chunk: bytes, dtype: str) -> bool:
    """No NumPy here, and no need: few last bytes can end a NaN, and real weights have none."""
    mask = _EXPONENTS.get(dtype)
    if mask is None:
        return True
    width = DTYPE_BYTES[dtype]
    last = chunk[width - 1 :: width]
    suspects = [byte for byte in range(256) if byte & mask >> 8 == mask >> 8 and byte in last]
    if not suspects:
        return True
    if not mask & 0xFF:
        return False
    before = chunk[width - 2 :: width]
    pairs = zip(last, before, strict=True)
    return not any(high in suspects and low & mask & 0xFF == mask & 0xFF for high, low in pairs)


def _is_zero(chunk: bytes, dtype: str) -> bool:
    """-0.0 is zero too: the sign's bit doesn't count."""
    width = DTYPE_BYTES[dtype]
    if any(any(chunk[place::width]) for place in range(width - 1)):
        return False
    return not chunk[width - 1 :: width].strip(b"\0\x80" if dtype in _EXPONENTS else b"\0")
