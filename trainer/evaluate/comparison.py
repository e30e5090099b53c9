"""Base against adapters on the same held-out rows."""

from collections.abc import Callable, Sequence
from typing import Any

from adapters.base.loading import LoadedBase
from trainer.evaluate.candidates import Candidate
from trainer.evaluate.measuring import BASE_LABEL, Measured, Meter
from trainer.tuning.biases import biases_put_back
from trainer.tuning.peft_loading import load_adapter
from trainer.tuning.tuning import bare_base


def measure_all(
    base: LoadedBase,
    candidates: Sequence[Candidate],
    meter: Meter,
    tell: Callable[[str], None],
) -> list[Measured]:
    """The base first, then every adapter on that same base. The base is as before afterwards.

    Raises `EvaluationError` when a server or a judge can't be asked.
    """
    tell(f"measuring {BASE_LABEL}")
    results = [meter.measure(base.model, BASE_LABEL, base.resolved.model_id)]
    model: Any = base.model
    for candidate in candidates:
        tell(f"measuring {candidate.label}")
        with biases_put_back(model):
            peft_model = load_adapter(model, candidate.folder)
            results.append(
                meter.measure(
                    peft_model, candidate.label, candidate.served_name, against=results[0]
                )
            )
            model = bare_base(peft_model)
    return results
