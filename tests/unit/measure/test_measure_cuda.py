"""The CUDA device against a stand-in of torch.cuda: what is read, in which order, and what is put back.

The stand-in counts as torch does; that torch itself does so is what a measurement on a GPU shows.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from kvcalc.core.plan import Load, Planner
from kvcalc.document import model_from_document
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.errors import CannotMeasure
from kvcalc.measure import cuda as cuda_module
from kvcalc.measure.allocator import simulate
from kvcalc.measure.cuda import CudaDevice
from kvcalc.measure.full import until_full
from kvcalc.measure.report import measure_load
from kvcalc.measure.torch_backend import import_torch
from kvcalc.units import MIB

TOTAL = 64 * MIB
DTYPES = CacheDtypes(
    key="bfloat16", value="bfloat16", index="bfloat16", pending="bfloat16", conv="bfloat16", state="float32"
)


class StandIn:
    """torch with a CUDA device of 64 MiB whose allocator keeps books but hands out CPU memory."""

    def __init__(self) -> None:
        self.real = import_torch()
        self.version = SimpleNamespace(cuda="13.0", hip=None)
        self.sizes: dict[int, int] = {}
        self.fraction = 1.0
        self.fractions: list[float] = []
        self.pools = 0
        self.backend = "native"
        self.devices = 1
        self.cuda = SimpleNamespace(
            is_available=lambda: self.devices > 0,
            device_count=lambda: self.devices,
            get_allocator_backend=lambda: self.backend,
            get_device_properties=lambda index: SimpleNamespace(name="Stand-in", uuid="1-2-3"),
            set_device=lambda name: None,
            synchronize=lambda name: None,
            empty_cache=lambda: None,
            mem_get_info=lambda name: (TOTAL - self.reserved(), TOTAL),
            memory_stats=self.memory_stats,
            set_per_process_memory_fraction=self.set_fraction,
            MemPool=self.pool,
            use_mem_pool=self.use,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def reserved(self) -> int:
        return simulate(self.sizes.values()).reserved_bytes

    def empty(self, shape: Any, dtype: Any, device: Any) -> Any:
        made = self.real.empty(shape, dtype=dtype)
        size = made.untyped_storage().nbytes()
        if size:
            if simulate([*self.sizes.values(), size]).reserved_bytes > int(self.fraction * TOTAL):
                raise self.real.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
            self.sizes[id(made)] = size
            weakref.finalize(made, self.sizes.pop, id(made))
        return made

    def memory_stats(self, name: str) -> dict[str, int]:
        blocks = simulate(self.sizes.values())
        return {
            "requested_bytes.all.current": sum(self.sizes.values()),
            "allocated_bytes.all.current": blocks.allocated_bytes,
            "reserved_bytes.all.current": blocks.reserved_bytes,
        }

    def set_fraction(self, fraction: float, name: str) -> None:
        self.fraction = fraction
        self.fractions.append(fraction)

    def pool(self) -> Any:
        self.pools += 1
        live = [{"requested_size": 7, "state": "inactive"}]

        def snapshot() -> list[dict[str, Any]]:
            blocks = [{"requested_size": size, "state": "active_allocated"} for size in self.sizes.values()]
            return [{"blocks": [*blocks, *live]}]

        return SimpleNamespace(snapshot=snapshot)

    @contextmanager
    def use(self, pool: Any, device: str) -> Iterator[None]:
        yield


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    for name in (*cuda_module._SETTINGS, cuda_module._UNCACHED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cuda_module, "_driver_view", lambda: {"1-2-3": (5 * MIB, "580.1")})
    return StandIn()


def prepared() -> Planner:
    """2 layers x 2 x 1 head x 64 x 2 bytes: 512 bytes a token, four tensors of 128 bytes a token each."""
    attention = {"kind": "mqa", "heads": 4, "head_dim": 64}
    model = model_from_document({"name": "m", "layers": 2, "dtype": "bfloat16", "attention": attention})
    engine, version = get_engine("ideal")
    return engine.prepare(model, Setup(version=version, dtypes=DTYPES))


def test_the_names_used_exist_in_torch(torch: StandIn) -> None:
    """Every function of torch.cuda that is called is there in the torch that is installed."""
    real = import_torch().cuda
    assert [name for name in vars(torch.cuda) if not hasattr(real, name)] == []


def test_tensors_and_totals(torch: StandIn) -> None:
    """Requested bytes are the plan's; allocated and reserved are the allocator's, and as its rules say."""
    device = CudaDevice(0, torch)
    record = measure_load(prepared(), Load(8193), device)
    rank = record["measured_ranks"][0]
    assert record["equal"] is True
    assert record["requested_bytes"] == 8193 * 512
    assert rank["allocated_bytes"] == rank["expected_allocated_bytes"] == 4 * (8193 * 128 + 384)
    assert rank["reserved_bytes"] == rank["expected_reserved_bytes"] == 20 * MIB
    assert [row["requested_bytes"] for row in rank["tensors"]] == [2 * 8193 * 128] * 2
    assert torch.sizes == {}, "freed"
    assert record["device"]["driver"] == "580.1"
    assert record["device"]["runtime"] == "CUDA 13.0"


def test_configured_allocators_are_not_predicted(torch: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the allocator's settings changed only requested bytes are held against the plan."""
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    rank = measure_load(prepared(), Load(10), CudaDevice(0, torch))["measured_ranks"][0]
    assert rank["expected_allocated_bytes"] is None
    assert rank["equal"] is True


