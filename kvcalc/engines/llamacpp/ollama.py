"""Ollama: llama-server with num_ctx x num_parallel cells, a cache per slot, and a batch that follows the context.

Source: Ollama fb30760 (2026-08-21, pins llama.cpp b10488): llm/llama_server.go NewLlamaServerRunner (`-c num_ctx *
num_parallel -np num_parallel`, cache types, batches), llm/server.go:112 (num_ctx lowered to the model's own context),
server/sched.go load (architectures forced to one slot), generationBatchForContext, automaticGenerationBatch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Load
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.llamacpp.planner import LlamaCppPlanner
from kvcalc.engines.llamacpp.prepare import architecture_of, prepare
from kvcalc.engines.llamacpp.settings import Settings
from kvcalc.errors import EngineRefusal

#: server/sched.go: num_parallel is set back to 1 for these.
SINGLE_SLOT = (
    "mllama", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen3next", "lfm2", "lfm2moe", "nemotron_h",
    "nemotron_h_moe", "nemotron_h_omni",
)  # fmt: skip
OPTIONS = (
    Option(name="num_parallel", parse="count", help="OLLAMA_NUM_PARALLEL; default: the sessions asked for"),
    Option(name="num_batch", parse="count", help="batch; default: 512, 1024 above 4,096 cells, 2048 above 32,768"),
    Option(name="num_gpu", parse="count", help="layers on the GPU, the output layer counted; default: all"),
    Option(name="flash_attention", parse="switch", help="OLLAMA_FLASH_ATTENTION; default: where the GPU supports it"),
)


class OllamaPlanner(NamedTuple):
    """llama.cpp's planner, and Ollama's own words in the report."""

    server: LlamaCppPlanner
    single_slot: str | None

    @property
    def exactness(self) -> str:
        return self.server.exactness

    @property
    def assumptions(self) -> tuple[str, ...]:
        return self.server.assumptions

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.server.warnings

    @property
    def period_tokens(self) -> int:
        return self.server.period_tokens

    @property
    def saturation_tokens(self) -> int:
        return self.server.saturation_tokens

    def plan(self, load: Load) -> CachePlan:
        """llama-server's tensors.

        Raises: EngineRefusal for several sessions of an architecture that Ollama runs one at a time.
        """
        if self.single_slot is not None and load.sessions > self.server.dp:
            raise EngineRefusal(
                f"Ollama runs {self.single_slot} with one request at a time: num_parallel is set back to 1",
                fix="ask for one session, or use -e llama.cpp",
                field="sessions",
                value=load.sessions,
            )
        return self.server.plan(load)

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        """llama-server's numbers, and with a pool what other settings of num_ctx and num_parallel would take."""
        self.plan(load)
        slots = self.server.settings.slots(-(-load.sessions // self.server.dp))
        found: dict[str, object] = {"num_ctx": load.context_tokens, "num_parallel": slots}
        found |= self.server.report(load, pool_bytes)
        if pool_bytes is not None:
            found["steps"] = self._steps(load, pool_bytes)
        return found

    def _steps(self, load: Load, pool_bytes: int) -> list[dict[str, object]]:
        """Contexts by doublings and slots 1, 2, 4, the asked ones among them: bytes of a GPU, whether they fit."""
        top = self.server.max_context or load.context_tokens
        contexts = {min(load.context_tokens, top), top} | {4096 << step for step in range(16) if 4096 << step <= top}
        base = self.plan(load).max_rank_bytes
        rows: list[dict[str, object]] = []
        for slots in (1,) if self.single_slot else sorted({1, 2, 4, load.sessions}):
            for context in sorted(contexts):
                size = self.plan(Load(context, slots, load.encoder_tokens)).max_rank_bytes
                rows.append(
                    {"num_ctx": context, "num_parallel": slots, "bytes": size, "added_bytes": size - base,
                     "fits": size <= pool_bytes}
                )  # fmt: skip
        return rows


class OllamaEngine(NamedTuple):
    """See `kvcalc.engines.base.Engine`."""

    name: str = "ollama"
    versions: tuple[str, ...] = ("2026-08",)
    verified_by: str = "the llama.cpp engine with the arguments that Ollama's source passes; logs in its issues"
    summary: str = "llama-server with num_ctx x num_parallel cells"
    options: tuple[Option, ...] = OPTIONS

    def prepare(self, model: Model, setup: Setup) -> OllamaPlanner:
        """llama.cpp's planner under Ollama's settings.

        Raises: EngineRefusal, UsageError.
        """
        asked: dict[str, Any] = {option.name: option.default for option in OPTIONS} | dict(setup.options)
        _check_types(setup)
        batch = asked["num_batch"]
        settings = Settings(
            version="b10566",  # the build nearest to the b10488 it pins
            n_parallel=None if asked["num_parallel"] is None else max(asked["num_parallel"], 1),
            n_batch=batch or 512,
            n_ubatch=batch or 512,
            flash_attn={None: "auto", True: "on", False: "off"}[asked["flash_attention"]],
            n_gpu_layers=asked["num_gpu"],
            ollama_batch=batch is None,
        )
        name = architecture_of(model)
        notes = ["Ollama lowers num_ctx to the model's own context, and its batch where memory is short"]
        server = prepare(model, setup, settings, assumptions=tuple(notes))
        return OllamaPlanner(server, name if name in SINGLE_SLOT else None)


def _check_types(setup: Setup) -> None:
    if "key" in setup.asked and "value" in setup.asked and setup.dtypes.key != setup.dtypes.value:
        raise EngineRefusal(
            f"OLLAMA_KV_CACHE_TYPE sets K and V alike, not {setup.dtypes.key} and {setup.dtypes.value}",
            fix="give one type, or use -e llama.cpp",
            field="kv-dtype",
        )


ENGINE = OllamaEngine()
