from pathlib import Path

from loadtests.kinds_parity import measure
from tests.unit.base.tiny_base import tiny_folder


def test_kinds_over_an_nf4_base_equal_peft(tmp_path: Path) -> None:
    """One kind of each mechanism; the command itself measures them all."""
    base = str(tiny_folder(tmp_path / "base"))
    for result in measure(base, 1, ("lora", "dora", "ia3", "prefix_tuning")):
        assert result.same_tokens, result
        assert max(result.alone, result.mixed, result.stacked or 0.0) < 2e-4, result
