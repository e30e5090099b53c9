"""Keeps libraries from talking over the trainer's own output."""

import os
import warnings

from adapters.base.bitsandbytes_import import import_bitsandbytes


def quiet_libraries() -> None:
    """No progress bars, advice or telemetry from the libraries; errors still come through.

    Process-wide, so only a command line calls it, before anything heavy is imported.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|bitsandbytes|peft)\b")
    # Before transformers: accelerate would import it with its search for kernels on the hub.
    import_bitsandbytes()
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
