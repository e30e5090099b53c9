"""The api stands without torch."""

import subprocess
import sys

import pytest

from server.api.settings import ApiSettings
from server.core.errors import ConfigurationError

CODE = """
import sys
import server.api.app
heavy = {"torch", "transformers", "peft", "bitsandbytes", "server.model"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_the_api_imports_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_settings_tell_all_problems() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ApiSettings(max_choices=0, keep_alive_seconds=-1)
    assert len(caught.value.problems) == 2
