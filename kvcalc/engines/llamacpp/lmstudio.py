"""LM Studio: llama.cpp with four slots over one pool of cells.

Source: LM Studio's documentation of its load settings (`contextLength`, `maxParallelPredictions`, default 4 since 0.4,
`useUnifiedKvCache`, `evalBatchSize`, `offloadKVCacheToGpu`, `flashAttention`); that the pool is shared by default is
read from a log of lmstudio-bug-tracker issue 1862 (262,144 cells, 4 sequences, 1 stream). The program is closed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kvcalc.core.model import Model
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.llamacpp.planner import LlamaCppPlanner
from kvcalc.engines.llamacpp.prepare import prepare
from kvcalc.engines.llamacpp.settings import Settings

OPTIONS = (
    Option(name="context_length", parse="tokens", help="contextLength: the pool of all slots; default: -c times -n"),
    Option(name="max_parallel_predictions", parse="count", help="maxParallelPredictions: slots", default=4),
    Option(name="use_unified_kv_cache", parse="switch", help="useUnifiedKvCache: one pool for all slots", default=True),
    Option(name="eval_batch_size", parse="count", help="evalBatchSize: tokens per batch", default=512),
    Option(name="flash_attention", parse="switch", help="flashAttention; default: where it is supported"),
    Option(name="offload_kv_cache_to_gpu", parse="switch", help="offloadKVCacheToGpu", default=True),
    Option(name="gpu_layers", parse="count", help="layers on the GPU, the output layer counted; default: all"),
)


class LmStudioEngine(NamedTuple):
    """See `kvcalc.engines.base.Engine`."""

    name: str = "lmstudio"
    versions: tuple[str, ...] = ("0.4",)
    verified_by: str = "the llama.cpp engine with LM Studio's documented settings; logs quoted in its bug tracker"
    summary: str = "llama.cpp, four slots over one pool"
    options: tuple[Option, ...] = OPTIONS

    def prepare(self, model: Model, setup: Setup) -> LlamaCppPlanner:
        """llama.cpp's planner under LM Studio's settings.

        Raises: EngineRefusal, UsageError.
        """
        asked: dict[str, Any] = {option.name: option.default for option in OPTIONS} | dict(setup.options)
        flash = {None: "auto", True: "on", False: "off"}[asked["flash_attention"]]
        settings = Settings(
            version="b11549",
            n_ctx=asked["context_length"],
            n_parallel=max(asked["max_parallel_predictions"], 1),
            n_batch=asked["eval_batch_size"],
            n_ubatch=asked["eval_batch_size"],
            kv_unified=asked["use_unified_kv_cache"],
            flash_attn=flash,
            offload_kqv=asked["offload_kv_cache_to_gpu"],
            n_gpu_layers=asked["gpu_layers"],
        )
        note = f"LM Studio runs llama.cpp with {settings.n_parallel} slots; evaluation batch {settings.n_batch}"
        # A closed program: its default batch, which sizes sliding caches, is in no document that was found.
        label = "exact" if "eval_batch_size" in setup.options else "estimate"
        return prepare(model, setup, settings, assumptions=(note,), exactness=label)


ENGINE = LmStudioEngine()
