"""Can a server serve this base at all? Asked of the server's own code, in another process.

The trainer imports nothing of the server's; what starts it by name ends before the base is loaded
here, so its memory is given back first.
"""

import json
import subprocess
import sys
from collections.abc import Sequence

from adapters.base.quantization import QuantizationSpec
from trainer.errors import ServingError

_MODULE = "server.model.base_check"
_COMMAND = (sys.executable, "-m", _MODULE)


def require_servable(
    reference: str,
    quantization: QuantizationSpec,
    device: str,
    command: Sequence[str] = _COMMAND,
) -> None:
    """Raises `ServingError` with the sentence that a server of `reference` would end with.

    `command` prints the answer for the arguments that follow it.
    """
    options = ["--quantization", quantization.scheme, "--device", device]
    if not quantization.double_quant:
        options.append("--no-double-quant")
    done = subprocess.run(
        [*command, reference, *options], capture_output=True, text=True, check=False
    )
    try:
        problem = json.loads(done.stdout.strip().rpartition("\n")[2])["problem"]
    except (ValueError, KeyError, TypeError) as error:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ServingError(
            f"a server of {reference} would fail: {lines[-1]}; "
            f"see `python -m {_MODULE} {reference}`"
        ) from error
    if problem is not None:
        raise ServingError(f"a server would refuse this base: {problem}")
