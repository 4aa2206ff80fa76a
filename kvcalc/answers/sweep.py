"""`sweep`: one flat row per model, engine, GPU, layout, KV type, context and number of sessions.

Points are numbered; sessions change fastest, then contexts, then everything a planner is prepared for. So any range of
numbers can be answered alone: by several processes, or after an interruption.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple

from kvcalc.answers.common import Ask, Prepared, cache_dtypes, prepare
from kvcalc.answers.fit import grown, judge, options_bind, pool_of, tensor_parallel
from kvcalc.core.capacity import Growth, growth, max_context, max_sessions
from kvcalc.core.exactness import weakest
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import CachePlan, Load, beyond
from kvcalc.document import document_from_model
from kvcalc.engines import get_engine
from kvcalc.errors import KvcalcError, UsageError
from kvcalc.planning.layouts import Division
from kvcalc.planning.ledger import load_seen
from kvcalc.targets import Target
from kvcalc.version import __version__

#: More points than this are a typing mistake: 10**9 rows take days and hundreds of gigabytes.
MAX_POINTS = 10**9
#: Answers kept per planner; a sweep of long lists stays flat in memory.
_KEEP = 4096

Value = int | str | bool | None
#: The columns of `_Kept.sizes` and `_Kept.held` where there is no answer.
_NO_SIZES: tuple[Value, ...] = (None,) * 5
_NOT_HELD: tuple[Value, ...] = (None,) * 9


class Column(NamedTuple):
    """One column. pool: only where a GPU or a pool is given."""

    name: str
    kind: type[int | str | bool]
    means: str
    pool: bool = False


COLUMNS = (
    Column("model", str, "the model"),
    Column("engine", str, "who allocates"),
    Column("engine_version", str, "and in which version"),
    Column("engine_options", str, "`KEY=VALUE` of `-o`, separated by spaces; empty without"),
    Column("gpu", str, "the GPU; empty with `--pool` alone", pool=True),
    Column("tp", int, "tensor parallel degree; empty where none was found"),
    Column("pp", int, "pipeline parallel degree"),
    Column("dp", int, "data parallel degree"),
    Column("dcp", int, "decode context parallel degree"),
    Column("ep", bool, "experts divided over TP x DP"),
    Column("context_tokens", int, "tokens per session"),
    Column("sessions", int, "sessions"),
    Column("encoder_tokens", int, "encoder length of models with cross attention, else 0"),
    Column("key_dtype", str, "type of K"),
    Column("value_dtype", str, "type of V"),
    Column("state_dtype", str, "type of recurrent states"),
    Column("index_dtype", str, "type of indexer keys"),
    Column("total_bytes", int, "all ranks together"),
    Column("rank_bytes", int, "the fullest rank"),
    Column("per_session_bytes", int, "one session on one undivided copy"),
    Column("fixed_bytes_per_session", int, "of it, what does not grow (in the limit of long contexts)"),
    Column("marginal_bytes_per_token", int, "of it, what each further token takes"),
    Column("model_max_context", int, "the model's own limit; empty where its file states none"),
    Column("weight_dtype", str, "`--weight-dtype`", pool=True),
    Column("lora", str, "`--lora`", pool=True),
    Column("overhead_bytes", int, "`--overhead`", pool=True),
    Column("gpu_total_bytes", int, "`--gpu-total`", pool=True),
    Column("pool_bytes", int, "KV memory per GPU, best guess; negative: the weights do not fit", pool=True),
    Column("pool_low_bytes", int, "in the worst case", pool=True),
    Column("pool_high_bytes", int, "in the best case", pool=True),
    Column("fits", bool, "does the load fit in `pool_bytes`", pool=True),
    Column("verdict", str, "`FITS` even in the worst case, `BORDERLINE`, `DOES NOT FIT`", pool=True),
    Column("max_context_tokens", int, "what memory allows these sessions; empty: unlimited", pool=True),
    Column("usable_context_tokens", int, "the smaller of it and the model's own limit", pool=True),
    Column("max_sessions", int, "sessions of this context that fit; empty: unlimited", pool=True),
    Column("binding_limit", str, "what stops a longer context", pool=True),
    Column("exactness", str, "`exact`, `measured`, `upper_bound` or `estimate`"),
    Column("refused", bool, "true: no answer; `reason` says why and numbers are empty"),
    Column("reason", str, "why it is refused"),
)


class Axes(NamedTuple):
    """What is varied, slowest first. divisions: None is what `fit` chooses; kv_dtypes: None is the model's own."""

    targets: tuple[Target, ...]
    engines: tuple[str, ...]
    gpus: tuple[tuple[Gpu | None, int | None], ...]
    divisions: tuple[Division | None, ...]
    kv_dtypes: tuple[str | None, ...]
    contexts: tuple[int, ...]
    sessions: tuple[int, ...]


