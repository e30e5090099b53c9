import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import TensorFileError
from adapters.format.tensor_header import MAX_HEADER_BYTES, read_tensor_header
from tests.unit.adapters.peft_folder import lora_tensors, raw_safetensors, safetensors_bytes


def _write(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(data)
    return path


def _entry(dtype: str, shape: list[Any], begin: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_sound_file(tmp_path: Path) -> None:
    tensors = lora_tensors()
    path = _write(tmp_path, safetensors_bytes(tensors, {"format": "pt"}))
    entries = read_tensor_header(path)
    assert list(entries) == list(tensors)
    data = path.read_bytes()
    for name, (dtype, shape, content) in tensors.items():
        entry = entries[name]
        assert (entry.dtype, entry.shape) == (dtype, tuple(shape))
        assert data[entry.begin : entry.end] == content


def test_a_file_of_the_library(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    path = tmp_path / "a.safetensors"
    save_file({"x": numpy.ones((2, 3), "float16"), "y": numpy.zeros((0, 4), "float32")}, path)
    shapes = {name: (e.dtype, e.shape) for name, e in read_tensor_header(path).items()}
    assert shapes == {"x": ("F16", (2, 3)), "y": ("F32", (0, 4))}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has 0 bytes"),
        (b"\1\0\0", "has 3 bytes"),
        ((2 << 30).to_bytes(8, "little") + b"{}", f"at most {MAX_HEADER_BYTES}"),
        ((2**64 - 1).to_bytes(8, "little") + b"{}", f"at most {MAX_HEADER_BYTES}"),
        ((100).to_bytes(8, "little") + b"{}", "truncated"),
        (raw_safetensors(b"[]"), "must hold a JSON object"),
        (raw_safetensors(b"{nonsense"), "isn't valid JSON"),
        (raw_safetensors(b'{"a":' * 100 + b"1" + b"}" * 100), "nested deeper"),
        (b"PK\x03\x04" + b"\0" * 60, "pickle"),
        (b"\x80\x02ctorch\n" + b"\0" * 60, "pickle"),
        (raw_safetensors(b'{"__metadata__": {"a": 1}}'), "__metadata__ must map"),
        (raw_safetensors(b"{}", b"more"), "4 bytes at its end belong to no tensor"),
    ],
)
def test_malformed_files(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(TensorFileError, match=reason):
        read_tensor_header(_write(tmp_path, data))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (_entry("F32", [2], 0, 8) | {"more": 1}, "exactly dtype, shape"),
        (_entry("Q4", [2], 0, 8), "unknown dtype 'Q4'"),
        (_entry("F32", [-2], 0, 8), "isn't a list of up to"),
        (_entry("F32", [2.0], 0, 8), "isn't a list of up to"),
        (_entry("F32", [True, 2], 0, 8), "isn't a list of up to"),
        (_entry("F32", [1 << 63], 0, 8), "isn't a list of up to"),
        (_entry("F32", [1] * 17, 0, 8), "isn't a list of up to"),
        (_entry("F32", [1 << 40, 1 << 40], 0, 8), "span 8"),
        (_entry("F32", [2], 8, 0), "aren't"),
        (_entry("F32", [2], -8, 0), "aren't"),
        (_entry("F32", [2], "0", 8), "aren't"),
        (_entry("F32", [3], 0, 8), "takes 12 bytes, but its data_offsets span 8"),
        ([], "exactly dtype, shape"),
    ],
)
def test_wrong_entries(tmp_path: Path, entry: Any, reason: str) -> None:
    data = raw_safetensors(json.dumps({"t": entry}).encode(), b"\0" * 8)
    with pytest.raises(TensorFileError, match=reason):
        read_tensor_header(_write(tmp_path, data))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"a": _entry("U8", [8], 0, 8), "b": _entry("U8", [8], 4, 12)}, "tensor b overlaps"),
        ({"a": _entry("U8", [8], 0, 8), "b": _entry("U8", [8], 0, 8)}, "overlaps"),
        ({"a": _entry("U8", [4], 0, 4), "b": _entry("U8", [4], 8, 12)}, "4 bytes before tensor b"),
        ({"a": _entry("U8", [12], 0, 12), "b": _entry("U8", [9], 12, 21)}, "truncated"),
    ],
)
def test_wrong_layouts(tmp_path: Path, entries: dict[str, Any], reason: str) -> None:
    data = raw_safetensors(json.dumps(entries).encode(), b"\0" * 12)
    with pytest.raises(TensorFileError, match=reason):
        read_tensor_header(_write(tmp_path, data))


def test_a_name_twice(tmp_path: Path) -> None:
    entry = json.dumps(_entry("U8", [4], 0, 4))
    header = f'{{"t": {entry}, "t": {entry}}}'.encode()
    with pytest.raises(TensorFileError, match="'t' occurs twice"):
        read_tensor_header(_write(tmp_path, raw_safetensors(header, b"\0" * 4)))


def test_every_problem_is_told(tmp_path: Path) -> None:
    entries = {f"t{index}": _entry("Q4", [1], 0, 4) for index in range(40)}
    with pytest.raises(TensorFileError) as caught:
        read_tensor_header(_write(tmp_path, raw_safetensors(json.dumps(entries).encode())))
    assert len(caught.value.problems) == 40
    assert str(caught.value).endswith("- and 15 more")


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    data = safetensors_bytes(lora_tensors({"m": (2, 2)}, rank=1))
    for length in range(len(data)):
        with pytest.raises(TensorFileError):
            read_tensor_header(_write(tmp_path, data[:length]))


@given(data=st.data())
def test_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    sound = bytearray(safetensors_bytes(lora_tensors({"m": (2, 2)}, rank=1)))
    for _ in range(data.draw(st.integers(1, 4))):
        sound[data.draw(st.integers(0, len(sound) - 1))] = data.draw(st.integers(0, 255))
    path = _write(tmp_path_factory.mktemp("damaged"), bytes(sound))
    try:
        entries = read_tensor_header(path)
    except TensorFileError:
        return
    spans = sorted((entry.begin, entry.end) for entry in entries.values())
    assert spans[0][0] >= 8
    assert spans[-1][1] == len(sound)
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_a_header_whose_length_looks_like_a_pickle(tmp_path: Path) -> None:
    """640 bytes: its length begins with the two bytes that a pickle of protocol 2 begins with."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(640)
    (tmp_path / "a.safetensors").write_bytes(raw_safetensors(header, b"\0" * 4))
    assert list(read_tensor_header(tmp_path / "a.safetensors")) == ["a"]
