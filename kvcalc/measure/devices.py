"""Which device a measurement runs on."""

from __future__ import annotations

import re

from kvcalc.errors import UsageError, short
from kvcalc.measure.torch_backend import CpuDevice, Device, import_torch

_NAME = re.compile(r"cpu|meta|cuda(?::([0-9]{1,3}))?", re.ASCII)


def open_device(name: str | None = None, *, local_rank: int = 0, local_ranks: int = 1) -> Device:
    """The device called `name`: cuda, cuda:1, cpu, or meta (shapes only). None: this process's CUDA device.

    local_rank: of this process on its machine, which picks the CUDA device; local_ranks: processes that share the
    machine's memory.

    Raises: UsageError for another name; CannotMeasure without torch or without the device.
    """
    match = _NAME.fullmatch(name.strip().lower()) if name is not None else None
    if name is not None and match is None:
        raise UsageError(f"unknown device {short(name)}", fix="one of: cuda, cuda:N, cpu", field="device", value=name)
    torch = import_torch()
    if match is not None and not match[0].startswith("cuda"):
        return CpuDevice(match[0], share=local_ranks)
    from kvcalc.measure.cuda import CudaDevice

    index = int(match[1]) if match is not None and match[1] else local_rank
    return CudaDevice(index, torch)
