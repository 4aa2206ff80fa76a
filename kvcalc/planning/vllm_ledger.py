"""vLLM's ledger: the closed form of `vllm_memory` for a model on a GPU, or what a real start printed.

Source of the order of the lines: vLLM 0.33 v1/worker/gpu_worker.py determine_available_memory.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from kvcalc.engines.vllm.defaults import Version, default_batch, default_sequences, is_a100, read_version
from kvcalc.engines.vllm.versions import RULES
from kvcalc.planning.amount import Amount, band, exactly, scaled
from kvcalc.planning.ledger import LedgerAsk, Rest, refuse, user_overhead, weights_of
from kvcalc.planning.shape import Shape, read_shape
from kvcalc.planning.startlog import StartLog
from kvcalc.planning.vllm_memory import Start, graph_reserve, non_torch, runner2, v0_start, vllm_amounts
from kvcalc.planning.weights import checkpoint, rotary_tables
from kvcalc.units import GIB

#: Model families whose expert kernels were seen to keep no bf16 workspace (set after seeing logs of 0.14 to 0.20).
_NO_WORKSPACE = ("nemotron_h", "minimax", "llama4", "gpt_oss", "kimi")
#: quant_method of checkpoints that run on Marlin or CUTLASS expert kernels.
_REPACKED = ("awq", "gptq", "mxfp4", "nvfp4", "modelopt", "bitsandbytes", "int4")
#: The V1 engine (default from 0.8 on) needs compute capability 8.0; older GPUs ran V0 as long as there was one.
_BEFORE_AMPERE = ("sm70", "sm75")
#: Communication buffers that "Model loading took" counts as soon as there is more than one rank (median of logs).
_TP_BUFFERS = 7 * GIB // 100
#: Plain 16-bit checkpoints load to within this (median 0.00, worst 0.12 GiB of 15 starts).
_LOADING = GIB // 10
#: What the levers change to; the default utilisation before the oldest release with rules.
_SEQUENCES, _TOKENS, _UTILISATION, _OLD_UTILISATION = 256, 2048, 0.95, 0.9


def engine_rest(ask: LedgerAsk, total: int) -> Rest:
    """The lines beside the total.

    Raises: UsageError where the closed form is known not to hold and nothing replaces it.
    """
    version = read_version(ask.version)
    notes: list[str] = []
    utilisation = _utilisation(ask, version, notes)
    requested = ceil(total * utilisation)
    if "gpu_memory_utilization" not in ask.options and ask.log is not None and ask.log.requested_bytes is not None:
        requested = ask.log.requested_bytes
    unused = exactly(total - requested, "formula", f"1 - gpu_memory_utilization {utilisation:g}")
    weights = _weights(ask)
    lines = [("unused share", unused), ("weights", weights)]
    if ask.overhead_bytes is not None:
        return Rest([*lines, ("overhead", user_overhead(ask.overhead_bytes))], notes, [], _levers(None, utilisation))
    log = ask.log
    if log is not None and log.activation_bytes is not None:
        start = None if _unasked(ask) else _start(ask, version, total, notes)
        starts = None if start is None else (start, _start(ask, version, total, [], logged=True))
        outside = _outside(ask, log, version, total, weights.best)
        lines += _logged(ask, log, weights.best, outside, starts)
        return Rest(lines, notes, [], _levers(start, utilisation))
    _check(ask, version)
    start = _start(ask, version, total, notes)
    shape = read_shape(ask.model)
    notes += shape.notes
    amounts = vllm_amounts(shape, start)
    warnings = []
    if start.runner2 and version >= (0, 33):
        warnings.append("no log of vLLM 0.33 has confirmed the sampler's share yet: --from-log makes it certain")
    if ask.options.get("num_speculative_tokens"):
        warnings.append("activations of draft layers are not in the ledger: --from-log makes it certain")
    return Rest([*lines, *amounts], notes, warnings, _levers(start, utilisation))


def _utilisation(ask: LedgerAsk, version: Version, notes: list[str]) -> float:
    asked = ask.options.get("gpu_memory_utilization")
    if asked is not None:
        return float(asked)
    if ask.log is not None and ask.log.utilization is not None:
        return ask.log.utilization
    line = f"{version[0]}.{version[1]}"
    usual = RULES[line].gpu_memory_utilization if line in RULES else _OLD_UTILISATION
    notes.append(f"gpu_memory_utilization {usual:g}: the default of vLLM {line}")
    return usual


def _weights(ask: LedgerAsk) -> Amount:
    if ask.log is not None and ask.log.weights_bytes is not None:
        return exactly(ask.log.weights_bytes, "log", "Model loading took", "measured")
    weights = weights_of(ask)
    extra = rotary_tables(ask.model) + (_TP_BUFFERS if ask.layout.tp > 1 else 0)
    best = weights.best + extra
    low, high = min(weights.low + extra, best - _LOADING // 2), max(weights.high + extra, best + _LOADING)
    return band(best, low, high, weights.source, f"{weights.detail}, rotary tables")


def _check(ask: LedgerAsk, version: Version) -> None:
    """Raises: UsageError for what the logs showed the closed form not to fit."""
    gpu, model = ask.gpu, ask.model
    states = any(part.role == "state" for kind in model.blocks.values() for part in kind.lower())
    spread = ask.expert_parallel or ask.options.get("enable_expert_parallel")
    if gpu.vendor != "NVIDIA":
        raise refuse(ask, f"{gpu.product} is no NVIDIA GPU, and logs of others scatter by up to 37 % of the weights")
    if version < (0, 8) and model.facts.get("multimodal"):
        raise refuse(ask, "the V0 engine profiles encoders with every image at once (36 GiB seen)")
    if gpu.unified_memory:
        raise refuse(ask, f"{gpu.product} shares its memory with the CPU, and the profiler counts other programs")
    if (model.architecture or "").startswith("deepseek_v4"):
        raise refuse(ask, "DeepSeek-V4's workspaces are not understood (logs are 2 to 6 GiB off)")
    if states and ask.layout.dp > 1 and spread and version >= (0, 21):
        raise refuse(ask, "the graph estimate of recurrent layers under data and expert parallelism is off by 25 GiB")


def _start(ask: LedgerAsk, version: Version, total: int, notes: list[str], *, logged: bool = False) -> Start:
    """The flags asked for, else the log's, else vLLM's defaults, which are noted.

    logged: the flags of the log alone.
    """
    a100 = is_a100(ask.gpu.architecture)
    options: dict[str, Any] = {} if logged else dict(ask.options)
    log = ask.log
    sequences = options.get("max_num_seqs") or (log.max_num_seqs if log else None)
    if not sequences:
        sequences = default_sequences(version, total, a100=a100)
        notes.append(f"max_num_seqs {sequences:,}: vLLM's default on this GPU")
    batch = options.get("max_num_batched_tokens") or (log.max_num_batched_tokens if log else None)
    if not batch:
        batch = default_batch(version, total, a100=a100)
    eager = options.get("enforce_eager")
    if eager is None:
        eager = bool(log and log.enforce_eager)
    quantised = _quantised(ask)
    encoder = bool(ask.model.facts.get("multimodal")) and not options.get("language_model_only")
    moe = bool(read_shape(ask.model).experts)
    start = Start(
        version=version,
        tp=ask.layout.tp,
        max_num_seqs=sequences,
        batch_tokens=batch,
        eager=bool(eager),
        fast_sampler=options.get("use_flashinfer_sampler"),
        runner2=runner2(version, ask.model.architecture, moe=moe, quantised=quantised, encoder=encoder),
        workspace=None if _keeps_workspace(ask) else False,
        encoder=encoder,
        nvlink=ask.gpu.nvlink,
    )
    old_gpu = ask.gpu.architecture in _BEFORE_AMPERE and version < (0, 10)
    if (version < (0, 8) or old_gpu) and not options.get("max_num_batched_tokens"):
        length = options.get("max_model_len") or (log.max_model_len if log else None) or ask.load.context_tokens
        return v0_start(start, length)
    return start


def _quantised(ask: LedgerAsk) -> bool:
    return not checkpoint(ask.model, ask.weight_dtype).plain


def _keeps_workspace(ask: LedgerAsk) -> bool:
    """Triton and DeepGEMM kernels do; Marlin, CUTLASS and every kernel of Blackwell GPUs do not."""
    family = (ask.model.architecture or "").startswith(_NO_WORKSPACE)
    method = str(ask.model.facts.get("quant_method", "")).lower()
    weight = ask.weight_dtype or (ask.model.weights.dtype if ask.model.weights else None) or ""
    repacked = method.startswith(_REPACKED) or weight.startswith(_REPACKED) or ask.model.facts.get("weight_bits") == 4
    blackwell = ask.gpu.architecture.startswith(("sm10", "sm11", "sm12"))
    return not (family or repacked or blackwell or checkpoint(ask.model, ask.weight_dtype).narrow)


def _unasked(ask: LedgerAsk) -> bool:
    """Whether no flag was asked for that would change what the log printed."""
    return not {"max_num_seqs", "max_num_batched_tokens", "enforce_eager"} & set(ask.options)


def _outside(ask: LedgerAsk, log: StartLog, version: Version, total: int, weights: int) -> Amount:
    """Memory outside torch: printed, or with the weights in one figure; else the closed form's."""
    if log.non_torch_bytes is not None:
        return exactly(log.non_torch_bytes, "log", "non-torch memory", "measured")
    if log.consumed_bytes is None:
        return non_torch(_start(ask, version, total, []))
    label = "measured" if log.weights_bytes is not None else "estimate"
    return exactly(max(log.consumed_bytes - weights, 0), "log", "consumed memory less weights", label)


