"""What the llama.cpp engine and its presets do around the numbers: slots, options, layouts, offload, refusals."""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.core.capacity import growth, max_context, max_sessions
from kvcalc.core.component import Role
from kvcalc.core.plan import Layout, Load, Planner
from kvcalc.document import model_from_document
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup, read_options
from kvcalc.engines.llamacpp.arch import ARCHS, NOT_COVERED, gguf_architecture
from kvcalc.engines.llamacpp.ollama import SINGLE_SLOT
from kvcalc.errors import EngineRefusal, UsageError

ATTENTION = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
ROW = 2 * 2 * 64 * 2  # K and V, 2 heads of 64, f16
BOTH: frozenset[Role] = frozenset(("key", "value"))


def planner(
    engine: str = "llama.cpp",
    *,
    kv: str | tuple[str, str] | None = None,
    layout: Layout | None = None,
    doc: dict[str, Any] | None = None,
    **options: Any,
) -> Planner:
    """Four plain layers of model_type llama unless `doc` says otherwise; `kv` as asked for by the user."""
    model = model_from_document(
        {"name": "m", "dtype": "float32", "architecture": "llama", "layers": 4, "max_context": 8192,
         "attention": ATTENTION, **(doc or {})}
    )  # fmt: skip
    found, version = get_engine(engine)
    key, value = (kv, kv) if isinstance(kv, str) else kv or ("float32", "float32")
    dtypes = CacheDtypes(key=key, value=value, index=key, pending="float32", conv="float32", state="float32")
    setup = Setup(
        version=version, dtypes=dtypes, options=options, layout=layout or Layout(), asked=BOTH if kv else frozenset()
    )
    return found.prepare(model, setup)


def total(plan: Planner, tokens: int, sessions: int = 1) -> int:
    return plan.plan(Load(tokens, sessions)).total_bytes


def test_the_cache_is_f16_unless_asked() -> None:
    """A model in float32 has an f16 cache: llama.cpp has a default of its own, and says so."""
    assert total(planner(), 256) == 4 * 256 * ROW
    assert any("f16" in text for text in planner().assumptions)
    assert total(planner(kv="float32"), 256) == 2 * 4 * 256 * ROW


@pytest.mark.parametrize(("tokens", "cells"), [(1, 256), (256, 256), (257, 512), (1000, 1024)])
def test_cells_come_in_256s(tokens: int, cells: int) -> None:
    """Each slot is padded on its own."""
    assert total(planner(), tokens) == 4 * cells * ROW
    assert total(planner(), tokens, 3) == 3 * 4 * cells * ROW


def test_unified_slots_share_one_pool() -> None:
    """One pool of all sessions' tokens, padded once."""
    shared = planner(kv_unified=True)
    assert total(shared, 100, 3) == 4 * 512 * ROW
    assert shared.report(Load(100, 3))["n_ctx_seq"] == 512


def test_llama_server_chooses_four_slots_over_one_pool() -> None:
    """n_parallel=0 is the server left alone: four slots, unified, and n_ctx for one session."""
    report = planner(n_parallel=0).report(Load(8192, 1))
    assert (report["n_seq_max"], report["kv_unified"], report["n_ctx"]) == (4, True, 8192)


def test_fixed_totals_are_divided_among_slots() -> None:
    """-o n_ctx is llama.cpp's total: 8,192 over 4 slots are 2,048 each, over 3 it rounds up to 2,816."""
    assert planner(n_ctx=8192).report(Load(1, 4))["n_ctx_seq"] == 2048
    report = planner(n_ctx=8192).report(Load(1, 3))
    assert (report["n_ctx_seq"], report["n_ctx"]) == (2816, 8448)
    assert any("n_ctx is fixed" in text for text in planner(n_ctx=8192).assumptions)


