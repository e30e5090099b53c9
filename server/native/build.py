"""Compiles the kernels at first use and loads them.

The library is built once per instruction set, whole, with that set's own flags: so no function of
one set can leak into another, and choosing at run time is choosing a file. Plain C at the border,
through ctypes: no torch headers, so it compiles in seconds, and calls release the GIL.
"""

import atexit
import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from adapters.cache_folder import default_cache_dir
from adapters.file_trust import make_private_folder, writable_by_others
from server.native.abi import declare_functions
from server.native.memory import HugePageArena

_LOG = logging.getLogger(__name__)

SOURCE_DIR = Path(__file__).parent / "csrc"
COMPILE_FLAGS = (
    "-O3", "-std=c++20", "-fPIC", "-pthread", "-fvisibility=hidden",
    # A fused multiply-add here and not there would make a row's bits depend on its neighbours.
    "-ffp-contract=off", "-fno-math-errno",
)  # fmt: skip
COMPILE_TIMEOUT_SECONDS = 300
# Linux x86-64: <asm/unistd_64.h>, <asm/prctl.h>
_SYS_ARCH_PRCTL = 158
_ARCH_REQ_XCOMP_PERM = 0x1023
_XFEATURE_XTILEDATA = 18


class InstructionSet(Enum):
    """What the kernels can be built for, best first. The value is the name in logs and caches."""

    AMX_BF16 = "amx-bf16"
    AVX512_BF16 = "avx512-bf16"
    AVX2 = "avx2"
    AMX_EMULATED = "amx-emulated"
    """The AMX kernels over tile instructions in plain C: for tests, never chosen by itself."""

    @property
    def flags(self) -> tuple[str, ...]:
        common = ("-mavx2", "-mfma", "-mf16c")
        if self is InstructionSet.AVX2:
            return common
        avx512 = (
            *common, "-DSY_AVX512", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq",
            "-mavx512bf16", "-mavx512vnni",
        )  # fmt: skip
        if self is InstructionSet.AVX512_BF16:
            return avx512
        if self is InstructionSet.AMX_EMULATED:
            return (*avx512, "-DSY_AMX", "-DSY_AMX_EMULATED")
        return (*avx512, "-DSY_AMX", "-mamx-tile", "-mamx-bf16")

    @property
    def cpu_flags(self) -> frozenset[str]:
        """The words that /proc/cpuinfo must show."""
        if self is InstructionSet.AVX2:
            return frozenset({"avx2", "fma", "f16c"})
        avx512 = frozenset(
            {
                "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16", "avx512_vnni",
                "avx2", "fma",
            }
        )  # fmt: skip
        return avx512 | {"amx_tile", "amx_bf16"} if self is InstructionSet.AMX_BF16 else avx512

    @property
    def multiplies_bytes(self) -> bool:
        """Whether it has the products of int8 activations (csrc/weights/byte_tiles.h)."""
        return self is not InstructionSet.AVX2


@dataclass(frozen=True)
class NativeLibrary:
    """The loaded kernels: `functions` is the ctypes library with its signatures declared.

    Packed weights come from `arena`; other memory that steps stream (the adapter bank) may too.
    """

    path: Path
    instruction_set: InstructionSet
    functions: ctypes.CDLL
    arena: HugePageArena = field(default_factory=HugePageArena)


class NativeBuildError(Exception):
    """The kernels can't be built here; the message is the reason that goes to the log."""


def supported_instruction_sets(cpuinfo: str | None = None) -> tuple[InstructionSet, ...]:
    """What this processor runs, best first, emulation left out; empty off Linux x86-64."""
    if cpuinfo is None:
        path = Path("/proc/cpuinfo")
        if platform.machine() not in ("x86_64", "AMD64") or not path.exists():
            return ()
        cpuinfo = path.read_text()
    flags: set[str] = set()
    for line in cpuinfo.splitlines():
        if line.startswith("flags"):
            flags = set(line.partition(":")[2].split())
            break
    return tuple(
        candidate
        for candidate in InstructionSet
        if candidate.cpu_flags <= flags and candidate is not InstructionSet.AMX_EMULATED
    )


