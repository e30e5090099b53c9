"""A tokenizer and base model small enough to build for each session."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer.tiny import CHATML, byte_tokenizer, save_tiny_base
from trainer.data.labels import ConversationLabeller


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.fixture(scope="session")
def labeller(tokenizer: Any) -> ConversationLabeller:
    return ConversationLabeller(tokenizer, CHATML)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_base(tmp_path_factory.mktemp("tiny-base"))
