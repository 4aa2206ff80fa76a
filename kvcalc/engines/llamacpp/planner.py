"""How many cells, streams and rows a load takes, and the tensors that follow.

Source of the context arithmetic: llama.cpp 0c1e57098, src/llama-context.cpp:96, 246-248, 290-304; of the tensors:
src/llama-kv-cache.cpp:208-234, llama-kv-cache-iswa.cpp:73-80, llama-memory-recurrent.cpp:101-111,
llama-kv-cache-dsv4.cpp:1242-1335.
"""

from __future__ import annotations

from typing import NamedTuple

from kvcalc.core.plan import CachePlan, Load, RankPlan, Tensor
from kvcalc.dtypes import DTYPES, Dtype
from kvcalc.engines.llamacpp.arch import Arch
from kvcalc.engines.llamacpp.rows import Row
from kvcalc.engines.llamacpp.settings import Settings
from kvcalc.errors import EngineRefusal

#: Cells are counted in blocks of 256 since November 2025 (llama.cpp PR 17046).
CELL_PAD = 256
#: Every tensor starts on a multiple of this in the buffer of the CPU backend (ggml-cpu, TENSOR_ALIGNMENT).
TENSOR_PAD = 32
#: src/llama-cparams.h LLAMA_MAX_SEQ
MAX_SLOTS = 256


