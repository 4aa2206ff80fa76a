"""Sound model files, which the tests of bad input break in one place."""

from __future__ import annotations

import json
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple

Doc = dict[str, Any]

TINY = """\
name: tiny
layers: 4
dtype: bfloat16
parameters: 1000000
attention: {kind: gqa, heads: 8, groups: 2, head_dim: 16}
"""
NAMED = TINY.replace("attention: {kind: gqa, heads: 8, groups: 2, head_dim: 16}\n", "")

#: The smallest sound block of every kind.
BLOCKS: dict[str, Doc] = {
    "mha": {"heads": 8, "head_dim": 16},
    "mqa": {"heads": 8, "head_dim": 16},
    "gqa": {"heads": 8, "head_dim": 16, "groups": 2},
    "mla": {"heads": 8, "latent_dim": 32, "rope_dim": 4},
    "csa": {"heads": 8, "head_dim": 16, "tokens_per_slot": 4, "window": 8, "index_dim": 4},
    "hca": {"heads": 8, "head_dim": 16, "tokens_per_slot": 4, "window": 8},
    "mamba1": {"inner_dim": 16, "state_dim": 4, "conv_kernel": 4},
    "mamba2": {"heads": 8, "head_dim": 4, "state_dim": 4, "groups": 2, "conv_kernel": 4},
    "gated_deltanet": {"key_heads": 2, "value_heads": 4, "key_dim": 4, "value_dim": 4, "conv_kernel": 4},
    "kda": {"heads": 2, "head_dim": 4, "conv_kernel": 4},
    "lightning": {"heads": 2, "head_dim": 4},
    "mlstm": {"heads": 2, "key_dim": 4, "value_dim": 8},
    "rglru": {"width": 8, "conv_kernel": 4},
    "rwkv": {"hidden_dim": 8},
    "short_conv": {"dim": 8, "conv_kernel": 3},
    "cross": {"heads": 8, "head_dim": 16},
    "shared": {},
    "none": {},
}


def written(path: Path, document: Doc) -> str:
    """The document in a file; its attention is on line 5."""
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items()), encoding="utf-8")
    return str(path)


def document(block: Doc) -> Doc:
    return {"name": "tiny", "layers": 4, "dtype": "bfloat16", "parameters": 1000000, "attention": block}


def changed(block: Doc, field: str, value: object) -> Doc:
    return {key: each for key, each in {**block, field: value}.items() if each is not MISSING}


class Text(NamedTuple):
    """A file's text, the line at fault (None: not told) and what must be said."""

    id: str
    text: str
    says: str
    fix: str
