"""What a PEFT folder holds and whether it can be served, from its config and tensor header alone.

No tensor is read and nothing is executed. Every problem is told at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from adapters.errors import DocumentError, InspectionError, TensorFileError, first_dozen
from adapters.format.adapter_config import (
    AdapterConfig,
    PromptConfig,
    parse_adapter_config,
    read_adapter_config,
)
from adapters.format.base_fit import base_problems
from adapters.format.folder_files import CONFIG_FILE, WEIGHTS_FILE, list_folder
from adapters.format.lora_config import LoraConfig
from adapters.format.tensor_checks import ModuleTensors, module_problems, rank_of
from adapters.format.tensor_header import TensorEntry, read_tensor_header
from adapters.format.tensor_roles import KEY_PREFIX, TensorRole, parse_tensor_key


@dataclass(frozen=True, slots=True)
class AdapterInspection:
    """An adapter folder that can be served.

    `method` is PEFT's name in lower case, `rank` the largest rank of a module (0 without factors),
    `alpha` the config's `lora_alpha` (0 where there is none), `ranks` module -> rank. `matched` are
    the modules whose shapes fit the base; `unmatched` those that were compared with none, because
    no base was given. `size_bytes` is the weights file's. `num_virtual_tokens` come before the
    prompt; with `invocation_token_ids` the adapter acts from those on. `parts` are the kinds of
    tensors in it.
    """

    method: str
    rank: int
    alpha: float
    matched: tuple[str, ...]
    unmatched: tuple[str, ...]
    size_bytes: int
    base_reference: str | None
    ranks: Mapping[str, int]
    num_virtual_tokens: int = 0
    invocation_token_ids: tuple[int, ...] = ()
    parts: tuple[TensorRole, ...] = ()

    def describe(self) -> str:
        """What it is, for a person: `a lora adapter of rank 8 over 28 modules`."""
        if self.num_virtual_tokens:
            return f"a {self.method} adapter of {self.num_virtual_tokens} virtual tokens"
        modules = len(self.matched) + len(self.unmatched)
        of_rank = f" of rank {self.rank}" if self.rank else ""
        return f"a {self.method} adapter{of_rank} over {modules} modules"


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
    modules: dict[str, ModuleTensors] = {}
    if config is not None and entries is not None:
        modules = _group(entries, problems)
        problems += first_dozen(_tensor_problems(modules, config))
        problems += _emptiness(modules, config)
        if base_modules is not None and modules:
            problems += first_dozen(base_problems(modules, base_modules, config.base_reference))
    if problems or config is None:
        raise InspectionError(f"the adapter in {folder} can't be used:", problems)
    ranks = {
        module: rank
        for module, t in modules.items()
        if (rank := rank_of(t)) is not None and not _wraps_parameters(config, module)
    }
    names = tuple(module for module in modules if module)
    return AdapterInspection(
        method=config.method,
        rank=max(ranks.values(), default=0),
        alpha=config.alpha if isinstance(config, LoraConfig) else 0.0,
        matched=() if base_modules is None else names,
        unmatched=names if base_modules is None else (),
        size_bytes=files[WEIGHTS_FILE].stat().st_size,
        base_reference=config.base_reference,
        ranks=MappingProxyType(ranks),
        num_virtual_tokens=config.num_virtual_tokens if isinstance(config, PromptConfig) else 0,
        invocation_token_ids=config.invocation_token_ids if isinstance(config, LoraConfig) else (),
        parts=tuple(role for role in TensorRole if any(role in t for t in modules.values())),
    )


def _wraps_parameters(config: AdapterConfig, module: str) -> bool:
    """Whether the module's factors are of bare parameters, which take no rank pages."""
    return isinstance(config, LoraConfig) and config.wraps_parameters(module)


def _files(folder: Path, problems: list[str]) -> dict[str, Path]:
    try:
        listing = list_folder(folder)
    except OSError as error:
        problems.append(f"the folder can't be read: {error.strerror}")
        raise InspectionError(f"the adapter in {folder} can't be used:", problems) from error
    problems += first_dozen(listing.problems)
    blamed = {problem.partition(" ")[0] for problem in listing.problems}
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if name not in listing.files and name not in blamed:
            problems.append(f"{name} is missing")
    return listing.files


def _config(path: Path | None, problems: list[str]) -> AdapterConfig | None:
    if path is None:
        return None
    try:
        found: list[str] = []
        config = parse_adapter_config(read_adapter_config(path), found)
    except DocumentError as error:
        problems.append(str(error))
        return None
    problems += first_dozen(found)
    return config


def _entries(path: Path | None, problems: list[str]) -> Mapping[str, TensorEntry] | None:
    if path is None:
        return None
    try:
        return read_tensor_header(path)
    except TensorFileError as error:
        problems += [f"{WEIGHTS_FILE}: {problem}" for problem in first_dozen(error.problems)]
        return None


def _group(entries: Mapping[str, TensorEntry], problems: list[str]) -> dict[str, ModuleTensors]:
    """Module -> tensors by role; what can't be told goes to `problems`, once."""
    modules: dict[str, dict[TensorRole, TensorEntry]] = {}
    unknown: list[str] = []
    for name in sorted(entries):
        key = parse_tensor_key(name)
        if key is None or key.role in modules.get(key.module, {}):
            unknown.append(name)
        else:
            modules.setdefault(key.module, {})[key.role] = entries[name]
    if unknown:
        problems.append(
            f"{len(unknown)} tensor{'s' * (len(unknown) != 1)} of unknown meaning, such as "
            f"{unknown[0][:200]}; a LoRA factor is {KEY_PREFIX}MODULE.lora_A.weight or "
            ".lora_B.weight"
        )
    return dict(modules)


def _tensor_problems(modules: Mapping[str, ModuleTensors], config: AdapterConfig) -> list[str]:
    """What is wrong within the modules."""
    if isinstance(config, LoraConfig) and (problem := config.matching_problem(modules)) is not None:
        return [problem]
    return [
        problem
        for module, tensors in modules.items()
        for problem in module_problems(module, tensors, config)
    ]


def _emptiness(modules: Mapping[str, ModuleTensors], config: AdapterConfig) -> list[str]:
    """A file without anything that could have an effect."""
    roles = {role for tensors in modules.values() for role in tensors} - {TensorRole.BASE_COPY}
    if not roles:
        return [f"{WEIGHTS_FILE} holds no tensor of a {config.method} adapter"]
    if isinstance(config, PromptConfig) and TensorRole.PROMPT not in roles:
        return [f"{WEIGHTS_FILE} holds no prompt_embeddings"]
    return []
