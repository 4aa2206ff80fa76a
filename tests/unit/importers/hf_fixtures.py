"""What the importer's tests share: fixtures, a minimal config, and the bytes of a document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kvcalc.core.plan import Load
from kvcalc.document import model_from_document
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.ideal import ENGINE
from kvcalc.importers.hf import import_config

DATA = Path(__file__).parents[2] / "data" / "hf"
BF16 = CacheDtypes(
    key="bfloat16", value="bfloat16", index="bfloat16", pending="bfloat16", conv="bfloat16", state="float32"
)

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 8192,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}


def rows(name: str) -> list[dict[str, Any]]:
    """The records of one JSON-lines fixture."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def config_of(repo: str) -> dict[str, Any]:
    """The published config of `repo`."""
    return next(row["config"] for row in rows("configs.jsonl") if row["repo"] == repo)


def session_bytes(config: dict[str, Any], tokens: int, encoder_tokens: int = 0) -> int:
    """The ideal cache of one session, bfloat16, states in float32."""
    model = model_from_document(import_config(config).document)
    plan = ENGINE.prepare(model, Setup(version="1", dtypes=BF16)).plan(Load(tokens, 1, encoder_tokens))
    return plan.total_bytes
