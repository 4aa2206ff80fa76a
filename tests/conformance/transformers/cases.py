"""Every text-generation architecture of the installed transformers, from the library's own mappings.

A case is one shrunken config of one model type. A model type that a new release adds becomes a case by
itself; one that cannot run is either in `EXCLUDED` with its reason, or fails.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import transformers
from shrink import DROP, GENERIC, OVERRIDES, VARIANTS, WIDE_WINDOW, WINDOW
from transformers.models.auto import configuration_auto, modeling_auto


@dataclass(frozen=True)
class Case:
    """family: causal, seq2seq, text (a decoder without a head of its own), wrapper (only its config differs)."""

    model_type: str
    family: str
    variant: str = "default"

    @property
    def id(self) -> str:
        return "-".join((self.model_type, self.family, self.variant))


def _first(name: Any) -> str:
    return str(name[0] if isinstance(name, list | tuple) else name)


def _names(mapping: str) -> dict[str, str]:
    return {key: _first(value) for key, value in getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES").items()}


CAUSAL = _names("CAUSAL_LM")
SEQ2SEQ = _names("SEQ_TO_SEQ_CAUSAL_LM")
MULTIMODAL = _names("IMAGE_TEXT_TO_TEXT") | _names("MULTIMODAL_LM")
BASE = {key: _first(value) for key, value in modeling_auto.MODEL_MAPPING_NAMES.items()}


def model_class(model_type: str, family: str) -> type:
    name = {"causal": CAUSAL, "seq2seq": SEQ2SEQ}.get(family, {}).get(model_type) or BASE[model_type]
    return getattr(transformers, name)


def config_class(model_type: str) -> type:
    return configuration_auto.CONFIG_MAPPING[model_type]


def shrunk(model_type: str, changes: dict[str, Any]) -> Any:
    """The architecture's own config class with tiny dimensions."""
    cls = config_class(model_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = cls().to_dict()
    renamed = getattr(cls, "attribute_map", {})
    values = {key: value for key, value in GENERIC.items() if key in known or key in renamed}
    values = {key: value for key, value in values.items() if renamed.get(key) not in values}
    if "kv_lora_rank" in values:  # MLA: head_dim follows from the rope part, and heads are all distinct
        values.pop("head_dim", None)
        if "num_key_value_heads" in values:
            values["num_key_value_heads"] = values["num_attention_heads"]
    values.update(OVERRIDES.get(model_type, {}))
    values.update(changes)
    return cls(**{key: value for key, value in values.items() if value is not DROP})


_WINDOW_KEYS = ("sliding_window", "attention_window_size", "sliding_window_size", "attention_chunk_size")


def config_of(case: Case) -> Any:
    """The shrunken config of one case."""
    known = config_class(case.model_type)().to_dict()
    changes: dict[str, Any] = {}
    if "is_decoder" in known and case.family == "causal":
        changes = {"is_decoder": True, "is_encoder_decoder": False} if "is_encoder_decoder" in known else {"is_decoder": True}
    if case.variant == "wide-window":
        changes |= {key: WIDE_WINDOW for key in _WINDOW_KEYS if key in known}
    elif case.variant == "sliding-on":
        changes |= {"use_sliding_window": True} | ({"max_window_layers": 3} if "max_window_layers" in known else {})
    elif case.variant != "default":
        changes |= VARIANTS[case.model_type][case.variant]
    return shrunk(case.model_type, changes)


def variants(model_type: str, family: str) -> list[str]:
    """The default config, windows above every token count, switched windows, and what `VARIANTS` names."""
    known = config_class(model_type)().to_dict()
    names = ["default"]
    if any(type(known.get(key)) is int for key in _WINDOW_KEYS):
        names.append("wide-window")
    if "use_sliding_window" in known:
        names.append("sliding-on")
    return names + (list(VARIANTS.get(model_type, ())) if family != "wrapper" else [])