def test_other_allocators_are_refused(torch: StandIn) -> None:
    """cudaMallocAsync does not count requested bytes."""
    torch.backend = "cudaMallocAsync"
    with pytest.raises(CannotMeasure, match="requested bytes"):
        CudaDevice(0, torch)


def test_devices_that_are_not_there(torch: StandIn) -> None:
    """No card, or fewer cards than the number asks for."""
    with pytest.raises(CannotMeasure, match="no cuda:1"):
        CudaDevice(1, torch)
    torch.devices = 0
    with pytest.raises(CannotMeasure, match="no CUDA device"):
        CudaDevice(0, torch)


def test_until_full_is_the_allocators_boundary(torch: StandIn) -> None:
    """Under 40 MiB four tensors fit in segments of 10 MiB: 81,920 tokens, as by bytes alone; the cap is put back."""
    found = until_full(prepared(), Load(100), CudaDevice(0, torch), limit_bytes=40 * MIB)
    assert found["max_context_tokens"] == found["predicted_max_context_tokens"] == 81920
    assert found["formula_max_context_tokens"] == 81920
    assert found["equal"] is True
    assert torch.fraction == 1.0
    assert torch.sizes == {}


def test_until_full_below_whole_segments(torch: StandIn) -> None:
    """Under 39 MiB only one shared segment of 20 MiB fits, so far fewer tokens than the bytes alone would allow."""
    found = until_full(prepared(), Load(100), CudaDevice(0, torch), limit_bytes=39 * MIB)
    assert found["max_context_tokens"] == found["predicted_max_context_tokens"]
    assert found["max_context_tokens"] == 20 * MIB // 4 // 128
    assert found["formula_max_context_tokens"] == 39 * MIB // 512


@pytest.mark.parametrize("limit", [1, 512, 2 * MIB, 33 * MIB + 1, TOTAL])
def test_the_fraction_is_the_limit(torch: StandIn, limit: int) -> None:
    """int(fraction x total), the allocator's cap, is the byte count asked for."""
    with CudaDevice(0, torch).hold(limit):
        assert int(torch.fraction * TOTAL) == limit
    assert torch.fraction == 1.0


def test_without_memory_it_is_said(torch: StandIn) -> None:
    """More than is free, segments counted, is refused with the context that fits."""
    with pytest.raises(CannotMeasure) as caught:
        measure_load(prepared(), Load(200_000), CudaDevice(0, torch))
    assert caught.value.fix is not None
    assert f"-c {16 * MIB // 128} " in caught.value.fix
