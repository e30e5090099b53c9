"""How full the device is, by the same names on a GPU and on a CPU."""

import psutil
import pynvml
import torch


def device_memory_bytes(device: str) -> dict[str, int]:
    """`used`, `free` and `total` bytes.

    On CUDA the whole GPU's, as NVML counts them, or torch where NVML can't be asked. On a CPU
    `used` is this process's resident set, `free` what the machine can still give, `total` the
    machine's memory.
    """
    if device.startswith("cuda"):
        return _gpu_memory_bytes(device)
    memory = psutil.virtual_memory()
    return {
        "used": psutil.Process().memory_info().rss,
        "free": memory.available,
        "total": memory.total,
    }


def _gpu_memory_bytes(device: str) -> dict[str, int]:
    try:
        pynvml.nvmlInit()
        # NVML numbers all GPUs, torch the visible ones: the id that both know is the UUID.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        memory = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(uuid))
        return {"used": memory.used, "free": memory.free, "total": memory.total}
    except pynvml.NVMLError:
        free, total = torch.cuda.mem_get_info(device)
        return {"used": total - free, "free": free, "total": total}
