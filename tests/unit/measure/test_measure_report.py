"""What a measurement must show: torch stores what every plan says, a wrong plan fails, nothing stays allocated."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import cache_dtypes, layouts, loads, models

from kvcalc.answers.common import Ask, prepare
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load, Planner, RankPlan, Tensor
from kvcalc.document import model_from_document
from kvcalc.engines import engine_names, get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.errors import CannotMeasure, EngineRefusal, UsageError
from kvcalc.measure import torch_backend
from kvcalc.measure.devices import open_device
from kvcalc.measure.report import measure_load, measure_rank
from kvcalc.measure.torch_backend import CpuDevice, Device
from kvcalc.registry import load_registry
from kvcalc.targets import load_target

BF16 = CacheDtypes(
    key="bfloat16", value="bfloat16", index="bfloat16", pending="bfloat16", conv="bfloat16", state="float32"
)
LLAMA = {
    "name": "llama",
    "layers": 32,
    "dtype": "bfloat16",
    "attention": {"kind": "gqa", "heads": 32, "groups": 8, "head_dim": 128},
}


@pytest.fixture(scope="module")
def meta() -> Device:
    return open_device("meta")


@pytest.fixture(scope="module")
def cpu() -> Device:
    return open_device("cpu")


def llama(engine: str = "ideal") -> Planner:
    return planner(model_from_document(LLAMA), engine, Layout(), BF16)


def planner(model: Model, name: str, layout: Layout, dtypes: CacheDtypes) -> Planner:
    engine, version = get_engine(name)
    return engine.prepare(model, Setup(version=version, layout=layout, dtypes=dtypes))


def check(plan: CachePlan, device: Device) -> None:
    """Each tensor, each rank and the total are what torch stores."""
    for rank in [*plan.ranks, *([plan.host] if plan.host else [])]:
        record = measure_rank(rank, device)
        for tensor, row in zip(rank.tensors, record["tensors"], strict=True):
            assert row["requested_bytes"] == tensor.bytes, (tensor, row)
            assert type(row["requested_bytes"]) is int
        assert record["requested_bytes"] == rank.bytes
        assert record["equal"] is True


@pytest.mark.parametrize("name", engine_names())
def test_every_plan_is_what_torch_stores(name: str, meta: Device) -> None:
    """For random models of all kinds, dtypes, loads and layouts, on `meta`: sizes have no limit there."""

    @given(models(), st.one_of(st.just(BF16), cache_dtypes()), loads(), st.one_of(st.just(Layout()), layouts(2)))
    def holds(model: Model, dtypes: CacheDtypes, load: Load, layout: Layout) -> None:
        try:
            plan = planner(model, name, layout, dtypes).plan(load)
        except (EngineRefusal, UsageError):
            return
        check(plan, meta)

    holds()


@pytest.mark.parametrize("name", engine_names())
def test_every_shipped_model_is_what_torch_stores(name: str, meta: Device) -> None:
    """Every shipped model that the engine takes, at two loads (random models lack what some engines ask for)."""
    planned = 0
    registry = load_registry(None)
    for target in (load_target(model, registry) for model in registry.model_names()):
        try:
            ready = prepare(target, Ask(engine=name, encoder_tokens=100), gpu=None)
            for load in (Load(5000, 1, 100), Load(100, 3, 100)):
                check(ready.planner.plan(load), meta)
        except (EngineRefusal, UsageError):
            continue
        planned += 1
    assert planned >= 50


@pytest.mark.parametrize("name", engine_names())
def test_every_small_plan_is_what_the_cpu_stores(name: str, cpu: Device) -> None:
    """The same with real memory, every page written."""

    @given(models(), st.one_of(st.just(BF16), cache_dtypes()), loads(max_tokens=40), st.integers(1, 3))
    def holds(model: Model, dtypes: CacheDtypes, load: Load, tp: int) -> None:
        try:
            plan = planner(model, name, Layout(tp=tp), dtypes).plan(Load(load.context_tokens, 1, 3))
        except (EngineRefusal, UsageError):
            return
        if plan.max_rank_bytes < 32 * 2**20:
            check(plan, cpu)

    holds()


def test_a_plan_of_a_terabyte_on_meta(meta: Device) -> None:
    """Llama-3-8B, 1 Mi tokens x 8 sessions: 32 layers x 2 x 8 heads x 128 x 2 bytes = 131,072 bytes a token."""
    record = measure_load(llama(), Load(2**20, 8), meta)
    assert record["requested_bytes"] == record["predicted_bytes"] == 131072 * 2**23
    assert record["equal"] is True


def test_a_plan_of_two_gigabytes_in_memory(cpu: Device) -> None:
    """Llama-3-8B, 16 Ki tokens, every page written: all of it is resident."""
    if (cpu.free_bytes() or 0) < 3 * 2**30:
        pytest.skip("less than 3 GiB of memory free")
    record = measure_load(llama(), Load(2**14), cpu)
    rank = record["measured_ranks"][0]
    assert record["requested_bytes"] == record["predicted_bytes"] == 2**31
    used = rank["device_used_bytes"]
    if used is not None:  # what the process held before may be reused, so only the whole is compared
        assert used >= 2**31
        assert (cpu.used_bytes() or 0) < used - 2**30, "freed afterwards"


def wrong(plan: RankPlan, change: str) -> RankPlan:
    """The plan with one lie in it."""
    first, *others = plan.tensors
    if change == "one byte more":
        return plan._replace(tensors=[first._replace(bytes=first.bytes + 1), *others])
    if change == "one byte less in the total":
        return plan._replace(bytes=plan.bytes - 1)
    if change == "one tensor missing":
        return plan._replace(tensors=others)
    if change == "one tensor twice":
        return plan._replace(tensors=[first, first, *others])
    if change == "one layer less":
        return plan._replace(tensors=[first._replace(count=first.count - 1), *others])
    if change == "one slot more":
        shape = (first.shape[0], first.shape[1] + 1, *first.shape[2:])
        return plan._replace(tensors=[first._replace(shape=shape), *others])
    return plan._replace(tensors=[first._replace(dtype="float32"), *others])


@pytest.mark.parametrize("dtype", ["bfloat16", "q8_0", "nvfp4", "int4"])
@pytest.mark.parametrize(
    "change",
    [
        "one byte more",
        "one byte less in the total",
        "one tensor missing",
        "one tensor twice",
        "one layer less",
        "one slot more",
        "another type",
    ],
)
def test_a_wrong_plan_fails(change: str, dtype: str, cpu: Device) -> None:
    """Any lie in the plan makes the measurement unequal."""
    dtypes = CacheDtypes(key=dtype, value=dtype, index=dtype, pending=dtype, conv=dtype, state=dtype)
    plan = planner(model_from_document(LLAMA), "ideal", Layout(), dtypes).plan(Load(16)).ranks[0]
    assert measure_rank(plan, cpu)["equal"] is True
    assert measure_rank(wrong(plan, change), cpu)["equal"] is False


def test_what_is_missing_is_said(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than is free is refused before anything is allocated, with the longest context that fits."""
    monkeypatch.setattr(CpuDevice, "free_bytes", lambda self: 131072 * 1000 + 5)
    monkeypatch.setattr(torch_backend.CpuHeld, "add", lambda *args, **more: pytest.fail("allocated"))
    with pytest.raises(CannotMeasure) as caught:
        measure_load(llama(), Load(2000), cpu)
    assert "125.0 MiB free" in str(caught.value)
    assert "125.0 MiB are missing" in str(caught.value)
    assert caught.value.fix is not None
    assert "-c 1000 " in caught.value.fix
    assert caught.value.exit_code == 4


