"""What a loaded base holds in memory."""

import sys
from pathlib import Path

import pytest

from adapters.base.loading import load_base
from adapters.base.quantization import NF4, UNQUANTIZED, QuantizationSpec
from tests.unit.adapters.base.tiny_base import tiny_folder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/maps is Linux's")


def is_mapped(folder: Path) -> bool:
    """Whether this process has a map of the weights in `folder`."""
    return f"{folder.resolve()}/model.safetensors" in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(("spec", "stays"), [(NF4, False), (UNQUANTIZED, True)])
def test_the_file_of_a_4_bit_base_is_let_go(
    tmp_path: Path, spec: QuantizationSpec, stays: bool
) -> None:
    """In another dtype nothing would be of the file: the tiny base is float32."""
    import torch

    folder = tiny_folder(tmp_path)
    loaded = load_base(str(folder), spec, dtype=torch.float32)
    assert is_mapped(folder) == stays
    weights = dict(loaded.model.named_parameters())["model.embed_tokens.weight"]
    assert weights.abs().sum() > 0
