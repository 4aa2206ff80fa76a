"""Until full: the boundary found by allocating is the one the inverse predicts."""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.core.capacity import max_context, max_sessions
from kvcalc.core.plan import Load, Planner
from kvcalc.document import model_from_document
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.errors import CannotMeasure
from kvcalc.measure.devices import open_device
from kvcalc.measure.full import until_full

BF16 = CacheDtypes(
    key="bfloat16", value="bfloat16", index="bfloat16", pending="bfloat16", conv="bfloat16", state="float32"
)
GQA = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"layers": 4, "attention": GQA},
    "windowed": {
        "layers": 6,
        "attention": {"local": {**GQA, "window": 512}, "global": GQA},
        "pattern": ["local", "global"],
    },
    "only windows": {"layers": 3, "attention": {**GQA, "window": 256}},
    "compressed": {
        "layers": 3,
        "attention": {"kind": "csa", "heads": 8, "head_dim": 64, "window": 128, "tokens_per_slot": 4, "index_dim": 32},
    },
    "state": {
        "layers": 4,
        "attention": {"kind": "mamba2", "heads": 8, "groups": 1, "head_dim": 16, "state_dim": 32, "conv_kernel": 4},
    },
}


def prepared(name: str) -> Planner:
    engine, version = get_engine("ideal")
    model = model_from_document({"name": name, "dtype": "bfloat16", **MODELS[name]})
    return engine.prepare(model, Setup(version=version, dtypes=BF16))


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("limit", [1, 100_000, 3_000_001, 20_000_000])
def test_the_boundary_is_the_inverse(name: str, limit: int) -> None:
    """On cpu the limit counts bytes, so the found context and sessions are those of the inverse."""
    planner = prepared(name)
    found = until_full(planner, Load(100), open_device("cpu"), limit_bytes=limit)
    assert found["max_context_tokens"] == max_context(planner, limit)
    assert found["max_sessions"] == max_sessions(planner, limit, context_tokens=100)
    assert found["equal"] is True


def test_llama_by_hand() -> None:
    """4 layers x 2 x 2 heads x 64 x 2 bytes = 2,048 bytes a token: 10,000,000 bytes hold 4,882 tokens."""
    seen: list[tuple[str, int, int]] = []
    found = until_full(
        prepared("plain"), Load(100), open_device("cpu"), limit_bytes=10_000_000, progress=lambda *at: seen.append(at)
    )
    assert found["max_context_tokens"] == 4882
    assert found["max_sessions"] == 48
    assert [tries for _, _, tries in seen] == list(range(1, found["tries"] + 1))


def test_a_lie_in_the_inverse_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that holds less than the rules say makes the answer unequal."""
    device: Any = open_device("cpu")
    monkeypatch.setattr(type(device), "need_bytes", lambda self, sizes: sum(sizes) - 4096)
    found = until_full(prepared("plain"), Load(100), device, limit_bytes=10_000_000)
    assert found["equal"] is False


def test_the_limit_is_needed_on_cpu_and_bounded_by_what_is_free() -> None:
    """A machine's memory is never filled unasked, nor beyond what is free."""
    with pytest.raises(CannotMeasure, match="must be said"):
        until_full(prepared("plain"), Load(100), open_device("cpu"))
    with pytest.raises(CannotMeasure, match="are missing"):
        until_full(prepared("plain"), Load(100), open_device("cpu"), limit_bytes=2**60)
