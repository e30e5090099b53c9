"""What the numbers of an adapter say, dtype by dtype."""

import struct
from pathlib import Path

import pytest

from adapters.errors import InspectionError
from adapters.format.tensor_values import check_values
from adapters.store.store import AdapterStore
from tests.unit.adapters.peft_folder import Tensors, lora_tensors, write_folder

KEY = "base_model.model.m.q_proj.lora_B.weight"
NAN = {
    "F64": struct.pack("<d", float("nan")),
    "F32": struct.pack("<f", float("inf")),
    "F16": struct.pack("<e", float("-inf")),
    "BF16": struct.pack("<f", float("nan"))[2:],
    "F8_E5M2": b"\x7c",
    "F8_E4M3": b"\xff",
}
LARGEST = {
    "F64": struct.pack("<d", 1.7e308),
    "F32": struct.pack("<f", 3.4e38),
    "F16": struct.pack("<e", 65504),
    "BF16": b"\x7f\x7f",
    "F8_E5M2": b"\x7b",
    "F8_E4M3": b"\x7e",
}


def _folder(path: Path, dtype: str, value: bytes, padding: int = 3) -> Path:
    data = bytes(len(value) * padding) + value + bytes(len(value) * padding)
    tensors: Tensors = {KEY: (dtype, (1, 2 * padding + 1), data)}
    return write_folder(path, tensors=tensors)


@pytest.mark.parametrize("dtype", NAN)
def test_not_finite(tmp_path: Path, dtype: str) -> None:
    check_values(_folder(tmp_path / "largest", dtype, LARGEST[dtype]))
    with pytest.raises(InspectionError, match="holds NaN or infinite values in base_model"):
        check_values(_folder(tmp_path / "nan", dtype, NAN[dtype]))


def test_a_nan_far_into_a_large_tensor(tmp_path: Path) -> None:
    with pytest.raises(InspectionError, match="NaN or infinite"):
        check_values(_folder(tmp_path, "BF16", NAN["BF16"], padding=700_001))


@pytest.mark.parametrize(("dtype", "minus_zero"), [("F32", b"\0\0\0\x80"), ("BF16", b"\0\x80")])
def test_no_effect(tmp_path: Path, dtype: str, minus_zero: bytes) -> None:
    with pytest.raises(InspectionError, match="every lora_B is zero"):
        check_values(_folder(tmp_path / "zero", dtype, minus_zero))
    smallest = b"\x01" + bytes(len(minus_zero) - 1)
    check_values(_folder(tmp_path / "small", dtype, smallest))


def test_imports_check_the_values(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "store")
    with pytest.raises(InspectionError, match="the adapter has no effect"):
        store.import_folder("sql", write_folder(tmp_path / "zero", tensors=lora_tensors(fill=0)))
    with pytest.raises(InspectionError, match=r"NaN or infinite values in .* and 5 more tensors"):
        store.import_folder("sql", write_folder(tmp_path / "nan", tensors=lora_tensors(fill=255)))
    assert store.names() == ()
    assert list((store.root / ".staging").iterdir()) == []
