"""DeepSeek-V4 in SGLang: paged sliding latents, compressed entries at 1/4 and 1/128, and float32 compressor states.

The states of the open 128-token groups are sized by the number of requests, not by tokens: 2048 requests, the
default, take 21.5 GiB on Flash.

Source: sglang 0.5.23, srt/model_executor/pool_configurator.py `DSV4PoolConfigurator`,
srt/mem_cache/deepseek_v4_memory_pool.py, deepseek_v4_compress_state.py,
kernels/ops/attention/dsv4/kv_layout.py `KVLayout.V4`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kvcalc.engines.sglang.geometry import Geometry, Stage
from kvcalc.engines.sglang.settings import Settings
from kvcalc.engines.sglang.sizing import LEAST_REQUESTS, MOST_REQUESTS, Sizes, check_sliding, request_cap
from kvcalc.errors import EngineRefusal
from kvcalc.units import GIB, ceil_div

PAGE = 256
#: 448 fp8 + 64 bf16 rotary + 7 scales + 1 pad; a page's stride is a multiple of 576.
LATENT, LATENT_BYTES, PAGE_ALIGN = 512, 584, 576
INDEX_BYTES = 132
INDEX_PAGE = 64
#: Rows of one request's ring of open groups: `get_compress_state_ring_size` without speculation.
RING_4, RING_128 = 8, 128
#: float32 rows: (kv, score) of the latent; CSA's groups overlap, so twice.
STATE_4, STATE_128, FLOAT = 4 * LATENT, 2 * LATENT, 4
DEFAULT_RATIO = 0.1


def page_bytes(tokens: int) -> int:
    """Stride of a page of `tokens` latents.

    >>> page_bytes(256), page_bytes(64), page_bytes(2)
    (149760, 37440, 1728)
    """
    return ceil_div(tokens * LATENT_BYTES, PAGE_ALIGN) * PAGE_ALIGN


@dataclass(frozen=True, slots=True, kw_only=True)
class V4Pools:
    """The pools of one stage. layers: of the stage; csa, hca: how many compress by 4 and by 128."""

    layers: int
    csa: int
    hca: int
    index_dim: int
    settings: Settings
    window: int
    page: int = PAGE

    @property
    def ratio(self) -> float:
        return DEFAULT_RATIO if self.settings.swa_ratio is None else self.settings.swa_ratio

    @property
    def prefix_tails(self) -> int:
        settings = self.settings
        if settings.prefix_tails is not None:
            return settings.prefix_tails
        running = settings.running_per_group
        return 0 if running is None or not settings.radix else 4 * running

    @property
    def cap(self) -> int | None:
        """Tokens of the sliding pool where the requests are known and no ratio was asked for."""
        settings = self.settings
        if settings.swa_ratio is not None or settings.running_per_group is None or not settings.chunk:
            return None
        tokens = request_cap(settings, self.window) + self.prefix_tails * (self.window + self.page)
        return ceil_div(tokens, self.page) * self.page

    @property
    def bytes_per_swa_token(self) -> float:
        states = RING_4 / self.page * ((STATE_4 + 4 * self.index_dim) * FLOAT) * self.csa
        return page_bytes(self.page) / self.page * self.layers + states

    @property
    def bytes_per_full_token(self) -> float:
        share = 0 if self.cap is not None else self.ratio
        csa = 1 / 4 * (page_bytes(self.page // 4) / (self.page // 4)) + 1 / 4 * INDEX_BYTES
        hca = 1 / 128 * (page_bytes(self.page // 128) / (self.page // 128))
        return share * self.bytes_per_swa_token + (csa * self.csa + hca * self.hca)

    @property
    def cell_size(self) -> float:
        return self.bytes_per_full_token

    def requests(self, budget: int) -> int:
        """Requests that the fixed states are sized for: `_resolve_max_running_requests_per_worker`."""
        asked = self.settings.running_per_group
        if asked is not None:
            return asked
        tokens = int(budget / self.bytes_per_full_token)
        estimate = max(min(int(tokens / self.settings.context_len * 512), MOST_REQUESTS), LEAST_REQUESTS)
        return min(estimate, tokens // 2)

    def state_rows_128(self, requests: int) -> int:
        # +1 slot for padded requests, + a ring and one row that the pool adds itself.
        return ceil_div((requests + 1) * RING_128 + RING_128 + 1, 128) * 128

    def fixed_bytes(self, requests: int) -> int:
        """Bytes that do not grow with tokens: open groups of 128, and the sliding pool where it is capped."""
        states = self.state_rows_128(requests) * STATE_128 * FLOAT * self.hca if self.hca else 0
        return states + int((self.cap or 0) * self.bytes_per_swa_token)

    def from_budget(self, budget: int) -> Sizes:
        fixed = self.fixed_bytes(self.requests(budget))
        tokens = int(max(budget - fixed, 0) / self.bytes_per_full_token) // self.page * self.page
        if tokens <= 0 and self.cap is not None:
            swa = self.cap * self.bytes_per_swa_token
            raise EngineRefusal(
                f"The DSV4 SWA pool cap ({self.cap} tokens, {swa / GIB:.2f} GB) leaves no room for the full KV pool "
                f"within the available {budget / GIB:.2f} GB. Reduce --max-running-requests, lower "
                "--swa-prefix-tails or SGLANG_SWA_EVICTION_INTERVAL, or increase --mem-fraction-static.",
                fix="lower max_running_requests, or give more memory",
                field="pool",
            )
        return self.from_tokens(tokens)

    def swa_tokens(self, full: int) -> int:
        return int(full * self.ratio) // self.page * self.page if self.cap is None else self.cap

    def from_tokens(self, tokens: int) -> Sizes:
        full = tokens // self.page * self.page
        swa = self.swa_tokens(full)
        if self.cap is None:
            check_sliding(swa, self.window, self.page)
            source = "default" if self.settings.swa_ratio is None else "explicit"
            line = f"mode=ratio ({source}), swa_tokens={swa}, swa_full_tokens_ratio={self.ratio}"
        else:
            line = f"mode=cap, swa_tokens={swa}, request_cap+headroom={self.cap}, prefix_tails={self.prefix_tails}"
        state = swa // self.page * RING_4 if self.csa else 0
        sizes = f"full={full}, swa={swa}, c4={full // 4}, c128={full // 128}, c4_state={state}, c128_state=0"
        return Sizes(tokens=full, full=full, swa=swa, log=[f"DSV4 SWA sizing: {line}", f"DSV4 pool sizes: {sizes}"])

    def priced(self, tokens: int) -> int:
        """The least budget that holds `tokens` tokens: the states follow the requests, and those the budget."""
        grow = -int(-tokens * self.bytes_per_full_token // 1)
        budget = self.fixed_bytes(0) + grow
        # Rises to the least fixed point, a request at a time where the context is long; requests have a maximum.
        while (larger := self.fixed_bytes(self.requests(budget)) + grow) > budget:
            budget = larger
        return budget

    def count(self, ratio: int | None) -> int:
        """Layers that compress by `ratio`; None: all of the stage."""
        return self.layers if ratio is None else {4: self.csa, 128: self.hca}[ratio]

    def arrays(
        self, full: int, swa: int, requests: int
    ) -> list[tuple[str, str, int | None, tuple[int, int], str, int]]:
        """(attribute, name, ratio of its layers, shape, dtype, bytes per element) of every tensor of each of them."""
        pages = ceil_div(swa + self.page, self.page)
        c4 = ceil_div(full // 4 + self.page, self.page // 4)
        c128 = ceil_div(full // 128 + self.page, self.page // 128)
        index = ceil_div(full // 4 + self.page, INDEX_PAGE)
        rows4 = ceil_div(swa // self.page * RING_4 + RING_4 + 1, 4) * 4
        state, scores = "compress_state_pools.kv_score_buffer.kv_score", "kv_score"
        found: list[tuple[str, str, int | None, tuple[int, int], str, int]] = [
            ("swa_kv_pool.kv_buffer", "window_kv", None, (pages, page_bytes(self.page)), "int8", 1),
            ("kv_pools.kv_buffer", "compressed_kv", 4, (c4, page_bytes(self.page // 4)), "int8", 1),
            ("kv_pools.kv_buffer", "compressed_kv", 128, (c128, page_bytes(self.page // 128)), "int8", 1),
            ("index_pools.index_k_with_scale_buffer", "index_key", 4, (index, INDEX_PAGE * INDEX_BYTES),
             "int8", 1),
            (state, f"pending_{scores}", 4, (rows4, STATE_4), "float32", FLOAT),
            (state, f"pending_{scores}", 128, (self.state_rows_128(requests), STATE_128), "float32", FLOAT),
            (f"indexer_{state}", f"pending_index_{scores}", 4, (rows4, 4 * self.index_dim), "float32", FLOAT),
        ]  # fmt: skip
        return [row for row in found if self.count(row[2])]


def v4_pools(geometry: Geometry, stage: Stage, settings: Settings) -> V4Pools:
    """The pools of one stage.

    Raises: EngineRefusal for a page size or a width the pools do not know.
    """
    if settings.page != PAGE:
        raise EngineRefusal(
            "In paged swa mode, page_size must be 256.", fix="drop page_size", field="page_size", value=settings.page
        )
    if settings.kv != "fp8_e4m3":
        raise EngineRefusal(f"DeepSeek-V4's cache in {settings.kv} is not modelled for SGLang", fix="use fp8")
    attention = [item for row in geometry.layers for item in row.attention]
    widths = {item.key_dim or item.latent_dim for item in attention}
    if widths != {LATENT}:
        raise EngineRefusal(f"DSV4 KV layout: 448 + 64 elements, not {sorted(widths)}", fix="check the model file")
    index_dim = max(row.index_dim for row in geometry.layers)
    ratios = stage.ratios
    if any(ratio not in (0, 4, 128) for ratio in ratios):
        raise EngineRefusal("unsupported compression ratio: SGLang has 4 and 128", fix="check compress_ratios")
    return V4Pools(
        layers=len(ratios),
        csa=ratios.count(4),
        hca=ratios.count(128),
        index_dim=index_dim,
        settings=settings,
        window=next(item.window for item in attention if item.window is not None),
    )