class Sweep(NamedTuple):
    """The axes, and what is equal at every point."""

    axes: Axes
    ask: Ask

    @property
    def points(self) -> int:
        return prod(len(axis) for axis in self.axes)

    @property
    def pooled(self) -> bool:
        """Whether rows say what fits."""
        return self.ask.pool_bytes is not None or self.axes.gpus[0][0] is not None

    @property
    def columns(self) -> dict[str, type]:
        """Name and type of what each row holds, in order."""
        return {column.name: column.kind for column in COLUMNS if self.pooled or not column.pool}

    def digest(self) -> str:
        """Equal for sweeps with equal rows: the version, every model's and GPU's numbers, every axis and option."""
        axes = self.axes
        models = [(document_from_model(t.model), t.origin, t.assumptions, t.exactness) for t in axes.targets]
        said = [__version__, list(self.columns), models, *map(repr, axes[1:]), repr(self.ask)]
        return blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def check_size(sweep: Sweep) -> None:
    """Raises: UsageError for more points than anyone means."""
    if sweep.points > MAX_POINTS:
        sizes = " x ".join(f"{len(axis):,} {name}" for name, axis in sweep.axes._asdict().items())
        raise UsageError(
            f"{sweep.points:,} points ({sizes}) are more than {MAX_POINTS:,}", fix="sweep fewer values", field="sweep"
        )


class Points:
    """Rows by number. Keeps the planner of the last group, so that neighbours are answered by one preparation."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._number = -1
        self._group: _Group | None = None

    def rows(self, start: int, stop: int) -> Iterator[list[Value]]:
        """The rows of points [start, stop), each in the order of `Sweep.columns`."""
        axes = self.sweep.axes
        each = len(axes.sessions)
        for point in range(start, stop):
            number, place = divmod(point, len(axes.contexts) * each)
            group = self._group
            if group is None or number != self._number:
                group, self._number = _Group(self.sweep, number), number
                self._group = group
            yield group.row(axes.contexts[place // each], axes.sessions[place % each])


class _Pool(NamedTuple):
    """One ledger's sums: best guess, worst and best case."""

    sizes: tuple[int, int, int]
    exactness: tuple[str, ...]


