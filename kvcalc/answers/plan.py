"""`plan`: the cheapest sets of GPUs that hold a load, with layout, replicas, headroom, flags and cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.answers.common import Ask, Prepared, engine_info, header, model_info, prepare
from kvcalc.answers.fit import grown, layout_info, ledger_ask
from kvcalc.answers.sessions import scheduler_caps
from kvcalc.core.capacity import Beside, max_context, max_sessions
from kvcalc.core.gpu import Gpu, Price
from kvcalc.core.plan import Layout
from kvcalc.engines import LAYERWISE, get_engine
from kvcalc.errors import EngineRefusal, KvcalcError, UsageError
from kvcalc.planning.admission import admission
from kvcalc.planning.cost import cost_of
from kvcalc.planning.layouts import Division
from kvcalc.planning.ledger import Ledger, build_ledger
from kvcalc.planning.search import MAX_UNIT, units
from kvcalc.planning.sessions import Demand, Profile, Targets, demand_of, limits_of, profile_of
from kvcalc.targets import Target
from kvcalc.units import ceil_div

if TYPE_CHECKING:
    from kvcalc.core.result import PlanRow, PriceInfo
    from kvcalc.planning.workload import Workload

#: Points of a workload's law in the search; the answer moves by less than one in a thousand.
_POINTS = 256
#: Below so many sessions per replica the exact law decides, above it three moments.
_FEW = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """users: sessions at once. workload None: every session as long as the asked context. max_context: the longest
    single session that must fit. kv_dtypes: tried in turn (None: the model's).
    """

    users: int
    workload: Workload | None = None
    targets: Targets = field(default_factory=Targets)
    max_context: int | None = None
    kv_dtypes: tuple[str | None, ...] = (None,)
    prices: Mapping[str, Price] = field(default_factory=dict)
    most_gpus: int = MAX_UNIT
    rows: int = 10


class _Unit(NamedTuple):
    """What one unit of GPUs holds; sessions over its DP ranks."""

    division: Division
    ready: Prepared
    ledger: Ledger
    sessions: int
    low_sessions: int


@dataclass(slots=True)
class _Search:
    """One run: what was prepared once is kept."""

    target: Target
    ask: Ask
    wanted: Wanted
    profile: Profile | None
    live_tokens: int
    prepared: dict[tuple[Any, ...], Prepared | None] = field(default_factory=dict)
    alike: dict[str | None, Prepared] = field(default_factory=dict)
    demands: dict[tuple[Any, ...], Demand] = field(default_factory=dict)
    refusals: dict[str, KvcalcError] = field(default_factory=dict)


def plan(
    target: Target, ask: Ask, gpus: Sequence[Gpu], wanted: Wanted, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """The answer of `kvcalc plan`: rows by cost, then by number of GPUs; none where nothing holds the load.

    progress: called with (GPU types done, all of them).

    Raises: UsageError when no GPU type can be judged.
    """
    workload = wanted.workload
    profile = None if workload is None else profile_of(workload, points=_POINTS)
    search = _Search(target, ask, wanted, profile, _live_tokens(wanted, ask, profile))
    rows: list[PlanRow] = []
    for number, gpu in enumerate(gpus):
        for kv_dtype in wanted.kv_dtypes:
            rows += _best(search, gpu, kv_dtype)
        if progress is not None:
            progress(number + 1, len(gpus))
    if not rows and len(search.refusals) >= len(gpus):
        first = next(iter(search.refusals.values()), UsageError("no GPU was given", fix="add --gpu NAME"))
        raise UsageError(str(first), fix=first.fix, field=first.field or "gpu")
    rows.sort(key=order)
    some = next(iter(search.alike.values()), None) or prepare(target, ask, gpu=gpus[0])
    inputs = {**some.inputs, "tp": None, "pp": None, "dp": None, "kv_dtypes": [d or "auto" for d in wanted.kv_dtypes]}
    return {
        **header("plan", {**inputs, "users": wanted.users, "gpus": [gpu.name for gpu in gpus]}),
        "model": model_info(target),
        "engine": engine_info(some.engine, some.setup.version),
        "exactness": "estimate",
        "assumptions": [*some.assumptions, *_assumptions(wanted)],
        "warnings": [*some.warnings, *(f"{name} left out: {why}" for name, why in search.refusals.items())],
        "live_tokens": search.live_tokens,
        "results": rows[: wanted.rows],
    }


def order(row: PlanRow) -> tuple[Any, ...]:
    """Cheapest first; sets without a price after those with one, by their number of GPUs and their memory."""
    cost = row["cost_micro_usd_per_hour"]
    middle = sum(cost) if cost is not None else 0
    return (cost is None, middle, row["gpus"], row["gpus"] * row["gpu_bytes"], -row["sessions"])


def _assumptions(wanted: Wanted) -> list[str]:
    if wanted.workload is None:
        return ["every session as long as the asked context: give --workload or --input/--output for real lengths"]
    return [*wanted.workload.notes, "sessions from three moments of the law: within about one of `kvcalc sessions`"]


def _live_tokens(wanted: Wanted, ask: Ask, profile: Profile | None) -> int:
    """Mean tokens of a running session."""
    if wanted.workload is None or profile is None:
        return ask.context_tokens
    steps = [*profile.starts, *profile.decoding]
    mean = sum(tokens * share for tokens, share in steps) / sum(share for _, share in steps)
    return round(mean) + wanted.workload.shared_prompt


def _best(search: _Search, gpu: Gpu, kv_dtype: str | None) -> list[PlanRow]:
    """The cheapest set of this GPU and KV type (fewest GPUs), and none where nothing holds the load."""
    ask = search.ask._replace(kv_dtype=kv_dtype, gpu=gpu.name)
    rows = []
    layerwise = get_engine(ask.engine)[0].name in LAYERWISE
    for division in units(search.target.model, search.wanted.most_gpus):
        if layerwise and division.layout.tp > 1:
            continue
        try:
            unit = _unit(search, ask, gpu, division)
        except EngineRefusal:
            continue
        except KvcalcError as error:
            search.refusals[gpu.name] = error
            return []
        if unit is not None and unit.sessions > 0:
            rows.append(_row(search, gpu, unit, kv_dtype))
    # At the same cost a replica without pipeline stages is worth more than a few sessions.
    return [min(rows, key=lambda row: (*order(row)[:-1], row["layout"]["pp"], order(row)))] if rows else []


def _unit(search: _Search, ask: Ask, gpu: Gpu, division: Division) -> _Unit | None:
    """None: refused before, no memory left, or the longest asked session does not fit.

    Raises: UsageError where the ledger has no number, EngineRefusal.
    """
    layout = division.layout
    asked = ask._replace(tp=layout.tp, pp=layout.pp, dp=layout.dp, ep=division.ep, gpu_count=None)
    ledger = build_ledger(ledger_ask(search.target, asked, gpu, layout))
    if ledger.pool_bytes <= 0:
        return None
    # Ranks of one DP group hold independent caches: one of them is looked at.
    ready = _prepared(search, asked._replace(dp=1), gpu)
    pool = ledger.pool_bytes
    longest, more = search.wanted.max_context, grown(search.target, asked, gpu, layout)
    if longest is not None:
        encoder = ready.load.encoder_tokens
        held = max_context(ready.planner, pool, sessions=1, encoder_tokens=encoder, beside=more.best)
        if held is not None and held < longest:
            return None
    best = _held(search, asked, gpu, ready, (pool, more.best))
    low = best if ledger.low_pool_bytes == pool else _held(search, asked, gpu, ready, (ledger.low_pool_bytes, more.low))
    return _Unit(division, ready, ledger, best * layout.dp, low * layout.dp)


def _prepared(search: _Search, asked: Ask, gpu: Gpu) -> Prepared:
    """A planner serves every GPU that its engine treats alike.

    Raises: EngineRefusal.
    """
    special = () if asked.engine == "ideal" else (gpu.architecture, gpu.runtime_bytes or gpu.total_bytes)
    key = (asked.kv_dtype, asked.tp, asked.pp, *special)
    if key not in search.prepared:
        search.prepared[key] = None
        search.prepared[key] = _planned(search, asked, gpu)
    found = search.prepared[key]
    if found is None:
        raise EngineRefusal("refused before", fix="choose another layout")
    return found


def _planned(search: _Search, asked: Ask, gpu: Gpu) -> Prepared:
    """The first one whole; of the others only the planner is new.

    Raises: EngineRefusal.
    """
    like = search.alike.get(asked.kv_dtype)
    if like is None:
        like = search.alike[asked.kv_dtype] = prepare(search.target, asked, gpu=gpu)
        return like
    layout = Layout(tp=asked.tp or 1, pp=asked.pp, dcp=asked.dcp)
    seen = asked.gpu_total_bytes or gpu.runtime_bytes or gpu.total_bytes
    setup = like.setup._replace(layout=layout, gpu=gpu.architecture, gpu_bytes=seen)
    return like._replace(setup=setup, planner=like.engine.prepare(search.target.model, setup))


def _held(search: _Search, asked: Ask, gpu: Gpu, ready: Prepared, room: tuple[int, Beside]) -> int:
    """Sessions of one rank of the DP group. room: the pool, and what a load takes of it beside the cache."""
    (pool, beside), wanted, load = room, search.wanted, ready.load
    workload = wanted.workload
    if pool <= 0:
        return 0
    if workload is None or search.profile is None:
        encoder = load.encoder_tokens
        most = max_sessions(
            ready.planner, pool, context_tokens=load.context_tokens, encoder_tokens=encoder, beside=beside
        )
        return wanted.users if most is None else most
    longest = workload.longest + workload.shared_prompt
    rule = admission(
        ready.engine.name, ready.planner, longest=longest, encoder_tokens=load.encoder_tokens, beside=beside
    )
    key = _law_key(ready, asked)
    if key not in search.demands:
        profile = profile_of(rule.seen(workload), points=_POINTS) if rule.reserves else search.profile
        search.demands[key] = demand_of(rule.seen(workload), rule.holdings, profile)
    demand, capacity = search.demands[key], rule.holdings.capacity(pool)
    caps = scheduler_caps(ready, gpu, asked)
    few = capacity < _FEW * demand.moments.mean
    limits = limits_of(
        demand,
        workload,
        capacity,
        wanted.targets,
        max_num_seqs=caps.max_num_seqs,
        batch_tokens=caps.batch_tokens,
        exact=few,
    )
    held, _ = limits.binding()
    return held or 0


def _law_key(ready: Prepared, asked: Ask) -> tuple[Any, ...]:
    """Equal for planners whose sessions hold the same units: vLLM's blocks do not know their bytes."""
    counters = getattr(ready.planner, "counters", None)
    if counters is None:
        return (asked.kv_dtype, asked.tp, asked.pp)
    groups = tuple(tuple((s.kind, s.block_tokens, s.span, s.state_blocks) for s in specs) for specs in counters)
    return (groups, ready.planner.settings.prefix_caching, ready.setup.layout.dcp)  # type: ignore[attr-defined]


def _row(search: _Search, gpu: Gpu, unit: _Unit, kv_dtype: str | None) -> PlanRow:
    """Enough units for the users, and what they cost."""
    users, division = search.wanted.users, unit.division
    number = ceil_div(users, unit.sessions)
    gpus = number * division.gpus
    cost = cost_of(gpu, gpus, search.wanted.prices)
    weights = -sum(line["bytes"] for line in unit.ledger.lines if line["item"] == "weights")
    tokens = users * search.live_tokens
    ends = None if cost is None else (cost.low_micro_usd, cost.high_micro_usd)
    return {
        "gpu": gpu.name,
        "gpu_bytes": gpu.total_bytes,
        "gpus": gpus,
        "layout": layout_info(division.layout, ep=division.ep),
        "replicas": number,
        "kv_dtype": kv_dtype or unit.ready.setup.dtypes.key,
        "sessions_per_replica": unit.sessions,
        "sessions": number * unit.sessions,
        "low_sessions": number * unit.low_sessions,
        "headroom_sessions": number * unit.sessions - users,
        "weights_bytes": weights,
        "pool_bytes": unit.ledger.pool_bytes,
        "price": None if cost is None else _price(cost.price),
        "cost_micro_usd_per_hour": None if ends is None else list(ends),
        "session_micro_usd_per_hour": None if ends is None else [ceil_div(end, users) for end in ends],
        "million_tokens_micro_usd_per_hour": None if ends is None else [end * 10**6 // tokens for end in ends],
        "flags": flags_of(unit.ready, division),
    }


def _price(price: Price) -> PriceInfo:
    return {"usd_per_hour": price.usd_per_hour, "kind": price.kind, "source": price.source, "date": price.date}


def flags_of(ready: Prepared, division: Division) -> str:
    """What to start one replica with, in the engine's own words; empty for engines without any."""
    single = division.layout
    degrees = {"tp": single.tp, "pp": single.pp, "dp": single.dp}
    if ready.engine.name == "vllm":
        names = {"tp": "--tensor-parallel-size", "pp": "--pipeline-parallel-size", "dp": "--data-parallel-size"}
        words = [f"{names[key]} {value}" for key, value in degrees.items() if value > 1]
        words += ["--enable-expert-parallel"] * division.ep
        kv_dtype = getattr(getattr(ready.planner, "settings", None), "kv_dtype", "auto")
        if kv_dtype != "auto":
            words.append(f"--kv-cache-dtype {kv_dtype}")
        return " ".join([*words, *_written(ready.setup.options)])
    if ready.engine.name == "sglang":
        names = {"tp": "--tp-size", "pp": "--pp-size", "dp": "--dp-size"}
        if division.ep:  # SGLang spreads experts over its TP ranks, which DP attention then divides
            degrees["tp"] = single.tp * single.dp
        words = [f"{names[key]} {value}" for key, value in degrees.items() if value > 1]
        if division.ep:
            words += ["--enable-dp-attention"] * (single.dp > 1) + [f"--ep-size {degrees['tp']}"]
        if ready.setup.asked & {"key", "value"}:
            words.append(f"--kv-cache-dtype {ready.setup.dtypes.key}")
        return " ".join([*words, *_written({key: on for key, on in ready.setup.options.items() if on is not False})])
    return ""


def _written(options: Mapping[str, Any]) -> list[str]:
    """Engine options as flags: a switch stands alone, and with `no-` where it is off (which SGLang does not have)."""
    words = []
    for key, value in options.items():
        name = key.replace("_", "-")
        words.append(f"--{name} {value}" if type(value) is not bool else f"--{name}" if value else f"--no-{name}")
    return words
