"""Tensors on a device, through torch: how a planned tensor is stored, and the CPU and `meta` devices."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kvcalc.core.plan import Tensor
from kvcalc.dtypes import get_dtype
from kvcalc.errors import CannotMeasure
from kvcalc.measure import host
from kvcalc.units import MIB, gib

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from kvcalc.core.result import DeviceInfo

#: Element types that torch has: ours -> torch's. All others are stored as rows of bytes, as engines do.
_NATIVE = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "int8": "int8",
}
_BYTES = "uint8"
#: One byte in every page makes the whole tensor resident.
PAGE_BYTES = 4096
#: How much may be taken before the machine's memory is looked at again.
_LOOK_AGAIN_BYTES = 256 * MIB


class Stored(NamedTuple):
    """One tensor as torch holds it. dtype: torch's name; bytes: elements x size of one."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int


class Taken(NamedTuple):
    """What one allocation asked for and got (None: the device has no caching allocator)."""

    requested_bytes: int
    allocated_bytes: int | None


class Totals(NamedTuple):
    """Everything that is held, as the device's allocator counts it."""

    requested_bytes: int
    allocated_bytes: int | None
    reserved_bytes: int | None


class OutOfRoom(Exception):
    """An allocation failed: the device or the limit is full."""


class Held(Protocol):
    """Tensors that are allocated until their block ends."""

    def add(self, stored: Stored, *, touch: bool = True) -> Taken:
        """Allocate one more tensor.

        Raises: OutOfRoom.
        """
        ...

    def totals(self) -> Totals: ...


class Device(Protocol):
    """Where tensors are allocated. `name`: torch's, like cuda:0."""

    @property
    def name(self) -> str: ...

    def info(self) -> DeviceInfo: ...

    def free_bytes(self) -> int | None:
        """Bytes that tensors may take now; None where nothing bounds them."""
        ...

    def used_bytes(self) -> int | None:
        """Memory in use: the driver's view of the card, or what is resident of this process."""
        ...

    def need_bytes(self, sizes: Iterable[int]) -> int:
        """Memory that tensors of these sizes take, the allocator's rounding included."""
        ...

    def expected(self, sizes: Iterable[int]) -> tuple[int, int] | None:
        """(allocated, reserved) bytes by the allocator's rules; None where there are none."""
        ...

    def hold(self, limit_bytes: int | None = None) -> AbstractContextManager[Held]:
        """A block whose tensors are freed when it ends, however it ends. limit_bytes: at most so many."""
        ...


def import_torch() -> Any:
    """The torch module.

    Raises: CannotMeasure where it is not installed or does not load.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch without numpy says so; nothing here needs numpy
            import torch
    except ImportError as error:
        if getattr(error, "name", None) == "torch":
            raise CannotMeasure("measuring needs torch: pip install 'kvcalc[measure]'", field="torch") from None
        raise CannotMeasure(f"torch does not load: {error}", fix="reinstall torch", field="torch") from None
    except OSError as error:
        raise CannotMeasure(f"torch does not load: {error}", fix="reinstall torch", field="torch") from None
    return torch


def stored_as(tensor: Tensor) -> Stored:
    """How one of the `tensor.count` equal tensors is allocated: by its shape, never by its predicted bytes.

    Types that torch has keep their shape; packed types become rows of bytes, whole blocks in the last dimension.

    >>> stored_as(Tensor("key", "gqa", "a", "linear", (0,), 1, 10, (1, 10, 8, 128), "q8_0", 10880))
    Stored(shape=(1, 10, 8, 136), dtype='uint8', bytes=10880)
    """
    dtype = get_dtype(tensor.dtype)
    shape = tensor.shape or (1,)
    rows = (*shape[:-1], dtype.row_bytes(shape[-1]))
    native = _NATIVE.get(dtype.name)
    return Stored(shape, native, prod(rows)) if native else Stored(rows, _BYTES, prod(rows))


def touch_pages(torch: Any, tensor: Any) -> None:
    """Write one byte in every page of the tensor's storage, and its last one."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return
    raw = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
    raw[::PAGE_BYTES].fill_(1)
    raw[-1:].fill_(1)


