"""The deciding floors import without torch: they start fast and can be tested anywhere."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "server.core.ports",
        "server.scheduling.scheduler",
        "server.engine.engine",
        "server.engine.hosting.catalog",
        "server.api.app",
        "server.model.rendering.render_pool",
        "server.model.rendering.render_worker",
        "server.cli",
        "adapters.store.store",
        "adapters.commands.cli",
    ],
)
def test_imports_no_torch(module: str) -> None:
    script = (
        f"import sys, {module}; "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
