"""How full the device is, by the same names on a GPU and on a CPU."""

import psutil
import torch


def device_memory_bytes(device: str) -> dict[str, int]:
    """`used`, `free` and `total` bytes.

    On CUDA the whole GPU's, as the driver counts them. On a CPU `used` is this process's resident
    set, `free` what the machine can still give, `total` the machine's memory.
    """
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        return {"used": total - free, "free": free, "total": total}
    memory = psutil.virtual_memory()
    return {
        "used": psutil.Process().memory_info().rss,
        "free": memory.available,
        "total": memory.total,
    }
