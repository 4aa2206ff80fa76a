"""llama.cpp's rules at their edges: which refusal, which note, which row, each on both sides of its condition.

Source: llama.cpp 0c1e57098 src/llama-context.cpp, src/llama-kv-cache.cpp, src/llama-kv-cache-dsv4.cpp; Ollama fb30760.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Load
from kvcalc.engines.llamacpp import lmstudio, ollama
from kvcalc.engines.llamacpp.arch import NOT_COVERED
from kvcalc.engines.llamacpp.settings import OPTIONS
from kvcalc.errors import EngineRefusal, UsageError

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 64, "rope_dim": 32}
KDA = {"kind": "kda", "heads": 8, "head_dim": 64, "conv_kernel": 4}


def llama(attention: dict[str, Any] | None = None, **more: Any) -> Model:
    made: Model = model_of(attention or HEADS, **({"architecture": "llama"} | more))
    return made


REASONS = {
    "graniteswitch": "its router adds a layer of its own",
    "hrm_text": "its looped stacks are not described by block_count alone",
    "gemma4-assistant": "a draft head that lives inside another model's context",
    "eagle3": "a draft head that lives inside another model's context",
    "dflash": "a draft head that lives inside another model's context",
    "plm": "its graph could not be run to check it",
    "clip": "an image projector, not a language model",
}


def test_names_that_are_not_described() -> None:
    """NOT_COVERED: seven names, each with its reason."""
    assert REASONS == NOT_COVERED


def test_architectures_that_are_not_described() -> None:
    """The refusal gives the reason; a name that nobody knows is a build's lack."""
    for name, reason in (*REASONS.items(), ("new", "llama.cpp b11549 does not know it")):
        with pytest.raises(EngineRefusal, match=f"not described: {reason}$") as refused:
            started("llama.cpp", llama(facts={"gguf_architecture": name}))
        assert (refused.value.field, refused.value.value) == ("architecture", name)


#: name, how it is read, default where there is one. Source: common/arg.cpp; Ollama's and LM Studio's documentation.
LLAMA_CPP = """
    n_ctx tokens, n_parallel count, n_batch count 2048, n_ubatch count 512, kv_unified switch False,
    swa_full switch False, flash_attn choice auto, offload_kqv switch True, n_rs_seq count 0, n_gpu_layers count
"""
OLLAMA = "num_parallel count, num_batch count, num_gpu count, flash_attention switch"
LM_STUDIO = """
    context_length tokens, max_parallel_predictions count 4, use_unified_kv_cache switch True,
    eval_batch_size count 512, flash_attention switch, offload_kv_cache_to_gpu switch True, gpu_layers count
"""


def test_options_of_llama_cpp_and_its_presets() -> None:
    """In their order; flash_attn has three words."""
    for options, words in ((OPTIONS, LLAMA_CPP), (ollama.OPTIONS, OLLAMA), (lmstudio.OPTIONS, LM_STUDIO)):
        rows = [
            " ".join([each.name, each.parse, *([] if each.default is None else [str(each.default)])])
            for each in options
        ]
        assert rows == [" ".join(row.split()) for row in words.split(",")]
    assert [(each.name, each.choices) for each in OPTIONS if each.choices] == [("flash_attn", ("auto", "on", "off"))]


def test_one_slot_always_runs() -> None:
    """T5 and uneven batches stop with several caches only: not with one slot, nor with a pool for all."""
    for architecture in ("t5", "minimax_m1"):
        model = model_of(HEADS, architecture=architecture)
        assert started("llama.cpp", model).plan(Load(1024, 1)).total_bytes
        assert started("llama.cpp", model, kv_unified=True).plan(Load(1024, 3)).total_bytes
        with pytest.raises(EngineRefusal, match="cannot run 3 slots"):
            started("llama.cpp", model).plan(Load(1024, 3))


def test_periods_of_compressed_entries() -> None:
    """256 entries of 4 tokens; the 8 rows of an open group do not count."""
    csa = {"kind": "csa", "heads": 8, "head_dim": 128, "tokens_per_slot": 4, "window": 128, "index_dim": 64}
    assert started("llama.cpp", model_of(csa, architecture="deepseek_v4")).period_tokens == 1024
    assert started("llama.cpp", llama()).period_tokens == 256


def test_splits_inside_layers_are_refused() -> None:
    """Neither tensor nor decode context parallel; stages and replicas are fine."""
    for layout, field in ((Layout(tp=2), "tp"), (Layout(tp=2, dcp=2), "tp"), (Layout(dcp=2), "dcp")):
        with pytest.raises(UsageError) as refused:
            started("llama.cpp", llama(), layout=layout)
        assert refused.value.field == field
    for layout in (Layout(), Layout(pp=2), Layout(dp=2)):
        notes = started("llama.cpp", llama(), layout=layout).assumptions
        assert ("layers are split evenly, as on GPUs with equal free memory" in notes) == (layout.pp == 2)