def request_tile_permission() -> bool:
    """Asks Linux for the AMX tile registers, once for all threads that this process starts later.

    False where the kernel or the processor has none (Documentation/arch/x86/xstate.rst).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    request = libc.syscall(
        ctypes.c_long(_SYS_ARCH_PRCTL), ctypes.c_long(_ARCH_REQ_XCOMP_PERM),
        ctypes.c_long(_XFEATURE_XTILEDATA),
    )  # fmt: skip
    return bool(request == 0)


def load_native(
    instruction_set: InstructionSet | None = None, *, cache_dir: Path | None = None
) -> NativeLibrary | None:
    """The kernels for this processor, compiled at first use (seconds), then read from the cache.

    `instruction_set` forces one (tests do). Returns None, with the reason in one log line, when the
    processor or the machine can't have them: the caller then uses plain torch.
    """
    supported = supported_instruction_sets()
    candidates = supported if instruction_set is None else (instruction_set,)
    is_emulated = instruction_set is InstructionSet.AMX_EMULATED
    needed = InstructionSet.AVX512_BF16 if is_emulated else instruction_set
    if not candidates or (needed is not None and needed not in supported):
        wanted = "AVX2" if instruction_set is None else instruction_set.value
        _LOG.warning("native kernels: off, this processor lacks %s; using plain torch", wanted)
        return None
    reason = ""
    for candidate in candidates:
        if candidate is InstructionSet.AMX_BF16 and not request_tile_permission():
            reason = "the system grants no AMX tiles"
            continue
        try:
            path = built_library(candidate, cache_dir or default_cache_dir() / "native")
            functions = ctypes.CDLL(str(path))
        except (NativeBuildError, OSError) as error:
            reason = str(error)
            continue
        declare_functions(functions)
        _LOG.info("native kernels: %s from %s", candidate.value, path)
        return NativeLibrary(path, candidate, functions)
    _LOG.warning("native kernels: off, %s; using plain torch", reason)
    return None


def built_library(instruction_set: InstructionSet, cache_dir: Path) -> Path:
    """The path of the compiled library, compiling it when the cache has none.

    Loading a library is running it: from a cache that others can write to nothing is loaded. This
    process then compiles its own, in a folder that goes when the process ends.
    """
    flags = (*COMPILE_FLAGS, *instruction_set.flags)
    library = cache_dir / f"{instruction_set.value}-{_fingerprint(flags)}" / "libswitchyard.so"
    if problem := writable_by_others(library, cache_dir):
        _LOG.warning(
            "native kernels: nothing is loaded from the cache, because %s; compiling them for this "
            "process alone", problem,
        )  # fmt: skip
        private = Path(tempfile.mkdtemp(prefix="switchyard-native-"))
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        library = private / library.name
    if not library.exists():
        _build(library, instruction_set, flags)
    return library


def _build(library: Path, instruction_set: InstructionSet, flags: Sequence[str]) -> None:
    compiler = _find_compiler()
    folder = library.parent
    make_private_folder(folder)
    with _locked(folder / ".lock"):
        if library.exists():  # another process built it while this one waited
            return
        started = time.monotonic()
        with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as aside:
            built = _compile(compiler, sorted(SOURCE_DIR.rglob("*.cpp")), flags, Path(aside))
            built.chmod(0o700)
            built.replace(library)
        seconds = time.monotonic() - started
        _LOG.info("native kernels: compiled for %s in %.1f s", instruction_set.value, seconds)


def _fingerprint(flags: Sequence[str]) -> str:
    digest = hashlib.sha256("\0".join((*flags, platform.machine())).encode())
    for source in sorted(SOURCE_DIR.rglob("*.*")):
        name = source.relative_to(SOURCE_DIR).as_posix()
        digest.update(name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def _find_compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise NativeBuildError(
        f"no C++ compiler ({', '.join(names)}) on PATH; install g++ to have them"
    )


def _compile(compiler: str, sources: Sequence[Path], flags: Sequence[str], folder: Path) -> Path:
    """Objects in parallel, then one shared library in `folder`."""

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.stem}.o"
        _run([compiler, *flags, "-I", str(SOURCE_DIR), "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        objects = list(pool.map(compile_one, sources))
    library = folder / "libswitchyard.so"
    _run([compiler, "-shared", "-pthread", *(str(o) for o in objects), "-o", str(library)])
    return library


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_SECONDS
        )
    except subprocess.CalledProcessError as error:
        errors = [line for line in error.stderr.splitlines() if "error" in line]
        raise NativeBuildError(f"compiling failed: {errors[0] if errors else error}") from error
    except subprocess.TimeoutExpired as error:
        raise NativeBuildError(f"compiling took over {COMPILE_TIMEOUT_SECONDS} s") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path` between processes."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)
