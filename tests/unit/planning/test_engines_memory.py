"""Ledgers and admission of the engines that do not profile as vLLM does."""

from __future__ import annotations

import pytest
from calling import Call

from kvcalc.planning.admission import reserved
from kvcalc.planning.workload import Requests, inline, make_workload

LENGTHS = ("--input", "p50=900,p95=3000,max=8k", "--output", "p50=150,p95=800,max=2k")


def lines(call: Call, engine: str, *more: str) -> dict[str, int]:
    answer = call("fit", "llama-3.1-8b", "-e", engine, "--gpu", "h100-80gb", "--json", *more).answer
    return {line["item"]: line["bytes"] for line in answer["ledger"]} | {"pool": answer["pool_bytes"]}


def test_sglang_keeps_a_share_of_what_is_free(call: Call) -> None:
    """Weights and cache get mem_fraction_static of the memory free at start."""
    found = lines(call, "sglang", "-o", "mem_fraction_static=0.8")
    free = found["h100-80gb memory"] + found["context, communication"]
    assert abs(found["pool"] - (free * 8 // 10 + found["weights"])) <= 1


@pytest.mark.parametrize(
    ("engine", "option", "fraction"),
    [("lmdeploy", "cache_max_entry_count", 0.8), ("tensorrt-llm", "free_gpu_memory_fraction", 0.9)],
)
def test_fraction_of_free_memory(call: Call, engine: str, option: str, fraction: float) -> None:
    """The cache gets its default fraction of what is left; a given one is applied by the engine to all of it."""
    found = lines(call, engine)
    taken = sum(size for item, size in found.items() if item not in ("pool", "kept free"))
    assert found["pool"] == pytest.approx(taken * fraction, abs=2)
    given = lines(call, engine, "-o", f"{option}=0.5")
    assert "kept free" not in given
    assert given["pool"] >= taken


@pytest.mark.parametrize("fraction", ["0.1", "0.5", "0.9"])
def test_sessions_take_no_more_than_the_fraction(call: Call, fraction: str) -> None:
    """TensorRT-LLM keeps its cache in free_gpu_memory_fraction of the free memory: that part decides the sessions."""
    base = ("fit", "llama-3.1-8b", "-e", "tensorrt-llm", "--gpu", "h100-80gb", "-o")
    answer = call(*base, f"free_gpu_memory_fraction={fraction}", "--json").answer
    each = answer["per_session_bytes"]  # 8,192 tokens of 128 KiB
    assert each == 8192 * 131072
    assert answer["max_sessions"] == int(answer["pool_bytes"] * float(fraction)) // each


@pytest.mark.parametrize(
    ("engine", "options", "longest", "sessions"),
    [
        ("vllm", ["num_gpu_blocks_override=1000"], 999 * 16, 1),  # one block is the null block
        ("sglang", ["max_total_tokens=20000"], 20000, 2),
        ("tensorrt-llm", ["max_tokens=20000", "use_kv_cache_manager_v2=false"], 20000, 2),
        ("llama.cpp", ["n_ctx=32768"], 32768, 4),
        ("llama.cpp", ["n_ctx=32768", "kv_unified=on"], 32768, 4),
        ("lmstudio", ["context_length=32768"], 32768, 4),
    ],
)
def test_options_that_fix_the_pool(call: Call, engine: str, options: list[str], longest: int, sessions: int) -> None:
    """A pool fixed by the engine's own option holds that much, however large the GPU: sessions of 8,192 tokens."""
    pairs = [word for option in options for word in ("-o", option)]
    base = ("fit", "llama-3.1-8b", "-e", engine, "--gpu", "h200", *pairs, "--json")
    answer = call(*base).answer
    found = (answer["max_context_tokens"], answer["max_sessions"], answer["binding_limit"])
    assert found == (longest, sessions, "options")
    more = call(*base, "-c", str(longest + 256))
    assert (more.code, more.answer["verdict"]) == (1, "DOES NOT FIT")
    assert any("are needed" in text for text in more.answer["warnings"])


def test_llamacpp_gives_all_the_rest(call: Call) -> None:
    """Beside weights and buffers everything is the cache's; a smaller physical batch leaves more."""
    large, small = lines(call, "llama.cpp"), lines(call, "llama.cpp", "-o", "n_ubatch=128")
    assert small["pool"] - large["pool"] == small["compute buffer"] - large["compute buffer"] > 0


@pytest.mark.parametrize("engine", ["llama.cpp", "ollama", "lmstudio"])
@pytest.mark.parametrize("flash", [True, False])
def test_longest_context_pays_for_its_own_buffer(call: Call, engine: str, *, flash: bool) -> None:
    """The compute buffer grows with the context: the longest one is the same whatever context is asked about."""
    option = {"llama.cpp": "flash_attn=off", "ollama": "flash_attention=off", "lmstudio": "flash_attention=off"}[engine]
    more = () if flash else ("-o", option)
    base = ("fit", "llama-3.1-8b", "-e", engine, "--gpu", "rtx-4090", "--json", *more, "-c")
    longest = call(*base, "4096").answer["max_context_tokens"]
    there, beyond = call(*base, str(longest)).answer, call(*base, str(longest + 256)).answer
    assert (there["max_context_tokens"], there["fits"], beyond["fits"]) == (longest, True, False)


def test_slots_are_as_long_as_the_longest(call: Call) -> None:
    """llama.cpp's slots keep their whole context: as many sessions as if all were the longest."""
    answer = call("sessions", "llama-3.1-8b", "-e", "llama.cpp", "--pool", "40GiB", *LENGTHS, "--json").answer
    assert answer["max_sessions"] == pytest.approx(answer["worst_case_sessions"], abs=1)
    assert any("whole context" in text for text in answer["assumptions"])


def test_parallel_predictions_are_capped(call: Call) -> None:
    """LM Studio serves 4 at once unless told otherwise."""
    answer = call("sessions", "llama-3.1-8b", "-e", "lmstudio", "--pool", "40GiB", *LENGTHS, "--json").answer
    assert (answer["max_sessions"], answer["binding_limit"]) == (4, "max_num_seqs")


def test_reserving_holds_fewer(call: Call) -> None:
    """An engine that reserves the longest output holds fewer sessions than one that does not."""
    base = ("sessions", "llama-3.1-8b", "--pool", "40GiB", *LENGTHS, "--json", "-e")
    grows, reserves = call(*base, "ideal").answer, call(*base, "tensorrt-llm").answer
    assert reserves["max_sessions"] < grows["max_sessions"]


def test_reserved_lengths() -> None:
    """Prompt plus longest output, from the first step."""
    found = reserved(inline("uniform=100-102", "uniform=5-50"))
    assert sorted(found.starts) == [149, 150, 151]
    assert found.starts == found.ends


def test_reserved_lengths_of_a_mixture() -> None:
    """A class of short prompts may have the longest outputs: they are reserved behind every prompt, and decide."""
    mixed = make_workload([Requests(1, {10_000: 1.0}, {10: 1.0}), Requests(1, {100: 1.0}, {2_000: 1.0})])
    found = reserved(mixed)
    assert (sorted(found.starts), found.longest) == ([2_099, 11_999], 11_999)


@pytest.mark.parametrize(
    ("engine", "option"), [("vllm", "num_gpu_blocks_override=1251"), ("sglang", "max_total_tokens=20000")]
)
def test_sessions_of_a_pool_that_an_option_fixes(call: Call, engine: str, option: str) -> None:
    """20,000 tokens hold twenty sessions of 500 to 1,000 tokens and not hundreds, whatever the GPU has."""
    base = ("sessions", "llama-3.1-8b", "-e", engine, "--gpu", "h200", "-o", option, "--json")
    answer = call(*base, "--input", "500", "--output", "500").answer
    assert 19 <= answer["max_sessions"] <= 27
    longer = call(*base, "--input", "19k", "--output", "2k").answer
    assert longer["worst_case_sessions"] == 0


def test_plan_and_fit_hold_the_same(call: Call) -> None:
    """One replica of one GPU holds what `fit` says it holds, growing buffers included."""
    base = ("llama-3.1-8b", "-e", "ollama", "-c", "16k", "--gpu", "h100-80gb", "--json")
    (row,) = call("plan", *base, "--users", "2", "--max-gpus", "1").answer["results"]
    assert row["sessions_per_replica"] == call("fit", *base).answer["max_sessions"]


@pytest.mark.parametrize("engine", ["llama.cpp", "ollama"])
def test_slots_pay_for_growing_buffers(call: Call, engine: str) -> None:
    """Sessions that are all of one length in slots of that length: as many as `fit` holds of them."""
    base = ("llama-3.1-8b", "-e", engine, "--gpu", "h100-80gb", "--json")
    held = call("fit", *base, "-c", "12288").answer["max_sessions"]
    found = call("sessions", *base, "--input", "12188", "--output", "101").answer
    assert found["worst_case_sessions"] == held
    assert abs(found["max_sessions"] - held) <= 1