class Recorder:
    """Counts the tensors torch.empty hands out, and fails at one of them."""

    def __init__(self, device: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, at: int) -> None:
        self.alive: list[weakref.ref[Any]] = []
        self.error, self.at = error, at
        self.real = device._torch.empty
        monkeypatch.setattr(device._torch, "empty", self.empty)

    def empty(self, shape: Any, **more: Any) -> Any:
        if shape and len(self.alive) == self.at:
            raise self.error
        made = self.real(shape, **more)
        if shape:
            self.alive.append(weakref.ref(made))
        return made


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), CannotMeasure),
        (MemoryError(), CannotMeasure),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (RuntimeError("another fault"), RuntimeError),
    ],
)
def test_nothing_stays_allocated(
    error: BaseException, raised: type[BaseException], cpu: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocation that fails, or Ctrl-C, in the middle of a plan: all tensors before it are freed."""
    recorder = Recorder(cpu, monkeypatch, error, 7)
    with pytest.raises(raised):
        measure_rank(llama().plan(Load(64)).ranks[0], cpu)
    gc.collect()
    assert len(recorder.alive) == 7
    assert [ref for ref in recorder.alive if ref() is not None] == []


def test_memory_that_vanishes_meanwhile(cpu: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes the memory while tensors are allocated: stopped before the system kills somebody."""
    rooms = iter([2**40, 2**40, 2**20])
    monkeypatch.setattr("kvcalc.measure.host.available_bytes", lambda: next(rooms, 2**20))
    tensors = [Tensor("key", "gqa", "a", "linear", (0,), 4, 1, (1, 2**27), "int8", 2**29)]
    with pytest.raises(CannotMeasure, match="left"):
        measure_rank(RankPlan((0,), tensors, 2**29), cpu)
