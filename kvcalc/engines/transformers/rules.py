"""Where one architecture's code stores something else than the general rules say. Each rule names its place.

Source of all line numbers: transformers 5.23.0, src/transformers/models/.
"""

from __future__ import annotations

from kvcalc.core.component import Component, Constant, Linear, Remainder
from kvcalc.core.model import Kind
from kvcalc.engines.transformers.slabs import Cached, ClosedGroup, Offset, OpenGroup, Rule, Slab, slab


def _changed(made: Slab, **changes: object) -> list[Slab]:
    values = {name: getattr(made, name) for name in ("name", "law", "widths", "dtype", "per_session")}
    return [Slab(**{**values, **changes})]


def _falcon(component: Component, kind: Kind, run: Cached) -> list[Slab] | None:
    """falcon/modeling_falcon.py:313,328: the new decoder broadcasts K and V to all query heads before caching."""
    if not run.model.facts.get("new_decoder_architecture"):
        return None
    made = slab(component, run)
    return _changed(made, widths=(getattr(kind, "heads", made.widths[0]), made.widths[-1]))


def _cpmant(component: Component, _kind: Kind, run: Cached) -> list[Slab] | None:
    """cpmant/modeling_cpmant.py: prompt_length learned tokens are cached in front of the session's own."""
    extra = run.model.facts.get("prompt_length")
    if type(extra) is not int or not isinstance(component.law, Linear):
        return None
    return _changed(slab(component, run), law=Offset(extra))


def _model_dtype_states(component: Component, _kind: Kind, run: Cached) -> list[Slab] | None:
    """minimax/modeling_minimax.py:72-110,269 and xlstm/modeling_xlstm.py:1332-1358: states in the model's dtype."""
    return _changed(slab(component, run), dtype=run.dtype) if component.role == "state" else None


def _float32_convs(component: Component, _kind: Kind, run: Cached) -> list[Slab] | None:
    """inkling/modeling_inkling.py:622-629: the short convolutions are kept in float32."""
    return _changed(slab(component, run), dtype="float32") if component.role == "conv" else None


def _kernel_less_one(component: Component, _kind: Kind, run: Cached) -> list[Slab] | None:
    """zaya/modeling_zaya.py:161,229-252; rwkv/modeling_rwkv.py:168-171: only the past inputs, not the newest."""
    return _changed(slab(component, run), law=component.law) if component.role == "conv" else None


def _recurrent_gemma(component: Component, _kind: Kind, run: Cached) -> list[Slab] | None:
    """recurrent_gemma/modeling_recurrent_gemma.py:431-447: past inputs only; after a decode step a view of kernel."""
    if component.role != "conv" or run.view == "resident":
        return None
    return _changed(slab(component, run), law=component.law)


def _float32_index(component: Component, _kind: Kind, run: Cached) -> list[Slab] | None:
    """dots3_note/modeling_dots3_note.py:740: the indexer's rotary angles are float32, so its keys are too."""
    return _changed(slab(component, run), dtype="float32") if component.role == "index" else None


def _glm5_next(component: Component, _kind: Kind, run: Cached) -> list[Slab] | None:
    """glm5_next/modeling_glm5_next.py:835-847: key, gate score and validity flag of every token, none pooled."""
    if component.role != "index":
        return None
    return _changed(slab(component, run), law=Linear(), widths=(2 * component.elements_per_slot + 1,))


