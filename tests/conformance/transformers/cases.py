"""Every text-generation architecture of the installed transformers, from the library's own mappings.

A case is one shrunken config of one model type. A model type that a new release adds becomes a case by
itself; one that cannot run is either in `EXCLUDED` with its reason, or fails.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import transformers
from exclusions import EXCLUDED
from shrink import DROP, GENERIC, OVERRIDES, VARIANTS, WIDE_WINDOW, WRAPPERS
from transformers.models.auto import configuration_auto, modeling_auto

#: Where a multimodal or composed config keeps its decoder.
SECTIONS = ("text_config", "decoder", "thinker_config")


@dataclass(frozen=True)
class Case:
    """family: causal, seq2seq, text (a decoder without a head of its own).

    wrapper: the multimodal model type whose config.json holds this one as its text section.
    """

    model_type: str
    family: str
    variant: str = "default"
    wrapper: str | None = None

    @property
    def architecture(self) -> str:
        return self.wrapper or self.model_type

    @property
    def id(self) -> str:
        return "-".join((self.architecture, "wrapper" if self.wrapper else self.family, self.variant))


def _first(name: Any) -> str:
    return str(name[0] if isinstance(name, list | tuple) else name)


def _names(mapping: str) -> dict[str, str]:
    return {key: _first(value) for key, value in getattr(modeling_auto, f"{mapping}_MAPPING_NAMES").items()}


CAUSAL = _names("MODEL_FOR_CAUSAL_LM")
SEQ2SEQ = _names("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM")
MULTIMODAL = _names("MODEL_FOR_IMAGE_TEXT_TO_TEXT") | _names("MODEL_FOR_MULTIMODAL_LM")
BASE = _names("MODEL")


@cache
def wrappers() -> dict[str, type]:
    """Composed model type -> the config class of its decoder."""
    found: dict[str, type] = {}
    for model_type in sorted({*CAUSAL, *MULTIMODAL, *SEQ2SEQ} - EXCLUDED.keys()):
        config = default_config(configuration_auto.CONFIG_MAPPING[model_type])
        section = next((part for name in SECTIONS if (part := getattr(config, name, None)) is not None), None)
        if hasattr(section, "model_type"):
            found[model_type] = type(section.get_text_config(decoder=True))
    return found


def default_config(cls: type) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls()


def config_class(model_type: str) -> Any:
    if model_type in configuration_auto.CONFIG_MAPPING:
        return configuration_auto.CONFIG_MAPPING[model_type]
    return next(cls for cls in wrappers().values() if cls.model_type == model_type)  # type: ignore[attr-defined]


def model_class(model_type: str, family: str) -> Any:
    """The library's class: with a head where it maps one, else the decoder that takes this config."""
    heads = {"causal": CAUSAL, "seq2seq": SEQ2SEQ}.get(family, MULTIMODAL)
    name = heads.get(model_type) or BASE.get(model_type)
    if name is not None:
        return getattr(transformers, name)
    config = config_class(model_type)
    module = import_module(config.__module__.replace(".configuration_", ".modeling_"))
    takes = [
        cls for _, cls in inspect.getmembers(module, inspect.isclass) if getattr(cls, "config_class", None) is config
    ]
    ranked = sorted(takes, key=lambda cls: (not cls.__name__.endswith(("TextModel", "ForCausalLM")), cls.__name__))
    return next(cls for cls in ranked if not cls.__name__.endswith("PreTrainedModel"))


def family_of(model_type: str) -> str:
    return "causal" if model_type in CAUSAL else "text"


def shrunk(model_type: str, changes: dict[str, Any]) -> Any:
    """The architecture's own config class with tiny dimensions."""
    cls = config_class(model_type)
    known = default_config(cls).to_dict()
    renamed = getattr(cls, "attribute_map", {})
    values = {key: value for key, value in GENERIC.items() if key in known or key in renamed}
    values = {key: value for key, value in values.items() if renamed.get(key) not in values}
    if "kv_lora_rank" in values:  # MLA: head_dim follows from the rope part, and heads are all distinct
        values.pop("head_dim", None)
        if "num_key_value_heads" in values:
            values["num_key_value_heads"] = values["num_attention_heads"]
    values.update(OVERRIDES.get(model_type, {}))
    values.update(changes)
    # copied: configs complete nested dicts in place, and another architecture's default would leak in
    return cls(**{key: copy.deepcopy(value) for key, value in values.items() if value is not DROP})


_WINDOW_KEYS = ("sliding_window", "attention_window_size", "sliding_window_size", "attention_chunk_size")


def config_of(case: Case) -> Any:
    """The shrunken config of the decoder."""
    known = default_config(config_class(case.model_type)).to_dict()
    changes: dict[str, Any] = {}
    if case.family == "causal" and "is_decoder" in known:
        changes = {key: key == "is_decoder" for key in ("is_decoder", "is_encoder_decoder") if key in known}
    if case.variant == "wide-window":
        changes |= {key: WIDE_WINDOW for key in _WINDOW_KEYS if key in known}
    elif case.variant == "sliding-on":
        changes |= {"use_sliding_window": True} | ({"max_window_layers": 3} if "max_window_layers" in known else {})
    elif case.variant != "default":
        changes |= VARIANTS[case.model_type][case.variant]
    return shrunk(case.model_type, changes)


def wrapped(case: Case, decoder: Any) -> Any:
    """The composed config around a decoder's config; `decoder` itself where there is none."""
    if case.wrapper is None:
        return decoder
    cls = configuration_auto.CONFIG_MAPPING[case.wrapper]
    config = default_config(cls)
    name = next(name for name in SECTIONS if getattr(config, name, None) is not None)
    inner: Any = decoder.to_dict()
    if name == "thinker_config":
        inner = getattr(config, name).to_dict() | {"text_config": inner}
    sections = {key: getattr(config, key).to_dict() | keys for key, keys in WRAPPERS.get(case.wrapper, {}).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cls(**{name: inner}, **sections)


def _variants(model_type: str) -> list[str]:
    """The default config, windows above every token count, switched windows, and what `VARIANTS` names."""
    known = default_config(config_class(model_type)).to_dict()
    names = ["default"]
    if any(type(known.get(key)) is int for key in _WINDOW_KEYS):
        names.append("wide-window")
    if "use_sliding_window" in known:
        names.append("sliding-on")
    return names + list(VARIANTS.get(model_type, ()))


def universe() -> set[str]:
    """Every model type that generates text, and every `*_text` section the library knows."""
    sections = {name for name in configuration_auto.CONFIG_MAPPING_NAMES if name.endswith("_text")}
    return {*CAUSAL, *SEQ2SEQ, *MULTIMODAL, *(sections & BASE.keys())}


def discover() -> list[Case]:
    """Cases of every model type that is not excluded, in alphabetical order."""
    found: list[Case] = []
    inner = {cls.model_type for cls in wrappers().values()}  # type: ignore[attr-defined]
    for model_type in sorted((universe() | inner) - EXCLUDED.keys()):
        if model_type in wrappers():
            text = wrappers()[model_type].model_type  # type: ignore[attr-defined]
            if text not in EXCLUDED:
                found.append(Case(text, family_of(text), wrapper=model_type))
            continue
        names = _variants(model_type)
        if model_type in CAUSAL or model_type not in SEQ2SEQ:
            found += [Case(model_type, family_of(model_type), name) for name in names]
        if model_type in SEQ2SEQ:
            found.append(Case(model_type, "seq2seq"))
    return found


__all__ = ["Case", "config_of", "discover", "model_class", "universe", "wrapped", "wrappers"]
