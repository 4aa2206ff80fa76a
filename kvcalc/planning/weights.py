"""What the weights take on the fullest GPU: the checkpoint's bytes, what is dropped, divided, replicated and padded.

Not load-time peaks: repacking of quantised weights can need more for a while.

Source: vLLM start-up logs of 27 models ("Model loading took"), versions 0.11 to 0.20: median error 0.6 %, worst
3.5 % on NVIDIA GPUs; plain 16-bit checkpoints within 0.12 GiB.
"""

from __future__ import annotations

from kvcalc.core.light import NamedTuple
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.dtypes import Dtype, get_dtype
from kvcalc.errors import UsageError
from kvcalc.kinds.heads import HeadAttention
from kvcalc.kinds.latent import LatentAttention
from kvcalc.planning.amount import Amount, exactly
from kvcalc.planning.shape import (
    Shape,
    attention_parameters,
    key_value_parameters,
    known_shape,
    latent_down_parameters,
)
from kvcalc.units import GIB, ceil_div

#: gpt-oss in mxfp4: the kernel pads the hidden size to a multiple of this.
_MXFP4_PAD = 256
#: int4 experts repacked by Marlin, in parts per thousand more (Kimi-K2.5: 2.8 %).
_REPACKED = 28
#: Parts per thousand around the best guess: header of a 16-bit checkpoint, of a quantised one, parameters times a
#: 16-bit type, parameters times a quantised type. Logs: 0.12 GiB, -1..+3.5 %; catalogues: 0.2 %.
_BANDS = {(True, True): (2, 4), (True, False): (10, 35), (False, True): (5, 10), (False, False): (20, 40)}
_SLACK = GIB // 10
#: Names of llama.cpp's mixed quantisations.
_MIXTURE = r"(?:i?q[1-8]_k(?:_[a-z]{1,2})?|iq[1-4]_[a-z]{1,3}|ud-.*)"


class Checkpoint(NamedTuple):
    """All weights: their bytes and where those were read; plain: 16 bits or wider, so nothing is repacked; narrow: a
    mixture of integer types of about 4 bits, which Marlin kernels repack.
    """

    bytes: int
    source: str
    detail: str
    exactness: str
    plain: bool
    narrow: bool = False


def checkpoint(model: Model, weight_dtype: str | None) -> Checkpoint:
    """All weights: in the asked type, else the checkpoint's size, else parameters x own type.

    Raises: UsageError when the file says neither parameters nor bytes.
    """
    stored = model.weights
    if weight_dtype is None and stored is not None and stored.bytes is not None:
        plain = "quant_method" not in model.facts
        if model.parameters is not None:
            plain = 10 * stored.bytes >= 19 * model.parameters
        label = "estimate" if stored.rounded else "exact"
        # Below 0.7 bytes per parameter: int4 experts with their scales, other layers in 16 bits.
        narrow = model.parameters is not None and 10 * stored.bytes < 7 * model.parameters
        return Checkpoint(stored.bytes, "header", stored.source or "checkpoint size", label, plain, narrow)
    if model.parameters is None:
        raise UsageError(
            f"{model.name} does not say its parameters, so its weights are unknown",
            fix="add parameters: (or weights: {bytes: ...}) to the file, or give --pool BYTES",
            field="parameters",
        )
    if weight_dtype is None and (stored is None or stored.dtype is None) and "quant_method" in model.facts:
        raise UsageError(
            f"{model.name} is a quantised checkpoint ({model.facts['quant_method']}) of unknown size",
            fix="give --weight-dtype (fp8, mxfp4 ...), or weights: {bytes: ...} in the file, or --pool BYTES",
            field="weights",
        )
    own = stored.dtype if stored is not None and stored.dtype else model.dtype
    dtype = _weight_type(own if weight_dtype is None else weight_dtype)
    size = _typed_bytes(model, dtype, known_shape(model))
    return Checkpoint(size, "formula", f"{model.parameters:,} parameters x {dtype.name}", "estimate", _plain(dtype))


def _weight_type(name: str) -> Dtype:
    """The type called `name`. Raises: UsageError; GGUF mixtures like q4_k_m are none: their file has the bytes."""
    try:
        return get_dtype(name, field="weight-dtype")
    except UsageError as error:
        import re  # a start without this error does not need it

        if re.fullmatch(_MIXTURE, name.strip().lower()):
            error.fix = "it mixes several types: name the .gguf file as TARGET, or --weight-dtype q4_0, q5_0, q8_0 ..."
        raise


def _plain(dtype: Dtype) -> bool:
    """Whether it is a type of at least 16 bits: no quantisation, no repacking."""
    return dtype.block_bytes >= 2 * dtype.block_elements


def _typed_bytes(model: Model, dtype: Dtype, shape: Shape) -> int:
    """parameters x type; embeddings and output head of a quantised model stay in the model's own type.

    mxfp4 checkpoints (gpt-oss) keep attention in 16 bits, too.
    """
    parameters = model.parameters or 0
    own = get_dtype(model.dtype)
    if _plain(dtype) or dtype == own:
        return dtype.row_bytes(parameters)
    kept = shape.vocab * shape.hidden * (1 if shape.tied else 2)
    if dtype.name == "mxfp4":
        kept += attention_parameters(model)
    kept = min(kept, parameters)
    return dtype.row_bytes(parameters - kept) + own.row_bytes(kept)


