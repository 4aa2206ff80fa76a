"""The ledger as people ask for it: bands, verdicts, gates, refusals."""

from __future__ import annotations

import pytest
from calling import Call
from hypothesis import given
from hypothesis import strategies as st

from kvcalc.core.plan import Layout
from kvcalc.planning.ledger import LedgerAsk, build_ledger, levers
from kvcalc.registry import load_registry
from kvcalc.units import GIB

REGISTRY = load_registry()
MODELS = ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-120b", "qwen3-next-80b-a3b")
ASKS = st.builds(
    LedgerAsk,
    model=st.sampled_from([REGISTRY.model(name) for name in MODELS]),
    gpu=st.sampled_from([REGISTRY.gpu(name) for name in ("h100-80gb", "l40s", "rtx-4090", "b200", "a100-80gb")]),
    layout=st.builds(Layout, tp=st.sampled_from([1, 2, 4, 8]), pp=st.sampled_from([1, 2])),
    engine=st.sampled_from(["ideal", "vllm", "sglang"]),
    version=st.sampled_from(["0.11", "0.18", "0.24", "0.33"]),
    options=st.fixed_dictionaries(
        {}, optional={"max_num_seqs": st.integers(1, 2048), "max_num_batched_tokens": st.integers(256, 32768)}
    ),
)


@given(ASKS)
def test_lines_sum_to_the_pools(ask: LedgerAsk) -> None:
    """Each column sums to its pool, worst <= best guess <= best case, and bytes are whole."""
    ledger = build_ledger(ask)
    for key, pool in (("bytes", ledger.pool_bytes), ("low_bytes", ledger.low_pool_bytes)):
        assert sum(line[key] for line in ledger.lines) == pool  # type: ignore[literal-required]
    assert ledger.low_pool_bytes <= ledger.pool_bytes <= ledger.high_pool_bytes
    assert all(type(line[key]) is int for line in ledger.lines for key in ("bytes", "low_bytes", "high_bytes"))
    assert all(line["low_bytes"] <= line["bytes"] <= line["high_bytes"] for line in ledger.lines)


@given(ASKS)
def test_levers_keep_their_word(ask: LedgerAsk) -> None:
    """Every advised change gains memory; the largest comes first."""
    gains = [lever.gain_bytes for lever in levers(ask)]
    assert all(gain > 0 for gain in gains)
    assert gains == sorted(gains, reverse=True)


@given(ASKS, st.integers(1, 4))
def test_more_sequences_never_leave_more(ask: LedgerAsk, factor: int) -> None:
    """max_num_seqs only takes memory."""
    few = build_ledger(ask._replace(options={**ask.options, "max_num_seqs": 128}))
    many = build_ledger(ask._replace(options={**ask.options, "max_num_seqs": 128 * factor}))
    assert many.pool_bytes <= few.pool_bytes


def test_gate_exits_by_the_answer(call: Call) -> None:
    """--require-sessions exits 0 or 1 and says by how much: 55 sessions of 8k (1 GiB each) fit beside Llama-3-8B."""
    arguments = ("fit", "llama3", "--gpu", "h100-80gb", "-c", "8k", "--require-sessions")
    few, many = call(*arguments, "48"), call(*arguments, "64")
    assert (few.code, many.code) == (0, 1)
    assert "48 sessions required, 55 held: 7 to spare" in few.out
    assert "64 sessions required, 55 held: 9 short" in many.out
    answer = call(*arguments, "64", "--json").answer
    (item,) = answer["requirements"]
    assert item["missing_bytes"] == 64 * GIB - answer["pool_bytes"]


def test_context_gate_knows_the_models_own_limit(call: Call) -> None:
    """A context that memory holds but the model does not know is not met."""
    done = call("fit", "llama3", "--gpu", "h100-80gb", "--require-context", "16k", "--json")
    (item,) = done.answer["requirements"]
    assert (done.code, item["held"], item["met"], item["missing_bytes"]) == (1, 8192, False, 0)


def test_borderline_names_the_change_that_buys_most(call: Call) -> None:
    """Between the worst and the best case the verdict is BORDERLINE, with a change and its bytes."""
    arguments = ("fit", "llama-3.1-8b", "-e", "vllm@0.11", "--gpu", "h100-80gb", "-c", "8k")
    answer = call(*arguments, "--json").answer
    assert answer["verdict"] == "FITS"
    sessions = str(answer["low_sessions"] + 1)
    text = call(*arguments, "-n", sessions).out
    assert "BORDERLINE: " in text
    assert "would gain" in text
    assert call(*arguments, "-n", "9999", "--json").answer["verdict"] == "DOES NOT FIT"


def test_version_decides(call: Call) -> None:
    """The same start leaves 2.7 GiB more since the sampler changed with 0.17 (38 to 15.5 bytes per logit)."""
    pools = [
        call("fit", "llama-3.1-8b", "-e", f"vllm@{version}", "--gpu", "h100-80gb", "--json").answer["pool_bytes"]
        for version in ("0.16.0", "0.17")
    ]
    assert pools[1] - pools[0] == 1024 * 128256 * 225 // 10


@pytest.mark.parametrize(
    ("model", "gpu", "why"),
    [
        ("llama3", "mi300x", "knows NVIDIA GPUs"),
        ("llama3", "dgx-spark", "shares its memory"),
        ("deepseek-v4-flash", "b200", "DeepSeek-V4"),
        ("command-r", "h100", "does not say hidden_size"),
    ],
)
def test_refusals_name_what_to_supply(call: Call, model: str, gpu: str, why: str) -> None:
    """Where the closed form does not hold there is no number, but the way to one."""
    done = call("fit", model, "-e", "vllm", "--gpu", gpu, "--tp", "4", "--weight-dtype", "fp8", "--json")
    assert done.code != 0
    assert why in done.error["message"]
    assert done.error["fix"]


def test_gpu_total_overrides(call: Call) -> None:
    """--gpu-total replaces the GPU's memory: 1 GiB less of it is 1 GiB x 92 % less pool, to the rounding."""
    pools = [
        call("fit", "llama3", "-e", "vllm@0.24", "--gpu", "l40s", "--gpu-total", total, "--json").answer["pool_bytes"]
        for total in ("44GiB", "43GiB")
    ]
    assert abs(pools[0] - pools[1] - GIB * 92 // 100) <= 1


def test_vllm_defaults_follow_the_gpu(call: Call) -> None:
    """The scheduler's defaults are those of the card: 8,192 tokens and 1,024 sequences on a 96 GB workstation card."""
    answer = call("fit", "qwen3-8b", "-e", "vllm", "--gpu", "rtx-pro-6000", "--json").answer
    assert answer["engine_report"]["max_num_batched_tokens"] == 8192
    assert any("max_num_seqs 1,024" in text for text in answer["assumptions"])
