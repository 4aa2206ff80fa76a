"""Layouts: how they are written, which there are, what they hold."""

from __future__ import annotations

from typing import Any

import pytest
from calling import Call
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.core.plan import Layout
from kvcalc.errors import UsageError
from kvcalc.planning.layouts import Division, all_divisions, read_division
from kvcalc.registry import load_registry

REGISTRY = load_registry()


@pytest.mark.parametrize(
    ("text", "layout", "ep"),
    [
        ("tp8", Layout(tp=8), False),
        ("dp8ep8", Layout(dp=8), True),
        ("dp8ep", Layout(dp=8), True),
        ("TP2dp4", Layout(tp=2, dp=4), False),
        ("tp4pp2", Layout(tp=4, pp=2), False),
        ("tp8dcp2", Layout(tp=8, dcp=2), False),
    ],
)
def test_written_and_read(text: str, layout: Layout, *, ep: bool) -> None:
    """A layout reads as written, and writes itself back."""
    division = read_division(text)
    assert division == Division(layout, ep)
    assert read_division(division.name) == division


@pytest.mark.parametrize("text", ["", "8", "tp", "tp0", "tp8tp8", "xp8", "tp8,", "dp8ep4", "ep8"])
def test_not_a_layout(text: str) -> None:
    """Anything else is a usage error."""
    with pytest.raises(UsageError):
        read_division(text)


def test_gpus_must_match() -> None:
    """A layout of other GPUs than asked names both numbers."""
    with pytest.raises(UsageError, match="uses 4 GPUs, not 8"):
        read_division("tp4", 8)


@given(st.sampled_from(["llama-3.1-8b", "deepseek-v3", "qwen3-30b-a3b", "gemma-3-27b"]), st.integers(1, 64))
def test_all_divisions_use_all_gpus(name: str, gpus: int) -> None:
    """Every layout uses exactly the GPUs, and none comes twice."""
    found = all_divisions(REGISTRY.model(name), gpus)
    assert all(division.gpus == gpus for division in found)
    assert len(set(found)) == len(found)
    assert all(not division.ep for division in found) or name in ("deepseek-v3", "qwen3-30b-a3b")


def layouts(call: Call, model: str, *more: str) -> dict[str, dict[str, Any]]:
    """Layout name -> record."""
    answer = call("compare", model, "-c", "32k", "--json", *more).answer
    return {
        "".join(f"{k}{v}" for k, v in record["layout"].items() if v > 1) or "tp1": record
        for record in answer["results"]
    }


def test_latents_replicate_heads_divide(call: Call) -> None:
    """Over 8 GPUs a session of GQA takes an eighth on each, a latent takes all of it on each."""
    gqa = layouts(call, "llama-3.1-8b", "--gpu", "h200", "--gpus", "8", "--layouts", "tp8,dp8")
    mla = layouts(call, "deepseek-v2-lite", "--gpu", "h200", "--gpus", "8", "--layouts", "tp8,dp8")
    for found, share in ((gqa, 8), (mla, 1)):
        divided, whole = (max(rank["bytes"] for rank in found[name]["ranks"]) for name in ("tp8", "dp8"))
        assert divided * share == whole


def test_context_parallel_divides_latents(call: Call) -> None:
    """DCP 8 keeps an eighth of the latents on each rank: the longest session is 8 times as long."""
    found = layouts(call, "deepseek-v3", "--gpu", "h200", "--gpus", "8", "--layouts", "tp8,tp8dcp8")
    assert found["tp8dcp8"]["max_context_tokens"] == pytest.approx(8 * found["tp8"]["max_context_tokens"], rel=0.001)


def test_experts_spread_over_data_parallel_ranks(call: Call) -> None:
    """With expert parallelism each of 8 data parallel ranks keeps an eighth of the experts, not all of them."""
    found = layouts(call, "qwen3-30b-a3b", "--gpu", "h100", "--gpus", "8", "--layouts", "dp8,dp8ep8")
    weights = {
        name: -sum(line["bytes"] for line in record["ledger"] if line["item"] == "weights")
        for name, record in found.items()
    }
    assert weights["dp8"] - weights["dp8ep8"] == pytest.approx(48 * 128 * 3 * 2048 * 768 * 2 * 7 / 8, rel=0.01)


def test_every_layout_once(call: Call) -> None:
    """`all` shows every layout the engine accepts, and says why the others are left out."""
    answer = call(
        "compare", "qwen3-8b", "--gpu", "h100", "--gpus", "6", "--layouts", "all", "-e", "vllm", "--json"
    ).answer
    names = [tuple(record["layout"].values()) for record in answer["results"]]
    assert len(set(names)) == len(names) >= 4
    assert all(tp * pp * dp == 6 for tp, pp, dp, _, _ in names)


def test_mixed_gpus_add_up(call: Call) -> None:
    """Four H100 and four H200: replicas of each type, sessions of both."""
    both = layouts(call, "qwen3-8b", "--gpu", "h100-80gb:4,h200:4", "--layouts", "tp2dp4")["tp2dp4"]
    parts = [
        layouts(call, "qwen3-8b", "--gpu", name, "--gpus", "4", "--layouts", "tp2dp2")["tp2dp2"]
        for name in ("h100-80gb", "h200")
    ]
    assert both["max_sessions"] == sum(part["max_sessions"] for part in parts)
    assert both["pool_bytes"] == min(part["pool_bytes"] for part in parts)


def test_contradictions(call: Call) -> None:
    """A degree beside --layouts, or GPUs that do not add up, are usage errors."""
    base = ("compare", "llama3", "--json", "--layouts")
    for more in (
        ["tp8", "--tp", "8"],
        ["tp8", "--gpu", "h100:4", "--gpus", "8"],
        ["tp4", "--gpus", "8"],
        ["tp8", "--pool", "1GiB"],
    ):
        assert call(*base, *more).code == 2


@given(
    st.sampled_from([("llama-3.1-8b", "tp2"), ("gemma-3-27b", "tp4"), ("deepseek-v2-lite", "tp1")]), st.integers(1, 6)
)
def test_more_replicas_never_hold_fewer(case: tuple[str, str], number: int) -> None:
    """More GPUs of the same layout hold as many sessions more as there are replicas more."""
    from kvcalc.answers.common import Ask
    from kvcalc.answers.layouts import divided
    from kvcalc.targets import Target

    target = Target(model=REGISTRY.model(case[0]), origin="registry")
    unit = read_division(case[1])
    held = []
    for replicas in (1, number):
        division = Division(unit.layout._replace(dp=replicas))
        fleet = [(REGISTRY.gpu("h200"), division.gpus)]
        held.append(divided(target, Ask(context_tokens=16384), fleet, division)[0]["max_sessions"] or 0)
    assert held[1] == number * held[0]