def _deepseek_v4(component: Component, kind: Kind, run: Cached) -> list[Slab] | None:
    """deepseek_v4/modeling_deepseek_v4.py:156-311, 1242-1254: buffers, overlap, and untied sliding layers."""
    made = slab(component, run)
    law = component.law
    if component.name == "key":  # a pure sliding layer runs DynamicSlidingWindowLayer, which keeps K and V apart
        return [made, *_changed(made, name="value")]
    if not isinstance(law, Remainder):
        return None
    size = law.tokens_per_slot
    held = {"logical": law, "resident": OpenGroup(size), "prefill": Linear()}[run.view]
    slabs = _changed(made, law=held)
    if getattr(kind, "index_dim", None) is not None:
        gate = component.name == "pending_gate"  # gate + float32 position bias
        width = component.elements_per_slot // 2  # only the first of the two series is read again
        slabs += _changed(
            made,
            name="overlap_gate" if gate else "overlap_kv",
            law=ClosedGroup(size),
            widths=(width,),
            dtype="float32" if gate else run.dtype,
        )
    return slabs


def _qwen4_exp(component: Component, kind: Kind, run: Cached) -> list[Slab] | None:
    """qwen4_exp/modeling_qwen4_exp.py:714,1079,1197: raw index keys; PLE layers keep past inputs and token ids."""
    made = slab(component, run)
    if component.role == "index":
        return _changed(made, law=Linear())
    ngram = run.model.facts.get("ngram_size")
    if kind.kind != "short_conv" or type(ngram) is not int:
        return None
    ids = Slab(name="token_ids", law=Constant(ngram - 1), widths=(1,), dtype="int64")
    return [*_changed(made, law=component.law), ids]


def layer_extras(run: Cached) -> dict[int, list[Slab]]:
    """Tensors that one layer keeps for all: Qwen4-exp's three rotary positions per token, on the first indexed layer.

    Source: qwen4_exp/modeling_qwen4_exp.py:1430-1436.
    """
    model = run.model
    if model.architecture not in ("qwen4_exp", "qwen4_exp_text"):
        return {}
    positions = Slab(name="position_ids", law=Linear(), widths=(3,), dtype="int64")
    if run.view == "prefill":  # still one expanded row of positions for all axes and sessions
        positions = Slab(name="position_ids", law=Linear(), widths=(1,), dtype="int64", per_session=False)
    for index, names in enumerate(model.layers):
        if any(component.role == "index" for name in names for component in model.blocks[name].lower()):
            return {index: [positions]}
    return {}


RULES: dict[str, Rule] = {
    "cpmant": _cpmant,
    "deepseek_v4": _deepseek_v4,
    "dots3_note": _float32_index,
    "dots3_note_text": _float32_index,
    "falcon": _falcon,
    "glm5_next_text": _glm5_next,
    "inkling2_text": _float32_convs,
    "inkling_text": _float32_convs,
    "minimax": _model_dtype_states,
    "qwen4_exp": _qwen4_exp,
    "qwen4_exp_text": _qwen4_exp,
    "recurrent_gemma": _recurrent_gemma,
    "rwkv": _kernel_less_one,
    "xlstm": _model_dtype_states,
    "zaya": _kernel_less_one,
}

#: Why an architecture cannot run with a StaticCache in 5.23.
NO_STATIC: dict[str, str] = {
    "cpmant": "its learned prompt overflows max_cache_len",
    "deepseek_v4": "its compressed layers have no static class",
    "inkling2_text": "its relative attention fails once the cache is longer than the window",
    "inkling_text": "its relative attention fails once the cache is longer than the window",
    "minimax": "it brings a cache class of its own",
    "prophetnet": "it does not support static caches",
    "recurrent_gemma": "it keeps its cache in its modules",
    "rwkv": "it keeps a state list instead of a cache",
    "xlstm": "it brings a cache class of its own",
}


#: Types in which the modelling code fails: architecture -> dtype -> why.
NO_DTYPE: dict[str, dict[str, str]] = {
    "deepseek_v4": {"float16": "its compressors stay in float32 and meet float16 inputs"},
}


def slabs_of(component: Component, kind: Kind, run: Cached) -> list[Slab]:
    """The tensors that transformers keeps for one component of one layer."""
    rule = RULES.get(run.model.architecture or "")
    made = rule(component, kind, run) if rule is not None else None
    return [slab(component, run)] if made is None else made