def test_more_sessions_than_slots_or_sequences_are_refused() -> None:
    """256 sequences at most; fixed slots serve no more sessions than themselves; the inverse stops there."""
    with pytest.raises(EngineRefusal, match="n_seq_max must be <= 256"):
        total(planner(), 256, 257)
    with pytest.raises(EngineRefusal, match="2 slots serve"):
        total(planner(n_parallel=2), 256, 3)
    assert max_sessions(planner(), 2**50, context_tokens=256) == 256
    assert max_sessions(planner(n_parallel=2), 2**50, context_tokens=256) == 2
    assert max_context(planner(n_parallel=0), 4 * 512 * ROW) == 512


def test_types_are_refused_in_the_library_s_words() -> None:
    """Unknown types, block formats without flash attention or with odd heads, two types for one latent row."""
    with pytest.raises(EngineRefusal, match="no cache type 'fp8_e4m3'"):
        planner(kv="fp8_e4m3")
    with pytest.raises(EngineRefusal, match="quantized V cache requires flash_attn"):
        planner(kv=("float16", "q8_0"), flash_attn="off")
    odd = {"attention": ATTENTION | {"head_dim": 80}}
    with pytest.raises(EngineRefusal, match="K cache type q8_0 with block size 32 does not divide n_embd_head_k=80"):
        planner(kv=("q8_0", "float16"), doc=odd)
    with pytest.raises(EngineRefusal, match="V cache type q4_0"):
        planner(kv=("float16", "q4_0"), doc=odd)
    assert total(planner(kv=("q8_0", "float16"), doc=odd, flash_attn="off"), 256)  # 2 x 80 are five blocks
    mla = {"kind": "mla", "heads": 8, "latent_dim": 64, "rope_dim": 32}
    with pytest.raises(EngineRefusal, match="different K"):
        planner(kv=("q8_0", "float16"), doc={"architecture": "deepseek_v3", "attention": mla})
    half = {"attention": ATTENTION | {"groups": 1, "head_dim": 48}}
    with pytest.raises(EngineRefusal, match="whole blocks"):
        planner(kv=("q8_0", "float16"), doc=half, flash_attn="off")


def test_architectures_decide_what_a_model_may_keep() -> None:
    """No architecture, an unknown one, one that cannot hold a block: refused, never priced as something else."""
    for doc, words in (
        ({"architecture": None}, "does not name one"),
        ({"architecture": "recurrent_gemma"}, "no architecture for model_type"),
        ({"attention": {"kind": "mla", "heads": 8, "latent_dim": 64, "rope_dim": 32}}, "no compressed latent"),
        ({"attention": {"kind": "short_conv", "dim": 64, "conv_kernel": 3}}, "no recurrent state"),
        ({"attention": ATTENTION | {"indexer": {"head_dim": 64}}}, "no indexer cache"),
        ({"attention": {"a": ATTENTION, "b": {"kind": "shared", "of": "a"}}, "pattern": ["a", "b"]}, "cannot share"),
        ({"facts": {"gguf_architecture": "hrm_text"}}, "block_count alone"),
    ):
        with pytest.raises(EngineRefusal, match=words):
            planner(doc=doc)
    two = {"a": ATTENTION | {"window": 64}, "b": ATTENTION | {"window": 128}}
    with pytest.raises(EngineRefusal, match="one window per model"):
        planner(doc={"architecture": "gemma3_text", "attention": two, "pattern": ["a", "b"]})
    with pytest.raises(EngineRefusal, match="b10566 does not know it"):
        planner("llama.cpp@b10566", doc={"architecture": "hy_v4"})
    with pytest.raises(EngineRefusal, match="must say their widths"):
        planner(
            doc={"architecture": "minicpm3", "attention": {"kind": "mla", "heads": 8, "latent_dim": 8, "rope_dim": 8}}
        )
    shared = {"a": ATTENTION, "s": {"kind": "shared", "of": "a"}}
    with pytest.raises(EngineRefusal, match="first 20 layers in any case, but layer 3 shares"):
        planner(doc={"architecture": "gemma3n", "attention": shared, "pattern": ["a*3", "s"]})


