"""An adapter's config and weights file in memory, read once: what is checked is what is used."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.errors import TensorFileError
from adapters.format.adapter_config import read_adapter_config
from adapters.format.folder_files import CONFIG_FILE, WEIGHTS_FILE
from adapters.format.tensor_header import TensorEntry, read_header


@dataclass(frozen=True, slots=True)
class AdapterImage:
    """`config` as JSON, `entries` by tensor name in the order of their bytes, `data` the file."""

    config: Mapping[str, Any]
    entries: Mapping[str, TensorEntry]
    data: bytearray


def read_image(folder: Path) -> AdapterImage:
    """Read a PEFT folder. Raises `DocumentError`, `TensorFileError`.

    The header is checked against the file before memory is taken for the rest.
    """
    config = read_adapter_config(folder / CONFIG_FILE)
    path = folder / WEIGHTS_FILE
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            entries = read_header(file, size, path.name)
            data = bytearray(size)
            file.seek(0)
            num_read = file.readinto(data)
    except OSError as error:
        raise TensorFileError(f"{path.name} can't be read", [str(error.strerror)]) from error
    if num_read != size:
        raise TensorFileError(f"{path.name} is malformed", ["it became shorter while it was read"])
    return AdapterImage(config, entries, data)