def rank_weights(
    model: Model,
    layout: Layout,
    *,
    weight_dtype: str | None = None,
    expert_parallel: bool = False,
    drafts: bool = False,
) -> Amount:
    """Bytes on the fullest rank.

    expert_parallel: experts are divided over TP x DP; drafts: the checkpoint's draft layers are loaded.

    Raises: UsageError when the weights are unknown.
    """
    whole = checkpoint(model, weight_dtype)
    shape = known_shape(model)
    parameters = model.parameters or 0
    total, notes = whole.bytes, []
    if model.mtp is not None and not drafts and (dropped := _draft_parameters(model, shape)):
        total -= whole.bytes * dropped // parameters
        notes.append("without draft layers")
    experts = _bytes_of(whole, shape.expert_parameters, parameters) if _experts_known(model, shape) else 0
    experts = min(experts, total)
    replicated = _bytes_of(whole, _replicated_parameters(model, shape), parameters) if layout.tp > 1 else 0
    divided = total - experts - replicated
    spread = layout.tp * layout.dp if expert_parallel else layout.tp
    padding = 0 if whole.plain else experts * _REPACKED // 1000 if whole.narrow else _padding(model, shape, experts)
    rank = ceil_div(divided, layout.tp) + replicated + ceil_div(experts + padding, spread)
    rank += _repeated_heads(model, layout.tp, whole, parameters)
    rank = _fullest_stage(rank, shape, layout, whole, parameters)
    return _amount(whole, rank, layout, notes)


def _amount(whole: Checkpoint, rank: int, layout: Layout, notes: list[str]) -> Amount:
    parts = layout.tp * layout.pp
    if parts == 1 and rank == whole.bytes and whole.exactness == "exact":
        return exactly(rank, whole.source, whole.detail)
    less, more = _BANDS[whole.source == "header", whole.plain]
    low, high = rank - rank * less // 1000 - _SLACK // 2, rank + rank * more // 1000 + _SLACK
    detail = ", ".join([whole.detail, *([f"divided by {parts}"] if parts > 1 else []), *notes])
    return Amount(rank, max(low, 0), high, whole.source, detail)


def _bytes_of(whole: Checkpoint, part: int, parameters: int) -> int:
    """Bytes of `part` of the parameters, at the checkpoint's mean width."""
    return whole.bytes * min(part, parameters) // parameters if parameters else 0


def _experts_known(model: Model, shape: Shape) -> bool:
    """Whether the experts' widths are those of every layer: more of them than the model has parameters are not.

    Then no expert is told apart from the other weights, and nothing is left out or divided further that may not be.
    """
    return shape.expert_parameters <= (model.parameters or 0)


def _draft_parameters(model: Model, shape: Shape) -> int:
    """Of the multi-token-prediction layers: one more layer of the usual kind each."""
    if model.mtp is None or not shape.layers:
        return 0
    attention = attention_parameters(model) // shape.layers
    routed = shape.layer_expert_parameters if _experts_known(model, shape) else 0
    wide = routed + 3 * shape.hidden * (shape.shared_width or (shape.dense_width * (not shape.experts)))
    return model.mtp.layers * (attention + wide + 2 * shape.hidden * shape.hidden)


def _replicated_parameters(model: Model, shape: Shape) -> int:
    """Whole on every rank: projections into latents, routers of experts."""
    total = (shape.layers - shape.dense_layers) * shape.hidden * shape.experts
    for name, layers in model.stage_blocks(0, len(model.layers)).items():
        kind = model.blocks[name]
        if isinstance(kind, LatentAttention):
            total += len(layers) * latent_down_parameters(model, kind)
    return total


def _padding(model: Model, shape: Shape, experts: int) -> int:
    """What vLLM's mxfp4 kernel adds: the hidden size padded to a multiple of 256."""
    if model.architecture != "gpt_oss" or not shape.hidden:
        return 0
    padded = ceil_div(shape.hidden, _MXFP4_PAD) * _MXFP4_PAD
    return experts * (padded - shape.hidden) // shape.hidden


def _fullest_stage(rank: int, shape: Shape, layout: Layout, whole: Checkpoint, parameters: int) -> int:
    """The largest pipeline stage: most layers, and embedding or output head."""
    if layout.pp == 1:
        return rank
    ends = _bytes_of(whole, shape.vocab * shape.hidden * (1 if shape.tied else 2), parameters) // layout.tp
    ends = min(ends, rank)
    layers = max(shape.layers, 1)
    return (rank - ends) * ceil_div(layers, layout.pp) // layers + (ends if shape.tied else ends // 2)


def _repeated_heads(model: Model, tp: int, whole: Checkpoint, parameters: int) -> int:
    """More ranks than KV heads: every rank keeps one, so K and V projections are stored more than once."""
    extra = 0
    for groups, size in key_value_parameters(model).items():
        if groups and tp > groups:
            extra += _bytes_of(whole, size, parameters) * (tp - groups) // (groups * tp)
    return extra


def rotary_tables(model: Model) -> int:
    """cos and sin for every position, 2 bytes each, once per rotary width (Llama-3.1: 33.5 MB)."""
    widths = set()
    for kind in model.blocks.values():
        if isinstance(kind, HeadAttention):
            widths.add(kind.head_dim)
        elif isinstance(kind, LatentAttention) and kind.rope_dim:
            widths.add(kind.rope_dim)
    return 2 * (model.max_context or 0) * sum(widths)
