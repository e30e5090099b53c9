"""What an adapter's numbers say: all finite, and not without effect."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

from adapters.errors import DocumentError, InspectionError, TensorFileError
from adapters.format.adapter_image import AdapterImage, read_image
from adapters.format.folder_files import WEIGHTS_FILE
from adapters.format.tensor_header import DTYPE_BYTES, TensorEntry

_CHUNK_BYTES = 1 << 20  # a multiple of every width

# dtype -> the bits, of the last two little-endian bytes, that are all set in NaN and infinity.
_EXPONENTS: Mapping[str, int] = {
    "F64": 0x7FF0, "F32": 0x7F80, "F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C00,
    "F8_E4M3": 0x7F00,
}  # fmt: skip
_MAX_NAMED = 3

# dtype -> the last bytes that a NaN or infinity can have.
_SUSPECTS: Mapping[str, tuple[int, ...]] = {
    dtype: tuple(byte for byte in range(256) if byte & mask >> 8 == mask >> 8)
    for dtype, mask in _EXPONENTS.items()
}


def check_values(folder: Path) -> None:
    """Raises `InspectionError` where the numbers of a PEFT folder can't be meant, or can't be read.

    See `value_problem`.
    """
    try:
        image = read_image(folder)
    except TensorFileError as error:
        raise InspectionError(f"the adapter in {folder} can't be used:", error.problems) from error
    except DocumentError as error:
        raise InspectionError(f"the adapter in {folder} can't be used:", [str(error)]) from error
    if problem := value_problem(image):
        raise InspectionError(f"the adapter in {folder} can't be used:", [problem])


def value_problem(image: AdapterImage) -> str | None:
    """NaN or infinity in a tensor, or a LoRA whose every delta is zero because each lora_B is."""
    entries = list(image.entries.values())
    not_finite: list[str] = []
    # Neighbours of one type are looked at as one: hundreds of tensors are small.
    for dtype, group in groupby(entries, key=lambda entry: entry.dtype):
        run = list(group)
        if not _is_finite(image.data, run[0].begin, run[-1].end, dtype):
            not_finite += [
                entry.name[:200]
                for entry in run
                if not _is_finite(image.data, entry.begin, entry.end, dtype)
            ]
    if not_finite:
        more = len(not_finite) - _MAX_NAMED
        return (
            f"{WEIGHTS_FILE} holds NaN or infinite values in {', '.join(not_finite[:_MAX_NAMED])}"
            + (f" and {more} more tensors" if more > 0 else "")
            + ": the training that made it diverged"
        )
    if _has_no_effect(image):
        return (
            "every lora_B is zero, so that every delta is: the adapter has no effect (is it "
            "untrained?)"
        )
    return None


def _has_no_effect(image: AdapterImage) -> bool:
    """Whether there are only LoRA factors and every B is zero."""
    sides = [name.rpartition(".lora_")[2] for name in image.entries]
    if not sides or not all(side in ("A.weight", "B.weight") for side in sides):
        return False
    return all(
        _is_zero(image.data, entry)
        for name, entry in image.entries.items()
        if name.endswith(".lora_B.weight")
    )


def _is_finite(data: bytearray, begin: int, end: int, dtype: str) -> bool:
    """No NumPy here, and no need: few last bytes can end a NaN, and real weights have none."""
    mask = _EXPONENTS.get(dtype)
    if mask is None:
        return True
    width = DTYPE_BYTES[dtype]
    for start in range(begin, end, _CHUNK_BYTES):
        stop = min(start + _CHUNK_BYTES, end)
        last = data[start + width - 1 : stop : width]
        found = [byte for byte in _SUSPECTS[dtype] if byte in last]
        if not found:
            continue
        if not mask & 0xFF:
            return False
        before = data[start + width - 2 : stop : width]
        pairs = zip(last, before, strict=True)
        if any(high in found and low & mask & 0xFF == mask & 0xFF for high, low in pairs):
            return False
    return True


def _is_zero(data: bytearray, entry: TensorEntry) -> bool:
    """-0.0 is zero too: the sign's bit doesn't count."""
    width = DTYPE_BYTES[entry.dtype]
    signs = b"\0\x80" if entry.dtype in _EXPONENTS else b"\0"
    for start in range(entry.begin, entry.end, _CHUNK_BYTES):
        chunk = data[start : min(start + _CHUNK_BYTES, entry.end)]
        if any(any(chunk[place::width]) for place in range(width - 1)):
            return False
        if chunk[width - 1 :: width].strip(signs):
            return False
    return True