class _Group:
    """Everything but the load: one model, engine, GPU, layout and KV type."""

    def __init__(self, sweep: Sweep, number: int) -> None:
        axes = sweep.axes
        chosen: list[Any] = []
        for axis in reversed(axes[:5]):
            number, place = divmod(number, len(axis))
            chosen.append(axis[place])
        kv_dtype, division, (gpu, count), engine, self.target = chosen
        ask = sweep.ask._replace(kv_dtype=kv_dtype, engine=engine, gpu=gpu and gpu.name, gpu_count=count)
        if division is not None:
            tp, pp, dp, dcp = division.layout
            ask = ask._replace(tp=tp, pp=pp, dp=dp, dcp=dcp, ep=division.ep)
        self.ask: Ask = ask
        self.gpu: Gpu | None = gpu
        self.pooled = sweep.pooled
        self.engine, self.version = get_engine(engine)
        self._kept: dict[int, _Kept | KvcalcError] = {}
        self._degrees: dict[int, int | KvcalcError] = {}
        self._head = self._inputs()

    def _inputs(self) -> tuple[list[Value], list[Value], list[Value]]:
        """The columns that every point of the group shares: before TP, before the load, after it."""
        ask, dtypes = self.ask, cache_dtypes(self.target.model, self.ask)
        before: list[Value] = [_line(self.target.model.name), self.engine.name, self.version]
        before.append(_line(" ".join(ask.engine_options)) or None)
        if self.pooled:
            before.append(ask.gpu)
        degrees: list[Value] = [ask.pp, ask.dp, ask.dcp, ask.ep]
        return before, degrees, [dtypes.key, dtypes.value, dtypes.state, dtypes.index]

    def row(self, context: int, sessions: int) -> list[Value]:
        """The row of one load; what the engine (or kvcalc) refuses is a row that says so."""
        load = Load(context, sessions)
        kept = self._planner(load)
        if isinstance(kept, KvcalcError):
            return self._filled(load, None, _NO_SIZES, _NOT_HELD, (None, kept))
        load = load._replace(encoder_tokens=kept.ready.load.encoder_tokens)
        try:
            plan = kept.ready.planner.plan(load)
            sizes = kept.sizes(load, plan)
        except KvcalcError as error:
            return self._filled(load, kept, _NO_SIZES, _NOT_HELD, (None, error))
        if not self.pooled:
            return self._filled(load, kept, sizes, (), (kept.exactness, None))
        try:
            held, labels = kept.held(load, plan)
        except KvcalcError as error:  # the cache is known, the memory for it is not
            return self._filled(load, kept, sizes, _NOT_HELD, (kept.exactness, error))
        return self._filled(load, kept, sizes, held, (weakest(kept.exactness, *labels), None))

    def _filled(
        self,
        load: Load,
        kept: _Kept | None,
        sizes: tuple[Value, ...],
        held: tuple[Value, ...],
        end: tuple[str | None, KvcalcError | None],
    ) -> list[Value]:
        """end: the exactness, and why there is no answer."""
        exactness, error = end
        before, degrees, dtypes = self._head
        ask, limit = self.ask, self.target.model.max_context
        tp = ask.tp if kept is None else kept.ready.setup.layout.tp
        encoder = None if kept is None else load.encoder_tokens
        row = [*before, tp, *degrees, load.context_tokens, load.sessions, encoder, *dtypes, *sizes, limit]
        if self.pooled:
            lora = None if ask.lora is None else f"{ask.lora.slots}x{ask.lora.rank}"
            row += [ask.weight_dtype, lora, ask.overhead_bytes, ask.gpu_total_bytes, *held]
        return [*row, exactness, error is not None, None if error is None else _line(str(error))]

    def _planner(self, load: Load) -> _Kept | KvcalcError:
        """The planner for this load; the load matters where the layout is chosen by the memory that is left."""
        seen = load_seen(self.engine.name, load)
        tp = self._degrees.get(seen)
        if tp is None:
            asked = self.ask._replace(context_tokens=load.context_tokens, sessions=load.sessions)
            try:
                tp = tensor_parallel(self.target, asked, self.gpu)[0]
            except KvcalcError as error:
                tp = error
            _keep(self._degrees, seen, tp)
        if isinstance(tp, KvcalcError):
            return tp
        kept = self._kept.get(tp)
        if kept is None:
            try:
                kept = _Kept(prepare(self.target, self.ask, gpu=self.gpu, tp=tp), self.ask, self.gpu)
            except KvcalcError as error:
                kept = error
            self._kept[tp] = kept
        return kept


