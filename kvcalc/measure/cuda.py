"""CUDA (and ROCm) devices: a private pool of torch's caching allocator, and the driver's view of the card.

Nothing of the device is changed: the only setting touched is this process's own memory fraction, which is put back.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from math import inf, nextafter
from typing import TYPE_CHECKING, Any

from kvcalc.errors import CannotMeasure
from kvcalc.measure.allocator import simulate
from kvcalc.measure.torch_backend import Held, Stored, Taken, Totals, empty_tensor, touch_pages
from kvcalc.units import MIB

if TYPE_CHECKING:
    from kvcalc.core.result import DeviceInfo

#: Settings of the allocator that change its rounding; with one of them set the rounding is not predicted.
_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_UNCACHED = "PYTORCH_NO_CUDA_MEMORY_CACHING"
#: What opening each device took: only the first opening of a process builds its context.
_CONTEXTS: dict[str, int | None] = {}
_STATS = ("requested_bytes", "allocated_bytes", "reserved_bytes")


def _driver_view() -> dict[str, tuple[int, str]]:
    """UUID -> (bytes in use, driver version) as nvidia-smi reads them; empty where there is no nvidia-smi."""
    query = "--query-gpu=uuid,memory.used,driver_version"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return {}
    found = {}
    for line in done.stdout.splitlines():
        uuid, used, driver = (part.strip() for part in line.split(","))
        if used.isdigit():
            found[uuid.removeprefix("GPU-")] = (int(used) * MIB, driver)
    return found


class CudaHeld:
    """Tensors in a private pool of the caching allocator, so that nothing else is counted with them."""

    def __init__(self, torch: Any, name: str, pool: Any) -> None:
        self._torch, self._name, self._pool = torch, name, pool
        self._tensors: list[Any] = []
        self._before = self._stats()

    def _stats(self) -> dict[str, int]:
        found = self._torch.cuda.memory_stats(self._name)
        return {key: int(found[f"{key}.all.current"]) for key in _STATS}

    def add(self, stored: Stored, *, touch: bool = True) -> Taken:
        before = self._stats()
        tensor = empty_tensor(self._torch, stored, self._name)
        self._tensors.append(tensor)
        if touch:
            touch_pages(self._torch, tensor)
        after = self._stats()
        key = "requested_bytes"
        return Taken(after[key] - before[key], after["allocated_bytes"] - before["allocated_bytes"])

    def totals(self) -> Totals:
        """Requested bytes of the pool's live blocks; the allocator's growth since the block began for the rest."""
        self._torch.cuda.synchronize(self._name)
        now = self._stats()
        grown = {key: now[key] - self._before[key] for key in _STATS}
        requested = grown["requested_bytes"]
        if hasattr(self._pool, "snapshot"):  # since torch 2.6
            blocks = [block for segment in self._pool.snapshot() for block in segment["blocks"]]
            requested = sum(block["requested_size"] for block in blocks if block["state"] == "active_allocated")
        return Totals(requested, grown["allocated_bytes"], grown["reserved_bytes"])

    def clear(self) -> None:
        self._tensors.clear()
        self._pool = None


class CudaDevice:
    """One CUDA device of this process."""

    def __init__(self, index: int, torch: Any) -> None:
        """Raises: CannotMeasure where the device does not exist or the allocator does not count requests."""
        self._torch = torch
        cuda = torch.cuda
        if not cuda.is_available():
            raise CannotMeasure(
                "torch sees no CUDA device here",
                fix="add --device cpu: the same tensors in this machine's memory",
                field="device",
            )
        if index >= cuda.device_count():
            raise CannotMeasure(
                f"there is no cuda:{index}: torch sees {cuda.device_count()} devices", fix="choose a lower number"
            )
        backend = cuda.get_allocator_backend()
        if backend != "native" or os.environ.get(_UNCACHED):
            raise CannotMeasure(
                f"the {backend} allocator does not count requested bytes",
                fix=f"unset {_UNCACHED} and the `backend` of {', '.join(_SETTINGS)}",
            )
        self.name = f"cuda:{index}"
        self._properties = cuda.get_device_properties(index)
        uuid = str(getattr(self._properties, "uuid", ""))
        seen = _driver_view().get(uuid)
        self._driver = None if seen is None else seen[1]
        self._start()
        grown = None if seen is None else max((self.used_bytes() or 0) - seen[0], 0)
        self.context_bytes = _CONTEXTS.setdefault(self.name, grown)

    def _start(self) -> None:
        """Build the context and load the fill kernel before anything is counted."""
        self._torch.cuda.set_device(self.name)
        touch_pages(self._torch, self._torch.empty(2, dtype=self._torch.uint8, device=self.name))
        self._torch.cuda.synchronize(self.name)
        self._torch.cuda.empty_cache()

    def info(self) -> DeviceInfo:
        version = self._torch.version
        runtime = f"CUDA {version.cuda}" if version.cuda else f"ROCm {version.hip}"
        return {
            "device": self.name,
            "name": str(self._properties.name),
            "total_bytes": int(self._memory()[1]),
            "driver": self._driver,
            "runtime": runtime,
            "torch_version": str(self._torch.__version__),
            "allocator": "native" if self._usual() else "native, configured",
            "context_bytes": self.context_bytes,
        }

    def _usual(self) -> bool:
        return not any(os.environ.get(name) for name in _SETTINGS)

    def _memory(self) -> tuple[int, int]:
        free, total = self._torch.cuda.mem_get_info(self.name)
        return int(free), int(total)

    def free_bytes(self) -> int | None:
        return self._memory()[0]

    def used_bytes(self) -> int | None:
        free, total = self._memory()
        return total - free

    def need_bytes(self, sizes: Iterable[int]) -> int:
        return simulate(sizes).reserved_bytes

    def expected(self, sizes: Iterable[int]) -> tuple[int, int] | None:
        if not self._usual():
            return None
        found = simulate(sizes)
        return found.allocated_bytes, found.reserved_bytes

    @contextmanager
    def hold(self, limit_bytes: int | None = None) -> Iterator[Held]:
        cuda = self._torch.cuda
        cuda.synchronize(self.name)
        cuda.empty_cache()
        with ExitStack() as stack:
            stack.callback(cuda.empty_cache)
            if limit_bytes is not None:
                self._set_limit(limit_bytes)
                stack.callback(cuda.set_per_process_memory_fraction, 1.0, self.name)
            pool = cuda.MemPool() if hasattr(cuda, "MemPool") and hasattr(cuda, "use_mem_pool") else None
            held = CudaHeld(self._torch, self.name, pool)
            stack.callback(cuda.synchronize, self.name)
            stack.callback(held.clear)
            if pool is not None:
                stack.enter_context(cuda.use_mem_pool(pool, device=self.name))
                del pool
            yield held

    def _set_limit(self, limit_bytes: int) -> None:
        """Let the allocator reserve at most `limit_bytes` more than it holds now.

        The allocator's cap is int(fraction x total), compared with all its segments: the fraction is raised by single
        steps until the product reaches the byte count.
        """
        total = self._memory()[1]
        reserved = int(self._torch.cuda.memory_stats(self.name)["reserved_bytes.all.current"])
        wanted = min(limit_bytes + reserved, total)
        fraction = wanted / total
        while int(fraction * total) < wanted:
            fraction = nextafter(fraction, inf)
        self._torch.cuda.set_per_process_memory_fraction(min(fraction, 1.0), self.name)
