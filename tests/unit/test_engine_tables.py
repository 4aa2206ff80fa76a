"""The engines' names, options and lists: what scripts write, and what other files say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.plan import Layout, Load
from kvcalc.engines import CACHE_TYPE, LAYERWISE, NARROW_TYPE, engine_names, get_engine
from kvcalc.engines.base import CacheDtypes, Option, Setup, read_options
from kvcalc.engines.classes import class_of
from kvcalc.engines.llamacpp.arch import _FROM_HF, ARCHS, NOT_COVERED, arch_of, gguf_architecture
from kvcalc.engines.transformers.verified import VERIFIED
from kvcalc.errors import EngineRefusal, UsageError

ROOT = Path(__file__).parents[2]
HEADS = {"kind": "gqa", "heads": 8, "groups": 4, "head_dim": 64}
NAMES = (
    "ideal", "transformers", "vllm", "llama.cpp", "ollama", "lmstudio", "sglang", "exllamav3", "lmdeploy", "mlx-lm",
    "tensorrt-llm",
)  # fmt: skip


def test_every_engine_answers_to_its_name() -> None:
    """The names people and scripts write, each with its first version."""
    assert engine_names() == NAMES
    for name in NAMES:
        engine, version = get_engine(name)
        assert (engine.name, version) == (name, engine.versions[0])
        assert get_engine(f" {name.upper()} ")[0] is engine
        for known in engine.versions:
            assert get_engine(f"{name}@{known}") == (engine, known)


@pytest.mark.parametrize(("written", "name"), [
    ("llamacpp", "llama.cpp"), ("llama-server", "llama.cpp"), ("lm-studio", "lmstudio"), ("hf", "transformers"),
    ("mlx", "mlx-lm"), ("exl3", "exllamav3"), ("trtllm", "tensorrt-llm"), ("trt-llm", "tensorrt-llm"),
    ("ktransformers", "sglang"),
])  # fmt: skip
def test_other_spellings(written: str, name: str) -> None:
    """What people also call them."""
    assert get_engine(written)[0].name == name


def test_versions_are_release_lines() -> None:
    """0.11.2 is 0.11; a version without rules, an empty one and an unknown engine are refused."""
    assert get_engine("vllm@0.11.2")[1] == "0.11"
    for wrong in ("vllm@0.8", "vllm@0.8.5", "vllm@", "nobody", "nobody@1"):
        with pytest.raises(UsageError) as refused:
            get_engine(wrong)
        assert refused.value.field == "engine"


def test_engines_that_divide_by_layers() -> None:
    """llama.cpp and what runs it: f16 unless asked, q8_0 where fp8 is asked."""
    assert {"llama.cpp", "ollama", "lmstudio"} == LAYERWISE
    assert dict.fromkeys(LAYERWISE, "float16") == CACHE_TYPE
    assert dict.fromkeys(LAYERWISE, "q8_0") == NARROW_TYPE


def test_options_read_their_values() -> None:
    """Each way of reading: counts from 0, sizes, fractions, switches in six spellings, choices, plain text."""
    read: dict[str, list[tuple[str, Any]]] = {
        "tokens": [("128k", 131072)],
        "count": [("0", 0), ("7", 7)],
        "bytes": [("2GiB", 2**31)],
        "fraction": [("0.9", 0.9), ("1", 1.0)],
        "ratio": [("1.5", 1.5)],
        "switch": [("on", True), ("TRUE", True), ("1", True), ("yes", True), ("off", False), ("false", False),
                   ("0", False), (" no ", False)],
        "text": [(" a,b ", "a,b")],
    }  # fmt: skip
    wrong = {"tokens": "0", "count": "-1", "bytes": "x", "fraction": "1.1", "ratio": "-1", "switch": "maybe"}
    for parse, pairs in read.items():
        option = Option("o", parse, "help")  # type: ignore[arg-type]
        assert option.default is None
        for text, value in pairs:
            assert (option.read(text), type(option.read(text))) == (value, type(value))
        if parse in wrong:
            with pytest.raises(UsageError) as refused:
                option.read(wrong[parse])
            assert refused.value.field == "o"
    choice = Option("o", "choice", "help", None, ("a", "b"))
    assert choice.read(" B ") == "b"
    with pytest.raises(UsageError):
        choice.read("on")


def test_pairs_of_the_command_line() -> None:
    """KEY=VALUE, dashes as underscores; no value and unknown keys are refused."""
    engine = get_engine("sglang")[0]
    assert read_options(engine, ["page-size = 64", "kv_cache_dtype=BF16"]) == {
        "page_size": 64,
        "kv_cache_dtype": "bf16",
    }
    for pair in ("page_size", "page_sizes=1"):
        with pytest.raises(UsageError) as refused:
            read_options(engine, [pair])
        assert refused.value.field == "option"
    with pytest.raises(UsageError, match="ideal has no option"):
        read_options(get_engine("ideal")[0], ["a=1"])


def test_cache_types_by_role() -> None:
    """A role's type is the field of its name."""
    types = CacheDtypes(key="a", value="b", index="c", pending="d", conv="e", state="f")
    roles = ("key", "value", "index", "pending", "conv", "state")
    assert [types.of(role) for role in roles] == list("abcdef")  # type: ignore[arg-type]
    assert Setup(version="1", dtypes=types).layout == Layout()


