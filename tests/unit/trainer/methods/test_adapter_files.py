"""The files of a trained adapter: what `adapter_config.json` says."""

import json
from pathlib import Path

import pytest
import torch

from adapters.format.module_patterns import PatternTable
from trainer.methods.adapter_files import write_adapter_files


@pytest.mark.parametrize("table", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_table_means_on_disk_what_it_meant_in_training(
    tmp_path: Path, table: str
) -> None:
    """PEFT 0.21.2's own `save_pretrained` sorts the tables, and of two patterns that match a module
    the first counts: an adapter came back with another scale. Shown by
    `findings/peft_sorts_its_pattern_tables.sh`."""
    patterns = {"q_proj": 8, r"layers\.0\.self_attn\.q_proj": 32}
    write_adapter_files({}, {"r": 8, table: patterns, "bias": "none"}, tmp_path, torch.float32)

    document = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))

    assert list(document) == sorted(document)
    assert list(document[table]) == list(patterns)
    assert PatternTable(document[table]).value("model.layers.0.self_attn.q_proj", 1) == 8
