"""Shipped models (from config.json) against the library on their GGUF twin: both routes into the engine agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf_bytes import gguf_bytes
from live import LiveEngine, engine_options
from options import fixed
from shapes import CUT, REAL, metadata
from test_live import differs, engine, predicted  # noqa: F401 - the fixture is used by name

from kvcalc.registry import load_registry

#: shipped model -> shape of `shapes.REAL` that its converter writes.
TWINS = {
    "llama-3.1-8b": "llama-3.1-8b", "llama-3.1-70b": "llama-3.1-70b", "mistral-7b-v0.1": "mistral-7b-v0.1",
    "mistral-small-24b-2501": "mistral-small-24b", "falcon-7b": "falcon-7b", "falcon-40b": "falcon-40b",
    "gpt2-xl": "gpt2-xl", "qwen2.5-7b": "qwen2.5-7b", "qwen3-8b": "qwen3-8b", "qwen3-30b-a3b": "qwen3-30b-a3b",
    "phi-4": "phi-4", "gemma-2-9b": "gemma-2-9b", "gemma-3-4b": "gemma-3-4b", "gemma-3-27b": "gemma-3-27b",
    "gemma-3n-e4b": "gemma-3n-e4b", "gemma-4-26b-a4b": "gemma-4-26b-a4b", "gemma-4-e4b": "gemma-4-e4b",
    "command-r7b": "command-r7b", "olmo-3-1025-7b": "olmo-3-7b", "gpt-oss-20b": "gpt-oss-20b",
    "gpt-oss-120b": "gpt-oss-120b", "llama-4-scout": "llama-4-scout", "mimo-v2-flash": "mimo-v2-flash",
    "deepseek-v2-lite": "deepseek-v2-lite", "deepseek-v3": "deepseek-v3", "deepseek-v3.2": "deepseek-v3.2",
    "glm-5": "glm-5", "minicpm3-4b": "minicpm3-4b", "kimi-linear-48b-a3b": "kimi-linear-48b",
    "qwen3-next-80b-a3b": "qwen3-next-80b", "qwen3.5-27b": "qwen3.5-27b", "minimax-text-01": "minimax-text-01",
    "mamba-2.8b": "mamba-2.8b", "falcon-mamba-7b": "falcon-mamba-7b", "jamba-1.5-mini": "jamba-1.5-mini",
    "granite-4.0-h-small": "granite-4-h-small", "lfm2-1.2b": "lfm2-1.2b", "nemotron-nano-9b-v2": "nemotron-nano-9b-v2",
    "glm-4.5-air": "glm-4.5-air", "deepseek-v4-flash": "deepseek-v4-flash",
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_a_shipped_model_equals_its_gguf_in_the_library(name: str, engine: LiveEngine, tmp_path: Path) -> None:  # noqa: F811
    """What kvcalc says of a model read from config.json is what the library does with the converted file."""
    architecture, keys = REAL[TWINS[name]]
    path = tmp_path / "twin.gguf"
    path.write_bytes(gguf_bytes(metadata(architecture, keys)))
    # n_ctx 0 is the file's own training context: shapes without one say 8192, so it is left to test_live.
    options: list[dict[str, Any]] = [item for item in fixed() if item["n_ctx"]]
    options = options[:1] if TWINS[name] in CUT else options
    said = engine.ask(path, [engine_options(item) for item in options])
    ours = predicted(load_registry().model(name), options)
    wrong = [row for row in zip(options, said, ours, strict=True) if differs(row[1], row[2])]
    assert not wrong, f"{len(wrong)} of {len(options)} differ, the first: {wrong[0]}"
