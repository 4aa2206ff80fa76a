"""A Hugging Face config.json as a kvcalc document. No network, no transformers: the keys are read, nothing is run.

The document describes the model (windows are W, shared layers are `shared`), never one engine's habit; what an
engine's rule asks for beyond that travels in `facts` under the config's own names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache as once
from pathlib import Path

from kvcalc.document import model_from_document, write_pattern
from kvcalc.dtypes import DTYPES, get_dtype
from kvcalc.errors import KvcalcError, ModelFileError, did_you_mean, short
from kvcalc.importers import Imported
from kvcalc.importers._cache import Cache
from kvcalc.importers._keys import MAX_TOKENS, Keys, Notes
from kvcalc.importers.families import FAMILIES, REFUSED, TEXT_OF
from kvcalc.importers.parameters import count_parameters
from kvcalc.importers.plain import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Where multimodal configs keep their language model.
_TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")
_CONTEXT = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "model_max_length",
    "context_length", "max_target_positions", "max_context_length", "n_ctx",
)  # fmt: skip
#: Keys that change no model here but that some engine's own rule, or the memory ledger, asks for.
_FACTS = (
    "alibi", "attention_chunk_size", "attention_k_eq_v", "decoder_ffn_dim", "dual_chunk_attention_config",
    "expert_dtype", "expert_ffn_hidden_size", "expert_intermediate_size", "expert_layer_period", "ffn_hidden_size",
    "first_k_dense_replace", "index_n_heads", "index_topk", "interleave_moe_layer_step", "intermediate_size",
    "is_hybrid_swa", "mamba_cache_dtype", "mamba_ssm_cache_dtype", "mamba_ssm_dtype", "max_window_layers",
    "moe_intermediate_size", "moe_topk", "multi_query", "n_group", "n_inner", "n_routed_experts", "n_shared_experts",
    "new_decoder_architecture", "no_rope_layer_interval", "num_experts",
    "num_experts_per_tok", "num_experts_per_token", "num_global_key_value_heads", "num_kv_shared_layers",
    "num_local_experts", "position_embedding_type", "q_lora_rank", "shared_expert_intermediate_size",
    "tie_word_embeddings", "use_bidirectional_attention", "use_cla", "use_mla_nope", "use_sliding_window",
)  # fmt: skip
#: Traces of a cache that is not one K and one V per token: an unknown model_type with one of these is refused.
_NOT_PLAIN = (
    "lora_rank", "latent", "window", "chunk", "linear_", "mamba", "ssm", "state", "conv", "layer_type", "layers_block",
    "pattern", "share_factor", "shared_layers", "kv_source", "compress", "index", "sparse_att", "cross_attention",
    "encoder", "block_config", "attn_type", "per_layer", "recurrent", "global_attn", "full_attention", "nope", "cla",
    "v_head_dim", "rope_head_dim", "use_mla", "kv_heads_per", "num_kv_heads_", "attn_layer", "lru_", "rwkv", "hybrid",
)  # fmt: skip
_HARMLESS = {"chunk_size_feed_forward", "output_hidden_states", "is_encoder_decoder", "num_index_tokens"}


def import_config(
    config: Mapping[str, object], *, file: str | None = None, name: str | None = None, dtype: str | None = None
) -> Imported:
    """The document of a parsed config.json.

    file: for messages. name: of the model; taken from the config when absent. dtype: of weights and cache where
    the config names none.

    Raises: ModelFileError naming file, key, value and fix.
    """
    if not isinstance(config, Mapping):
        raise ModelFileError(f"a config.json is an object, not {short(config)}", fix="check the file", file=file)
    notes = Notes()
    root = Keys(config, notes, "", file)
    try:
        keys, model_type = _language_model(root)
        found = _read(keys, root, model_type)
        document = _document(found, keys, root, name=name, dtype=dtype)
        counted = None if keys.path else count_parameters(keys, model_type)  # a text section has towers beside it
        if counted is not None:
            document["parameters"] = counted
            notes.derive(f"parameters = {counted:,}: counted from the widths of {model_type}")
        model_from_document(document)  # the kinds check what their numbers say about each other
    except ModelFileError as error:
        error.file = error.file or file
        raise
    return Imported(document=document, derived=tuple(notes.derived), warnings=tuple(notes.warnings), exact=notes.exact)


@once
def class_defaults() -> dict[str, dict[str, int | float | bool | str]]:
    """model_type -> what its class assumes for absent keys. Source: transformers 5.23.0, configuration classes."""
    text = Path(__file__).with_name("class_defaults.json").read_text(encoding="utf-8")
    defaults: dict[str, dict[str, int | float | bool | str]] = json.loads(text)["defaults"]
    return defaults


def _language_model(root: Keys) -> tuple[Keys, str | None]:
    """The section that describes the language model, and its model_type."""
    section, model_type = root, root.text("model_type")
    for _ in range(4):
        nested = next((part for key in _TEXT_SECTIONS if (part := section.section(key)) is not None), None)
        if nested is None:
            break
        section, model_type = nested, nested.text("model_type") or TEXT_OF.get(model_type or "", model_type)
    if model_type not in FAMILIES and model_type in TEXT_OF and section.has("num_hidden_layers"):
        model_type = TEXT_OF[model_type]  # a multimodal config whose text keys were lifted to the top
        section = section.overlaid({"model_type": model_type})
    defaults = class_defaults().get(model_type or "", {})
    values = section.values if section.has("model_type") else {**section.values, "model_type": model_type}
    return Keys(values, root.notes, section.path, root.file, defaults), model_type


def _read(keys: Keys, root: Keys, model_type: str | None) -> Cache:
    if model_type in REFUSED:
        raise keys.error(
            "model_type",
            f"no exact number for model_type {model_type}: {REFUSED[model_type]}",
            fix="write the model as YAML if you know what it stores",
            value=model_type,
        )
    rule = FAMILIES.get(model_type or "")
    if rule is not None:
        return rule(keys)
    _require_plain(keys, root, model_type)
    keys.notes.warn(
        f"model_type {short(model_type)} is unknown: read as a plain decoder, one K and one V per token and layer",
        exact=False,
    )
    return plain(keys)


def _require_plain(keys: Keys, root: Keys, model_type: str | None) -> None:
    """An unknown model_type is a plain decoder only if it says layers, heads, KV heads and width itself, calls
    itself ...ForCausalLM, and no key hints at another kind of cache.

    Raises: ModelFileError.
    """
    near = did_you_mean(model_type, list(FAMILIES)) if model_type else "add model_type"

    def refuse(why: str, key: str = "model_type", value: object = model_type) -> ModelFileError:
        return keys.error(
            key,
            f"unknown model_type {short(model_type)}, and {why}",
            fix=near or "write the model as YAML",
            value=value,
        )

    names = root.texts("architectures") or keys.texts("architectures") or []
    if not any(item.endswith(("ForCausalLM", "LMHeadModel")) for item in names):
        raise refuse("architectures names no ...ForCausalLM", "architectures", names or None)
    for key in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size"):
        if not keys.has(key):
            raise refuse(f"{key} is missing", key, None)
    for key, value in keys.values.items():
        if not isinstance(key, str) or key in _HARMLESS or value in (None, False, 0, [], {}, ""):
            continue
        if any(part in key.lower() for part in _NOT_PLAIN):
            raise refuse(f"{key} hints at a cache that is not plain", key, value)


def _document(found: Cache, keys: Keys, root: Keys, *, name: str | None, dtype: str | None) -> dict[str, Any]:
    doc: dict[str, Any] = {"name": name or _name(keys, root)}
    doc["architecture"] = keys.text("model_type") or "unknown"
    # T5's n_positions is no limit: its positions are relative.
    limits = () if "relative_attention_num_buckets" in keys.values else _CONTEXT
    context = next((value for key in limits if (value := keys.maybe(key, most=MAX_TOKENS)) is not None), None)
    doc |= {
        key: value
        for key, value in (
            ("max_context", context),
            ("hidden_size", keys.maybe("hidden_size", "n_embd", "d_model", "n_embed")),
            ("vocab_size", keys.maybe("vocab_size", "padded_vocab_size", most=2**32)),
        )
        if value is not None
    }
    doc["layers"] = len(found.layers)
    doc["dtype"] = _dtype(keys, root, dtype)
    if (weights := _weight_dtype(keys, root)) is not None:
        doc["weights"] = {"dtype": weights, "source": "quantization_config"}
    if (cache_dtype := _cache_dtype(keys, root)) is not None:
        doc["cache_dtype"] = cache_dtype
    if list(found.blocks) == ["attention"] and set(found.layers) == {("attention",)}:
        doc["attention"] = found.blocks["attention"]
    else:
        doc["attention"] = found.blocks
        if len(found.blocks) > 1 or set(found.layers) != {tuple(found.blocks)}:
            doc["pattern"] = write_pattern(found.layers)
    if found.mtp is not None:
        doc["mtp"] = {"layers": found.mtp[0], "block": found.mtp[1]}
    if facts := _facts(keys, root):
        doc["facts"] = facts
    return doc


def _name(keys: Keys, root: Keys) -> str:
    """A name to show: the config's own path, else its model_type."""
    given = root.values.get("_name_or_path") or keys.values.get("_name_or_path") or keys.text("model_type") or "model"
    text = given.rstrip("/").rsplit("/", 1)[-1] if isinstance(given, str) else "model"
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.")[:80] or "model"