def _logged(
    ask: LedgerAsk, log: StartLog, weights: int, outside: Amount, starts: tuple[Start, Start] | None
) -> list[tuple[str, Amount]]:
    """The lines of a log; those that depend on flags are scaled by the closed form where other flags are asked for.

    weights, outside: the lines beside the peak; starts: with the asked flags and with the log's own, None where nothing
    was asked for.
    """
    reserve = log.reserve_bytes or 0
    lines = [
        ("activation peak", exactly(log.activation_bytes or 0, "log", "peak activation", "measured")),
        ("non-torch memory", outside),
    ]
    if reserve:
        lines.append(("CUDA graph reserve", exactly(reserve, "log", "set aside before the cache", "measured")))
    if log.pool_bytes is not None and log.requested_bytes is not None:
        left = log.requested_bytes - weights - sum(amount.best for _, amount in lines) - log.pool_bytes
        lines.append(("rounding, other ranks", exactly(left, "log", "to the pool the log prints", "measured")))
    if starts is None:
        return lines
    (start, before), shape = starts, read_shape(ask.model)
    # The newer wording has the graph reserve inside the peak.
    merged = log.consumed_bytes is not None
    ratio = _peak(shape, start, merged=merged), _peak(shape, before, merged=merged)
    lines[0] = (lines[0][0], scaled(lines[0][1], *ratio))
    if reserve and not merged:
        graphs = [amount.best if (amount := graph_reserve(shape, each)) else 0 for each in (start, before)]
        lines[2] = (lines[2][0], scaled(lines[2][1], graphs[0], graphs[1]))
    return lines


