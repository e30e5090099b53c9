"""The condition that a trained adapter must meet before it is published."""

import math
import re
from dataclasses import dataclass

from trainer.errors import ConfigError

_NUMBER = r"\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_PATTERN = re.compile(
    rf"\s*eval_loss\s*(?P<op><=?)\s*(?:(?:(?P<factor>{_NUMBER})\s*\*\s*)?base|(?P<limit>{_NUMBER}))\s*"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """`eval_loss OP factor * base`, or `eval_loss OP limit`; neither given means always open."""

    text: str
    inclusive: bool = False
    factor: float | None = None
    limit: float | None = None

    def threshold(self, base_loss: float) -> float | None:
        """The loss to stay under, given the base's own; None when the gate is always open."""
        if self.factor is not None:
            return self.factor * base_loss
        return self.limit

    def is_open(self, eval_loss: float, base_loss: float) -> bool:
        """Whether an adapter with `eval_loss` may be published. A loss that is NaN never passes."""
        if not math.isfinite(eval_loss):
            return False
        threshold = self.threshold(base_loss)
        if threshold is None:
            return True
        return eval_loss <= threshold if self.inclusive else eval_loss < threshold

    def explain(self, eval_loss: float, base_loss: float) -> str:
        """One sentence with the measured values."""
        threshold = self.threshold(base_loss)
        if threshold is None:
            return f"no gate (eval loss {eval_loss:.4f}, base {base_loss:.4f})"
        verdict = "holds" if self.is_open(eval_loss, base_loss) else "does not hold"
        sign = "<=" if self.inclusive else "<"
        return (
            f"gate `{self.text}` {verdict}: eval loss {eval_loss:.4f} {sign} {threshold:.4f} "
            f"(base {base_loss:.4f})"
        )


def parse_gate(text: str) -> Gate:
    """`eval_loss < base`, `eval_loss < 0.7 * base`, `eval_loss <= 1.5`, or `none`.

    Raises `ConfigError` for anything else.
    """
    if text.strip() == "none":
        return Gate("none")
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ConfigError(
            [
                f"{text!r} is no gate; write `eval_loss < base`, `eval_loss < 0.7 * base`, "
                "`eval_loss < 1.5` or `none`"
            ]
        )
    inclusive = match["op"] == "<="
    if match["limit"] is not None:
        return Gate(text.strip(), inclusive, limit=float(match["limit"]))
    return Gate(text.strip(), inclusive, factor=float(match["factor"] or 1.0))