def _dtype(keys: Keys, root: Keys, given: str | None) -> str:
    """The type the config says; absent, the caller's, else bfloat16 with a warning.

    Raises: ModelFileError for a type kvcalc does not know.
    """
    for section in (keys, root):
        for key in ("dtype", "torch_dtype"):
            stated = section.text(key)
            if stated in (None, "auto"):
                continue
            try:
                return get_dtype(stated or "", field=key).name
            except KvcalcError as error:
                raise section.error(key, str(error), fix=error.fix or "check it", value=stated) from None
    if given is not None:
        return get_dtype(given).name
    keys.notes.warn("the config names no dtype: bfloat16 assumed, 2 bytes per element")
    keys.notes.derive("dtype = bfloat16: absent")
    return "bfloat16"


#: quant_method (or quant_algo) -> the element type of nearly all parameters, scales included where it has them.
_WEIGHT_DTYPES = {"fp8": "fp8_e4m3", "fbgemm_fp8": "fp8_e4m3", "mxfp4": "mxfp4", "nvfp4": "nvfp4"}


def _weight_dtype(keys: Keys, root: Keys) -> str | None:
    """The type of quantised weights where the method says it; bits of other methods become a fact."""
    quant = root.section("quantization_config") or keys.section("quantization_config")
    if quant is None or keys.has("expert_dtype") or quant.has("expert_dtype"):  # experts are of another type
        return None
    for key in ("quant_algo", "quant_method"):
        if isinstance(method := quant.values.get(key), str) and method.lower() in _WEIGHT_DTYPES:
            return _WEIGHT_DTYPES[method.lower()]
    groups = quant.values.get("config_groups")
    bits = {quant.values.get(key) for key in ("bits", "w_bit") if type(quant.values.get(key)) is int}
    for group in groups.values() if isinstance(groups, Mapping) else ():
        weights = group.get("weights") if isinstance(group, Mapping) else None
        if isinstance(weights, Mapping) and type(weights.get("num_bits")) is int:
            bits.add(weights["num_bits"])
    if len(bits) == 1 and isinstance(number := bits.pop(), int) and 1 <= number <= 16:
        keys.notes.facts["weight_bits"] = number
    return None