#: Options, how their text is read and their default: engines' own flags, on which scripts rely.
OPTIONS = {
    "llama.cpp": "n_ctx:tokens n_parallel:count n_batch:count=2048 n_ubatch:count=512 kv_unified:switch=False "
    "swa_full:switch=False flash_attn:choice=auto offload_kqv:switch=True n_rs_seq:count=0 n_gpu_layers:count",
    "ollama": "num_parallel:count num_batch:count num_gpu:count flash_attention:switch",
    "lmstudio": "context_length:tokens max_parallel_predictions:count=4 use_unified_kv_cache:switch=True "
    "eval_batch_size:count=512 flash_attention:switch offload_kv_cache_to_gpu:switch=True gpu_layers:count",
    "sglang": "page_size:count context_length:tokens kv_cache_dtype:choice max_running_requests:count "
    "max_total_tokens:count chunked_prefill_size:count disable_radix_cache:switch=False "
    "disable_overlap_schedule:switch=False swa_full_tokens_ratio:fraction swa_prefix_tails:count "
    "disable_hybrid_swa_memory:switch=False mamba_full_memory_ratio:ratio=0.9 max_mamba_cache_size:count "
    "mamba_ssm_dtype:choice mamba_radix_cache_strategy:choice=no_buffer dp_size:count=1 attention_backend:choice "
    "dsa_prefill_backend:choice dsa_decode_backend:choice enable_multimodal:switch language_model_only:switch=False "
    "vlm_cache_size_mb:count=100 swa_eviction_interval:count=128 mem_fraction_static:fraction",
    "exllamav3": "k_bits:count v_bits:count max_batch_size:count=16 max_history:count=0 recurrent_dtype:choice=half",
    "lmdeploy": "block_size:count=64 quant_policy:choice cache_max_entry_count:fraction max_batch_size:count "
    "max_prefill_token_num:count=8192 prefix_cache_state_budget:count=0",
    "mlx-lm": "kv_bits:count kv_group_size:count=64 quantized_kv_start:count=5000 max_kv_size:tokens "
    "max_tokens:tokens=1",
    "tensorrt-llm": "tokens_per_block:count=32 free_gpu_memory_fraction:fraction max_tokens:tokens "
    "use_kv_cache_manager_v2:choice=auto enable_attention_dp:switch=False",
    "vllm": "max_model_len:tokens block_size:count max_num_batched_tokens:tokens max_num_seqs:count "
    "enable_prefix_caching:switch async_scheduling:switch=True disable_hybrid_kv_cache_manager:switch=False "
    "kv_cache_dtype:choice kv_cache_dtype_skip_layers:text mamba_cache_dtype:choice mamba_ssm_cache_dtype:choice "
    "num_speculative_tokens:count=0 speculative_method:choice=mtp flashinfer:switch=True "
    "gpu_memory_utilization:fraction enforce_eager:switch=False enable_expert_parallel:switch=False "
    "language_model_only:switch=False",
}
CHOICES = {
    ("llama.cpp", "flash_attn"): "auto on off",
    ("sglang", "kv_cache_dtype"): "auto bf16 bfloat16 fp8_e4m3 fp8_e5m2 mxfp8 nvfp4 fp4_mx_block16",
    ("sglang", "mamba_ssm_dtype"): "float32 bfloat16 float16",
    ("sglang", "mamba_radix_cache_strategy"): "no_buffer extra_buffer extra_buffer_lazy",
    ("sglang", "attention_backend"): "triton flashinfer trtllm_mha fa3 fa4 flashmla cutlass_mla trtllm_mla",
    ("sglang", "dsa_prefill_backend"): "flashmla_sparse flashmla_kv fa3 tilelang trtllm",
    ("sglang", "dsa_decode_backend"): "flashmla_sparse flashmla_kv fa3 tilelang trtllm",
    ("exllamav3", "recurrent_dtype"): "half float",
    ("lmdeploy", "quant_policy"): "0 4 8 16 17 42",
    ("tensorrt-llm", "use_kv_cache_manager_v2"): "auto true false",
    ("vllm", "mamba_cache_dtype"): "auto float32 float16 bfloat16",
    ("vllm", "mamba_ssm_cache_dtype"): "auto float32 float16 bfloat16",
    ("vllm", "speculative_method"): "mtp ngram",
    ("vllm", "kv_cache_dtype"): "auto bfloat16 float16 fp8 fp8_e4m3 fp8_e5m2 fp8_ds_mla nvfp4_ds_mla turboquant_k8v4 "
    "turboquant_4bit_nc turboquant_k3v4_nc turboquant_3bit_nc int8_per_token_head fp8_per_token_head "
    "int4_per_token_head nvfp4",
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_keep_their_names_and_defaults(name: str) -> None:
    """An option that scripts use does not change its name, its way of reading, its default or its choices."""
    found = []
    for option in get_engine(name)[0].options:
        found.append(f"{option.name}:{option.parse}" + ("" if option.default is None else f"={option.default}"))
        assert option.choices == tuple(CHOICES.get((name, option.name), "").split())
        assert option.help.strip()
    listed = OPTIONS[name].split()
    assert found[: len(listed)] == listed


# Lists of model names


def counted() -> dict[str, Any]:
    """What the conformance run with the real transformers wrote down."""
    found: dict[str, Any] = json.loads((ROOT / "docs" / "accuracy" / "transformers.json").read_text())["architectures"]
    return found


def test_verified_architectures_were_counted() -> None:
    """Each was counted in the real code, and every cell of it came out equal."""
    cells = counted()
    assert not [name for name in VERIFIED if name not in cells]
    assert not [name for name in VERIFIED if cells[name]["equal"] != cells[name]["cells"]]


def known_types() -> set[str]:
    """model_types that some class table or config knows."""
    from kvcalc.engines.classes import _TABLE

    return {entry.partition(":")[0] for entry in _TABLE.split()} | set(counted())


#: model_types that only their own repositories, or converters of llama.cpp, spell so.
REPOSITORIES = """
vllama3 ultravox grok1 kimi_vl youtu_llm olmo_2 granite_moe_swa grove_moe MiniMaxText01 MiniMaxM1 step3_5 kimi_k3
bailing_moe_v3 pangu_embedded PanguEmbedded RefinedWebModel7B sarashina2_vision kormo dots_ocr command_r rwkv7 rwkv6
plamo2 plamo3 spark2_5
"""


def test_converted_model_types_are_written_so_somewhere() -> None:
    """Every name on the left is a model_type of a class table, of the counted architectures or of a repository."""
    assert not [name for name in _FROM_HF if name not in known_types() | set(REPOSITORIES.split())]


def test_converted_model_types_lead_to_an_architecture() -> None:
    """Every name on the right is an architecture llama.cpp builds a memory for, or one refused with a reason."""
    assert not {name for name in _FROM_HF.values() if name not in ARCHS and name not in NOT_COVERED}


def test_classes_come_from_the_file_first() -> None:
    """`architectures`, else the wrapper's class, else the model_type's; none where nothing is known."""
    assert class_of(model_of(HEADS, cls="A,B")) == "A"
    assert class_of(model_of(HEADS, facts={"architectures": ""}, architecture="llama")) == "LlamaForCausalLM"
    assert class_of(model_of(HEADS, architecture="qwen2")) == "Qwen2ForCausalLM"
    assert class_of(model_of(HEADS, architecture="x", facts={"wrapper": "qwen2"})) == "Qwen2ForCausalLM"
    assert class_of(model_of(HEADS)) is None
    assert class_of(model_of(HEADS, architecture="nobody")) is None


#: Windows by architecture, 12 layers: S slides, F is full; where the file has no per-layer list.
#: Source: llama.cpp 0c1e57098, src/models/<architecture>.cpp, set_swa_pattern(n, dense_first).
PATTERNS = {
    "gemma2": "SFSFSFSFSFSF", "gemma3": "SSSSSFSSSSSF", "gemma3n": "SSSSFSSSSFSS", "cohere2": "SSSFSSSFSSSF",
    "cohere2moe": "FSSSFSSSFSSS", "gpt-oss": "SFSFSFSFSFSF", "muse-glimmer": "SSSFSSSFSSSF",
    "exaone-moe": "SSSFSSSFSSSF", "olmo2": "SSSFSSSFSSSF", "afmoe": "SSSFSSSFSSSF", "mellum": "SSSFSSSFSSSF",
    "plamo3": "SSSSSSSFSSSS", "laguna": "FSSSFSSSFSSS", "llama4": "SSSFSSSFSSSF", "smallthinker": "FSSSFSSSFSSS",
    "lfm2": "SSSSSSSSSSSS", "deepseek4": "SSSSSSSSSSSS",
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_which_layers_slide(name: str) -> None:
    """Every n-th layer is full, last of its round or first."""
    arch = arch_of(name, 12, "b11549")
    assert arch is not None
    assert arch.windows is not None
    assert arch.windows.pattern is not None
    found = "".join("S" if arch.windows.slides(layer, arch.windows.pattern) else "F" for layer in range(12))
    assert found == PATTERNS[name]


def test_windows_of_architectures() -> None:
    """Defaults, fixed windows, and those that only count where the file says so."""
    windows = {name: arch.windows for name, arch in ARCHS.items() if arch.windows is not None}
    assert {name for name, each in windows.items() if each.optional} == {
        "gemma3", "olmo2", "afmoe", "mellum", "plamo3", "laguna", "smallthinker", "lfm2",
    }  # fmt: skip
    assert {name: each.default for name, each in windows.items() if each.default} == {"gemma2": 4096, "exaone4": 4096}
    assert {name: each.fixed for name, each in windows.items() if each.fixed} == {"llama4": 8192, "smallthinker": 4096}
    assert [name for name, each in windows.items() if each.chunked] == ["llama4"]
    assert {name for name, each in windows.items() if each.pattern is None} == {
        "maple", "mimo2", "step35", "spark2_5", "granite_swa", "gemma4", "dots3note",
    }  # fmt: skip
    assert [name for name, each in windows.items() if each.layers] == ["exaone4"]
    for layers, slides in ((64, True), (30, False)):
        arch = arch_of("exaone4", layers, "b11549")
        assert arch is not None
        assert (arch.windows is not None) == slides


def chosen(**wanted: object) -> set[str]:
    return {name for name, arch in ARCHS.items() if all(getattr(arch, key) == value for key, value in wanted.items())}


def test_memories_of_architectures() -> None:
    """Which memory class llama-model.cpp `create_memory` builds, and what the hybrid ones keep."""
    assert chosen(memory="recurrent") == {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
    assert chosen(memory="hybrid") == {
        "jamba", "falcon-h1", "plamo2", "granitehybrid", "qwen3next", "qwen35", "qwen35moe", "nemotron_h",
        "nemotron_h_moe", "lfm2moe", "lfm2", "minimax-01", "kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next",
        "qwen4exp",
    }  # fmt: skip
    assert chosen(latent="row") == {
        "deepseek2", "mistral4", "deepseek32", "glm-dsa", "hy_v4", "kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next",
        "dots3note",
    }  # fmt: skip
    assert chosen(latent="expanded") == {"minicpm3"}
    assert chosen(index=True) == {
        "deepseek32", "glm-dsa", "hy_v4", "glm5-next", "qwen4exp", "minimax-m3", "dots3note", "deepseek4",
    }  # fmt: skip
    assert chosen(rollback=True) == {
        "qwen35", "qwen35moe", "nemotron_h", "nemotron_h_moe", "lfm2moe", "lfm2", "kimi-k3", "bailingmoe3", "glm5-next",
        "qwen4exp", "deepseek4",
    }  # fmt: skip
    assert (chosen(index_factor=3), chosen(index_value=True)) == ({"glm5-next"}, {"minimax-m3"})
    assert (chosen(flash=False), chosen(streams_always_split=True)) == ({"grok"}, {"deepseek4"})
    assert (chosen(split="aborts"), chosen(split="even")) == ({"t5"}, {"minimax-01", "kimi-linear"})
    assert (chosen(kv_layers=20), chosen(shares=True)) == ({"gemma3n"}, {"gemma3n", "gemma4"})
    assert len(chosen(index_factor=1)) == len(ARCHS) - 1


def test_the_older_build() -> None:
    """b10566 lacks six architectures, the snapshots of two, and the assertion on uneven batches."""
    missing = {name for name in ARCHS if arch_of(name, 12, "b10566") is None}
    assert missing == {"maple", "spark2_5", "hy_v4", "glm5-next", "qwen4exp", "dots3note"}
    for name, rollback in (("kimi-k3", False), ("bailingmoe3", False), ("lfm2", True), ("llama", False)):
        arch = arch_of(name, 12, "b10566")
        assert arch is not None
        assert arch.rollback == rollback
    for name, split in (("minimax-01", "works"), ("t5", "aborts"), ("llama", "works")):
        arch = arch_of(name, 12, "b10566")
        assert arch is not None
        assert arch.split == split
    newer = arch_of("minimax-01", 12, "b11549")
    assert newer is not None
    assert newer.split == "even"
    assert arch_of("nobody", 12, "b11549") is None
    assert gguf_architecture("gemma3-text") is None


def test_llamacpp_needs_a_context() -> None:
    """-c 0 means the model's own context; without one there is nothing to allocate."""
    model = model_of(HEADS, architecture="llama")
    with pytest.raises(EngineRefusal, match="cannot both be zero"):
        started("llama.cpp", model, n_ctx=0).plan(Load(100))
    own = started("llama.cpp", model_of(HEADS, architecture="llama", max_context=1000), n_ctx=0)
    assert own.report(Load(100))["n_ctx"] == 1024


def runs(engine: str, architecture: str, **more: Any) -> bool:
    try:
        started(engine, model_of(HEADS, architecture=architecture, **more)).plan(Load(1))
    except EngineRefusal:
        return False
    return True


def test_modules_of_mlx() -> None:
    """model_types that MLX-LM runs under another module's name. Source: mlx_lm/utils.py MODEL_REMAPPING."""
    for name in ("mistral", "falcon_mamba", "kimi_k2", "minimax_m2", "iquestcoder", "xverse", "phi-msft",
                 "qwen2_5_vl_text", "gemma4_unified_text", "qwen3_text"):  # fmt: skip
        assert runs("mlx-lm", name), name
    assert not runs("mlx-lm", "falcon")
    assert runs("mlx-lm", "unknown")
    # Mistral runs as llama, which makes its own caches; Gemma 4's windows rotate.
    own = started("mlx-lm", model_of(HEADS, architecture="mistral"), max_kv_size=10)
    assert any("max_kv_size is ignored" in text for text in own.warnings)
    rotating = started("mlx-lm", model_of(HEADS | {"window": 100}, architecture="gemma4_unified_text"))
    assert {tensor.law for tensor in rotating.plan(Load(1000)).ranks[0].tensors} == {"rotating"}


@pytest.mark.parametrize(("name", "last"), [
    ("Phi3SmallForCausalLM", "0.9.2"), ("Phi4FlashForCausalLM", "0.10.2"), ("MotifForCausalLM", "0.10.2"),
    ("MllamaForConditionalGeneration", "0.10.2"), ("Phi4MultimodalForCausalLM", "0.12.0"),
    ("JAISLMHeadModel", "0.22.0"), ("BambaForCausalLM", "0.23.0"), ("MiniMaxForCausalLM", "0.23.0"),
    ("MiniMaxText01ForCausalLM", "0.23.0"), ("MiniMaxM1ForCausalLM", "0.23.0"), ("QWenLMHeadModel", "0.23.0"),
    ("InternLMForCausalLM", "0.23.0"), ("XverseForCausalLM", "0.23.0"), ("Dots1ForCausalLM", "0.23.0"),
    ("BaiChuanForCausalLM", "0.23.0"), ("BaichuanForCausalLM", "0.23.0"), ("AquilaForCausalLM", "0.24.0"),
    ("Grok1ForCausalLM", "0.24.0"), ("Grok1ModelForCausalLM", "0.24.0"), ("TeleChatForCausalLM", "0.25.0"),
    ("PersimmonForCausalLM", "0.25.0"), ("FuyuForCausalLM", "0.25.0"), ("Plamo2ForCausalLM", "0.26.0"),
    ("OuroForCausalLM", "0.26.0"), ("ArcticForCausalLM", "0.28.0"),
])  # fmt: skip
def test_what_vllm_dropped(name: str, last: str) -> None:
    """Each architecture with its last release. Source: registry.py `_PREVIOUSLY_SUPPORTED_MODELS` (0.33.0)."""
    with pytest.raises(EngineRefusal, match=f"dropped {name} after {last}$"):
        started("vllm", model_of(HEADS, facts={"architectures": f"Other,{name}"}))


def test_vllm_release_lines() -> None:
    """Every line from 0.9 to 0.33, newest first."""
    lines = get_engine("vllm")[0].versions
    assert lines == tuple(f"0.{minor}" for minor in range(33, 8, -1))


def test_vllm_rules_by_release() -> None:
    """What changed at which release. Source: the release's v1/core/kv_cache_utils.py and config."""
    from kvcalc.engines.vllm.versions import RULES

    def since(name: str, value: object) -> str:
        return [line for line in RULES if getattr(RULES[line], name) == value][-1]

    assert since("gdn_checkpoint", value=True) == "0.33"
    assert since("mamba2_checkpoint", value=True) == "0.32"
    assert since("null_block_reserved", value=True) == "0.29"
    assert since("in_flight_batches", value=True) == since("hybrid_caching", value=True) == "0.26"
    assert since("pads_attention", value=True) == "0.24"
    assert since("tokens_by_blocks", value=False) == since("gpu_memory_utilization", 0.92) == "0.20"
    assert since("group_ratio", 1.5) == "0.18"
    assert since("check_by_layers", value=False) == "0.14"
    assert since("group_ratio", 1.25) == "0.12"
    assert (RULES["0.9"].group_ratio, RULES["0.9"].check_by_layers, RULES["0.9"].tokens_by_blocks) == (1.0, True, True)
