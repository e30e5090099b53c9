"""The thread pool: every interleaving of its protocol, and the real one under forced yields."""

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from loadtests.harness.pool_programs import YIELDS, compile_pool, stress_pool
from server.native.build import SOURCE_DIR

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")

_TWO_THREADS = [
    *(" ".join(map(str, sizes)) for sizes in itertools.product((0, 1, 3), repeat=3) if any(sizes)),
    "1 3 / 0 / 2 1",
]
_THREE_THREADS = ["1 1", "1 / 2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("pool") / "model"
    source = Path(__file__).with_name("pool_model.cpp")
    subprocess.run(["g++", "-O2", "-std=c++20", str(source), "-o", str(target)], check=True)
    return target


def _explore(model: Path, variant: str, num_threads: int, calls: str) -> str:
    command = [str(model), variant, str(num_threads), *calls.split()]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_no_interleaving_hangs_or_loses_an_item(model: Path) -> None:
    for num_threads, cases in ((2, _TWO_THREADS), (3, _THREE_THREADS)):
        for calls in cases:
            told = _explore(model, "rising", num_threads, calls)
            assert told.startswith("STATES "), f"{num_threads} threads, {calls}: {told}"


@pytest.mark.parametrize(
    ("variant", "num_threads", "calls", "fault"),
    [
        pytest.param("store", 2, "1 3 1", "HANG", id="a late store sets a share back"),
        pytest.param("late-reset", 3, "1 3 1 1", "WRONG", id="the count is reset too late"),
        pytest.param("sleep-unannounced", 2, "1 3 1", "HANG", id="nobody wakes the sleeper"),
    ],
)
def test_the_model_finds_what_each_rule_prevents(
    model: Path, variant: str, num_threads: int, calls: str, fault: str
) -> None:
    assert _explore(model, variant, num_threads, calls).startswith(fault)


def test_the_pool_under_forced_yields_does_every_item_once(tmp_path: Path) -> None:
    program = compile_pool("pool_stress", tmp_path / "stress", YIELDS)
    for num_threads in (2, 3, 8):
        run = stress_pool(program, num_threads, 0.5, sanitized=False)
        assert run.failure == ""
        assert run.num_calls > 0


def test_the_stress_finds_a_late_store(tmp_path: Path) -> None:
    for name in ("pool.h", "pool.cpp"):
        shutil.copy(SOURCE_DIR / name, tmp_path)
    source = tmp_path / "pool.cpp"
    rising = "if (distance(phase_of(ticket), phase) >= 0) return;\n"
    text = source.read_text()
    assert text.count(rising) == 1
    source.write_text(text.replace(rising, ""))
    program = compile_pool("pool_stress", tmp_path / "stress", YIELDS, sources=tmp_path)
    assert stress_pool(program, 3, 5.0, sanitized=False).failure != ""
