"""`python -m server.model.base_check REFERENCE`: can this base be served? One line of JSON.

It is answered by what the server itself does when it starts: the model floor is put together, with
room for one short sequence. `trainer check` asks it in a process of its own, so that whoever trains
hears the server's sentence before step 1 rather than after the last.
"""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from adapters.base.quantization import QuantizationSpec
from adapters.errors import AdapterError
from server.core.errors import SwitchyardError
from server.model.assembly import ModelSettings, assemble_model

_BLOCK_SIZE = 16
_MIB = 1 / 1024  # of a GiB
_CACHE_GIB = 64 * _MIB
"""Room for a block of the largest models, where a token takes a few MiB."""


@dataclass(frozen=True, slots=True)
class BaseAnswer:
    """`problem` is the sentence with which a server refuses the base; None when it serves it."""

    problem: str | None
    backend: str | None = None


def check_base(reference: str, quantization: QuantizationSpec, device: str) -> BaseAnswer:
    """Load the base as a server does, and say whether it would serve it. Takes its memory."""
    settings = ModelSettings(
        base=reference,
        quantization=quantization,
        device=device,
        dtype="auto",
        backend="auto",
        max_model_len=None,
        block_size=_BLOCK_SIZE,
        kv_cache_gib=_CACHE_GIB,
        num_adapter_pages=1,
        max_batch_tokens=_BLOCK_SIZE,
        max_num_sequences=1,
    )
    try:
        return BaseAnswer(None, assemble_model(settings).backend)
    except (SwitchyardError, AdapterError) as error:
        return BaseAnswer(str(error))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a `BaseAnswer` as JSON; the status is 0 whatever it is."""
    parser = argparse.ArgumentParser(prog="python -m server.model.base_check")
    parser.add_argument("reference")
    parser.add_argument("--quantization", default="nf4", choices=("nf4", "fp4", "none"))
    parser.add_argument("--no-double-quant", action="store_true")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args(argv)
    is_double = given.quantization != "none" and not given.no_double_quant
    spec = QuantizationSpec(given.quantization, double_quant=is_double)
    logging.basicConfig(level=logging.ERROR)
    answer = check_base(given.reference, spec, given.device)
    sys.stdout.write(f"{json.dumps(asdict(answer))}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
