"""Where vLLM's share of a GPU goes before the KV cache: activations, workspaces, non-torch memory, CUDA graphs.

A closed form fitted to start-up logs, not an allocation: every line has a band. Not covered, and refused: GPUs other
than NVIDIA's, memory shared with the CPU, DeepSeek-V4, recurrent states under data parallelism since 0.21.

Symbols: T max_num_batched_tokens, S max_num_seqs, V vocabulary, H hidden size.

Source: profile_run and determine_available_memory of vLLM 0.22 to 0.33 (v1/worker/gpu_worker.py:641-757); 149 logged
starts of versions 0.6 to 0.31.
"""

from __future__ import annotations

from typing import NamedTuple

from kvcalc.engines.vllm.defaults import Version
from kvcalc.planning.amount import Amount, band
from kvcalc.planning.shape import Shape
from kvcalc.units import GIB, MIB, ceil_div

#: Since 0.14 the MoE workspace stays allocated; since 0.17 sampling is FlashInfer's or Triton's; since 0.21 memory
#: for CUDA graphs is set aside before the cache.
_WORKSPACE_KEPT, _FAST_SAMPLER, _GRAPHS_RESERVED = (0, 14), (0, 17), (0, 21)
#: V0 switches to chunked prefill beyond this length, and then samples nothing while it profiles.
_V0_CHUNKED = 32768
#: Capture sizes: 1, 2, 4, every 8 below 256, every 16 up to 512.
_CAPTURE = (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
#: Tenths of a byte per (sequence x vocabulary entry) that sampling takes: (best, low, high).
_TORCH, _UNSURE, _FAST = (380, 375, 390), (380, 150, 390), (155, 150, 170)
_RUNNER2, _RUNNER2_33 = (20, 20, 40), (140, 20, 170)
_TENTHS = 10


class Start(NamedTuple):
    """How vLLM is started, resolved.

    fast_sampler: None where the build is not known; runner2: model runner V2 (samples without top-k and top-p);
    samples: whether the profiling run samples at all; workspace: MoE workspace kept (None: not known);
    encoder: a vision or audio encoder is profiled; nvlink: None where the link is not known.
    """

    version: Version
    tp: int
    max_num_seqs: int
    batch_tokens: int
    eager: bool = False
    fast_sampler: bool | None = None
    runner2: bool = False
    samples: bool = True
    workspace: bool | None = True
    encoder: bool = False
    nvlink: bool | None = True


def runner2(version: Version, architecture: str | None, *, moe: bool, quantised: bool, encoder: bool) -> bool:
    """Whether model runner V2 serves the model.

    Source: logs and release notes: dense Qwen3 from 0.22, Llama and Mistral from 0.24, unquantised dense models
    about 0.26, nearly all by 0.32.
    """
    if version >= (0, 32):
        return True
    if moe or encoder:
        return False
    if architecture == "qwen3":
        return version >= (0, 22)
    if architecture in ("llama", "mistral"):
        return version >= (0, 24)
    return version >= (0, 26) and not quantised


def v0_start(start: Start, max_model_len: int) -> Start:
    """The same start in the V0 engine: prompts are profiled in one piece unless chunked prefill is on."""
    if max_model_len > _V0_CHUNKED:
        return start._replace(batch_tokens=2048, samples=False)
    return start._replace(batch_tokens=max_model_len)


def graph_count(sequences: int) -> int:
    """CUDA graphs captured: piecewise up to twice max_num_seqs (at most 512), full ones up to max_num_seqs.

    >>> graph_count(256), graph_count(1024)
    (86, 102)
    """
    piecewise = min(2 * sequences, _CAPTURE[-1])
    return len([size for size in _CAPTURE if size <= piecewise]) + len([size for size in _CAPTURE if size <= sequences])


def _sampler(start: Start) -> tuple[tuple[int, int, int], str]:
    """Tenths of a byte per logit, and why."""
    if start.runner2:
        if start.version >= (0, 33):
            return _RUNNER2_33, "model runner V2 of 0.33, from source: no log has confirmed it"
        return _RUNNER2, "model runner V2"
    if start.fast_sampler or start.version >= _FAST_SAMPLER:
        return _FAST, "FlashInfer or Triton sampler"
    return (
        (_UNSURE, "torch sampler unless FlashInfer is installed")
        if start.fast_sampler is None
        else (_TORCH, "torch sampler")
    )


def activation(shape: Shape, start: Start) -> Amount:
    """Peak of the profiling run: the larger of sampling S sequences and the widest layer on T tokens."""
    widths, why = _sampler(start)
    logits = start.max_num_seqs * shape.vocab if start.samples else 0
    hidden = 4 * start.batch_tokens * shape.hidden  # hidden states and residual, 2 bytes each, alive while sampling
    layer = hidden + _layer_bytes(shape, start)
    best, low, high = (max(logits * width // _TENTHS + hidden, layer) for width in widths)
    detail = f"max_num_seqs {start.max_num_seqs:,}, max_num_batched_tokens {start.batch_tokens:,}, {why}"
    return band(best, low, high, "formula", detail)


def _layer_bytes(shape: Shape, start: Start) -> int:
    """Intermediate tensors of the widest layer."""
    tokens, tp = start.batch_tokens, start.tp
    if not shape.experts:
        return 6 * tokens * ceil_div(shape.dense_width, tp)
    expert = shape.expert_width
    routed = max(ceil_div(2 * expert, tp), shape.hidden) + ceil_div(expert, tp)
    return 2 * tokens * shape.experts_per_token * routed + 2 * tokens * shape.hidden


def workspace(shape: Shape, start: Start) -> Amount | None:
    """Buffers of Triton and DeepGEMM expert kernels, which stay allocated; other kernels have none."""
    if not shape.experts or start.version < _WORKSPACE_KEPT or start.workspace is False:
        return None
    size = 4 * start.batch_tokens * shape.experts_per_token * shape.hidden
    return band(size, 0, size * 13 // 10, "formula", "expert kernels keep their buffers (none with Marlin or CUTLASS)")


def encoder(start: Start) -> Amount | None:
    """The vision or audio encoder's share of the profiling run."""
    if not start.encoder:
        return None
    return band(3 * GIB // 10, 0, 3 * GIB // 2, "band", "encoder profiled: 0 to 1.5 GiB in logs")


def non_torch(start: Start) -> Amount:
    """CUDA context and communication buffers: what grows outside torch while profiling."""
    hundredth = GIB // 100
    if start.tp == 1:
        detail = "one GPU; a cold compile cache takes up to 0.55 GiB once"
        return band(16 * hundredth, 2 * hundredth, 55 * hundredth, "band", detail)
    late = start.version >= _FAST_SAMPLER
    nvlink = 200 if late else {2: 55, 4: 62}.get(start.tp, 90)
    pcie = 120 if late else 30
    best = pcie if start.nvlink is False else nvlink
    low, high = (60, 270) if late else (20, 190)
    link = {True: "NVLink", False: "PCIe"}.get(start.nvlink, "link not known, NVLink taken")  # type: ignore[arg-type]
    return band(best * hundredth, low * hundredth, high * hundredth, "band", f"communication buffers, {link}")


def graph_reserve(shape: Shape, start: Start) -> Amount | None:
    """What vLLM sets aside for CUDA graphs before it sizes the cache (its own estimate, not what they take).

    Its estimate is 0.7 to 17 times what the graphs really take.
    """
    if start.eager or start.version < _GRAPHS_RESERVED:
        return None
    size = graph_bytes(shape, start)
    detail = f"{graph_count(start.max_num_seqs)} graphs of {shape.layers} layers; vLLM's estimate scatters widely"
    return band(size * 12 // 10, size * 3 // 10, size * 35 // 10, "band", detail)


def graph_bytes(shape: Shape, start: Start) -> int:
    """What CUDA graphs take: 0.17 MiB per layer and graph (median of 40 logs since 0.17)."""
    return 17 * MIB * shape.layers * graph_count(start.max_num_seqs) // 100


def vllm_amounts(shape: Shape, start: Start) -> list[tuple[str, Amount]]:
    """The lines between the weights and the cache, in the order vLLM meets them."""
    lines = (
        ("activation peak", activation(shape, start)),
        ("expert workspace", workspace(shape, start)),
        ("encoder profile", encoder(start)),
        ("non-torch memory", non_torch(start)),
        ("CUDA graph reserve", graph_reserve(shape, start)),
    )
    return [(item, amount) for item, amount in lines if amount is not None]