class _Kept:
    """A prepared planner with the answers that several points share."""

    def __init__(self, ready: Prepared, ask: Ask, gpu: Gpu | None) -> None:
        self.ready = ready
        self.exactness = weakest(ready.target.exactness, ready.planner.exactness)
        self._ask, self._gpu = ask, gpu
        self._rate: Growth = growth(ready.single, encoder_tokens=ready.load.encoder_tokens)
        self._alone: dict[int, int] = {}
        self._pools: dict[int, _Pool | KvcalcError] = {}
        self._started: dict[int, bool] = {}
        self._contexts: dict[tuple[int, int], int | None] = {}
        self._sessions: dict[tuple[int, int], int | None] = {}

    def sizes(self, load: Load, plan: CachePlan) -> tuple[int, ...]:
        """Total, fullest rank, one session and its two rates: what `size` answers."""
        alone = self._alone.get(load.context_tokens)
        if alone is None:
            alone = self.ready.single.plan(load._replace(sessions=1)).total_bytes
            _keep(self._alone, load.context_tokens, alone)
        fullest = max(rank.bytes for rank in plan.ranks)
        return plan.total_bytes, fullest, alone, self._rate.fixed_bytes, self._rate.marginal_bytes

    def held(self, load: Load, plan: CachePlan) -> tuple[tuple[Value, ...], tuple[str, ...]]:
        """What `fit` says of the pool, and the labels of its ledger.

        Raises: UsageError where the memory left for the cache is unknown, EngineRefusal where it is too little.
        """
        planner, encoder = self.ready.planner, load.encoder_tokens
        pool = self._pool(load)
        size = pool.sizes[0]
        asked = self._ask._replace(context_tokens=load.context_tokens, sessions=load.sessions)
        beside = grown(self.ready.target, asked, self._gpu, self.ready.setup.layout).best
        # The longest context depends on the sessions only, the most sessions on the context only.
        by_sessions, by_context = (size, load.sessions), (size, load.context_tokens)
        if by_sessions not in self._contexts:
            longest = max_context(planner, size, sessions=load.sessions, encoder_tokens=encoder, beside=beside)
            _keep(self._contexts, by_sessions, longest)
        if by_context not in self._sessions:
            most = max_sessions(
                planner, size, context_tokens=load.context_tokens, encoder_tokens=encoder, beside=beside
            )
            _keep(self._sessions, by_context, most)
        context, limit = self._contexts[by_sessions], self.ready.target.model.max_context
        served, options = beyond(planner, load) is None, options_bind(self.ready._replace(load=load), context)
        judged = judge(plan.max_rank_bytes, pool.sizes, context, limit, served=served, options=options)
        usable, most = judged.usable_context_tokens, self._sessions[by_context]
        return (*pool.sizes, judged.fits, judged.verdict, context, usable, most, judged.binding_limit), pool.exactness

    def _pool(self, load: Load) -> _Pool:
        seen = load_seen(self.ready.engine.name, load)
        found = self._pools.get(seen)
        if found is None:
            found = self._made_pool(load)
            _keep(self._pools, seen, found)
        if isinstance(found, KvcalcError):
            raise found.with_traceback(None)  # which would grow with every point
        return found

    def _made_pool(self, load: Load) -> _Pool | KvcalcError:
        asked = self._ask._replace(context_tokens=load.context_tokens, sessions=load.sessions)
        try:
            ledger = pool_of(self.ready.target, asked, self._gpu, self.ready.setup.layout)
            self._start(load, ledger.pool_bytes)
        except KvcalcError as error:
            return error
        sizes = (ledger.pool_bytes, ledger.low_pool_bytes, ledger.high_pool_bytes)
        return _Pool(sizes, tuple(line["exactness"] for line in ledger.lines))

    def _start(self, load: Load, pool_bytes: int) -> None:
        """Raises: EngineRefusal where the engine would not start with this pool; asked once per pool."""
        if pool_bytes not in self._started:
            self.ready.planner.report(load, pool_bytes)
            _keep(self._started, pool_bytes, True)


def _keep(kept: dict[Any, Any], key: object, value: object) -> None:
    """Remember an answer; begin anew when there are many."""
    if len(kept) >= _KEEP:
        kept.clear()
    kept[key] = value


def _line(text: str) -> str:
    """One line: rows are counted by their line ends."""
    return " ".join(text.split())
