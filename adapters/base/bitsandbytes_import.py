"""Import bitsandbytes without its side effects.

On CPUs with AVX512-BF16 the library asks a kernel hub for a kernel *at import* when the package
`kernels` is installed, which hangs or fails without a network; here that request finds no package.
"""

import importlib
import logging
import sys
from types import ModuleType


def import_bitsandbytes() -> ModuleType:
    """The `bitsandbytes` module, imported with no network access and no warning about the hub."""
    if "bitsandbytes" in sys.modules:
        return sys.modules["bitsandbytes"]
    library_logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = library_logger.level
    hidden = {name: sys.modules.get(name) for name in ("kernels",)}
    library_logger.setLevel(logging.ERROR)
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("bitsandbytes")
    finally:
        library_logger.setLevel(level)
        for name, module in hidden.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
