"""Model types of the library's mappings that are not measured, and why."""

from __future__ import annotations

_NO_CACHE = "its modelling code keeps no cache"
_PARTS = "a composition of two models that each have a model type of their own"
_PICTURES = "its decoder runs on image features only"
_SPEECH = "its decoder runs on audio features only"
_DRAFT = "a draft model: it reads the cache of another model and owns none"
_CODES = "generates audio codes from several codebooks, not text"
_UNKNOWN = "not read by the importer: a captioning model of an own decoder"

#: kvcalc has no number for these either: the importer refuses them.
REFUSED_TOO: dict[str, str] = {
    "openai-gpt": _NO_CACHE,
    "reformer": "keeps hashed hidden states, not keys and values",
    "unlimited_ocr_text": "keeps the whole prompt and a window of the rest: it depends on where the prompt ends",
    "xlm": _NO_CACHE,
    "xlnet": "keeps hidden states of earlier segments, not keys and values",
}

EXCLUDED: dict[str, str] = REFUSED_TOO | {
    "blip": "its text part keeps no cache without an image",
    "blip_text_model": "keeps no cache without an image",
    "blt": "byte-latent transformer: an entropy patcher and three models, no plain decoder cache",
    "diffusion_gemma": "a diffusion model: it denoises blocks of text",
    "diffusion_gemma_text": "the encoder of a diffusion model",
    "embedding_gemma2_text": "an embedding model: it generates nothing",
    "encoder-decoder": _PARTS,
    "evolla": "a protein model: its decoder runs on protein features",
    "gemma4_assistant": _DRAFT,
    "gemma4_unified_assistant": _DRAFT,
    "idefics": _PICTURES,
    "kosmos-2": _UNKNOWN,
    "kosmos-2.5": _UNKNOWN,
    "kosmos_2_5_text_model": _UNKNOWN,
    "kosmos_2_text_model": _UNKNOWN,
    "kyutai_speech_to_text": _CODES,
    "musicgen": _CODES,
    "musicgen_decoder": _CODES,
    "musicgen_melody": _CODES,
    "musicgen_melody_decoder": _CODES,
    "pi0": "generates robot actions, not text",
    "pix2struct": _PICTURES,
    "pix2struct_text_model": _PICTURES,
    "pp_formulanet": _PICTURES,
    "pp_formulanet_text": _PICTURES,
    "sam3_lite_text": "a text encoder for segmentation: it generates nothing",
    "seamless_m4t": _PARTS,
    "seamless_m4t_v2": _PARTS,
    "speech_to_text": _SPEECH,
    "t5_gemma_module": "a module of t5gemma",
    "t5gemma": "its encoder and decoder have configs of their own, which cannot be shrunk alone",
    "t5gemma2": "its encoder and decoder have configs of their own, which cannot be shrunk alone",
    "t5gemma2_decoder": "a module of t5gemma2",
    "udop": "needs the boxes of a document's words as input",
    "unlimited_ocr": "its text section is unlimited_ocr_text",
    "vision-encoder-decoder": _PARTS,
    "voxtral_realtime": "its decoder needs an audio time embedding",
    "voxtral_realtime_text": "needs an audio time embedding",
}
