"""Ollama's and LM Studio's own rules over llama.cpp, the sizes that llama.cpp adjusts, and vLLM's defaults by GPU.

Figures by hand: a token of two layers with 2 KV heads of 64 elements takes 2 x 2 x 128 x 2 = 1024 bytes in f16.
Source: Ollama server/sched.go, llm/llama_server.go; llama.cpp src/llama-context.cpp; vLLM engine/arg_utils.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.plan import Layout, Load
from kvcalc.engines.llamacpp.ollama import SINGLE_SLOT
from kvcalc.engines.llamacpp.prepare import CACHE_TYPES
from kvcalc.engines.llamacpp.settings import Settings
from kvcalc.engines.vllm.defaults import default_batch, default_sequences, is_a100, read_version
from kvcalc.errors import EngineRefusal

GIB = 2**30
HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LLAMA = model_of(HEADS, architecture="llama", max_context=65536)
SLIDING = model_of(
    {"local": HEADS | {"window": 100}, "full": HEADS},
    pattern=["local", "full"],
    architecture="gpt_oss",
    max_context=65536,
)
TOKEN = 1024


def report(engine: str, load: Load, model: Any = LLAMA, pool: int | None = None, **options: Any) -> dict[str, Any]:
    return started(engine, model, **options).report(load, pool)


@pytest.mark.parametrize(("tokens", "batch"), [(4096, 512), (4097, 1024), (32768, 1024), (32769, 2048), (300, 300)])
def test_ollama_batches_follow_the_context(tokens: int, batch: int) -> None:
    """512, 1024 above 4,096 cells, 2048 above 32,768; never more than the context."""
    got = report("ollama", Load(tokens))
    assert (got["n_batch"], got["n_ubatch"]) == (batch, batch)
    assert report("ollama", Load(tokens), num_batch=64)["n_ubatch"] == 64


def test_ollama_words() -> None:
    """num_ctx is the context of one slot, num_parallel the slots; every slot has its own cells."""
    got = report("ollama", Load(1000, 3))
    assert (got["num_ctx"], got["num_parallel"]) == (1000, 3)
    assert (got["n_ctx_seq"], got["n_ctx"], got["kv_unified"]) == (1024, 3072, False)
    assert got["context_bytes"] == 3072 * TOKEN
    more = report("ollama", Load(1000, 3), num_parallel=4)
    assert (more["num_parallel"], more["n_seq_max"]) == (4, 4)
    assert report("ollama", Load(1000), num_parallel=0)["n_seq_max"] == 1
    half = started("ollama", LLAMA, layout=Layout(dp=2)).report(Load(1000, 3))
    assert half["num_parallel"] == 2


def test_ollama_steps() -> None:
    """With a pool: doublings from 4,096 to the model's context, and the asked one; for 1, 2, 4 and the asked slots."""
    model = model_of(HEADS, architecture="llama", max_context=16384)
    got = report("ollama", Load(5000, 3), model, pool=40_000 * TOKEN)
    steps = got["steps"]
    assert sorted({step["num_ctx"] for step in steps}) == [4096, 5000, 8192, 16384]
    assert sorted({step["num_parallel"] for step in steps}) == [1, 2, 3, 4]
    for step in steps:
        cells = -(-step["num_ctx"] // 256) * 256 * step["num_parallel"]
        assert step["bytes"] == cells * TOKEN
        assert step["fits"] == (cells <= 40_000)
        assert step["added_bytes"] == (cells - 3 * 5120) * TOKEN
    capped = report("ollama", Load(50_000), model, pool=1)["steps"]
    assert max(step["num_ctx"] for step in capped) == 16384
    assert "steps" not in report("ollama", Load(5000))


def test_ollama_runs_some_architectures_one_at_a_time() -> None:
    """server/sched.go sets num_parallel back to 1 for these; each replica may have one."""
    assert set(SINGLE_SLOT) == {
        "mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe", "nemotron_h",
        "nemotron_h_moe", "nemotron_h_omni",
    }  # fmt: skip
    model = model_of(HEADS, architecture="qwen3_vl", max_context=8192)
    one = started("ollama", model)
    assert {step["num_parallel"] for step in one.report(Load(100), GIB)["steps"]} == {1}  # type: ignore[attr-defined]
    with pytest.raises(EngineRefusal, match="runs qwen3vl with one request at a time"):
        one.plan(Load(100, 2))
    two = started("ollama", model, layout=Layout(dp=2))
    assert two.plan(Load(100, 2)).total_bytes == 2 * one.plan(Load(100)).total_bytes


def test_ollama_has_one_type_for_both() -> None:
    """OLLAMA_KV_CACHE_TYPE sets K and V alike."""
    with pytest.raises(EngineRefusal, match="not q8_0 and q4_0"):
        started("ollama", LLAMA, types={"key": "q8_0", "value": "q4_0"})
    narrow = started("ollama", LLAMA, types={"key": "q8_0", "value": "q8_0"})
    assert narrow.report(Load(256))["context_bytes"] == 256 * 2 * 2 * 128 // 32 * 34  # 34 bytes per block of 32
    assert started("ollama", LLAMA).assumptions == started("ollama", LLAMA).server.assumptions  # type: ignore[attr-defined]


def test_ollama_options_reach_the_server() -> None:
    """num_gpu and flash_attention are llama-server's -ngl and -fa."""
    server: Any = started("ollama", LLAMA, num_gpu=1, flash_attention=False)
    assert (server.server.settings.n_gpu_layers, server.server.settings.flash_attn) == (1, "off")
    on: Any = started("ollama", LLAMA, flash_attention=True)
    plain: Any = started("ollama", LLAMA)
    assert (on.server.settings.flash_attn, plain.server.settings.flash_attn) == ("on", "auto")
    assert plain.server.settings.version == "b10566"
    assert plain.server.settings.n_batch == plain.server.settings.n_ubatch == 512


def test_lm_studio_shares_one_pool_among_four_slots() -> None:
    """context_length is the pool of all; its batch is undocumented, so a number that hangs on it is an estimate."""
    made: Any = started("lmstudio", LLAMA)
    got = made.report(Load(1000, 2))
    assert (got["n_seq_max"], got["kv_unified"], got["n_ctx"]) == (4, True, 2048)
    assert got["context_bytes"] == 2048 * TOKEN
    assert (made.exactness, made.settings.n_ubatch, made.settings.version) == ("estimate", 512, "b11549")
    options = {"eval_batch_size": 256, "context_length": 3000, "use_unified_kv_cache": False, "gpu_layers": 2}
    options |= {"max_parallel_predictions": 0, "flash_attention": False, "offload_kv_cache_to_gpu": False}
    said: Any = started("lmstudio", LLAMA, **options)
    assert said.exactness == "exact"
    assert said.settings == Settings(
        version="b11549", n_ctx=3000, n_parallel=1, n_batch=256, n_ubatch=256, kv_unified=False, flash_attn="off",
        offload_kqv=False, n_gpu_layers=2,
    )  # fmt: skip
    assert any("with 1 slots; evaluation batch 256" in text for text in said.assumptions)


def test_llamacpp_settings_left_out() -> None:
    """Batch 2048 of 512; slots as sessions; -np 0 is llama-server's own four over one pool; -ub 0 is the batch."""
    plain = Settings(version="b11549")
    assert plain.batches(10**6) == (2048, 512)
    assert (plain.slots(3), plain.slots(0), plain.unified) == (3, 1, False)
    own = Settings(version="b11549", n_parallel=0)
    assert (own.slots(3), own.unified) == (4, True)
    assert Settings(version="b11549", n_parallel=2).slots(3) == 2
    assert Settings(version="b11549", n_ubatch=0).batches(100) == (2048, 2048)
    assert (plain.flash_attn, plain.offload_kqv, plain.n_rs_seq, plain.swa_full) == ("auto", True, 0, False)


def test_llamacpp_context_of_slots() -> None:
    """-c is divided by the slots and padded to 256 each, or padded once where they share."""
    got = report("llama.cpp", Load(1, 3), n_ctx=1000)
    assert (got["n_ctx_seq"], got["n_ctx"], got["n_batch"]) == (512, 1536, 1000)
    shared = report("llama.cpp", Load(1, 3), n_ctx=1000, kv_unified=True)
    assert (shared["n_ctx_seq"], shared["n_ctx"]) == (1024, 1024)
    grown = report("llama.cpp", Load(700, 3), kv_unified=True)
    assert grown["n_ctx"] == 2304
    assert report("llama.cpp", Load(70_000))["n_ctx_slot"] == 65536
    assert report("llama.cpp", Load(100))["n_ctx_slot"] == 256


def test_llamacpp_slots_that_do_not_work() -> None:
    """More than 256, more sessions than slots, more slots than a batch has tokens."""
    for load, options, words in (
        (Load(1000, 257), {}, "n_seq_max must be <= 256"),
        (Load(1000, 3), {"n_parallel": 2}, "2 slots serve 2 sessions at a time, 3 are asked for"),
        (Load(1000, 3), {"n_batch": 2, "n_ubatch": 2}, "3 slots need a batch of at least 3 tokens"),
    ):
        with pytest.raises(EngineRefusal, match=words.replace("(", r"\(")):
            report("llama.cpp", load, **options)
    assert report("llama.cpp", Load(1000, 256))["n_seq_max"] == 256
    assert report("llama.cpp", Load(1000, 3), n_batch=3, n_ubatch=3)["n_batch"] == 3


def test_llamacpp_sliding_cells() -> None:
    """window + n_ubatch in 256s: 100 + 512 is 768; never more than a slot's context; --swa-full keeps all of it."""
    assert report("llama.cpp", Load(4096), SLIDING)["swa_cells"] == 768
    assert report("llama.cpp", Load(600), SLIDING)["swa_cells"] == 768
    assert report("llama.cpp", Load(500), SLIDING)["swa_cells"] == 512
    assert report("llama.cpp", Load(4096), SLIDING, swa_full=True)["swa_cells"] == 4096
    assert report("llama.cpp", Load(4096), SLIDING, n_ubatch=157)["swa_cells"] == 512
    # One pool holds every slot's window: 4 x 100 + 512.
    assert report("llama.cpp", Load(4096, 4), SLIDING, kv_unified=True)["swa_cells"] == 1024
    got = report("llama.cpp", Load(4096), SLIDING)
    assert got["context_bytes"] == (4096 + 768) * TOKEN // 2
    assert "swa_cells" not in report("llama.cpp", Load(4096))
    assert "recurrent_cells" not in got


def test_llamacpp_states_and_snapshots() -> None:
    """One row per slot, and n_rs_seq more where the architecture keeps snapshots."""
    delta = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16,
             "conv_kernel": 4}  # fmt: skip
    for architecture, rows in (("qwen3_next", 3), ("qwen3_5", 9)):
        model = model_of({"d": delta, "f": HEADS}, pattern=["d", "f"], architecture=architecture, max_context=8192)
        got = report("llama.cpp", Load(256, 3), model, n_rs_seq=2)
        assert got["recurrent_cells"] == rows
        assert got["context_bytes"] == 3 * 256 * TOKEN // 2 + rows * (3 * 192 + 4 * 512) * 4