def test_what_is_assumed() -> None:
    """A note for the default type, for states, for a fixed context and for block formats, each only there."""
    words = {
        "f16": "cache type f16, llama.cpp's default",
        "states": "recurrent states and convolution tails are float32, whatever type is asked",
        "fixed": "n_ctx is fixed: the slots share it whatever -c says",
        "blocks": "row sizes of CPU, Vulkan and Metal; CUDA pads quantised rows to a multiple of 512 elements",
    }
    hybrid = model_of({"m": KDA, "f": MLA}, pattern=["m", "f"], architecture="kimi_linear")
    cases: list[tuple[Model, dict[str, Any], str]] = [
        (llama(), {}, "f16"), (llama(), {"types": {"value": "float16"}}, ""), (llama(), {"n_ctx": 512}, "f16 fixed"),
        (llama(), {"types": {"key": "float16"}}, ""), (llama(), {"types": {"key": "q8_0"}}, "blocks"),
        (llama(), {"types": {"value": "q4_0"}}, "blocks"), (llama(), {"types": {"state": "float32"}}, "f16"),
        (hybrid, {}, "f16 states"),
    ]  # fmt: skip
    for model, asked, expected in cases:
        made = started("llama.cpp", model, **asked)
        assert list(made.assumptions) == [words[word] for word in expected.split()], asked
        assert made.exactness == "exact"
    assert started("ollama", llama()).exactness == "exact"


def test_rows_that_block_formats_do_not_divide() -> None:
    """Without flash attention heads may be odd, rows not: K of 48 in q8_0 is refused as K; a latent's V is its first
    part (48 of 64)."""
    odd = llama(HEADS | {"groups": 1, "head_dim": 48})
    with pytest.raises(EngineRefusal, match="q8_0 rows are whole blocks of 32") as refused:
        started("llama.cpp", odd, types={"key": "q8_0", "value": "float16"}, flash_attn="off")
    assert refused.value.field == "key"
    latent = llama(MLA | {"latent_dim": 48, "rope_dim": 16}, architecture="deepseek_v3")
    with pytest.raises(EngineRefusal, match=r"does not divide n_embd_head_v=48$") as refused:
        started("llama.cpp", latent, types={"key": "q8_0", "value": "q8_0"})
    assert refused.value.field == "value"
    with pytest.raises(EngineRefusal, match=r"n_embd_head_k=48$") as refused:
        started("llama.cpp", odd, types={"key": "q8_0", "value": "q8_0"})
    assert refused.value.field == "key"


def test_value_heads_of_kimi_linear() -> None:
    """The embedding over the heads, whole (2310 / 32 = 72); without it the latent; a stated length before both."""
    blocks = {"m": KDA, "f": MLA | {"heads": 32}}

    def start(**more: Any) -> None:
        model = model_of(blocks, pattern=["m", "f"], **({"architecture": "kimi_linear"} | more))
        started("llama.cpp", model, types={"key": "q8_0", "value": "q8_0"})

    with pytest.raises(EngineRefusal, match=r"n_embd_head_v=72$"):
        start(hidden_size=2310)
    with pytest.raises(EngineRefusal, match=r"n_embd_head_v=80$"):
        start(facts={"gguf_value_length": 80})
    start()
    start(hidden_size=2048)
    start(hidden_size=2310, facts={"gguf_value_length": 64})
    start(hidden_size=2310, facts={"wrapper": "kimi_k3"})


def test_uneven_batches_where_only_the_last_layer_attends() -> None:
    """MiniMax-01 with 3 slots aborts where a layer before the last attends; b10566 does not."""
    blocks = {"a": HEADS, "s": {"kind": "lightning", "heads": 8, "head_dim": 64}}
    for pattern, version, runs in ((["a", "s"], "b11549", False), (["s", "a"], "b11549", True),
                                   (["a", "s"], "b10566", True)):  # fmt: skip
        made = started(f"llama.cpp@{version}", model_of(blocks, pattern=pattern, architecture="minimax_m1"))
        if runs:
            assert made.plan(Load(1024, 3)).total_bytes
            continue
        with pytest.raises(EngineRefusal, match="cannot run 3 slots with a cache each and n_ubatch 512"):
            made.plan(Load(1024, 3))
        assert made.plan(Load(1024, 4)).total_bytes


