"""llama.cpp: cells per slot, padded to 256; sliding layers in a cache of their own; states in F32; block formats.

`-c` is the context of one session, `-n` the slots; everything else is an option under llama.cpp's own name.
Source of the context arithmetic: llama.cpp 0c1e57098, src/llama-context.cpp:96, 246-248, 290-304 and
`llama_init_from_model`; of the tensors: src/llama-kv-cache.cpp:208-234, llama-kv-cache-iswa.cpp:73-80,
llama-memory-recurrent.cpp:101-111, llama-kv-cache-dsv4.cpp:1242-1335.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Load, RankPlan, Tensor
from kvcalc.dtypes import DTYPES, Dtype
from kvcalc.engines.base import Option, Setup
from kvcalc.engines.llamacpp_arch import NOT_COVERED, Arch, arch_of, gguf_architecture
from kvcalc.engines.llamacpp_rows import Caches, Row, caches_of
from kvcalc.errors import EngineRefusal, UsageError, short

#: Cells are counted in blocks of 256 since November 2025 (llama.cpp PR 17046).
CELL_PAD = 256
#: Every tensor starts on a multiple of this in the buffer of the CPU backend (ggml-cpu, TENSOR_ALIGNMENT).
TENSOR_PAD = 32
#: src/llama-cparams.h LLAMA_MAX_SEQ
MAX_SLOTS = 256
#: What `-ctk` and `-ctv` accept (common/arg.cpp kv_cache_types).
CACHE_TYPES = ("float32", "float16", "bfloat16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
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
    Option(name="n_gpu_layers", parse="count", help="layers on the GPU, the output layer counted (-ngl); default: all"),
)


def pad(value: int, to: int) -> int:
    """`value` rounded up to a multiple of `to` (GGML_PAD)."""
    return -(-value // to) * to


class Context(NamedTuple):
    """What llama_context makes of the asked sizes: its own names."""

    n_ctx: int
    n_ctx_seq: int
    n_batch: int
    n_ubatch: int
    n_seq_max: int
    kv_unified: bool


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Cells per stream, streams and rows of one load."""

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


