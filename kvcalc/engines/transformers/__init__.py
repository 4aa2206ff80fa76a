"""The caches of Hugging Face transformers: DynamicCache, StaticCache and the fp8 QuantizedCache.

Every number of this engine is held against the real modelling code (tests/conformance/transformers).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from kvcalc.core.component import Constant, Linear
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load, RankPlan, Tensor
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.ideal import stage_bounds
from kvcalc.engines.transformers.rules import NO_DTYPE, NO_STATIC, layer_extras, slabs_of
from kvcalc.engines.transformers.slabs import Cached, Slab, period, saturation
from kvcalc.engines.transformers.verified import VERIFIED
from kvcalc.errors import EngineRefusal

_FLOATS = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, slots=True)
class _Row:
    """One slab of one block on the layers of one pipeline stage."""

    slab: Slab
    kind: str
    block: str
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TransformersPlanner:
    """See `kvcalc.core.plan.Planner`. stages: the rows of each pipeline stage."""

    layout: Layout
    stages: tuple[tuple[_Row, ...], ...]
    exactness: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    period_tokens: int
    saturation_tokens: int

    def plan(self, load: Load) -> CachePlan:
        """Each data-parallel copy holds its share of the sessions; the first ones hold one more."""
        share, extra = divmod(load.sessions, self.layout.dp)
        copies = [(share, range(extra, self.layout.dp))]
        if extra:
            copies.insert(0, (share + 1, range(extra)))
        plans = []
        for sessions, dp_ranks in copies:
            for stage, rows in enumerate(self.stages):
                tensors = [_tensor(row, load, sessions) for row in rows]
                ranks = tuple(self.layout.rank(dp, stage, 0) for dp in dp_ranks)
                plans.append(RankPlan(ranks, tensors, sum(tensor.bytes for tensor in tensors)))
        return CachePlan(plans)

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        return {}


def _tensor(row: _Row, load: Load, sessions: int) -> Tensor:
    slab = row.slab
    slots = slab.law.slots(load.context_tokens, load.encoder_tokens)
    batch = sessions if slab.per_session else min(sessions, 1)
    count = len(row.layers)
    size = count * batch * slots * slab.slot_bytes
    shape = (batch, slots, *slab.widths)
    return Tensor(slab.name, row.kind, row.block, str(slab.law), row.layers, count, slots, shape, slab.dtype, size)


@dataclass(frozen=True, slots=True)
class TransformersEngine:
    """See `kvcalc.engines.base.Engine`."""

    name: str = "transformers"
    versions: tuple[str, ...] = ("5.23",)
    verified_by: str = "the real modelling code of every architecture, run on CPU, every tensor of its cache counted"
    summary: str = "Hugging Face transformers: DynamicCache, StaticCache"
    options: tuple[Option, ...] = (
        Option(
            name="cache",
            parse="choice",
            help="cache class: dynamic (generate's default), static (context = max_cache_len), fp8 (QuantizedCache)",
            default="dynamic",
            choices=("dynamic", "static", "fp8"),
        ),
        Option(
            name="view",
            parse="choice",
            help="bytes of the tensors (logical), of the storage behind them after a decode step (resident), "
            "or right after a prefill in one call (prefill)",
            default="logical",
            choices=("logical", "resident", "prefill"),
        ),
    )

    def prepare(self, model: Model, setup: Setup) -> TransformersPlanner:
        """Rows per pipeline stage.

        Raises: EngineRefusal for a dtype, layout or cache class that transformers does not run.
        """
        options = {option.name: option.default for option in self.options} | dict(setup.options)
        run = Cached(model=model, dtype=_model_dtype(model, setup), cache=options["cache"], view=options["view"])
        _check_layout(model, setup.layout)
        _check_cache(run)
        stages = tuple(_stage(run, *bounds) for bounds in stage_bounds(len(model.layers), setup.layout.pp))
        laws = [row.slab.law for rows in stages for row in rows]
        return TransformersPlanner(
            layout=setup.layout,
            stages=stages,
            exactness="exact" if model.architecture in VERIFIED else "estimate",
            assumptions=tuple(_assumptions(run, setup)),
            warnings=(),
            period_tokens=lcm(*map(period, laws)),
            saturation_tokens=max(map(saturation, laws), default=0),
        )


def _model_dtype(model: Model, setup: Setup) -> str:
    """The dtype the model runs in: K and V are stored as they are computed.

    Raises: EngineRefusal.
    """
    asked = {setup.dtypes.key, setup.dtypes.value}
    if asked == {model.cache_dtype} and model.cache_dtype not in _FLOATS:
        asked = {model.dtype}  # kv_cache_scheme of a checkpoint is for other engines
    if len(asked) != 1:
        raise EngineRefusal(
            "transformers stores K and V in one type", fix="give one --kv-dtype", field="kv-dtype", value=sorted(asked)
        )
    (dtype,) = asked
    if dtype not in _FLOATS:
        raise EngineRefusal(
            f"transformers caches in the model's own type, not in {dtype}",
            fix=f"one of {', '.join(_FLOATS)}; for 8 bits -o cache=fp8 (QuantizedCache)",
            field="kv-dtype",
            value=dtype,
        )
    if why := NO_DTYPE.get(model.architecture or "", {}).get(dtype):
        raise EngineRefusal(
            f"{model.architecture} does not run in {dtype}: {why}",
            fix="use --kv-dtype bfloat16",
            field="kv-dtype",
            value=dtype,
        )
    return dtype


def _check_layout(model: Model, layout: Layout) -> None:
    if layout.tp > 1 or layout.dcp > 1:
        raise EngineRefusal(
            "tensor parallel caches of transformers are not verified",
            fix="use --pp: device_map spreads whole layers",
            field="tp" if layout.tp > 1 else "dcp",
            value=layout.tp,
        )
    if layout.pp > len(model.layers):
        raise EngineRefusal(
            f"{layout.pp} pipeline stages for {len(model.layers)} layers", fix="lower --pp", field="pp", value=layout.pp
        )


def _check_cache(run: Cached) -> None:
    """Raises: EngineRefusal where the cache class does not run with this architecture."""
    architecture = run.model.architecture or ""
    if run.cache == "static" and architecture in NO_STATIC:
        raise EngineRefusal(
            f"{architecture} has no static cache: {NO_STATIC[architecture]}",
            fix="use -o cache=dynamic",
            field="cache",
            value="static",
        )
    if run.cache == "fp8":
        components = [c for kind in run.model.blocks.values() for c in kind.lower()]
        if not all(isinstance(c.law, Linear) and c.role in ("key", "value") for c in components):
            raise EngineRefusal(
                "QuantizedCache takes full attention layers only",
                fix="use -o cache=dynamic",
                field="cache",
                value="fp8",
            )


def _stage(run: Cached, start: int, stop: int) -> tuple[_Row, ...]:
    rows = []
    for block, layers in run.model.stage_blocks(start, stop).items():
        kind = run.model.blocks[block]
        for component in kind.lower():
            made = slabs_of(component, kind, run)
            if run.cache == "fp8":
                made = [part for slab in made for part in _quantised(slab)]
            rows += [_Row(slab, kind.kind, block, layers) for slab in made]
    for layer, slabs in layer_extras(run).items():
        if start <= layer < stop:
            block = run.model.layers[layer][0]
            rows += [_Row(slab, run.model.blocks[block].kind, block, (layer,)) for slab in slabs]
    return tuple(rows)


def _quantised(slab: Slab) -> list[Slab]:
    """8-bit elements, one float32 scale for the whole batch. Source: cache_utils.py:966-1022 Fp8QuantizedLayer."""
    scale = Slab(name=f"{slab.name}_scale", law=Constant(), widths=(1,), dtype="float32", per_session=False)
    return [Slab(name=slab.name, law=slab.law, widths=slab.widths, dtype="fp8_e4m3"), scale]


def _assumptions(run: Cached, setup: Setup) -> list[str]:
    model = run.model
    found = ["tokens are those whose K and V are cached: prompt + generated - 1"]
    if model.architecture not in VERIFIED:
        named = f"model_type {model.architecture}" if model.architecture else "the model names no architecture, which"
        found.append(f"{named} is not measured against transformers: general rules of its caches")
    if model.cache_dtype is not None and model.cache_dtype != run.dtype and run.cache != "fp8":
        found.append(f"the checkpoint's cache type {model.cache_dtype} is ignored: transformers caches in {run.dtype}")
    if setup.layout.pp > 1:
        found.append("layers are divided evenly; device_map=auto divides by free memory")
    return found


ENGINE = TransformersEngine()
