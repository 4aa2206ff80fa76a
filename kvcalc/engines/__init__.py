"""Who allocates the cache. This is the one table: the command line, docs and contract tests walk it.

To add an engine: its module in this package with an `ENGINE` object, and its line in `_MODULES`.
"""

from __future__ import annotations

from importlib import import_module

from kvcalc.engines.base import Engine
from kvcalc.errors import UsageError, did_you_mean, short

#: engine name -> module of this package; imported only when asked for.
_MODULES = {
    "ideal": "ideal",
    "transformers": "transformers",
    "vllm": "vllm",
    "llama.cpp": "llamacpp",
    "ollama": "llamacpp.ollama",
    "lmstudio": "llamacpp.lmstudio",
    "sglang": "sglang",
    "exllamav3": "exllamav3",
    "lmdeploy": "lmdeploy",
    "mlx-lm": "mlx_lm",
    "tensorrt-llm": "tensorrt_llm",
}
#: Other spellings people use.
_ALIASES = {
    "llamacpp": "llama.cpp",
    "llama-server": "llama.cpp",
    "lm-studio": "lmstudio",
    "hf": "transformers",
    "mlx": "mlx-lm",
    "exl3": "exllamav3",
    "trtllm": "tensorrt-llm",
    "trt-llm": "tensorrt-llm",
    "ktransformers": "sglang",  # runs inside its fork of SGLang (its README, third_party/sglang)
}
#: Engines that divide a model between GPUs by whole layers: several GPUs mean --pp, never --tp.
LAYERWISE = frozenset(("llama.cpp", "ollama", "lmstudio"))
#: The cache type of engines that have one of their own, whatever the model's; and what they have instead of fp8.
CACHE_TYPE = dict.fromkeys(LAYERWISE, "float16")
NARROW_TYPE = dict.fromkeys(LAYERWISE, "q8_0")


def engine_names() -> tuple[str, ...]:
    return tuple(_MODULES)


def get_engine(name: str) -> tuple[Engine, str]:
    """The engine and the version asked for: `NAME` or `NAME@VERSION`.

    Raises: UsageError for an unknown name or version.
    """
    base, pinned, version = name.strip().lower().partition("@")
    base = _ALIASES.get(base, base)
    module = _MODULES.get(base)
    if module is None:
        raise UsageError(
            f"unknown engine {short(name)}",
            fix=did_you_mean(base, list(_MODULES)) or f"one of: {', '.join(_MODULES)}",
            field="engine",
            value=name,
        )
    engine: Engine = import_module(f"kvcalc.engines.{module}").ENGINE
    if pinned and version not in engine.versions:
        version = ".".join(version.split(".")[:2])  # rules are per release line: 0.11.2 is 0.11
    if pinned and version not in engine.versions:
        raise UsageError(
            f"{base} has no rules for version {short(name.partition('@')[2])}",
            fix=f"versions: {', '.join(engine.versions)}",
            field="engine",
            value=name,
        )
    return engine, version or engine.versions[0]