def test_cross_attention_is_recomputed_not_cached() -> None:
    """T5's decoder keeps its own keys and values only, however long the encoder's input is."""
    blocks = {"self": ATTENTION, "cross": {"kind": "cross", "heads": 8, "head_dim": 64}}
    t5 = planner(doc={"architecture": "t5", "attention": blocks, "pattern": [["self", "cross"]]})
    assert t5.plan(Load(256, 1, 5000)).total_bytes == 4 * 256 * ROW


def test_kimi_linear_values_are_checked_at_the_width_its_loader_assumes() -> None:
    """Its converter writes no value_length: 2304 / 32 = 72 elements, which no block of 32 divides."""
    blocks = {
        "kda": {"kind": "kda", "heads": 32, "head_dim": 128, "conv_kernel": 4},
        "mla": {"kind": "mla", "heads": 32, "latent_dim": 512, "rope_dim": 64},
    }
    doc = {"architecture": "kimi_linear", "hidden_size": 2304, "attention": blocks, "pattern": ["kda", "mla"]}
    with pytest.raises(EngineRefusal, match="n_embd_head_v=72"):
        planner(kv="q8_0", doc=doc)


def test_kimi_k3_is_not_kimi_linear() -> None:
    """Its language model says kimi_linear, the file around it kimi_k3: only that one keeps snapshots of its states."""
    doc = {"architecture": "kimi_linear", "attention": {"kind": "kda", "heads": 8, "head_dim": 64, "conv_kernel": 4}}
    assert total(planner(doc=doc, n_rs_seq=1), 256) == total(planner(doc=doc), 256)
    whole = doc | {"facts": {"wrapper": "kimi_k3"}}
    assert total(planner(doc=whole, n_rs_seq=1), 256) == 2 * total(planner(doc=whole), 256)


def test_mtp_layers_of_a_deepseek_v4_file_keep_a_window() -> None:
    """Where the file has them, DeepSeek-V4's main context gives its MTP layers the window cache, and nothing else."""
    attention = {
        "window": {"kind": "mqa", "heads": 8, "head_dim": 128, "window": 128, "tied_kv": True},
        "csa": {"kind": "csa", "heads": 8, "head_dim": 128, "tokens_per_slot": 4, "window": 128, "index_dim": 64},
    }
    doc = {"architecture": "deepseek4", "attention": attention, "pattern": ["window", "csa"]}
    file = doc | {"mtp": {"layers": 1, "block": "window"}, "facts": {"gguf_architecture": "deepseek4"}}
    added = total(planner(doc=file), 4096) - total(planner(doc=doc), 4096)
    assert added == 768 * 128 * 2  # window 128 + batch 512, padded; one row for K and V


@pytest.mark.parametrize("engine", ["llama.cpp", "ollama", "lmstudio"])
def test_growth_of_a_session(engine: str) -> None:
    """Far out a session costs its row per token; what it costs at once is the sliding layers."""
    gemma = {"a": ATTENTION | {"window": 512}, "b": ATTENTION}
    rate = growth(planner(engine, doc={"architecture": "gemma3_text", "attention": gemma, "pattern": ["a", "b"]}))
    slots, batch = (4, 512) if engine == "lmstudio" else (1, 2048 if engine == "ollama" else 512)
    assert rate.marginal_bytes == 2 * ROW
    assert rate.fixed_bytes == 2 * (slots * 512 + batch) * ROW


def test_windows_follow_the_architecture() -> None:
    """Mistral's window is ignored; Gemma 3's holds window + batch, once per slot or once for a shared pool of all."""
    slides = {"attention": ATTENTION | {"window": 512}}
    assert total(planner(doc=slides), 8192) == 4 * 8192 * ROW
    gemma = {"architecture": "gemma3_text"} | slides
    assert total(planner(doc=gemma), 8192) == 4 * 1024 * ROW
    assert total(planner(doc=gemma, swa_full=True), 8192) == 4 * 8192 * ROW
    assert total(planner(doc=gemma, n_ubatch=64), 8192) == 4 * 768 * ROW  # 576 cells, padded
    assert total(planner(doc=gemma), 8192, 4) == 4 * 4 * 1024 * ROW
    assert total(planner(doc=gemma, kv_unified=True), 8192, 4) == 4 * (4 * 512 + 512) * ROW


