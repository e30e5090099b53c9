"""The kernels for every instruction set that this processor runs, each built once."""

from collections.abc import Iterator

import pytest

from server.native.build import InstructionSet, load_native, supported_instruction_sets
from server.native.ops import NativeOps


@pytest.fixture(scope="session", params=supported_instruction_sets(), ids=lambda s: s.value)
def ops(request: pytest.FixtureRequest) -> Iterator[NativeOps]:
    """Two threads, whatever the machine has: the shared paths are then always taken."""
    instruction_set: InstructionSet = request.param
    library = load_native(instruction_set)
    assert library is not None, "the kernels must build where the tests run"
    native = NativeOps(library, num_threads=2)
    yield native
    native.close()
