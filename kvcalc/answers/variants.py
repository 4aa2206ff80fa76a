"""`variants`: one model as MHA, MQA, GQA, MLA, windowed and hybrid, at the same budget. Computed, not quoted."""

from __future__ import annotations

from kvcalc.answers.common import Ask, engine_info, header, model_info, prepare
from kvcalc.answers.fit import fit_record, pool_of, tensor_parallel
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.core.light import NamedTuple, Record
from kvcalc.core.model import Kind, Model
from kvcalc.errors import UsageError
from kvcalc.kinds.heads import HeadAttention
from kvcalc.kinds.latent import LatentAttention
from kvcalc.targets import Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.core.result import FitRecord, VariantRecord


class Shapes(Record):
    """The free choices of the alternatives.

    Defaults: DeepSeek-V2 (arXiv:2405.04434, section 3.1.2) caches 512 + 64; Mistral 7B (arXiv:2310.06825,
    section 2) slides over 4096; Gemma 3 (arXiv:2503.19786, section 2) has 5 local layers of 1024 per global one.
    """

    latent_dim: int = 512
    rope_dim: int = 64
    window: int = 4096
    hybrid_window: int = 1024
    hybrid_local: int = 5


class _Base(NamedTuple):
    heads: int
    key_dim: int
    value_dim: int
    groups: int | None
    layers: int


def variants(target: Target, ask: Ask, gpu: Gpu | None, shapes: Shapes | None = None) -> dict[str, Any]:
    """The answer of `kvcalc variants`: the model as it is, then its alternatives in falling size.

    Every alternative replaces all attention layers and keeps the weights (the budget is the same for all rows).

    Raises: UsageError when the model has no attention heads to vary.
    """
    shapes = shapes or Shapes()
    base = _base(target.model)
    tp, notes = tensor_parallel(target, ask, gpu)
    shipped = prepare(target, ask, tp=tp, gpu=gpu)
    ledger = pool_of(target, ask, gpu, shipped.setup.layout)
    own = fit_record(shipped, ask, gpu, ledger)
    whole = prepare(target._replace(model=_model(target.model, base, _mha(base))), ask, tp=tp, gpu=gpu)
    mha_bytes = whole.single.plan(shipped.load._replace(sessions=1)).total_bytes
    records, labels = [_row("as shipped", own, mha_bytes)], [own["exactness"]]
    for name, kinds in _alternatives(base, shapes):
        ready = prepare(target._replace(model=_model(target.model, base, kinds)), ask, tp=tp, gpu=gpu)
        record = fit_record(ready, ask, gpu, ledger)
        records.append(_row(name, {**record, "mha_ratio": None}, mha_bytes))
        labels.append(record["exactness"])
    return {
        **header("variants", {"target": target.origin, **shipped.inputs}),
        "model": model_info(target),
        "engine": engine_info(shipped.engine, shipped.setup.version),
        "exactness": weakest(*labels),
        "assumptions": [
            *notes,
            f"{base.layers} attention layers of {base.heads} heads x {base.key_dim} (K) and {base.value_dim} (V)",
            *shipped.assumptions,
        ],
        "warnings": shipped.warnings,
        "pool_bytes": ledger.pool_bytes,
        "results": records,
    }


def _row(name: str, record: FitRecord, mha_bytes: int) -> VariantRecord:
    """One row; the ratio is the record's own where it has one, else to the MHA variant."""
    ratio = record["mha_ratio"]
    return {
        "variant": name,
        "marginal_bytes_per_token": record["marginal_bytes_per_token"],
        "per_session_bytes": record["per_session_bytes"],
        "mha_ratio": record["per_session_bytes"] / mha_bytes if ratio is None else ratio,
        "max_context_tokens": record["max_context_tokens"],
        "max_sessions": record["max_sessions"],
    }


def _base(model: Model) -> _Base:
    """The query heads and head dims of the model's first attention block.

    Raises: UsageError.
    """
    counted = {name: len(layers) for name, layers in model.stage_blocks(0, len(model.layers)).items()}
    attention = [name for name in counted if isinstance(model.blocks[name], HeadAttention | LatentAttention)]
    if not attention:
        raise UsageError(
            f"{model.name} has no attention heads to vary", fix="name a model with attention layers", field="target"
        )
    layers = sum(counted[name] for name in attention)
    kind = model.blocks[attention[0]]
    if isinstance(kind, HeadAttention):
        return _Base(kind.heads, kind.head_dim, kind.value_dim, kind.kv_heads, layers)
    if isinstance(kind, LatentAttention) and kind.nope_dim is not None and kind.v_head_dim is not None:
        return _Base(kind.heads, kind.nope_dim + kind.rope_dim, kind.v_head_dim, None, layers)
    raise UsageError(
        f"{model.name} does not say the head dims its latent expands to",
        fix="add nope_dim and v_head_dim (qk_nope_head_dim, v_head_dim of the config)",
        field="attention.nope_dim",
    )


def _gqa(base: _Base, groups: int, window: int | None = None) -> HeadAttention:
    return HeadAttention(
        kind="gqa", heads=base.heads, groups=groups, head_dim=base.key_dim, v_head_dim=base.value_dim, window=window
    )


def _mha(base: _Base) -> list[Kind]:
    return [HeadAttention(kind="mha", heads=base.heads, head_dim=base.key_dim, v_head_dim=base.value_dim)]


def _alternatives(base: _Base, shapes: Shapes) -> list[tuple[str, list[Kind]]]:
    """(name, round of kinds): MHA, GQA with every power of two of groups, MQA, MLA, windowed, hybrid."""
    steps = [2**power for power in range(base.heads.bit_length() - 1, 0, -1) if 2**power < base.heads]
    groups = sorted({g for g in [*steps, base.groups or 1] if base.heads % g == 0 and 1 < g < base.heads}, reverse=True)
    kept = base.groups or (8 if base.heads % 8 == 0 else base.heads)
    latent = LatentAttention(kind="mla", heads=base.heads, latent_dim=shapes.latent_dim, rope_dim=shapes.rope_dim)
    local, far = _gqa(base, kept, shapes.hybrid_window), _gqa(base, kept)
    return [
        ("mha", _mha(base)),
        *((f"gqa-{g}", list[Kind]([_gqa(base, g)])) for g in groups),
        ("mqa", [HeadAttention(kind="mqa", heads=base.heads, head_dim=base.key_dim, v_head_dim=base.value_dim)]),
        (f"mla {shapes.latent_dim}+{shapes.rope_dim}", [latent]),
        (f"gqa-{kept} window {shapes.window}", [_gqa(base, kept, shapes.window)]),
        (
            f"gqa-{kept} hybrid {shapes.hybrid_local}:1 window {shapes.hybrid_window}",
            [*[local] * shapes.hybrid_local, far],
        ),
    ]


def _model(model: Model, base: _Base, kinds: list[Kind]) -> Model:
    """`model` with its attention layers replaced by the repeating round `kinds`; other layers dropped."""
    names = [f"b{kinds.index(kind)}" for kind in kinds]
    layers = tuple((names[index % len(names)],) for index in range(base.layers))
    used = {name for layer in layers for name in layer}
    blocks = {name: kind for name, kind in zip(names, kinds, strict=True) if name in used}
    return model._replace(layers=layers, blocks=blocks, mtp=None)