def _cache_dtype(keys: Keys, root: Keys) -> str | None:
    """The checkpoint's own KV cache type: kv_cache_scheme of compressed-tensors and ModelOpt, or kv_cache_quant_algo.

    Raises: ModelFileError for a scheme that is not understood.
    """
    for section in (root, keys):
        quant = section.section("quantization_config")
        if quant is None:
            continue
        algorithm = quant.text("kv_cache_quant_algo")
        if algorithm is not None:
            return _known_scheme(quant, "kv_cache_quant_algo", algorithm.lower())
        scheme = quant.section("kv_cache_scheme") if not isinstance(quant.raw("kv_cache_scheme"), str) else None
        if isinstance(text := quant.raw("kv_cache_scheme"), str):
            return _known_scheme(quant, "kv_cache_scheme", text.lower())
        if scheme is not None:
            return _known_scheme(quant, "kv_cache_scheme", f"{scheme.text('type')}{scheme.whole('num_bits', most=64)}")
    return None


def _known_scheme(quant: Keys, key: str, scheme: str) -> str | None:
    known = {"float8": "fp8_e4m3", "fp8": "fp8_e4m3", "int8": "int8", "float4": "nvfp4", "nvfp4": "nvfp4", "none": ""}
    name = known.get(scheme, DTYPES[scheme].name if scheme in DTYPES else None)
    if name is None:
        raise quant.error(
            key, f"the KV cache scheme {short(scheme)} is not understood", fix=f"one of: {', '.join(known)}"
        )
    if name:
        quant.notes.derive(f"cache_dtype = {name}: the checkpoint's {quant.where(key)}")
    return name or None


def _facts(keys: Keys, root: Keys) -> dict[str, Any]:
    facts: dict[str, Any] = dict(keys.notes.facts)
    architectures = root.texts("architectures") or keys.texts("architectures")
    if architectures:
        facts["architectures"] = ",".join(architectures)
    vision = any(root.has(key) for key in ("vision_config", "audio_config", "visual"))
    if keys.path or vision:
        facts["multimodal"] = True
        if isinstance(wrapper := root.values.get("model_type"), str):
            facts["wrapper"] = wrapper
    for key in _FACTS:
        value = keys.values.get(key)
        if isinstance(value, bool | str) or type(value) is int:
            facts.setdefault(key, value)
        elif isinstance(value, Mapping):
            facts.setdefault(key, True)
    quant = root.section("quantization_config") or keys.section("quantization_config")
    if quant is not None and isinstance(method := quant.values.get("quant_method"), str):
        facts["quant_method"] = method
    return facts
