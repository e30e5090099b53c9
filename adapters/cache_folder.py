"""Where copies of what lies elsewhere are kept: converted bases, remote stores."""

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """`$SWITCHYARD_CACHE`, else `~/.cache/switchyard`."""
    configured = os.environ.get("SWITCHYARD_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "switchyard"
