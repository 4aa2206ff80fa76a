"""model_type -> the rule that reads it. This is the one list: import, docs and tests walk it.

To add a family: its rule in a module of this package, its line here, a fixture in tests/data/hf/.
Where transformers has the model_type, the rule was read from 5.23; other model_types come with their checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kvcalc.importers import custom, encdec, hybrid, latent, linear, plain, windowed
from kvcalc.importers._cache import Cache
from kvcalc.importers._keys import Keys

Rule = Callable[[Keys], Cache]

_PLAIN = """
apertus aquila arcee arctic aria_text bailing_moe bailing_moe_v2 biogpt bitnet bloom chameleon codegen cohere
cosmos3_edge_text ctrl deepseek deepseek_ocr2_text diffllama emu3 emu3_text_model ernie4_5 ernie4_5_moe
ernie4_5_moe_vl ernie4_5_vl ernie4_5_vl_moe_text exaone flex_olmo gemma git glm glm4 glm4_moe glm4v_moe_text glm4v_text
glm_image_text glm_ocr_text gpt-sw3 gpt2 gpt_neox gpt_neox_japanese gptj granite granite4_vision_text
granite_docling_text granitemoe granitemoeshared grok grok-1 helium hunyuan_vl_text hy_v3 hyperclovax internlm
internlm2 internlm3 iquestcoder jais jais2 llama minicpm molmo2_text nanochat nemotron olmo olmo2 olmoe opt
orion paddleocr_vl_text persimmon phi phi-msft phi3small qwen3_omni_moe_text qwen3_vl_moe_text qwen3_vl_text
sarvam_moe seed_oss solar_open stablelm stablelm_epoch xglm xverse yi
"""

_DECODER_OF = """
bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta
roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod
"""

_ALL_SLIDING = "doge ministral ministral3 mixtral moshi phi3 phi3_v phi4mm phi4_multimodal phimoe starcoder2"
_ALTERNATING = "gemma2 gpt_oss vaultgemma"
_LATE_SLIDING = "qwen2 qwen3 dots1 qwen2_vl_text qwen2_5_vl_text qwen2_5_omni_text qwen2_vl qwen2_5_vl mimo"
_FIRST_OF_FOUR = "cwm granite_swa granitemoe_swa"
_MUSE = "muse_glimmer_text muse_spark_text"

_BART = """
bart bigbird_pegasus blenderbot blenderbot-small fsmt led m2m_100 marian mbart mvp nllb-moe pegasus pegasus_x plbart
trocr whisper
"""

_MLA = "axk1 deepseek_v2 deepseek_v3 glm4_moe_lite kimi_k2 mistral4 youtu"
_GDN = "qwen3_next qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text"


def _mixed(pattern: windowed.Pattern) -> Rule:
    return partial(windowed.mixed, pattern=pattern)


def _families() -> dict[str, Rule]:
    table: dict[str, Rule] = {}
    for names, rule in (
        (_PLAIN, plain.plain),
        (_DECODER_OF, plain.decoder_of),
        (_ALL_SLIDING, _mixed(windowed.all_sliding)),
        (_ALTERNATING, _mixed(windowed.full_every(2))),
        (_LATE_SLIDING, _mixed(windowed.late_sliding)),
        (_FIRST_OF_FOUR, _mixed(windowed.full_every(4, first=0))),
        (_MUSE, _mixed(windowed.counted_from_last)),
        ("t5 mt5 umt5 longt5 switch_transformers pop2piano", encdec.t5),
        (_BART, encdec.bart),
        (_MLA, latent.mla),
        ("deepseek_v32 axk2", latent.dsa),
        (_GDN, linear.gated_deltanet),
        ("minimax minimax_text_01 minimax_m1", linear.minimax),
        ("minimax_m3 minimax_m3_vl minimax_m3_vl_text", linear.minimax_m3),
        ("rwkv rwkv5 rwkv6 rwkv7", linear.rwkv),
        ("lfm2 lfm2_moe lfm3", linear.lfm2),
        ("inkling_text inkling2_text inkling", linear.inkling),
        ("mamba falcon_mamba", hybrid.mamba1),
        ("granitemoehybrid", hybrid.granite_hybrid),
        ("nemotron-nas deci", custom.nemotron_nas),
        ("hunyuan hunyuan_v1_dense hunyuan_v1_moe", custom.hunyuan),
        ("qwen baichuan", custom.qwen1),
        ("chatglm step3_text step3", plain.renamed),
        ("falcon RefinedWeb RefinedWebModel", plain.falcon),
        ("step3p5 step3p7", windowed.step3p5),
        ("mimo_v2_flash mimo_v2", windowed.mimo),
        ("llama4_text llama4", _mixed(windowed.llama4)),
        ("gemma3_text", windowed.gemma3),
        ("gemma4_text gemma4_unified_text", windowed.gemma4),
        ("exaone4 exaone_moe", _mixed(windowed.exaone4)),
        ("bailing_moe_linear bailing_moe_linear_v2", custom.lightning_linear),
    ):
        table |= dict.fromkeys(names.split(), rule)
    return table | {
        "afmoe": _mixed(windowed.full_every(4, "global_attn_every_n_layers")),
        "bailing_hybrid": linear.bailing_hybrid,
        "bamba": hybrid.bamba,
        "beam": _mixed(windowed.beam),
        "cohere2": _mixed(windowed.full_every(4, "sliding_window_pattern")),
        "cohere2_moe": _mixed(windowed.cohere2_moe),
        "cohere_compass_text": _mixed(windowed.all_full),
        "cpmant": plain.cpmant,
        "dbrx": plain.dbrx,
        "deepseek_v4": latent.deepseek_v4,
        "dots3_note": latent.dots3_note,
        "dots3_note_text": latent.dots3_note,
        "falcon_h1": hybrid.falcon_h1,
        "flint": _mixed(windowed.flint),
        "gemma3n_text": windowed.gemma3n,
        "glm5_next_text": linear.glm5_next,
        "glm_moe_dsa": latent.glm_moe_dsa,
        "gpt_bigcode": plain.gpt_bigcode,
        "gpt_neo": plain.gpt_neo,
        "hrm_text": plain.hrm_text,
        "hy_v4": latent.hy_v4,
        "jamba": hybrid.jamba,
        "jetmoe": plain.jetmoe,
        "kimi_linear": linear.kimi_linear,
        "kolibri1": _mixed(windowed.full_every(5)),
        "laguna": windowed.varied_heads,
        "longcat_flash": latent.longcat_flash,
        "mamba2": hybrid.mamba2,
        "mellum": _mixed(windowed.all_full),
        "minicpm3": latent.minicpm3,
        "minimax_m2": linear.minimax_m2,
        "mistral": _mixed(windowed.mistral_types),
        "mistral_large4_text": latent.mistral_large4,
        "mllama_text_model": encdec.mllama,
        "mllama": encdec.mllama,
        "modernbert-decoder": windowed.modernbert_decoder,
        "mpt": plain.mpt,
        "nemotron_h": hybrid.nemotron_h,
        "olmo3": _mixed(windowed.full_every(4)),
        "olmo_hybrid": linear.olmo_hybrid,
        "openelm": custom.openelm,
        "phi4flash": custom.phi4flash,
        "prophetnet": encdec.prophetnet,
        "qwen4_exp": linear.qwen4_exp,
        "qwen4_exp_text": linear.qwen4_exp,
        "qwen2_moe": _mixed(windowed.early_alternating),
        "qwen3_moe": _mixed(windowed.switched_sliding),
        "recurrent_gemma": linear.recurrent_gemma,
        "smollm3": _mixed(windowed.smollm3),
        "xlstm": linear.xlstm,
        "zamba": hybrid.zamba,
        "zamba2": hybrid.zamba2,
        "zaya": linear.zaya,
    }


FAMILIES: dict[str, Rule] = _families()

#: Known, and why there is no number: better a refusal than a guess.
REFUSED: dict[str, str] = {
    "deepseek_v41": "its compressed caches are shared across layers in a way that is not read from the config yet",
    "llada": "a diffusion model: it attends in both directions and keeps no incremental cache",
    "openai-gpt": "its code keeps no cache",
    "reformer": "it keeps hashed hidden states, not keys and values",
    "unlimited_ocr_text": "its reference window is not described by any kind yet",
    "xlm": "its code keeps no cache",
    "xlnet": "it keeps hidden states of earlier segments, not keys and values",
}

#: A multimodal config without a model_type in its text section: what the section is.
TEXT_OF: dict[str, str] = {
    "aria": "aria_text",
    "deepseek_vl_v2": "deepseek_v2",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "glm4v": "glm4v_text",
    "glm4v_moe": "glm4v_moe_text",
    "idefics2": "mistral",
    "idefics3": "llama",
    "kimi_k25": "deepseek_v3",
    "llama4": "llama4_text",
    "llava": "llama",
    "llava_next": "llama",
    "llava_next_video": "llama",
    "llava_onevision": "qwen2",
    "mistral3": "mistral",
    "mllama": "mllama_text_model",
    "paligemma": "gemma",
    "qwen2_5_omni_thinker": "qwen2_5_omni_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_omni_moe_thinker": "qwen3_omni_moe_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
    "smolvlm": "llama",
    "vipllava": "llama",
    "voxtral": "llama",
}