def failed(error: BaseException) -> str | None:
    """What an allocation that failed says, in one line; None where the error is another one."""
    text = str(error).strip().split("\n", 1)[0]
    memory_error = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    known = ("can't allocate memory", "not enough memory", "out of memory", "Storage size calculation overflowed")
    return text or "out of memory" if memory_error or any(word in text for word in known) else None


def empty_tensor(torch: Any, stored: Stored, device: str) -> Any:
    """One tensor, not yet written.

    Raises: OutOfRoom.
    """
    try:
        return torch.empty(stored.shape, dtype=getattr(torch, stored.dtype), device=device)
    except (RuntimeError, MemoryError) as error:
        if (text := failed(error)) is None:
            raise
    raise OutOfRoom(text)


class CpuHeld:
    """Tensors in this machine's memory, or shapes alone on `meta`."""

    def __init__(self, torch: Any, name: str, limit_bytes: int | None) -> None:
        self._torch, self._name, self._limit = torch, name, limit_bytes
        self._tensors: list[Any] = []
        self._bytes = 0
        self._looked = 0

    def add(self, stored: Stored, *, touch: bool = True) -> Taken:
        if self._limit is not None and self._bytes + stored.bytes > self._limit:
            raise OutOfRoom(f"{gib(self._bytes + stored.bytes)} is above the limit of {gib(self._limit)}")
        self._look(stored.bytes)
        tensor = empty_tensor(self._torch, stored, self._name)
        if touch and self._name != "meta":
            touch_pages(self._torch, tensor)
        size = int(tensor.untyped_storage().nbytes())
        self._tensors.append(tensor)
        self._bytes += size
        return Taken(size, None)

    def _look(self, more: int) -> None:
        """Other processes take memory too: stop before the system has to kill somebody."""
        if self._name == "meta" or self._bytes + more - self._looked < _LOOK_AGAIN_BYTES:
            return
        self._looked = self._bytes
        free = host.available_bytes()
        if free is not None and more + host.MARGIN_BYTES > free:
            raise OutOfRoom(f"only {gib(free)} of memory is left")

    def totals(self) -> Totals:
        """Bytes of all storages, each counted once."""
        return Totals(sum(int(tensor.untyped_storage().nbytes()) for tensor in self._tensors), None, None)

    def clear(self) -> None:
        self._tensors.clear()


class CpuDevice:
    """The machine's memory (`cpu`), or no memory at all (`meta`: shapes and storages only)."""

    def __init__(self, name: str = "cpu", *, share: int = 1) -> None:
        """share: processes that divide the memory between them."""
        self.name = name
        self._share = share
        self._torch = import_torch()

    def info(self) -> DeviceInfo:
        import platform

        return {
            "device": self.name,
            "name": platform.processor() or platform.machine(),
            "total_bytes": None if self.name == "meta" else host.total_bytes(),
            "driver": None,
            "runtime": None,
            "torch_version": str(self._torch.__version__),
            "allocator": "storages",
            "context_bytes": None,
        }

    def free_bytes(self) -> int | None:
        """Raises: CannotMeasure where the system does not say what is free."""
        if self.name == "meta":
            return None
        free = host.available_bytes()
        if free is None:
            raise CannotMeasure(
                "this system does not say how much memory is free", fix="measure on a CUDA device or on Linux"
            )
        return max(free - host.MARGIN_BYTES, 0) // self._share

    def used_bytes(self) -> int | None:
        return None if self.name == "meta" else host.resident_bytes()

    def need_bytes(self, sizes: Iterable[int]) -> int:
        return sum(sizes)

    def expected(self, sizes: Iterable[int]) -> tuple[int, int] | None:
        return None

    @contextmanager
    def hold(self, limit_bytes: int | None = None) -> Iterator[Held]:
        held = CpuHeld(self._torch, self.name, limit_bytes)
        try:
            yield held
        finally:
            held.clear()
