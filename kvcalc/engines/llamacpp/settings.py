"""llama.cpp's options under its own names, and what they are when they are left out."""

from __future__ import annotations

from typing import Any, NamedTuple

from kvcalc.engines.base import Option, Setup

#: Slots of llama-server when -np is left out: 4, over one shared pool of cells (tools/server/server.cpp:156-160).
SERVER_SLOTS = 4

OPTIONS = (
    Option(name="n_ctx", parse="tokens", help="-c of llama.cpp: cells of all slots together; default: -c times slots"),
    Option(name="n_parallel", parse="count", help="slots (-np); 0: llama-server's own 4 over one pool; default: -n"),
    Option(name="n_batch", parse="count", help="logical batch (-b)", default=2048),
    Option(name="n_ubatch", parse="count", help="physical batch (-ub); sliding caches hold window + this", default=512),
    Option(name="kv_unified", parse="switch", help="all slots share one pool of cells (-kvu)", default=False),
    Option(name="swa_full", parse="switch", help="sliding layers keep the whole context (--swa-full)", default=False),
    Option(name="flash_attn", parse="choice", help="-fa", default="auto", choices=("auto", "on", "off")),
    Option(name="offload_kqv", parse="switch", help="cache on the GPU; off: on the host (-nkvo)", default=True),
    Option(name="n_rs_seq", parse="count", help="snapshots of recurrent states for speculative decoding", default=0),
    Option(
        name="n_gpu_layers", parse="count", help="layers on the GPU, the output layer counted (-ngl); default: all"
    ),
)  # fmt: skip


class Settings(NamedTuple):
    """One server. None: n_ctx from the load, slots from the load, all layers on the GPU.

    ollama_batch: the batch follows the context, as Ollama chooses it.
    """

    version: str
    n_ctx: int | None = None
    n_parallel: int | None = None
    n_batch: int = 2048
    n_ubatch: int = 512
    kv_unified: bool = False
    swa_full: bool = False
    flash_attn: str = "auto"
    offload_kqv: bool = True
    n_rs_seq: int = 0
    n_gpu_layers: int | None = None
    ollama_batch: bool = False

    @property
    def unified(self) -> bool:
        """llama-server that chooses its slots itself shares one pool among them."""
        return self.kv_unified or self.n_parallel == 0

    def slots(self, sessions: int) -> int:
        """n_seq_max for `sessions` sessions."""
        if self.n_parallel is None:
            return max(1, sessions)
        return self.n_parallel or SERVER_SLOTS

    def batches(self, n_ctx: int) -> tuple[int, int]:
        """Asked (n_batch, n_ubatch) for a total context."""
        if self.ollama_batch:
            batch = 512 if n_ctx <= 4096 else 1024 if n_ctx <= 32768 else 2048
            return batch, batch
        return self.n_batch, self.n_ubatch or self.n_batch


def read_settings(setup: Setup) -> Settings:
    """The settings of `-e llama.cpp`."""
    options: dict[str, Any] = dict(setup.options)
    return Settings(version=setup.version, **options)
