"""Whether the tensors of one module fit each other and the config, from shapes alone."""

from collections.abc import Mapping

from adapters.format.adapter_config import AdapterConfig, Ia3Config, PromptConfig, TokensConfig
from adapters.format.adapter_config import token_ids_of as tokens_by_module
from adapters.format.config_values import names_module
from adapters.format.folder_files import CONFIG_FILE
from adapters.format.lora_config import LoraConfig
from adapters.format.tensor_header import TensorEntry
from adapters.format.tensor_roles import TensorRole

FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})

EMBEDDING_NAMES = ("embed_tokens", "wte", "word_embeddings", "embed_in", "embedding", "tok_embed")
HEAD_NAMES = ("lm_head", "embed_out", "output_layer")
"""What transformers' causal models call the token embedding and the output head."""

ModuleTensors = Mapping[TensorRole, TensorEntry]

_PAIRS = (
    (TensorRole.LORA_A, TensorRole.LORA_B, "lora_A", "lora_B"),
    (TensorRole.EMBEDDING_A, TensorRole.EMBEDDING_B, "lora_embedding_A", "lora_embedding_B"),
)


def module_problems(module: str, tensors: ModuleTensors, config: AdapterConfig) -> list[str]:
    """Everything wrong with one module's tensors ("" holds the virtual tokens)."""
    problems = [
        f"{module or 'the file'}: the {role.value} is {entry.dtype}; adapters' tensors are one of "
        f"{', '.join(sorted(FLOAT_DTYPES))}"
        for role, entry in tensors.items()
        if entry.dtype not in FLOAT_DTYPES
    ]
    problems += [
        problem for role in tensors if (problem := _unwanted(module, role, config)) is not None
    ]
    if problems:
        return problems
    match config:
        case PromptConfig():
            return _prompt_problems(tensors, config)
        case LoraConfig():
            problems = _factor_problems(module, tensors, config)
        case Ia3Config() | TokensConfig():
            problems = []
    return problems + _vector_problems(module, tensors, config)


def rank_of(tensors: ModuleTensors) -> int | None:
    """The rank of a module with factors."""
    for role in (TensorRole.LORA_A, TensorRole.EMBEDDING_A):
        if role in tensors:
            return tensors[role].shape[0]
    return None


def token_ids_for(module: str, config: AdapterConfig) -> tuple[int, ...] | None:
    """The trained tokens of `module`, or None where the config names none for it."""
    for name, ids in tokens_by_module(config).items():
        if not name or names_module((name,), module):
            return ids
    return None


def _unwanted(module: str, role: TensorRole, config: AdapterConfig) -> str | None:
    """Why a tensor of this role can't be there, if so."""
    found = f"{module or 'the file'} has a {role.value}"
    is_lora = isinstance(config, LoraConfig)
    is_adalora = isinstance(config, LoraConfig) and config.is_adalora
    expected: dict[TensorRole, bool] = {
        TensorRole.LORA_A: is_lora,
        TensorRole.LORA_B: is_lora,
        TensorRole.LORA_B_BIAS: is_lora and not is_adalora,
        TensorRole.EMBEDDING_A: is_lora and not is_adalora,
        TensorRole.EMBEDDING_B: is_lora and not is_adalora,
        TensorRole.SINGULAR_VALUES: is_adalora,
        TensorRole.IA3: isinstance(config, Ia3Config),
        TensorRole.PROMPT: isinstance(config, PromptConfig),
        TensorRole.BASE_COPY: is_lora,
    }
    if role in expected:
        return None if expected[role] else f"{found}, which {config.method} adapters don't"
    if role is TensorRole.MAGNITUDE:
        is_dora = isinstance(config, LoraConfig) and config.use_dora
        return None if is_dora else f"{found}, but use_dora isn't set in {CONFIG_FILE}"
    if role is TensorRole.TOKENS:
        named = token_ids_for(module, config) is not None
        return None if named else f"{found}, but {CONFIG_FILE} names no tokens for it"
    saved: frozenset[str] = getattr(config, "modules_to_save", frozenset())
    if role is TensorRole.BIAS:
        is_trained = isinstance(config, LoraConfig) and config.bias != "none"
        allowed = is_trained or names_module(saved, module)
        return None if allowed else f"{found}, but bias is 'none' in {CONFIG_FILE}"
    if not names_module(saved, module):
        return f"{found}, but isn't among modules_to_save of {CONFIG_FILE}"
    if not names_module(EMBEDDING_NAMES + HEAD_NAMES, module):
        return (
            f"{found}: of fully trained modules only the token embedding and the output head are "
            "served; train the others with LoRA"
        )
    return None


