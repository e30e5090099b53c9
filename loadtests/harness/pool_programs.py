"""The C++ programs of `loadtests/native`, compiled with a checkout's thread pool, and run."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loadtests.harness.command import MeasurementError
from server.native.build import SOURCE_DIR

PROGRAM_DIR = Path(__file__).parent.parent / "native"
YIELDS = ("-include", str(PROGRAM_DIR / "pool_yields.h"))
"""Forces a yield now and then before each atomic step."""
THREAD_SANITIZER = ("-g", "-fsanitize=thread")
# Until Clang 18 and GCC 14 the sanitizer can't place its shadow where the system randomises much.
_WITHOUT_ASLR = ("setarch", platform.machine(), "-R")
_HANG_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class PoolRun:
    """What one run of `pool_stress` came to. `failure` is empty when all was right."""

    num_calls: int
    num_phases: int
    hung: bool
    num_races: int
    failure: str


def compile_pool(
    program: str, target: Path, flags: Sequence[str] = (), sources: Path = SOURCE_DIR
) -> Path:
    """Compile `loadtests/native/PROGRAM.cpp` with the pool in `sources`.

    Raises `MeasurementError` where there is no g++ or it refuses.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise MeasurementError("no g++ on PATH; install it (Debian: apt-get install g++)")
    command = [
        compiler, "-O2", "-std=c++20", "-pthread", *flags, f"-I{sources}",
        str(PROGRAM_DIR / f"{program}.cpp"), str(sources / "pool.cpp"), "-o", str(target),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise MeasurementError(f"compiling {program} failed: {done.stderr.strip()}")
    return target


def stress_pool(program: Path, num_threads: int, seconds: float, *, sanitized: bool) -> PoolRun:
    """Run a compiled `pool_stress`; a hang is over within ten seconds."""
    prefix = _WITHOUT_ASLR if sanitized and _may_fix_addresses() else ()
    command = [*prefix, str(program), str(num_threads), str(seconds)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + 3 * _HANG_SECONDS
        )
    except subprocess.TimeoutExpired:
        return PoolRun(0, 0, True, 0, "HANG: not even its watchdog ended it")
    num_races = done.stderr.count("WARNING: ThreadSanitizer")
    words = done.stdout.split()
    if len(words) == 2 and words[0].isdigit():
        failure = done.stderr.strip() if done.returncode != 0 or num_races else ""
        return PoolRun(int(words[0]), int(words[1]), False, num_races, failure)
    failure = (done.stdout + done.stderr).strip() or f"ended with status {done.returncode}"
    return PoolRun(0, 0, "HANG" in done.stdout, num_races, failure)


@contextmanager
def busy_machine(num_processes: int) -> Iterator[None]:
    """Keeps so many processes spinning meanwhile."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num_processes)
    ]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def _may_fix_addresses() -> bool:
    """Whether this machine lets a program ask for addresses that aren't randomised."""
    if shutil.which("setarch") is None:
        return False
    return subprocess.run([*_WITHOUT_ASLR, "true"], capture_output=True).returncode == 0
