"""What llama.cpp's code, not the file, decides about an architecture's cache.

A GGUF file names its architecture; which of its layers slide, whether a window in the file counts at all, and which
memory class is built, is written in the loader of that architecture.

Source, all of it: llama.cpp 0c1e57098, src/models/<architecture>.cpp `load_arch_hparams`, src/llama-model.cpp
`create_memory`, src/llama-arch.cpp `llm_arch_is_recurrent`, `llm_arch_is_hybrid`, `llm_arch_supports_rs_rollback`;
confirmed on b11549 by the live conformance suite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """How an architecture slides.

    pattern: every pattern-th layer is full, where the file has no per-layer array; None: the array must be there;
    0: every layer slides (that has attention). dense_first: the full layer opens each round instead of closing it.
    default: window where the file has none; fixed: window whatever the file says;
    optional: without attention.sliding_window (or with 0) no layer slides; layers: only models of this depth slide.
    """

    pattern: int | None
    dense_first: bool = False
    default: int | None = None
    fixed: int | None = None
    optional: bool = False
    chunked: bool = False
    layers: int | None = None

    def slides(self, layer: int, pattern: int) -> bool:
        """Whether layer `layer` slides where every `pattern`-th is full (llama-hparams.cpp `set_swa_pattern`)."""
        if pattern == 0:
            return True
        place = layer % pattern
        return place != 0 if self.dense_first else place < pattern - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """One GGUF architecture, as its memory is built.

    memory: none: no cache at all (encoders, diffusion); recurrent: states only; hybrid: states and attention.
    latent: what becomes of MLA: kept as one row, or expanded to a key and a value per head.
    rollback: `n_rs_seq` snapshots of the states are kept.
    kv_layers: layers from this one on keep nothing (they reuse earlier ones).
    split: what happens to several slots with a cache each: any number works; the graph aborts unless n_ubatch is a
    multiple of the slots; it aborts always (all three observed on b11549).
    index: indexer keys are cached; index_factor: rows per index key; index_value: an unused value row beside it.
    """

    memory: Literal["none", "attention", "recurrent", "hybrid"] = "attention"
    windows: Windows | None = None
    latent: Literal["no", "row", "expanded"] = "no"
    rollback: bool = False
    kv_layers: int | None = None
    index: bool = False
    index_factor: int = 1
    index_value: bool = False
    flash: bool = True
    streams_always_split: bool = False
    shares: bool = False
    split: Literal["works", "even", "aborts"] = "works"


_PLAIN = (
    "llama deci falcon gpt2 gptneox mpt baichuan starcoder refact bloom stablelm qwen qwen2 qwen2moe qwen2vl qwen3 "
    "qwen3moe qwen3vl qwen3vlmoe phi2 phi3 phimoe plamo codeshell orion internlm2 minicpm gemma starcoder2 xverse "
    "command-r dbrx olmo olmoe openelm arctic deepseek deepseek2-ocr chatglm glm4 glm4moe bitnet jais jais2 "
    "nemotron exaone granite granitemoe chameleon bailingmoe bailingmoe2 dots1 arcee ernie4_5 ernie4_5-moe "
    "hunyuan-moe hunyuan-dense hunyuan_vl hy_v3 smollm3 seed_oss grovemoe apertus minimax-m2 cogvlm pangu-embedded "
    "mistral3 paddleocr llama-embed maincoder talkie nanbeige qwen3tts pockettts"
)
_NONE = (
    "bert modern-bert nomic-bert nomic-bert-moe neo-bert jina-bert-v2 jina-bert-v3 eurobert gemma-embedding "
    "dream llada llada-moe rnd1 wavtokenizer-dec t5encoder"
)
_SLIDING = {
    "gemma2": Windows(pattern=2, default=4096),
    "gemma3": Windows(pattern=6, optional=True),
    "cohere2": Windows(pattern=4),
    "cohere2moe": Windows(pattern=4, dense_first=True),
    "gpt-oss": Windows(pattern=2),
    "muse-glimmer": Windows(pattern=4),
    "exaone4": Windows(pattern=4, default=4096, layers=64),
    "exaone-moe": Windows(pattern=4),
    "olmo2": Windows(pattern=4, optional=True),
    "afmoe": Windows(pattern=4, optional=True),
    "mellum": Windows(pattern=4, optional=True),
    "plamo3": Windows(pattern=8, optional=True),
    "laguna": Windows(pattern=4, optional=True, dense_first=True),
    "llama4": Windows(pattern=4, fixed=8192, chunked=True),
    "smallthinker": Windows(pattern=4, dense_first=True, fixed=4096, optional=True),
    "maple": Windows(pattern=None),
    "mimo2": Windows(pattern=None),
    "step35": Windows(pattern=None),
    "spark2_5": Windows(pattern=None),
    "granite_swa": Windows(pattern=None),
}


def _table() -> dict[str, Arch]:
    table = {name: Arch() for name in _PLAIN.split()}
    table |= {name: Arch(memory="none") for name in _NONE.split()}
    table |= {name: Arch(windows=windows) for name, windows in _SLIDING.items()}
    table |= {name: Arch(memory="recurrent") for name in ("mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7")}
    table |= {name: Arch(memory="hybrid") for name in ("jamba", "falcon-h1", "plamo2", "granitehybrid", "qwen3next")}
    table |= {
        name: Arch(memory="hybrid", rollback=True)
        for name in ("qwen35", "qwen35moe", "nemotron_h", "nemotron_h_moe", "lfm2moe")
    }
    table |= {name: Arch(latent="row") for name in ("deepseek2", "mistral4")}
    table |= {"minicpm3": Arch(latent="expanded")}
    table |= {name: Arch(latent="row", index=True) for name in ("deepseek32", "glm-dsa", "hy_v4")}
    table |= {
        "lfm2": Arch(memory="hybrid", rollback=True, windows=Windows(pattern=0, optional=True)),
        "t5": Arch(split="aborts"),
        # Flash attention is switched off for Grok whatever is asked (llama-context.cpp llama_init_from_model).
        "grok": Arch(flash=False),
        # 20 is written in src/models/gemma3n.cpp: later layers read the caches of layers 18 and 19.
        "gemma3n": Arch(windows=Windows(pattern=5), kv_layers=20, shares=True),
        "gemma4": Arch(windows=Windows(pattern=None), shares=True),
        "minimax-01": Arch(memory="hybrid", split="even"),
        "kimi-linear": Arch(memory="hybrid", latent="row", split="even"),
        "kimi-k3": Arch(memory="hybrid", latent="row", rollback=True),
        "bailingmoe3": Arch(memory="hybrid", latent="row", rollback=True),
        # The pooled indexer caches key, gate and pooled value of every token (llama-memory-hybrid-idx.cpp).
        "glm5-next": Arch(memory="hybrid", latent="row", rollback=True, index=True, index_factor=3),
        "qwen4exp": Arch(memory="hybrid", rollback=True, index=True),
        # The indexer's cache is an ordinary one with one KV head: it has a value row too (llama-kv-cache-msa.cpp).
        "minimax-m3": Arch(index=True, index_value=True),
        "dots3note": Arch(latent="row", index=True, windows=Windows(pattern=None)),
        # Streams stay one per sequence even when unified is asked (llama-kv-cache-dsv4.cpp).
        "deepseek4": Arch(rollback=True, index=True, windows=Windows(pattern=0), streams_always_split=True),
    }
    return table


#: GGUF `general.architecture` -> its rules.
ARCHS: dict[str, Arch] = _table()

#: Architectures whose converter and loader are known, but whose memory this module does not describe, and why.
NOT_COVERED = {
    "graniteswitch": "its router adds a layer of its own",
    "hrm_text": "its looped stacks are not described by block_count alone",
    "gemma4-assistant": "a draft head that lives inside another model's context",
    "eagle3": "a draft head that lives inside another model's context",
    "dflash": "a draft head that lives inside another model's context",
    "plm": "its graph could not be run to check it",
    "clip": "an image projector, not a language model",
}

#: config.json model_type -> GGUF architecture, where the names differ beyond - and _ (conversion/ of 0c1e57098).
_FROM_HF = {
    "mistral": "llama", "mixtral": "llama", "internlm3": "llama", "ministral": "mistral3", "ministral3": "mistral3",
    "mistral4": "mistral4", "voxtral": "llama", "llava": "llama", "janus": "llama", "vllama3": "llama",
    "ultravox": "llama", "llama4_text": "llama4", "nemotron-nas": "deci", "RefinedWeb": "falcon",
    "RefinedWebModel": "falcon", "gpt_bigcode": "starcoder", "gpt_neox": "gptneox", "gpt_oss": "gpt-oss",
    "grok-1": "grok", "grok1": "grok", "cohere": "command-r", "qwen2_moe": "qwen2moe", "qwen2_vl": "qwen2vl",
    "qwen2_5_vl": "qwen2vl", "qwen2_vl_text": "qwen2vl", "qwen2_5_vl_text": "qwen2vl", "qwen2_audio": "qwen2",
    "qwen3_moe": "qwen3moe", "qwen3_vl": "qwen3vl", "qwen3_vl_text": "qwen3vl", "qwen3_vl_moe": "qwen3vlmoe",
    "qwen3_vl_moe_text": "qwen3vlmoe", "qwen3_omni_moe": "qwen3vlmoe", "qwen3_omni_moe_text": "qwen3vlmoe",
    "qwen3_next": "qwen3next", "qwen3_5": "qwen35", "qwen3_5_text": "qwen35", "qwen3_5_moe": "qwen35moe",
    "qwen3_5_moe_text": "qwen35moe", "qwen4_exp": "qwen4exp", "qwen4_exp_text": "qwen4exp", "phi": "phi2",
    "phi-msft": "phi2",
    "gemma3_text": "gemma3", "gemma3n_text": "gemma3n",
    "gemma4_text": "gemma4", "gemma4_unified": "gemma4", "gemma4_unified_text": "gemma4", "mamba": "mamba",
    "falcon_mamba": "mamba", "glm": "chatglm", "glm4v": "glm4", "glm4v_text": "glm4", "glm4_moe": "glm4moe",
    "glm4v_moe": "glm4moe", "glm4v_moe_text": "glm4moe", "glm4_moe_lite": "deepseek2", "glm_moe_dsa": "glm-dsa",
    "glm5_next": "glm5-next", "glm5_next_text": "glm5-next", "solar_open": "glm4moe", "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2", "kimi_k2": "deepseek2", "kimi_k25": "deepseek2", "kimi_vl": "deepseek2",
    "youtu": "deepseek2", "youtu_llm": "deepseek2", "deepseek_v32": "deepseek32", "deepseek_v4": "deepseek4",
    "exaone4_5": "exaone4", "exaone_moe": "exaone-moe", "olmo3": "olmo2", "olmo_2": "olmo2", "granitemoe": "granitemoe",
    "granitemoeshared": "granitemoe", "granitemoehybrid": "granitehybrid", "bamba": "granitehybrid",
    "granite_moe_swa": "granite_swa", "nemotron_h": "nemotron_h", "hunyuan_v1_moe": "hunyuan-moe",
    "hunyuan_v1_dense": "hunyuan-dense", "cohere2_moe": "cohere2moe",
    "grove_moe": "grovemoe", "glm_ocr": "glm4", "ernie4_5_moe": "ernie4_5-moe",
    "seed_oss": "seed_oss", "lfm2_moe": "lfm2moe", "lfm2_vl": "lfm2", "minimax": "minimax-01",
    "minimax_text_01": "minimax-01", "MiniMaxText01": "minimax-01", "minimax_m1": "minimax-01",
    "MiniMaxM1": "minimax-01",
    "minimax_m2": "minimax-m2", "minimax_m3": "minimax-m3", "minimax_m3_vl": "minimax-m3", "mimo_v2": "mimo2",
    "mimo_v2_flash": "mimo2", "step3p5": "step35", "step3p7": "step35", "step3_5": "step35", "kimi_k3": "kimi-k3",
    "bailing_moe": "bailingmoe", "bailing_moe_v2": "bailingmoe2", "bailing_moe_v3": "bailingmoe3",
    "sarvam_moe": "bailingmoe2", "dots1": "dots1", "dots3_note": "dots3note", "falcon_h1": "falcon-h1",
    "mt5": "t5", "umt5": "t5", "chameleon": "chameleon", "pangu_embedded": "pangu-embedded",
    "PanguEmbedded": "pangu-embedded", "paddleocr_vl": "paddleocr", "RefinedWebModel7B": "falcon", "hy_v3": "hy_v3",
    "hy_v4": "hy_v4", "granite_swa": "granite_swa", "iquestcoder": "llama", "sarashina2_vision": "llama",
    "kormo": "qwen2", "dots_ocr": "qwen2", "command_r": "command-r", "internlm2": "internlm2", "mpt": "mpt",
    "minicpm": "minicpm", "jais": "jais", "rwkv7": "rwkv7", "rwkv6": "rwkv6", "stablelm_epoch": "stablelm",
    "starcoder2": "starcoder2", "plamo2": "plamo2", "plamo3": "plamo3", "spark2_5": "spark2_5",
}  # fmt: skip


def gguf_architecture(model_type: str) -> str | None:
    """The GGUF architecture that a config.json's `model_type` is converted to; None where llama.cpp has none.

    >>> gguf_architecture("mistral"), gguf_architecture("gpt_oss"), gguf_architecture("recurrent_gemma")
    ('llama', 'gpt-oss', None)
    """
    if model_type in _FROM_HF:
        return _FROM_HF[model_type]
    for name in (model_type, model_type.replace("_", "-"), model_type.replace("-", "_")):
        if name in ARCHS:
            return name
    return None


#: Builds with rules of their own, newest first: what an older one does differently, measured on it.
VERSIONS = ("b11549", "b10566")
_LATER_THAN_B10566 = frozenset(("maple", "spark2_5", "hy_v4", "glm5-next", "qwen4exp", "dots3note"))


def arch_of(name: str, layers: int, version: str) -> Arch | None:
    """The rules of GGUF architecture `name` for a model of `layers` layers; None where the build does not know it."""
    arch = ARCHS.get(name)
    if arch is None or (version == "b10566" and name in _LATER_THAN_B10566):
        return None
    if arch.windows is not None and arch.windows.layers not in (None, layers):
        arch = replace(arch, windows=None)
    if version == "b10566":
        # The snapshots of these two came later; so did the assertion that uneven batches fail.
        keeps = arch.rollback and name not in ("kimi-k3", "bailingmoe3")
        return replace(arch, rollback=keeps, split="works" if arch.split == "even" else arch.split)
    return arch
