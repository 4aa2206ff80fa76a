"""What comes on top of a model's own cache: the layers of a draft model, tokens of images."""

from __future__ import annotations

import re
from dataclasses import replace

from kvcalc.core.model import Model
from kvcalc.errors import UsageError, short
from kvcalc.kinds.heads import HeadAttention
from kvcalc.planning.workload import Workload

_DRAFT = re.compile(r"([0-9]{1,3})x([0-9]{1,4})x([0-9]{1,4})", re.ASCII)


def with_draft(model: Model, text: str) -> Model:
    """The model with the cache of a draft (EAGLE, DFlash ...): `LAYERSxKVHEADSxHEADDIM` full-attention layers more.

    Raises: UsageError.
    """
    match = _DRAFT.fullmatch(text.strip().lower())
    if match is None or any(int(part) == 0 for part in match.groups()):
        raise UsageError(
            f"--draft has {short(text)}",
            fix="write --draft LAYERSxKVHEADSxHEADDIM, like 1x8x128",
            field="draft",
            value=text,
        )
    layers, groups, head_dim = (int(part) for part in match.groups())
    block = HeadAttention(kind="gqa", heads=groups, groups=groups, head_dim=head_dim)
    return replace(model, layers=(*model.layers, *((("draft",),) * layers)), blocks={**model.blocks, "draft": block})


def with_images(workload: Workload, tokens: int) -> Workload:
    """The workload with `tokens` image tokens in every prompt."""
    return replace(
        workload,
        starts={prompt + tokens: share for prompt, share in workload.starts.items()},
        ends={last + tokens: share for last, share in workload.ends.items()},
        mean_prompt=workload.mean_prompt + tokens,
        longest=workload.longest + tokens,
        notes=(*workload.notes, f"{tokens:,} image tokens in every prompt"),
    )
