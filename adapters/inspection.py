"""What a PEFT folder holds and whether it can be served, from its config and tensor header alone.

No tensor is read and nothing is executed. Every problem is told at once.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from adapters.errors import DocumentError, InspectionError, TensorFileError
from adapters.folder_files import CONFIG_FILE, WEIGHTS_FILE, list_folder
from adapters.lora_config import LoraConfig, parse_lora_config, read_adapter_config
from adapters.tensor_header import TensorEntry, read_tensor_header

KEY_PREFIX = "base_model.model."
_LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.{1,256})\.lora_(?P<side>[AB])\.weight")
_FACTOR_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
_MAX_LISTED = 12

# A part of a key -> what such tensors are. The first that fits names the tensor's kind.
_UNSERVED_KEYS: tuple[tuple[str, str], ...] = (
    ("lora_magnitude_vector", "DoRA magnitudes"),
    ("lora_embedding_", "LoRA on embeddings"),
    (".lora_A.bias", "LoRA biases"),
    (".lora_B.bias", "LoRA biases"),
    (".bias", "trained biases"),
    ("modules_to_save", "fully trained modules"),
    ("trainable_tokens", "trained token embeddings"),
    ("ia3_l", "IA3 vectors"),
    ("prompt_embeddings", "prompt tuning"),
    ("prompt_encoder", "prompt tuning"),
    ("lora_E", "AdaLoRA singular values"),
    ("lora_ranknum", "AdaLoRA ranks"),
)


@dataclass(frozen=True, slots=True)
class AdapterInspection:
    """An adapter folder that can be served.

    `method` is PEFT's name in lower case, `rank` the largest rank of a module, `alpha` the
    config's `lora_alpha`, `ranks` module -> rank. `matched` are the modules whose shapes fit the
    base; `unmatched` those that were compared with none, because no base was given.
    `size_bytes` is the weights file's.
    """

    method: str
    rank: int
    alpha: float
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    size_bytes: int
    base_reference: str | None
    ranks: Mapping[str, int]


@dataclass(slots=True)
class _Factors:
    """The A [r, in] and B [out, r] of one module, as far as they are there."""

    sides: dict[str, TensorEntry] = field(default_factory=dict)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.sides["A"].shape, self.sides["B"].shape


def inspect_adapter(
    folder: Path, base_modules: Mapping[str, tuple[int, int]] | None = None
) -> AdapterInspection:
    """Inspect a PEFT folder, against a base when `base_modules` (name -> (in, out)) is given.

    Reads the folder's listing, `adapter_config.json` and the header of `adapter_model.safetensors`.
    Raises `InspectionError` with all problems; a module that the base doesn't have is one, because
    an adapter that is applied in part is another adapter.
    """
    problems: list[str] = []
    files = _files(folder, problems)
    config = _config(files.get(CONFIG_FILE), problems)
    entries = _entries(files.get(WEIGHTS_FILE), problems)
    modules = _group(entries, problems)
    ranks = _check_factors(modules, config, problems)
    if base_modules is not None and modules:
        problems += _base_problems(modules, base_modules, config)
    if problems or config is None:
        raise InspectionError(f"the adapter in {folder} can't be used:", problems)
    names = tuple(ranks)
    return AdapterInspection(
        method="lora",
        rank=max(ranks.values()),
        alpha=config.alpha,
        matched=() if base_modules is None else names,
        unmatched=names if base_modules is None else (),
        size_bytes=files[WEIGHTS_FILE].stat().st_size,
        base_reference=config.base_reference,
        ranks=MappingProxyType(ranks),
    )


def _files(folder: Path, problems: list[str]) -> dict[str, Path]:
    try:
        listing = list_folder(folder)
    except OSError as error:
        problems.append(f"the folder can't be read: {error.strerror}")
        raise InspectionError(f"the adapter in {folder} can't be used:", problems) from error
    problems += listing.problems
    blamed = {problem.partition(" ")[0] for problem in listing.problems}
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in listing.files and name not in blamed:
            problems.append(f"{name} is missing")
    return listing.files


def _config(path: Path | None, problems: list[str]) -> LoraConfig | None:
    if path is None:
        return None
    try:
        return parse_lora_config(read_adapter_config(path), problems)
    except DocumentError as error:
        problems.append(str(error))
        return None


def _entries(path: Path | None, problems: list[str]) -> dict[str, TensorEntry] | None:
    if path is None:
        return None
    try:
        return read_tensor_header(path)
    except TensorFileError as error:
        problems += [f"{WEIGHTS_FILE}: {problem}" for problem in error.problems]
        return None


def _group(entries: dict[str, TensorEntry] | None, problems: list[str]) -> dict[str, _Factors]:
    """Module -> factors; what is no LoRA factor goes to `problems`, counted by kind."""
    modules: dict[str, _Factors] = {}
    others: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for key in sorted(entries or {}):
        match = _LORA_KEY.fullmatch(key)
        if match is not None:
            assert entries is not None
            modules.setdefault(match["module"], _Factors()).sides[match["side"]] = entries[key]
            continue
        kind = next((title for part, title in _UNSERVED_KEYS if part in key), "unknown tensors")
        others[kind] += 1
        examples.setdefault(kind, key[:200])
    for kind, count in others.items():
        problems.append(
            f"{kind} aren't served yet: {count} tensor{'s' * (count != 1)}, such as "
            f"{examples[kind]}; a LoRA factor is {KEY_PREFIX}MODULE.lora_A.weight or .lora_B.weight"
        )
    if entries is not None and not modules:
        problems.append(f"{WEIGHTS_FILE} holds no LoRA factor")
    return modules


def _check_factors(
    modules: Mapping[str, _Factors], config: LoraConfig | None, problems: list[str]
) -> dict[str, int]:
    """Module -> rank of the modules whose factors agree with each other and with the config."""
    ranks: dict[str, int] = {}
    for module, factors in modules.items():
        wrong = _factor_problems(module, factors, config)
        problems += wrong
        if not wrong:
            ranks[module] = factors.shapes[0][0]
    return ranks


def _factor_problems(module: str, factors: _Factors, config: LoraConfig | None) -> list[str]:
    if set(factors.sides) != {"A", "B"}:
        (there,) = factors.sides
        other = "B" if there == "A" else "A"
        return [f"{module} has lora_{there} without lora_{other}"]
    problems = [
        f"{module}: lora_{side} is {entry.dtype}; factors are one of "
        f"{', '.join(sorted(_FACTOR_DTYPES))}"
        for side, entry in factors.sides.items()
        if entry.dtype not in _FACTOR_DTYPES
    ]
    a, b = factors.shapes
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or 0 in a + b:
        return [
            *problems,
            f"{module}: lora_A {list(a)} and lora_B {list(b)} don't multiply: they must be "
            "[r, in] and [out, r]",
        ]
    if config is not None:
        if a[0] != config.rank_of(module):
            problems.append(
                f"{module} has rank {a[0]}, but {CONFIG_FILE} says {config.rank_of(module)}"
            )
        if not config.targets(module):
            problems.append(f"{module} isn't among target_modules of {CONFIG_FILE}")
    return problems


def _base_problems(
    modules: Mapping[str, _Factors],
    base_modules: Mapping[str, tuple[int, int]],
    config: LoraConfig | None,
) -> list[str]:
    made_for = f" (made for {config.base_reference})" if config and config.base_reference else ""
    missing = [module for module in modules if module not in base_modules]
    if len(missing) == len(modules):
        return [
            f"no module of the adapter{made_for} is in this base: another base model, or another "
            f"naming. The adapter has {_listed(modules)}; the base has {_listed(base_modules)}"
        ]
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of {len(modules)} modules of the adapter{made_for} aren't in this "
            f"base: {_listed(missing)}; the base has {_listed(base_modules)}"
        )
    for module, factors in modules.items():
        if module in base_modules and set(factors.sides) == {"A", "B"}:
            a, b = factors.shapes
            actual, wanted = (a[-1:], b[:1]), base_modules[module]
            if actual != ((wanted[0],), (wanted[1],)):
                problems.append(
                    f"{module}: lora_A {list(a)} and lora_B {list(b)} don't fit this base's "
                    f"{wanted[0]} inputs and {wanted[1]} outputs: the adapter{made_for} is for "
                    "another base model"
                )
    return problems


def _listed(names: Mapping[str, object] | list[str]) -> str:
    """Every name once, the layer numbers replaced by `*`."""
    kinds = list(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\.)", "*", name) for name in names))
    rest = len(kinds) - _MAX_LISTED
    text = ", ".join(kinds[:_MAX_LISTED]) + (f" and {rest} more" if rest > 0 else "")
    return text or "none"
