"""LoRA adapters on the GPU: A and B of every attention and dense feed-forward projection, per slot.

Source: vLLM 0.33 lora/layers (max_loras slots are allocated at the start, whatever is loaded); Llama-2-7B at rank 8:
38.125 MiB per adapter, as printed by an inference server (triton-inference-server/tensorrtllm_backend issue 559).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kvcalc.core.model import Model
from kvcalc.errors import UsageError, short
from kvcalc.kinds.heads import HeadAttention
from kvcalc.planning.shape import read_shape
from kvcalc.units import ceil_div

_SLOTS = re.compile(r"([0-9]{1,4})x(?:r)?([0-9]{1,5})", re.ASCII)
_ELEMENT = 2


class Lora(NamedTuple):
    """Adapters that can be active at once, and their largest rank."""

    slots: int
    rank: int


def read_lora(text: str) -> Lora:
    """`4x16` (or `4xr16`): 4 slots of rank 16.

    Raises: UsageError.
    """
    match = _SLOTS.fullmatch(text.strip().lower())
    if match is None or "0" in (match.group(1).strip("0") or "0", match.group(2).strip("0") or "0"):
        raise UsageError(
            f"--lora has {short(text)}", fix="write --lora 4x16 for 4 slots of rank 16", field="lora", value=text
        )
    return Lora(int(match.group(1)), int(match.group(2)))


def lora_bytes(model: Model, lora: Lora, tp: int) -> int:
    """Bytes of all slots on one rank: A is whole where its output is divided, B where its input is.

    Raises: UsageError where the model's widths are unknown or its attention has no heads.
    """
    shape = read_shape(model)
    elements = 0
    for name, layers in model.stage_blocks(0, len(model.layers)).items():
        kind = model.blocks[name]
        if not isinstance(kind, HeadAttention):
            continue
        query = kind.heads * kind.head_dim
        for width in (query, kind.kv_heads * kind.head_dim, kind.kv_heads * kind.value_dim):
            elements += len(layers) * (shape.hidden + ceil_div(width, tp))
        elements += len(layers) * (ceil_div(kind.heads * kind.value_dim, tp) + shape.hidden)
        if shape.dense_width and not shape.experts:
            wide = ceil_div(shape.dense_width, tp)
            elements += len(layers) * 3 * (shape.hidden + wide)
    if not elements:
        raise UsageError(
            f"{model.name} has no attention heads that adapters are counted for", fix="drop --lora", field="lora"
        )
    return lora.slots * lora.rank * elements * _ELEMENT
