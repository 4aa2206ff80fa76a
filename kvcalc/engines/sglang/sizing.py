"""From SGLang's KV budget to tokens, state slots and requests, in SGLang's own order of floating-point steps.

The budget is a float of GiB inside SGLang; integer arithmetic would differ by a slot or a page now and then.

Source: sglang 0.5.23, srt/mem_cache/kv_cache_configurator.py `_profile_available_bytes`, `_handle_max_mamba_cache`,
`_apply_token_constraints`, `resolve_max_num_reqs`; srt/model_executor/pool_configurator.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kvcalc.engines.sglang.geometry import Geometry, Stage
from kvcalc.engines.sglang.pools import sliding_bytes, token_bytes
from kvcalc.engines.sglang.settings import TORCH, Settings
from kvcalc.errors import EngineRefusal
from kvcalc.units import GIB, ceil_div

#: Tokens of the sliding pool per token of the full pool: `ServerArgs.swa_full_tokens_ratio`.
DEFAULT_SWA_RATIO = 0.8
#: `MambaPool` keeps one slot more, which padded requests write to.
PADDING_SLOT = 1
#: Requests assumed when none are given: `resolve_max_num_reqs`.
LEAST_REQUESTS, MOST_REQUESTS = 2048, 4096


@dataclass(slots=True, kw_only=True)
class Sizes:
    """One stage's pool sizes in tokens. full, swa: None where there is one pool. log: lines of this step."""

    tokens: int
    full: int | None = None
    swa: int | None = None
    log: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Recurrent state: bytes of one slot on one stage, and how many slots."""

    slot_bytes: int
    slots: int


def state_bytes_per_layer(geometry: Geometry, settings: Settings) -> int:
    """One slot of one layer: `mamba_cache_per_req`; convolutions in bfloat16."""
    state = geometry.state
    return 0 if state is None else state.conv_elements * 2 + state.temporal_elements * TORCH[settings.state_dtype][1]


def slot_bytes(geometry: Geometry, settings: Settings) -> int:
    """What one slot is priced at on every stage: the stage with most recurrent layers decides."""
    layers = len(geometry.state_layers)
    most = max((len(stage.states) for stage in geometry.stages), default=0)
    # int() of a float product, as SGLang scales the whole model's slot.
    return int(state_bytes_per_layer(geometry, settings) * layers * (most / max(layers, 1)))


def solve_states(geometry: Geometry, settings: Settings, rest_gib: float) -> tuple[States | None, float]:
    """The number of state slots, and the GiB left for KV.

    Raises: EngineRefusal when not one slot fits.
    """
    if geometry.state is None:
        return None, rest_gib
    size = slot_bytes(geometry, settings)
    if settings.mamba_slots is not None:
        slots = settings.mamba_slots // settings.attn_dp
    elif not settings.radix and settings.running_per_group is not None:
        slots = settings.running_per_group
    else:
        share = rest_gib * settings.mamba_ratio / (1 + settings.mamba_ratio)
        slots = int((share * GIB - size) // size)
    if slots <= 0:
        raise EngineRefusal(
            "Not enough GPU memory for hybrid (mamba/linear-attention) state cache. Computed "
            f"max_mamba_cache_size={slots} (total_rest_memory={rest_gib:.2f} GB, "
            f"mamba_cache_per_req={size / 2**20:.2f} MB)",
            fix="lower max_running_requests, or give more memory",
            field="pool",
        )
    return States(slot_bytes=size, slots=slots), rest_gib - (slots + PADDING_SLOT) * size / GIB


def budget_gib(settings: Settings, pool_bytes: int) -> float:
    """The KV budget after what multimodal models keep back: `mm_runtime_reservation_gb`."""
    return pool_bytes / GIB - settings.reserve_mib / 1024


def request_cap(settings: Settings, window: int) -> int:
    """Most sliding tokens that max_running_requests can hold alive: `compute_swa_request_cap`."""
    trailing = window + settings.eviction + settings.page
    chunks = 2 if settings.overlap else 1
    return (
        (trailing + settings.page) * (settings.running_per_group or 1) + chunks * (settings.chunk or 0) + settings.page
    )


def pool_window(geometry: Geometry) -> int | None:
    """Tokens of the window as the model class reports it: some leave out the token itself."""
    from kvcalc.engines.sglang.classes import EXCLUSIVE_WINDOW

    window = geometry.sliding.window if geometry.sliding is not None else None
    return None if window is None else window - (geometry.name in EXCLUSIVE_WINDOW)


def check_sliding(swa: int, window: int | None, page: int) -> None:
    """Raises: EngineRefusal for a sliding pool that could never admit a request (`validate_swa_pool_size`)."""
    if window is not None and window + page >= swa:
        raise EngineRefusal(
            f"SWA pool ({swa} tokens) cannot hold even one request: the prefill admission floor is "
            f"sliding_window_size ({window}) + page_size ({page}). "
            "Increase --swa-full-tokens-ratio or the total KV budget.",
            fix="give more memory, fewer requests or a larger swa_full_tokens_ratio",
            field="pool",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OnePool:
    """One price per token: `DefaultPoolConfigurator`."""

    cell: int
    page: int
    free_tokens: int

    @property
    def cell_size(self) -> int:
        return self.cell

    def from_budget(self, budget: int) -> Sizes:
        return self.from_tokens(budget // self.cell if self.cell else self.free_tokens)

    def from_tokens(self, tokens: int) -> Sizes:
        return Sizes(tokens=tokens // self.page * self.page)

    def priced(self, tokens: int) -> int:
        """Budget that `tokens` tokens need."""
        return tokens * self.cell


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoPools:
    """A full and a sliding pool. cap: tokens of the sliding pool, else a share of the full one.

    full_bytes, swa_bytes: per token, over the stage's layers. Source: `HybridSWAPoolConfigurator`,
    `SWARequestCapPoolConfigurator`.
    """

    full_bytes: int
    swa_bytes: int
    ratio: float
    cap: int | None
    window: int | None
    page: int

    @property
    def cell_size(self) -> float | int:
        return self.full_bytes + self.ratio * self.swa_bytes if self.full_bytes else self.swa_bytes

    def from_budget(self, budget: int) -> Sizes:
        if self.cap is None or not self.full_bytes:
            return self.from_tokens(int(budget // self.cell_size))
        swa = ceil_div(self.cap, self.page) * self.page
        fixed = swa * self.swa_bytes
        full = int((budget - fixed) // self.full_bytes) // self.page * self.page
        if full <= 0:
            raise EngineRefusal(
                f"SWA pool cap ({swa} tokens, {fixed / GIB:.2f} GiB) leaves no room for the full KV pool within the "
                f"available {budget / GIB:.2f} GiB. Reduce --max-running-requests, lower "
                "SGLANG_SWA_EVICTION_INTERVAL, or increase --mem-fraction-static.",
                fix="lower max_running_requests or chunked_prefill_size, or give more memory",
                field="pool",
            )
        return Sizes(tokens=full, full=full, swa=swa)

    def from_tokens(self, tokens: int) -> Sizes:
        page = self.page
        full = tokens // page * page
        if not self.full_bytes:
            line = f"Use sliding window memory pool (all SWA). swa_layer_tokens={full}"
            return Sizes(tokens=full, full=0, swa=full, log=[line])
        if self.cap is not None:
            return Sizes(tokens=full, full=full, swa=min(ceil_div(self.cap, page) * page, tokens))
        swa = int(full * self.ratio) // page * page
        check_sliding(swa, self.window, page)
        line = f"Use sliding window memory pool. full_layer_tokens={full}, swa_layer_tokens={swa}"
        return Sizes(tokens=full, full=full, swa=swa, log=[line])

    def priced(self, tokens: int) -> int:
        """Budget that `tokens` tokens need; rounded up, because the price is a float."""
        if self.cap is not None and self.full_bytes:
            return ceil_div(self.cap, self.page) * self.page * self.swa_bytes + tokens * self.full_bytes
        return -int(-tokens * self.cell_size // 1)


def configurator(geometry: Geometry, stage: Stage, settings: Settings) -> OnePool | TwoPools:
    """The rule that turns this stage's budget into tokens: `create_memory_pool_configurator`."""
    if geometry.sliding is None:
        cell = token_bytes(geometry, stage, settings)
        # No KV here: another stage decides, else what one request may need.
        elsewhere = len(geometry.stages) > 1 and any(other.full for other in geometry.stages)
        free = 2**63 - 1 if elsewhere else settings.max_total or settings.context_len
        return OnePool(cell=cell, page=settings.page, free_tokens=free)
    full, swa = sliding_bytes(geometry, settings)
    window = pool_window(geometry)
    capped = (
        settings.max_running is not None
        and not settings.radix
        and bool(settings.chunk)
        and window is not None
        and bool(stage.full)
    )
    return TwoPools(
        full_bytes=full * len(stage.full),
        swa_bytes=swa * len(stage.sliding),
        ratio=DEFAULT_SWA_RATIO if settings.swa_ratio is None else settings.swa_ratio,
        cap=request_cap(settings, window) if capped and window is not None else None,
        window=window,
        page=settings.page,
    )


def max_requests(tokens: int, settings: Settings, states: States | None) -> int:
    """`max_running_requests` of one attention-DP group.

    Raises: EngineRefusal when the states serve not one request.
    """
    estimate = max(min(int(tokens / settings.context_len * 512), MOST_REQUESTS), LEAST_REQUESTS)
    asked = settings.running_per_group
    found = min(estimate if asked is None else asked, tokens // 2)
    if states is not None:
        found = min(found, states.slots // settings.slots_per_request)
        if found <= 0:
            raise EngineRefusal(
                "Hybrid (mamba/linear-attention) state cache is too small to serve any requests. "
                f"max_mamba_cache_size={states.slots}, mamba_ratio={settings.slots_per_request}, "
                f"resulting max_num_reqs={found}",
                fix="give more memory, or disable_radix_cache",
                field="pool",
            )
    return found
