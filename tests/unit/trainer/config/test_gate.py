"""Publish gates."""

import math

import pytest

from trainer.config.gate import parse_gate
from trainer.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "loss", "base", "opens"),
    [
        ("eval_loss < base", 1.9, 2.0, True),
        ("eval_loss < base", 2.0, 2.0, False),
        ("eval_loss <= base", 2.0, 2.0, True),
        ("eval_loss < 0.7 * base", 1.39, 2.0, True),
        ("eval_loss < 0.7*base", 1.41, 2.0, False),
        ("eval_loss < 1.5", 1.4, 0.1, True),
        ("eval_loss < 15e-1", 1.6, 9.0, False),
        ("none", 9.0, 1.0, True),
        ("none", math.nan, 1.0, False),
        ("eval_loss < base", math.nan, 1.0, False),
    ],
)
def test_gates(text: str, loss: float, base: float, opens: bool) -> None:
    assert parse_gate(text).is_open(loss, base) is opens


@pytest.mark.parametrize("text", ["", "eval_loss > base", "loss < base", "eval_loss < -1", "base"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no gate"):
        parse_gate(text)


def test_explanation_has_both_numbers() -> None:
    text = parse_gate("eval_loss < 0.7 * base").explain(1.5, 2.0)
    assert "does not hold: eval loss 1.5000 < 1.4000 (base 2.0000)" in text
