"""Builds a model from its config with random weights, as from_pretrained would load it, and feeds it tokens."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from cases import Case, config_class, model_class
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


def build(case: Case, config: Any, dtype: str) -> Any:
    """The model in `dtype`, with the modules that must stay float32 in float32.

    An empty state_dict makes from_pretrained initialise every weight itself, in the type it would load it in.
    """
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = model_class(case.model_type, case.family).from_pretrained(
            None,
            config=copy.deepcopy(config),
            state_dict={},
            dtype=getattr(torch, dtype),
            experts_implementation="eager",
        )
    return model.eval()


class Session:
    """A batch of equal sessions that grows."""

    def __init__(self, model: Any, case: Case, batch: int) -> None:
        self.model, self.case, self.batch = model, case, batch
        self.kept: dict[str, Any] = {}
        self.tokens = 0

    def feed(self, tokens: int, **more: Any) -> Any:
        ids = torch.randint(3, 100, (self.batch, tokens))
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": True, **self.kept, **more}
        if self.case.family == "seq2seq":
            encoder_ids = torch.randint(3, 100, (self.batch, ENCODER_TOKENS))
            if self.tokens:
                inputs["encoder_outputs"] = self.encoded
                del inputs["input_ids"]
            else:
                inputs["input_ids"] = encoder_ids
            inputs["decoder_input_ids"] = ids
        if self.case.model_type == "xlnet":
            inputs["use_mems"] = inputs.pop("use_cache")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output = self.model(**inputs)
        if self.case.family == "seq2seq" and not self.tokens:
            self.encoded = transformers.modeling_outputs.BaseModelOutput(output.encoder_last_hidden_state)
        self.tokens += tokens
        return output

    def advance(self, tokens: int) -> Counted:
        """Feed tokens and count what the cache then holds."""
        output = self.feed(tokens)
        if self.case.model_type == "recurrent_gemma":
            return module_states(self.model, self.batch)
        name, cache = returned_cache(output)
        self.kept = {name: cache}
        return count(cache, self.batch)


def module_states(model: Any, batch: int) -> Counted:
    """RecurrentGemma keeps its cache as attributes of its modules."""
    found = Counted()
    for layer in model.model.layers:
        block = layer.temporal_block
        tensors = []
        for module in (block, getattr(block, "rg_lru", None)):
            for name in ("conv1d_state", "recurrent_states", "key_states", "value_states"):
                value = getattr(module, name, None)
                if isinstance(value, torch.Tensor):
                    tensors.append(value)
        found.logical.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
        found.resident.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors))
    return found


__all__ = ["ENCODER_TOKENS", "Measured", "Session", "build", "config_class"]
