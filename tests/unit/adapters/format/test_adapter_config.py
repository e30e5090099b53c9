"""Every served method has a parser of its config."""

import pytest

from adapters.format.adapter_config import parse_adapter_config
from adapters.format.peft_methods import SERVED_METHODS


@pytest.mark.parametrize("method", SERVED_METHODS)
@pytest.mark.parametrize("write", [str.upper, str.lower])
def test_a_served_method_is_read_under_its_own_name(method: str, write) -> None:
    document = {
        "peft_type": write(method), "r": 8, "lora_alpha": 16, "num_virtual_tokens": 4,
        "token_dim": 8, "num_layers": 2, "token_indices": [1, 2], "target_modules": ["q_proj"],
    }  # fmt: skip
    problems: list[str] = []
    config = parse_adapter_config(document, problems)
    assert problems == []
    assert config is not None
    assert config.method == method.lower()