def test_layers_without_heads_where_values_are_transposed() -> None:
    """A layer that has attention beside nothing needs no row of its own; one with nothing gets a V row."""
    blocks = {"a": HEADS, "n": {"kind": "none"}}
    model = llama(blocks, pattern=[["a", "n"], "n"], layers=2)
    tensors = started("llama.cpp", model, flash_attn="off").plan(Load(256)).ranks[0].tensors
    assert [(each.name, each.layers, each.law) for each in tensors][2:] == [("value", (1,), "linear")]
    assert tensors[2].name == tensors[1].name
    alone = llama({"kind": "none"})
    assert started("llama.cpp", alone, flash_attn="off").plan(Load(256)).total_bytes == 0


def test_draft_layers_of_a_deepseek_v4_file() -> None:
    """Only the window of a CSA layer is kept for the MTP layer: 768 cells of 128, and only from a GGUF."""
    csa = {"kind": "csa", "heads": 8, "head_dim": 128, "tokens_per_slot": 4, "window": 128, "index_dim": 64}
    doc: dict[str, Any] = {"architecture": "deepseek4", "mtp": {"layers": 2, "block": "attention"}}
    bare = started("llama.cpp", model_of(csa, **doc)).plan(Load(4096))
    file = started("llama.cpp", model_of(csa, **doc, facts={"gguf_architecture": "deepseek4"})).plan(Load(4096))
    assert file.total_bytes - bare.total_bytes == 2 * 768 * 128 * 2
    last = [tensor for tensor in file.ranks[0].tensors if tensor.layers == (2, 3)]
    assert [(tensor.shape, tensor.law) for tensor in last] == [((1, 768, 128), "window 128")]


def test_where_growth_becomes_steady() -> None:
    """Ollama's largest batch begins at 32,769 tokens; elsewhere the batch, or the window beside it, in 256s."""
    local = HEADS | {"window": 4096}
    gemma = model_of(local, architecture="gemma3_text")
    for engine, model, options, tokens in (
        ("ollama", llama(), {}, 32769), ("ollama", llama(), {"num_batch": 512}, 512), ("llama.cpp", llama(), {}, 2048),
        ("llama.cpp", llama(), {"n_batch": 100}, 512), ("llama.cpp", gemma, {}, 4608),
        ("llama.cpp", gemma, {"kv_unified": True, "n_parallel": 3}, 3 * 4096 + 512), ("lmstudio", gemma, {}, 16896),
    ):  # fmt: skip
        made = started(engine, model, **options)
        assert (made.saturation_tokens, made.period_tokens) == (tokens, 256), (engine, options)


def test_steps_of_ollama_without_the_models_context() -> None:
    """Doublings from 4,096 to the asked context, and that one itself."""
    made: Any = started("ollama", llama())
    rows = made.report(Load(10000, 1), 10**6)["steps"]
    assert [row["num_ctx"] for row in rows if row["num_parallel"] == 1] == [4096, 8192, 10000]
    size = 2 * 10240 * 256 * 2  # 2 layers, 10,000 padded to 256s, K and V of 128 elements in f16
    asked = [row for row in rows if row["num_ctx"] == 10000]
    assert asked == [
        {"num_ctx": 10000, "num_parallel": slots, "bytes": slots * size, "added_bytes": (slots - 1) * size,
         "fits": False} for slots in (1, 2, 4)
    ]  # fmt: skip


def test_lm_studio_settings() -> None:
    """Each setting under its llama.cpp name; flash attention off pads V to the widest; exact with a said batch."""
    settings = {
        "context_length": 4096, "max_parallel_predictions": 2, "use_unified_kv_cache": False, "eval_batch_size": 256,
        "flash_attention": False, "offload_kv_cache_to_gpu": False, "gpu_layers": 3,
    }  # fmt: skip
    made: Any = started("lmstudio", llama(), **settings)
    assert made.settings._asdict() == {
        "version": "b11549", "n_ctx": 4096, "n_parallel": 2, "n_batch": 256, "n_ubatch": 256, "kv_unified": False,
        "swa_full": False, "flash_attn": "off", "offload_kqv": False, "n_rs_seq": 0, "n_gpu_layers": 3,
        "ollama_batch": False,
    }  # fmt: skip
    assert made.assumptions[0] == "LM Studio runs llama.cpp with 2 slots; evaluation batch 256"
    plain: Any = started("lmstudio", llama())
    assert plain.settings._asdict() == {
        "version": "b11549", "n_ctx": None, "n_parallel": 4, "n_batch": 512, "n_ubatch": 512, "kv_unified": True,
        "swa_full": False, "flash_attn": "auto", "offload_kqv": True, "n_rs_seq": 0, "n_gpu_layers": None,
        "ollama_batch": False,
    }  # fmt: skip
    assert (made.exactness, plain.exactness) == ("exact", "estimate")
    on: Any = started("lmstudio", llama(), flash_attention=True, max_parallel_predictions=0)
    assert (on.settings.flash_attn, on.settings.n_parallel, on.window) == ("on", 1, 0)