def test_llamacpp_types() -> None:
    """Nine cache types; f16 unless asked; quantised V needs flash attention; blocks of 32 must divide the row."""
    assert CACHE_TYPES == ("float32", "float16", "bfloat16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
    widths = {"float32": 4096, "bfloat16": 2048, "q8_0": 1088, "q4_0": 576, "q4_1": 640, "iq4_nl": 576, "q5_0": 704,
              "q5_1": 768}  # fmt: skip
    for dtype, size in widths.items():  # bytes of 1024 elements
        made = started("llama.cpp", LLAMA, types={"key": dtype, "value": dtype})
        assert made.report(Load(256))["context_bytes"] == 256 * size // 2
    with pytest.raises(EngineRefusal):
        started("llama.cpp", LLAMA, types={"key": "int8", "value": "int8"})
    with pytest.raises(EngineRefusal):
        started("llama.cpp", LLAMA, types={"value": "q8_0"}, flash_attn="off")
    with pytest.raises(EngineRefusal):
        started("llama.cpp", model_of(HEADS | {"head_dim": 40}, architecture="llama"), types={"key": "q8_0"})
    started("llama.cpp", LLAMA, types={"key": "q8_0"}, flash_attn="off")


def test_llamacpp_names_architectures() -> None:
    """The file's own, the converter's, or a refusal."""
    with pytest.raises(EngineRefusal, match="does not name one"):
        started("llama.cpp", model_of(HEADS))
    with pytest.raises(EngineRefusal, match="no architecture for model_type"):
        started("llama.cpp", model_of(HEADS, architecture="recurrent_gemma"))
    with pytest.raises(EngineRefusal):
        started("llama.cpp", model_of(HEADS, facts={"gguf_architecture": "plm"}))
    stated: Any = started("llama.cpp", model_of(HEADS, facts={"gguf_architecture": "qwen2"}))
    assert stated.layers == 2


def test_llamacpp_places_layers() -> None:
    """Layer i of 4 goes to GPU floor(2 i / 5), the output layer counted; -ngl leaves the first ones on the host."""
    four = model_of(HEADS, layers=4, architecture="llama")
    split = started("llama.cpp", four, layout=Layout(pp=2)).plan(Load(256))
    assert split.by_rank() == {0: 3 * 256 * TOKEN // 2, 1: 256 * TOKEN // 2}
    for layers, host in ((3, 0), (2, 1), (1, 2), (0, 2)):
        plan = started("llama.cpp", LLAMA, n_gpu_layers=layers).plan(Load(256))
        assert (plan.host.bytes if plan.host else 0) == host * 256 * TOKEN // 2
    kept = started("llama.cpp", LLAMA, offload_kqv=False)
    assert kept.report(Load(256))["host_bytes"] == 256 * TOKEN

    assert "max_n_gpu_layers" not in started("llama.cpp", LLAMA).report(Load(256), GIB)


def test_vllm_defaults_by_memory() -> None:
    """8,192 tokens a batch from 70 GiB on (not the A100), 16,384 from 160 GiB on since 0.22, else 2,048."""
    assert [read_version(text) for text in ("0.9", "0.11.2", "1", "0.33")] == [(0, 9), (0, 11), (1, 0), (0, 33)]
    cases = [
        ((0, 33), 160 * GIB, False, 16384, 16384), ((0, 33), 160 * GIB - 1, False, 8192, 16384),
        ((0, 22), 160 * GIB, False, 16384, 16384), ((0, 21), 160 * GIB, False, 8192, 16384),
        ((0, 33), 70 * GIB, False, 8192, 16384), ((0, 33), 70 * GIB - 1, False, 2048, 8192),
        ((0, 33), 80 * GIB, True, 2048, 8192),
    ]  # fmt: skip
    for version, memory, a100, serve, offline in cases:
        assert default_batch(version, memory, a100=a100) == serve
        assert default_batch(version, memory, a100=a100, server=False) == offline
    assert default_sequences((0, 8), 70 * GIB, a100=False) == 1024
    assert default_sequences((0, 7), 70 * GIB, a100=False) == 256
    assert default_sequences((0, 33), 70 * GIB - 1, a100=False) == 256
    assert default_sequences((0, 33), 80 * GIB, a100=True) == 256
    assert (is_a100("sm80"), is_a100("sm86"), is_a100(None)) == (True, False, False)