def _peak(shape: Shape, start: Start, *, merged: bool) -> int:
    """The closed form's peak; merged: with the graph reserve in it."""
    skipped = {"non-torch memory"} | (set() if merged else {"CUDA graph reserve"})
    return sum(amount.best for item, amount in vllm_amounts(shape, start) if item not in skipped)


def _levers(start: Start | None, utilisation: float) -> list[tuple[str, dict[str, Any]]]:
    """Flags worth changing, and to what."""
    found: list[tuple[str, dict[str, Any]]] = []
    if utilisation < _UTILISATION:
        found.append(
            (f"gpu_memory_utilization {utilisation:g} -> {_UTILISATION}", {"gpu_memory_utilization": _UTILISATION})
        )
    if start is None:
        return found
    if start.max_num_seqs > _SEQUENCES:
        found.append((f"max_num_seqs {start.max_num_seqs:,} -> {_SEQUENCES}", {"max_num_seqs": _SEQUENCES}))
    if start.batch_tokens > _TOKENS:
        found.append(
            (f"max_num_batched_tokens {start.batch_tokens:,} -> {_TOKENS:,}", {"max_num_batched_tokens": _TOKENS})
        )
    if start.version >= (0, 21) and not start.eager:
        found.append(("no CUDA graphs (enforce_eager)", {"enforce_eager": True}))
    return found
