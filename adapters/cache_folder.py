"""Where what can be made again is kept: converted bases, remote stores, compiled kernels."""

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """`$SWITCHYARD_CACHE`, else `switchyard` in `$XDG_CACHE_HOME`, by default `~/.cache`."""
    configured = os.environ.get("SWITCHYARD_CACHE")
    if configured:
        return Path(configured)
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "switchyard"