def pad(value: int, to: int) -> int:
    """`value` rounded up to a multiple of `to` (GGML_PAD).

    >>> pad(100, 256), pad(512, 256)
    (256, 512)
    """
    return -(-value // to) * to


def tensor_bytes(dtype: Dtype, width: int, cells: int, streams: int) -> int:
    """Bytes of one [streams, cells, width] tensor in its buffer: whole blocks, then the buffer's alignment."""
    return pad(dtype.row_bytes(width) * cells * streams, TENSOR_PAD)


class Context(NamedTuple):
    """What llama_context makes of the asked sizes: its own names."""

    n_ctx: int
    n_ctx_seq: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    kv_unified: bool


class Sizes(NamedTuple):
    """Cells per stream of the two caches, streams, and rows of recurrent states, for one load."""

    full: int
    window: int
    streams: int
    rows: int

    def of(self, row: Row) -> tuple[int, int]:
        """(cells of one stream, streams) of a row's tensors."""
        if row.cells == "full":
            return self.full, self.streams
        if row.cells == "window":
            return self.window, self.streams
        if row.cells == "strided":
            # One entry per `stride` tokens, at least one, in blocks of 256 (llama-kv-cache-dsv4.cpp dsv4_comp_size).
            return pad(max(1, -(-self.full // row.stride)), CELL_PAD), self.streams
        return (self.rows, 1) if row.cells == "states" else (row.stride, self.rows)


class LlamaCppPlanner(NamedTuple):
    """See `kvcalc.core.plan.Planner`. Ranks are GPUs; `CachePlan.host` is what stays in the host's memory.

    placed: the rows of each GPU, then those of the host. window: cells a sliding layer must hold beside a batch.
    uneven: with a cache per slot, the graph needs batches that the slots divide.
    layers, weight_bytes: of the model, for the question how many layers fit.
    """

    placed: tuple[tuple[Row, ...], ...]
    window: int
    uneven: bool
    arch: Arch
    key: Dtype
    value: Dtype
    settings: Settings
    max_context: int | None
    dp: int
    causal: bool
    layers: int
    weight_bytes: int | None
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    exactness: str = "exact"

    @property
    def period_tokens(self) -> int:
        """Cells come in 256s; compressed entries need 256 of them for one more block."""
        strides = (row.stride for rows in self.placed for row in rows if row.cells == "strided")
        return CELL_PAD * max(strides, default=1)

    @property
    def saturation_tokens(self) -> int:
        """Where the batch sizes and the sliding cache have stopped growing, for one session."""
        last = 32768 + 1  # Ollama's largest batch begins here
        n_batch, n_ubatch = self.settings.batches(last)
        window = self.window * (self.settings.slots(1) if self.settings.unified else 1)
        return max(n_batch, pad(window + n_ubatch, CELL_PAD), last if self.settings.ollama_batch else 1)

    def context(self, load: Load) -> Context:
        """n_ctx, n_ctx_seq and batch sizes as the library adjusts them, for the sessions of one server.

        Raises: EngineRefusal where the library stops.
        """
        settings, sessions = self.settings, max(load.sessions, 1)
        slots, unified = settings.slots(sessions), settings.unified
        n_ctx = settings.n_ctx
        if n_ctx is None:
            n_ctx = load.context_tokens * (sessions if unified else slots)
        n_ctx = n_ctx or self.max_context or 0
        _check_slots(slots, sessions, n_ctx)
        n_batch, n_ubatch = settings.batches(n_ctx)
        # Causal attention never batches more than the context holds; this comes before the padding.
        n_batch = min(n_ctx, n_batch) if self.causal else n_batch
        n_ubatch = min(n_batch, n_ubatch)
        n_ctx = pad(n_ctx, CELL_PAD)
        n_ctx_seq = n_ctx if unified else pad(n_ctx // slots, CELL_PAD)
        context = Context(n_ctx if unified else n_ctx_seq * slots, n_ctx_seq, n_batch, n_ubatch, slots, unified)
        self._check_graph(context)
        return context

    def beyond(self, load: Load) -> str | None:
        """n_ctx fixes the cells of all slots: a session has those of its slot."""
        if self.settings.n_ctx is None:
            return None
        sessions = -(-load.sessions // self.dp)
        context = self.context(load._replace(sessions=sessions))
        held = context.n_ctx if context.kv_unified else context.n_ctx_seq
        needed = load.context_tokens * (sessions if context.kv_unified else 1)
        return None if needed <= held else f"n_ctx gives {held:,} cells, {needed:,} are needed"

    def _check_graph(self, context: Context) -> None:
        """Where the library does not refuse but stops with an assertion while it reserves its graph."""
        slots = context.n_seq_max
        if slots > context.n_batch:
            raise EngineRefusal(
                f"llama.cpp aborts: {slots} slots need a batch of at least {slots} tokens, and it is {context.n_batch}",
                fix="raise n_batch or the context, or ask for fewer slots",
                field="n_batch",
                value=context.n_batch,
            )
        stops = self.arch.split == "aborts" or (self.uneven and context.n_ubatch % slots)
        if slots > 1 and not context.kv_unified and stops:
            raise EngineRefusal(
                f"llama.cpp aborts: this architecture cannot run {slots} slots with a cache each and n_ubatch "
                f"{context.n_ubatch}",
                fix="-o kv_unified=on, or one slot, or a power of two of slots",
                field="n_ubatch",
                value=context.n_ubatch,
            )

    def sizes(self, context: Context) -> Sizes:
        """Cells, streams and rows of one server."""
        split = not context.kv_unified or self.arch.streams_always_split
        window = context.n_ctx_seq
        if not self.settings.swa_full:
            # A shared pool must hold every slot's window.
            windows = self.window * (1 if split else context.n_seq_max)
            window = pad(min(context.n_ctx_seq, windows + context.n_ubatch), CELL_PAD)
        snapshots = self.settings.n_rs_seq if self.arch.rollback else 0
        streams = context.n_seq_max if split else 1
        return Sizes(context.n_ctx_seq, window, streams, context.n_seq_max * (1 + snapshots))

    def plan(self, load: Load) -> CachePlan:
        """Tensors per GPU and on the host; each data-parallel replica is a server with its share of the sessions."""
        share, extra = divmod(load.sessions, self.dp)
        replicas = [(share, range(extra, self.dp))]
        if extra:
            replicas.insert(0, (share + 1, range(extra)))
        gpus = len(self.placed) - 1
        plans: list[RankPlan] = []
        host: list[Tensor] = []
        for sessions, copies in replicas:
            sizes = self.sizes(self.context(Load(load.context_tokens, sessions, load.encoder_tokens)))
            for gpu in range(gpus):
                tensors = self.tensors(self.placed[gpu], sizes)
                ranks = tuple(copy * gpus + gpu for copy in copies)
                plans.append(RankPlan(ranks, tensors, sum(tensor.bytes for tensor in tensors)))
            for _ in copies:
                host += self.tensors(self.placed[gpus], sizes)
        return CachePlan(plans, RankPlan((), host, sum(tensor.bytes for tensor in host)) if host else None)

    def tensors(self, rows: tuple[Row, ...], sizes: Sizes) -> list[Tensor]:
        """The tensors of `rows`: equal ones of several layers are one entry."""
        found = []
        for row in rows:
            dtype = DTYPES["float32"] if row.role == "state" else self.key if row.role == "key" else self.value
            cells, streams = sizes.of(row)
            count = len(row.layers)
            size = count * tensor_bytes(dtype, row.width, cells, streams)
            shape = (streams, cells, row.width)
            described = (row.name, row.kind, row.block, row.law, row.layers)
            found.append(Tensor(*described, count, cells, shape, dtype.name, size))
        return found

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        """llama.cpp's own numbers, of the first replica."""
        sessions = -(-load.sessions // self.dp)
        context = self.context(Load(load.context_tokens, sessions, load.encoder_tokens))
        sizes = self.sizes(context)
        rows = [row for placed in self.placed for row in placed]
        slot = context.n_ctx_seq if self.max_context is None else min(context.n_ctx_seq, self.max_context)
        found: dict[str, object] = {
            **context._asdict(),
            "n_ctx_slot": slot,
            "context_bytes": sum(tensor.bytes for tensor in self.tensors(tuple(rows), sizes)),
        }
        if any(row.cells == "window" for row in rows):
            found["swa_cells"] = sizes.window
        if any(row.cells == "states" for row in rows):
            found["recurrent_cells"] = sizes.rows
        if self.placed[-1]:
            found["host_bytes"] = sum(tensor.bytes for tensor in self.tensors(self.placed[-1], sizes))
        if pool_bytes is not None and self.weight_bytes is not None and len(self.placed) == 2:
            found["max_n_gpu_layers"] = self._layers_that_fit(tuple(rows), sizes, pool_bytes + self.weight_bytes)
            found["all_n_gpu_layers"] = self.layers + 1
        return found

    def _layers_that_fit(self, rows: tuple[Row, ...], sizes: Sizes, room: int) -> int:
        """Most layers, the output layer counted, whose weights and caches fit in `room` bytes of the GPU.

        Weights are taken as equal parts; layers go to the GPU from the last one up, after the output layer.
        """
        cache = [0] * self.layers
        for tensor in self.tensors(rows, sizes):
            for layer in tensor.layers:
                if layer < self.layers:
                    cache[layer] += tensor.bytes // tensor.count
        parts, weights, used = self.layers + 1, self.weight_bytes or 0, 0
        for count in range(1, parts + 1):
            used += cache[parts - count] if count > 1 else 0
            if weights * count // parts + used > room:
                return count - 1
        return parts


def _check_slots(slots: int, sessions: int, n_ctx: int) -> None:
    if slots > MAX_SLOTS:
        raise EngineRefusal(
            f"n_seq_max must be <= {MAX_SLOTS}, and {slots} slots are asked for",
            fix="run several servers, or use an engine that pages its cache",
            field="sessions",
            value=slots,
        )
    if sessions > slots:
        raise EngineRefusal(
            f"{slots} slots serve {slots} sessions at a time, {sessions} are asked for",
            fix=f"-o n_parallel={sessions}",
            field="n_parallel",
            value=slots,
        )
    if n_ctx == 0:
        raise EngineRefusal("n_ctx and the model's own context cannot both be zero", fix="give -c", field="n_ctx")
