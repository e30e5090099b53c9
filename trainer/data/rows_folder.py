"""The folder that rows lie in while a run needs them."""

import shutil
import weakref
from pathlib import Path
from tempfile import mkdtemp

from adapters.cache_folder import default_cache_dir


class RowsFolder:
    """A new folder in the cache, removed with this object, or when the process ends."""

    def __init__(self) -> None:
        # The cache and not /tmp, which may itself be memory.
        parent = default_cache_dir() / "rows"
        parent.mkdir(parents=True, exist_ok=True)
        self.path = Path(mkdtemp(prefix="run-", dir=parent))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
