"""What packing is worth on short chat rows: packed beside padded, in one run.

    python -m loadtests.packing                  # about 3 minutes on 2 idle cores
    python -m loadtests.packing --quick          # a tiny base: proves that it runs

Two trainings by the trainer's own loop over the same rows, with as many tokens a step, one step at
a time in turns. Without packing, rows of like length share a forward, so that little is padded;
`loadtests.training` has TRL's padding of rows as they come.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.training import run_training

PADDED = "padded, like lengths together"
SIDES: Mapping[str, Mapping[str, Any]] = {
    "packed": {"kind": "ours", "folder": "packed", "packing": True},
    PADDED: {"kind": "ours", "folder": "padded", "packing": False},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 when a side failed."""
    return run_training("packing", __doc__ or "", argv, SIDES, PADDED)


if __name__ == "__main__":
    sys.exit(main())