def test_states_are_float32_and_ignore_the_context() -> None:
    """Mamba: (kernel - 1) x inner and state x inner floats per slot, and per snapshot where the model keeps some."""
    doc = {
        "architecture": "mamba",
        "attention": {"kind": "mamba1", "inner_dim": 256, "state_dim": 16, "conv_kernel": 4},
    }
    assert total(planner(doc=doc), 1) == total(planner(doc=doc), 8192) == 4 * 4 * (3 * 256 + 16 * 256)
    assert total(planner(doc=doc, n_rs_seq=3), 1) == total(planner(doc=doc), 1)  # mamba takes no snapshots
    lfm = {"architecture": "lfm2", "attention": {"kind": "short_conv", "dim": 256, "conv_kernel": 3}}
    assert total(planner(doc=lfm, n_rs_seq=3), 1) == 4 * total(planner(doc=lfm), 1)


def test_without_flash_attention_values_are_as_wide_as_the_widest() -> None:
    """V is transposed then, and every layer pays for the widest."""
    wide = {"a": ATTENTION, "b": ATTENTION | {"groups": 8}}
    doc = {"attention": wide, "pattern": ["a", "b"]}
    assert total(planner(doc=doc), 256) == 256 * 2 * (ROW + 4 * ROW)
    assert total(planner(doc=doc, flash_attn="off"), 256) == 256 * 2 * (ROW // 2 + 2 * ROW + 2 * 2 * ROW)


def test_layers_are_spread_over_gpus_and_the_host() -> None:
    """--pp splits by layers; -ngl leaves the first layers' cache on the host; -nkvo all of it."""
    two = planner(layout=Layout(pp=2)).plan(Load(256))
    assert two.by_rank() == {0: 3 * 256 * ROW, 1: 256 * ROW}  # five parts with the output layer: 3 + 1 + output
    some = planner(n_gpu_layers=3).plan(Load(256))
    assert some.max_rank_bytes == 2 * 256 * ROW
    assert some.host is not None
    assert some.host.bytes == 2 * 256 * ROW
    assert some.total_bytes == 4 * 256 * ROW
    none = planner(offload_kqv=False)
    assert none.plan(Load(256)).max_rank_bytes == 0
    assert none.report(Load(256))["host_bytes"] == 4 * 256 * ROW
    assert max_context(none, 1) is None
    with pytest.raises(UsageError, match="splits a model by layers"):
        planner(layout=Layout(tp=2))


def test_replicas_are_servers_of_their_own() -> None:
    """--dp 2 with three sessions: one server of two slots, one of one."""
    plan = planner(layout=Layout(dp=2)).plan(Load(256, 3))
    assert plan.by_rank() == {0: 2 * 4 * 256 * ROW, 1: 4 * 256 * ROW}


def test_how_many_layers_fit() -> None:
    """With weights known, the report says how many layers a GPU holds: all, some, or none."""
    doc = {"weights": {"bytes": 5 * 2**20}}
    full = planner(doc=doc).report(Load(256), 2**30)
    assert (full["max_n_gpu_layers"], full["all_n_gpu_layers"]) == (5, 5)
    cell = 256 * ROW
    assert planner(doc=doc).report(Load(256), -2 * 2**20)["max_n_gpu_layers"] == 2  # 3 MiB: two parts and a cache
    assert planner(doc=doc).report(Load(256), -5 * 2**20 + 2**20 + cell - 1)["max_n_gpu_layers"] == 1
    assert planner(doc=doc).report(Load(256), -5 * 2**20)["max_n_gpu_layers"] == 0


def test_graphs_that_abort_are_refused() -> None:
    """Fewer batch tokens than slots; T5 with a cache per slot; MiniMax-01 with a batch the slots do not divide."""
    with pytest.raises(EngineRefusal, match="aborts: 3 slots need a batch"):
        total(planner(n_batch=2), 256, 3)
    t5 = {"architecture": "t5"}
    with pytest.raises(EngineRefusal, match="cannot run 2 slots"):
        total(planner(doc=t5), 256, 2)
    assert total(planner(doc=t5, kv_unified=True), 256, 2)
    blocks = {"a": ATTENTION, "s": {"kind": "lightning", "heads": 8, "head_dim": 64}}
    minimax = {"architecture": "minimax_m1", "attention": blocks, "pattern": ["s", "a", "s", "s"]}
    with pytest.raises(EngineRefusal, match="cannot run 3 slots"):
        total(planner(doc=minimax), 8192, 3)
    assert total(planner(doc=minimax), 8192, 4)


def test_ollama_is_llama_server_with_its_arguments() -> None:
    """num_ctx x num_parallel, a batch by context, one KV type, one slot for some architectures."""
    gemma = {"architecture": "gemma3_text", "attention": ATTENTION | {"window": 512}, "max_context": 131072}
    cells = {4096: 1024, 8192: 1536, 65536: 2560}  # window 512 + batch 512, 1024, 2048
    for tokens, kept in cells.items():
        assert total(planner("ollama", doc=gemma), tokens) == 4 * kept * ROW
    assert total(planner("ollama", doc=gemma, num_batch=256), 65536) == 4 * 768 * ROW
    report = planner("ollama").report(Load(2048, 3), 2**30)
    assert (report["num_ctx"], report["num_parallel"], report["n_ctx"]) == (2048, 3, 6144)
    steps = report["steps"]
    assert isinstance(steps, list)
    assert {row["num_ctx"] for row in steps} == {2048, 4096, 8192}
    assert {row["num_parallel"] for row in steps} == {1, 2, 3, 4}
    assert all(row["fits"] == (row["bytes"] <= 2**30) for row in steps)
    with pytest.raises(EngineRefusal, match="K and V alike"):
        planner("ollama", kv=("q8_0", "float16"))
    single = planner("ollama", doc={"architecture": "qwen3_vl"})
    assert total(single, 256)
    with pytest.raises(EngineRefusal, match="one request at a time"):
        total(single, 256, 2)
    assert max_sessions(single, 2**50, context_tokens=256) == 1


def test_lm_studio_is_four_slots_over_one_pool() -> None:
    """contextLength is the pool, four predictions share it; both can be set."""
    report = planner("lmstudio").report(Load(8192))
    assert (report["n_ctx"], report["n_seq_max"], report["kv_unified"]) == (8192, 4, True)
    split = planner("lmstudio", use_unified_kv_cache=False, max_parallel_predictions=2, context_length=4096)
    assert split.report(Load(1))["n_ctx_seq"] == 2048
    with pytest.raises(EngineRefusal, match="4 slots serve"):
        total(planner("lmstudio"), 256, 5)


def test_options_are_read_under_the_engine_s_names() -> None:
    """As the command line gives them, with dashes or underscores."""
    engine, _ = get_engine("llamacpp")
    assert read_options(engine, ["n_ctx=8k", "flash-attn=off", "kv_unified=on", "n_parallel=0"]) == {
        "n_ctx": 8192, "flash_attn": "off", "kv_unified": True, "n_parallel": 0
    }  # fmt: skip


def test_every_architecture_is_known_once() -> None:
    """Described or excused, not both; every name that a model_type leads to is one of them."""
    assert not set(ARCHS) & set(NOT_COVERED)
    for model_type in ("mistral", "qwen3_5_moe", "gpt_oss", "gemma3_text", "deepseek_v4", "phi-msft", "kimi_linear"):
        assert gguf_architecture(model_type) in ARCHS
    assert gguf_architecture("falcon_mamba") == "mamba"
    assert [name for name in SINGLE_SLOT if name in ARCHS]