def _prompt_problems(tensors: ModuleTensors, config: PromptConfig) -> list[str]:
    shape = tensors[TensorRole.PROMPT].shape
    if shape == config.shape:
        return []
    return [
        f"prompt_embeddings is {list(shape)}; {CONFIG_FILE} makes it {list(config.shape)} "
        f"({config.num_virtual_tokens} virtual tokens)"
    ]


def _factor_problems(module: str, tensors: ModuleTensors, config: LoraConfig) -> list[str]:
    problems = []
    for role_a, role_b, name_a, name_b in _PAIRS:
        if (role_a in tensors) != (role_b in tensors):
            there, other = (name_a, name_b) if role_a in tensors else (name_b, name_a)
            problems.append(f"{module} has {there} without {other}")
        elif role_a in tensors:
            problems += _pair_problems(module, tensors, config, role_a, role_b)
    has_a = TensorRole.LORA_A in tensors
    if config.use_dora and (has_a or TensorRole.EMBEDDING_A in tensors):
        if TensorRole.EMBEDDING_A in tensors:
            problems.append(f"{module}: DoRA on an embedding isn't served; leave it out of DoRA")
        elif TensorRole.MAGNITUDE not in tensors:
            problems.append(f"{module} has no DoRA magnitude, but use_dora is set")
    if config.is_adalora and has_a and TensorRole.SINGULAR_VALUES not in tensors:
        problems.append(f"{module} has lora_A without lora_E")
    lone = {TensorRole.MAGNITUDE, TensorRole.LORA_B_BIAS, TensorRole.SINGULAR_VALUES}
    problems += [
        f"{module} has a {role.value} without lora_A"
        for role in tensors
        if role in lone and not has_a
    ]
    return problems


def _pair_problems(
    module: str,
    tensors: ModuleTensors,
    config: LoraConfig,
    role_a: TensorRole,
    role_b: TensorRole,
) -> list[str]:
    a, b = tensors[role_a].shape, tensors[role_b].shape
    is_pruned = config.is_adalora and a[:1] == (0,) and b[1:] == (0,)
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or (0 in a + b and not is_pruned):
        return [
            f"{module}: lora_A {list(a)} and lora_B {list(b)} don't multiply: they must be "
            "[r, in] and [out, r]"
        ]
    if config.wraps_parameters(module):
        return []
    problems = []
    rank = config.rank_of(module)
    if rank is not None and a[0] != rank:
        problems.append(f"{module} has rank {a[0]}, but {CONFIG_FILE} says {rank}")
    if not config.targets(module):
        problems.append(f"{module} isn't among target_modules of {CONFIG_FILE}")
    for role in (TensorRole.MAGNITUDE, TensorRole.LORA_B_BIAS):
        if role in tensors and tensors[role].shape not in ((b[0],), (1, b[0])):
            problems.append(
                f"{module}: the {role.value} is {list(tensors[role].shape)}, and B has {b[0]} "
                "outputs"
            )
    values = tensors.get(TensorRole.SINGULAR_VALUES)
    if values is not None and values.shape != (a[0], 1):
        problems.append(f"{module}: lora_E is {list(values.shape)}, and A has rank {a[0]}")
    return problems


def _vector_problems(module: str, tensors: ModuleTensors, config: AdapterConfig) -> list[str]:
    problems = []
    vector = tensors.get(TensorRole.IA3)
    if vector is not None and (
        len(vector.shape) != 2 or 1 not in vector.shape or 0 in vector.shape
    ):
        problems.append(f"{module}: ia3_l is {list(vector.shape)}; it is [out, 1] or [1, in]")
    rows = tensors.get(TensorRole.TOKENS)
    ids = token_ids_for(module, config)
    if rows is not None and ids is not None and (len(rows.shape) != 2 or rows.shape[0] != len(ids)):
        problems.append(
            f"{module}: the trained token embeddings are {list(rows.shape)}, and {CONFIG_FILE} "
            f"names {len(ids)} tokens"
        )
    weight = tensors.get(TensorRole.WEIGHT)
    if weight is not None and (len(weight.shape) != 2 or 0 in weight.shape):
        problems.append(f"{module}: the fully trained weight is {list(weight.shape)}, not 2-D")
    bias = tensors.get(TensorRole.BIAS)
    if bias is not None and len(bias.shape) != 1:
        problems.append(f"{module}: the trained bias is {list(bias.shape)}, not 1-D")
    return problems