def tensor_bytes(dtype: Dtype, width: int, cells: int, streams: int) -> int:
    """Bytes of one [streams, cells, width] tensor in its buffer: whole blocks, then the buffer's alignment."""
    return pad(dtype.row_bytes(width) * cells * streams, TENSOR_PAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppPlanner:
    """See `kvcalc.core.plan.Planner`. Ranks are GPUs; `CachePlan.host` is what stays in the host's memory."""

    caches: Caches
    arch: Arch
    key: Dtype
    value: Dtype
    options: Mapping[str, Any]
    max_context: int | None
    devices: tuple[tuple[int, ...], ...]
    dp: int
    causal: bool
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    exactness: str = "exact"

    @property
    def period_tokens(self) -> int:
        """Cells come in 256s; compressed entries need 256 of them for one more block."""
        return CELL_PAD * max((row.stride for row in self.caches.rows if row.cells == "strided"), default=1)

    @property
    def saturation_tokens(self) -> int:
        """Where the batch sizes and the sliding cache have stopped growing, for one session."""
        slots = self._slots(1)
        window = self.caches.window * (slots if self._unified() else 1)
        return max(int(self.options["n_batch"]), pad(window + int(self.options["n_ubatch"]), CELL_PAD))

    def _unified(self) -> bool:
        return bool(self.options["kv_unified"]) or self.options["n_parallel"] == 0

    def _slots(self, sessions: int) -> int:
        asked = self.options["n_parallel"]
        if asked is None:
            return max(1, sessions)
        return int(asked) or SERVER_SLOTS

    def context(self, load: Load) -> Context:
        """n_ctx, n_ctx_seq and batch sizes as the library adjusts them, for the sessions of one server.

        Raises: EngineRefusal where the library stops.
        """
        slots = self._slots(load.sessions)
        asked = self.options["n_ctx"]
        if asked is None:
            asked = load.context_tokens * (load.sessions if self._unified() else slots)
        n_ctx = int(asked) or self.max_context or 0
        _check_slots(slots, load.sessions, n_ctx)
        # Causal attention never batches more than the context holds; this comes before the padding.
        n_batch = min(n_ctx, int(self.options["n_batch"])) if self.causal else int(self.options["n_batch"])
        n_ubatch = min(n_batch, int(self.options["n_ubatch"]) or int(self.options["n_batch"]))
        n_ctx = pad(n_ctx, CELL_PAD)
        if self._unified():
            n_ctx_seq = n_ctx
        else:
            n_ctx_seq = pad(n_ctx // slots, CELL_PAD)
            n_ctx = n_ctx_seq * slots
        context = Context(n_ctx, n_ctx_seq, n_batch, n_ubatch, slots, self._unified())
        self._check_graph(context)
        return context

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
        uneven = self.arch.split == "even" and context.n_ubatch % slots and self.attends_before_last
        if slots > 1 and not context.kv_unified and (uneven or self.arch.split == "aborts"):
            raise EngineRefusal(
                f"llama.cpp aborts: this architecture cannot run {slots} slots with a cache each and n_ubatch "
                f"{context.n_ubatch}",
                fix="-o kv_unified=on, or one slot, or a power of two of slots",
                field="n_ubatch",
                value=context.n_ubatch,
            )

    @property
    def attends_before_last(self) -> bool:
        """Whether a layer before the last one attends: only there does an uneven batch stop the graph."""
        last = max(layer for part in self.devices for layer in part)
        return any(row.role == "key" and row.layers[0] < last for row in self.caches.rows)

    def _sizes(self, context: Context) -> _Sizes:
        split = not context.kv_unified or self.arch.streams_always_split
        window = context.n_ctx_seq
        if not self.options["swa_full"]:
            # A shared pool must hold every slot's window.
            windows = self.caches.window * (1 if split else context.n_seq_max)
            window = pad(min(context.n_ctx_seq, windows + context.n_ubatch), CELL_PAD)
        snapshots = int(self.options["n_rs_seq"]) if self.arch.rollback else 0
        return _Sizes(
            context.n_ctx_seq, window, context.n_seq_max if split else 1, context.n_seq_max * (1 + snapshots)
        )

    def plan(self, load: Load) -> CachePlan:
        """Tensors per GPU and on the host; each data-parallel replica is a server with its share of the sessions."""
        share, extra = divmod(load.sessions, self.dp)
        replicas = [(share, range(extra, self.dp))]
        if extra:
            replicas.insert(0, (share + 1, range(extra)))
        gpus = len(self.devices) - 1
        plans: list[RankPlan] = []
        host: list[Tensor] = []
        for sessions, copies in replicas:
            sizes = self._sizes(self.context(Load(load.context_tokens, max(sessions, 1), load.encoder_tokens)))
            for gpu in range(gpus):
                tensors = self._tensors(self.devices[gpu], sizes)
                ranks = tuple(copy * gpus + gpu for copy in copies)
                plans.append(RankPlan(ranks, tensors, sum(tensor.bytes for tensor in tensors)))
            for _ in copies:
                host += self._tensors(self.devices[gpus], sizes)
        return CachePlan(plans, RankPlan((), host, sum(tensor.bytes for tensor in host)) if host else None)

    def _tensors(self, layers: tuple[int, ...], sizes: _Sizes) -> list[Tensor]:
        """The rows of the caches that live in `layers`."""
        tensors = []
        here = frozenset(layers)
        for row in self.caches.rows:
            mine = row.layers if here.issuperset(row.layers) else tuple(layer for layer in row.layers if layer in here)
            if not mine:
                continue
            dtype = DTYPES["float32"] if row.role == "state" else self.key if row.role == "key" else self.value
            cells, streams = sizes.of(row)
            size = len(mine) * tensor_bytes(dtype, row.width, cells, streams)
            shape = (streams, cells, row.width)
            tensors.append(
                Tensor(row.name, row.kind, row.block, row.law, mine, len(mine), cells, shape, dtype.name, size)
            )
        return tensors

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:  # noqa: ARG002 - the pool is fixed
        """llama.cpp's own numbers, of the first replica."""
        sessions = -(-load.sessions // self.dp)
        context = self.context(Load(load.context_tokens, sessions, load.encoder_tokens))
        sizes = self._sizes(context)
        tensors = [tensor for layers in self.devices for tensor in self._tensors(layers, sizes)]
        slot = context.n_ctx_seq if self.max_context is None else min(context.n_ctx_seq, self.max_context)
        found: dict[str, object] = {
            "n_ctx": context.n_ctx,
            "n_ctx_seq": context.n_ctx_seq,
            "n_ctx_slot": slot,
            "n_batch": context.n_batch,
            "n_ubatch": context.n_ubatch,
            "n_seq_max": context.n_seq_max,
            "kv_unified": context.kv_unified,
            "context_bytes": sum(tensor.bytes for tensor in tensors),
        }
        if any(row.cells == "window" for row in self.caches.rows):
            found["swa_cells"] = sizes.window
        if any(row.cells == "states" for row in self.caches.rows):
            found["recurrent_cells"] = sizes.rows
        return found


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


@dataclass(frozen=True, slots=True)
class LlamaCppEngine:
    """See `kvcalc.engines.base.Engine`."""

    name: str = "llama.cpp"
    versions: tuple[str, ...] = ("b11549",)
    verified_by: str = "the real library in every CI run: exact bytes of its memory breakdown"
    summary: str = "GGUF models at home: slots of 256-cell blocks, sliding caches, block formats"
    options: tuple[Option, ...] = OPTIONS

    def prepare(self, model: Model, setup: Setup) -> LlamaCppPlanner:
        """Rows of the model under its architecture's rules.

        Raises: EngineRefusal with llama.cpp's reason; UsageError for a layout that it has not.
        """
        return prepare(model, setup, {option.name: option.default for option in OPTIONS})


def prepare(model: Model, setup: Setup, defaults: Mapping[str, Any], *, assumptions: tuple[str, ...] = ()) -> LlamaCppPlanner:
    """The planner for a model under `setup`, options left out taken from `defaults`."""
    _check_layout(setup)
    architecture, arch = _architecture(model)
    options = {**defaults, **setup.options}
    # f16 unless asked: llama.cpp knows nothing of the type the model was trained in.
    key = _cache_type(setup.dtypes.key if "key" in setup.asked else "float16", "key")
    value = _cache_type(setup.dtypes.value if "value" in setup.asked else "float16", "value")
    flash = arch.flash and options["flash_attn"] != "off"
    from_file = "gguf_architecture" in model.facts
    caches = caches_of(model, arch, architecture, flash=flash, from_file=from_file)
    _check_types(caches, key, value, flash=flash, k_only=caches.latent)
    return LlamaCppPlanner(
        caches=caches,
        arch=arch,
        key=key,
        value=value,
        options=options,
        max_context=model.max_context,
        devices=_devices(len(model.layers), setup.layout.pp, options),
        dp=setup.layout.dp,
        causal=model.facts.get("is_causal", True) is not False,
        assumptions=(*assumptions, *_assumptions(setup, options, caches.rows, (key, value))),
    )


def _check_layout(setup: Setup) -> None:
    if setup.layout.tp > 1 or setup.layout.dcp > 1:
        raise UsageError(
            "llama.cpp splits a model by layers: kvcalc has no rule for a split inside layers",
            fix="use --pp N for N GPUs",
            field="tp" if setup.layout.tp > 1 else "dcp",
        )


def _architecture(model: Model) -> tuple[str, Arch]:
    stated = model.facts.get("gguf_architecture")
    name = str(stated) if stated is not None else gguf_architecture(model.architecture) if model.architecture else None
    if name is None and model.architecture is None:
        raise EngineRefusal(
            f"llama.cpp's cache depends on the architecture, and {model.name} does not name one",
            fix="add `architecture:` (the config's model_type) to the model file, or use the GGUF",
            field="architecture",
        )
    if name is None:
        raise EngineRefusal(
            f"llama.cpp has no architecture for model_type {short(model.architecture)}",
            fix="use another engine",
            field="architecture",
            value=model.architecture,
        )
    arch = arch_of(name, len(model.layers))
    if arch is None:
        reason = NOT_COVERED.get(name, "its rules are not known here")
        raise EngineRefusal(
            f"the memory of GGUF architecture {short(name)} is not described: {reason}",
            fix="use another engine",
            field="architecture",
            value=name,
        )
    return name, arch


def _cache_type(name: str, role: str) -> Dtype:
    if name not in CACHE_TYPES:
        raise EngineRefusal(
            f"llama.cpp has no cache type {short(name)}", fix=f"one of: {', '.join(CACHE_TYPES)}", field=role, value=name
        )
    return DTYPES[name]


def _check_types(caches: Caches, key: Dtype, value: Dtype, *, flash: bool, k_only: bool) -> None:
    """The refusals of llama_init_from_model, in its order and words."""
    if k_only and key is not value:
        raise EngineRefusal(
            f"model does not support different K ({key.name}) and V ({value.name}) cache types",
            fix=f"--kv-dtype {key.name}",
            field="value",
        )
    if value.block_elements > 1 and not flash:
        raise EngineRefusal(
            "quantized V cache requires flash_attn to be enabled", fix="-o flash_attn=on", field="flash_attn"
        )
    for letter, dtype, dims in (("K", key, caches.key_dims), ("V", value, caches.value_dims)):
        for width in dims if flash else ():
            if width % dtype.block_elements:
                raise EngineRefusal(
                    f"{letter} cache type {dtype.name} with block size {dtype.block_elements} does not divide "
                    f"n_embd_head_{letter.lower()}={width}",
                    fix="use f16",
                    field="key" if letter == "K" else "value",
                )
    for row in caches.rows:
        dtype = key if row.role == "key" else value
        if row.role != "state" and row.width % dtype.block_elements:
            raise EngineRefusal(
                f"llama.cpp aborts: {dtype.name} rows are whole blocks of {dtype.block_elements}, and {row.name} of "
                f"block {row.block!r} has {row.width} elements",
                fix="use f16",
                field=row.role,
            )


def _devices(layers: int, gpus: int, options: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Layers of each GPU, then those of the host.

    The last n_gpu_layers layers (the output layer is one of them) are spread over the GPUs in even parts, which is
    what the split by free memory gives on equal, empty GPUs (llama-model.cpp load_tensors). Their caches follow them.
    """
    asked = options["n_gpu_layers"]
    active = layers + 1 if asked is None else min(int(asked), layers + 1)
    if not options["offload_kqv"]:
        active = 0
    start = layers + 1 - active
    placed: list[list[int]] = [[] for _ in range(gpus + 1)]
    for layer in range(layers):
        placed[gpus if layer < start else (layer - start) * gpus // active].append(layer)
    return tuple(tuple(part) for part in placed)


def _assumptions(setup: Setup, options: Mapping[str, Any], rows: tuple[Row, ...], types: tuple[Dtype, Dtype]) -> tuple[str, ...]:
    found = []
    if not setup.asked & {"key", "value"}:
        found.append("cache type f16, llama.cpp's default")
    if any(row.role == "state" for row in rows):
        found.append("recurrent states and convolution tails are float32, whatever type is asked")
    if options["n_ctx"] is not None:
        found.append("n_ctx is fixed: the slots share it whatever -c says")
    if setup.layout.pp > 1:
        found.append("layers are split evenly, as on GPUs with equal free memory")
    if max(dtype.block_elements for dtype in types) > 1:
        found.append("CPU, Vulkan and Metal row sizes; CUDA pads a quantised row that is no multiple of 512 elements")
    return tuple(found)


ENGINE = LlamaCppEngine()
