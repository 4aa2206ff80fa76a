"""Builds a model from its config with random weights, as from_pretrained would load it, and feeds it tokens."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from cases import Case, model_class
from counting import Counted, count, returned_cache

ENCODER_TOKENS = 9


@dataclass(frozen=True)
class Measured:
    """One cache as counted. phase: prefill, decode or static; tokens: those in the cache (static: its length)."""

    phase: str
    dtype: str
    batch: int
    tokens: int
    counted: Counted


def save(case: Case, config: Any, folder: Path) -> None:
    """Write a checkpoint of random bfloat16 weights with its config.json."""
    torch.manual_seed(0)
    with _quiet():
        model = model_class(case.model_type, case.family)._from_config(copy.deepcopy(config), dtype=torch.bfloat16)
        model.save_pretrained(folder)


def load(case: Case, folder: Path, dtype: str) -> Any:
    """The checkpoint as from_pretrained loads it, with the modules that must stay float32 in float32."""
    with _quiet():
        model = model_class(case.model_type, case.family).from_pretrained(
            folder, dtype=getattr(torch, dtype), experts_implementation="eager"
        )
    return model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Session:
    """A batch of equal sessions that grows."""

    def __init__(self, model: Any, case: Case, batch: int) -> None:
        self.model, self.case, self.batch = model, case, batch
        self.kept: dict[str, Any] = {}
        self.tokens = 0
        self.ids = torch.zeros((batch, 0), dtype=torch.long)
        if case.family == "seq2seq":
            with torch.no_grad(), _quiet():
                self.encoded = model.get_encoder()(input_ids=torch.randint(3, 100, (batch, ENCODER_TOKENS)))
        if case.model_type == "recurrent_gemma":
            reset_module_states(model)
            self.kept = {"past_key_values": transformers.DynamicCache(config=model.config)}

    def feed(self, tokens: int, **more: Any) -> Any:
        ids = torch.randint(3, 100, (self.batch, tokens))
        if self.case.model_type == "cpmant":  # wants all tokens again and skips the cached ones itself
            ids = self.ids = torch.cat([self.ids, ids], dim=1)
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": True, **self.kept, **more}
        if self.case.family == "seq2seq":
            inputs |= {"decoder_input_ids": inputs.pop("input_ids"), "encoder_outputs": self.encoded}
        if self.case.model_type == "xlnet":
            inputs["use_mems"] = inputs.pop("use_cache")
        with torch.no_grad(), _quiet():
            output = self.model(**inputs)
        self.tokens += tokens
        return output

    def advance(self, tokens: int) -> Counted:
        """Feed tokens and count what the cache then holds."""
        output = self.feed(tokens)
        if self.case.model_type == "recurrent_gemma":
            found = count(self.kept["past_key_values"])
            add_module_states(found, self.model)
            return found
        found = returned_cache(output)
        if found is None and not self.kept:  # a decoder that leaves making the cache to its caller
            self.tokens = 0
            self.kept = {"past_key_values": transformers.DynamicCache(config=self.model.config)}
            return self.advance(tokens)
        name, cache = found or next(iter(self.kept.items()))
        self.kept = {name: cache}
        return count(cache)


def static_cache(model: Any, case: Case, max_length: int) -> Any:
    """The StaticCache that generate would build."""
    cache = transformers.StaticCache(config=model.config, max_cache_len=max_length)
    if case.family != "seq2seq":
        return cache
    cross = transformers.StaticCache(config=model.config, max_cache_len=ENCODER_TOKENS)
    return transformers.EncoderDecoderCache(cache, cross)


def reset_module_states(model: Any) -> None:
    for layer in model.model.layers:
        for module in (layer.temporal_block, getattr(layer.temporal_block, "rg_lru", None)):
            for name in ("conv1d_state", "recurrent_states"):
                if hasattr(module, name):
                    setattr(module, name, None)


def add_module_states(found: Counted, model: Any) -> None:
    """RecurrentGemma keeps its recurrent states as attributes of its modules, one live batch per model."""
    for index, layer in enumerate(model.model.layers):
        block = layer.temporal_block
        states = [
            getattr(block, "conv1d_state", None),
            getattr(getattr(block, "rg_lru", None), "recurrent_states", None),
        ]
        for tensor in states:
            if tensor is not None:
                found.logical[index] += tensor.numel() * tensor.element_size()
                found.resident[index] += tensor.untyped_storage().nbytes()


__all__ = ["ENCODER_TOKENS", "Measured", "Session", "load", "save", "static_cache"]
