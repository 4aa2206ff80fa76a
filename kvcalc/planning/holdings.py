"""What one session holds while it runs, in the engine's own units, and how many units a pool has.

`decode(n)`: at n token slots; `admit(n)`: in the step that takes the whole prompt of n tokens. A shared prompt is held
once: `shared(h, n)` is what a session at n tokens does not pay for, `shared_once(h)` what all pay together.

Source: vLLM 0.33 v1/core/single_type_kv_cache_manager.py (blocks freed one step after they leave a window),
v1/core/kv_cache_manager.py (prefix caching per group).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from kvcalc.core.capacity import last_that_fits
from kvcalc.core.plan import Load, Planner, beyond
from kvcalc.units import MAX_TOKENS, ceil_div

if TYPE_CHECKING:
    from kvcalc.engines.vllm.planner import VllmPlanner
    from kvcalc.engines.vllm.spec import Spec

#: Points between which bytes are interpolated where an engine has no blocks of its own.
_GRID = 512


class Holdings(Protocol):
    """See the module. unit_bytes: of the fullest GPU; paged: units are blocks the engine counts itself."""

    @property
    def unit_bytes(self) -> int: ...
    @property
    def paged(self) -> bool: ...

    def decode(self, tokens: int) -> int: ...
    def admit(self, tokens: int) -> int: ...
    def shared(self, prefix: int, tokens: int) -> int: ...
    def shared_once(self, prefix: int) -> int: ...
    def capacity(self, pool_bytes: int) -> int: ...


class Group(NamedTuple):
    """Layers with one block table. kind: full, sliding or state; window: of sliding layers; equal: such groups."""

    kind: str
    block_tokens: int
    window: int = 0
    equal: int = 1

    def decode(self, tokens: int) -> int:
        if self.kind == "state":
            return self.equal
        gone = max(0, tokens - self.window) // self.block_tokens if self.kind == "sliding" else 0
        return self.equal * (ceil_div(tokens, self.block_tokens) - gone)

    def admit(self, tokens: int) -> int:
        """The whole prompt: what leaves a window is freed one step later."""
        return self.equal * (1 if self.kind == "state" else ceil_div(tokens, self.block_tokens))

    def shared(self, prefix: int, tokens: int) -> int:
        """Whole blocks of the prefix that are still held; a state belongs to one session."""
        if self.kind == "state":
            return 0
        gone = max(0, tokens - self.window) // self.block_tokens if self.kind == "sliding" else 0
        return self.equal * max(prefix // self.block_tokens - gone, 0)


class BlockHoldings:
    """Groups that draw blocks from one pool. null_blocks: never usable."""

    paged = True

    def __init__(
        self, groups: tuple[Group, ...], unit_bytes: int, *, null_blocks: int = 1, override: int | None = None
    ) -> None:
        self.groups = groups
        self.unit_bytes = unit_bytes
        self._null = null_blocks
        self._override = override

    def decode(self, tokens: int) -> int:
        return sum(group.decode(tokens) for group in self.groups)

    def admit(self, tokens: int) -> int:
        return sum(group.admit(tokens) for group in self.groups)

    def shared(self, prefix: int, tokens: int) -> int:
        return sum(group.shared(prefix, tokens) for group in self.groups)

    def shared_once(self, prefix: int) -> int:
        return sum(group.shared(prefix, prefix) for group in self.groups)

    def capacity(self, pool_bytes: int) -> int:
        blocks = pool_bytes // self.unit_bytes if self._override is None else self._override
        return max(blocks - self._null, 0)


class VllmHoldings(BlockHoldings):
    """A prepared vLLM planner: its groups, and the stage whose blocks are the largest."""

    def __init__(self, planner: VllmPlanner) -> None:
        self._planner = planner
        unit = max((stage.pool_bytes for stage in planner.built.stages), default=1)
        super().__init__((), max(unit, 1), override=planner.override_blocks)

    def decode(self, tokens: int) -> int:
        return sum(self._planner.steady_blocks(max(tokens, 1)))

    def admit(self, tokens: int) -> int:
        total = 0
        for specs, steady in zip(self._planner.counters, self._planner.steady_blocks(max(tokens, 1)), strict=True):
            windowed = [spec for spec in specs if spec.kind in ("sliding", "sliding_mla")]
            whole = max((ceil_div(tokens, spec.block_tokens) for spec in windowed), default=0)
            total += max(whole, steady)
        return total

    def shared(self, prefix: int, tokens: int) -> int:
        if not self._planner.settings.prefix_caching:
            return 0
        return sum(self._shared(specs, prefix, tokens) for specs in self._planner.counters)

    def _shared(self, specs: tuple[Spec, ...], prefix: int, tokens: int) -> int:
        """Of one group: the least that any of its formats keeps of the prefix."""
        found = []
        for spec in specs:
            if spec.kind in ("mamba", "cross", "chunked"):
                return 0
            width = spec.block_tokens * (self._planner.settings.layout.dcp if spec.growing and spec.dcp_sharded else 1)
            gone = max(0, tokens - spec.span) // width if spec.kind in ("sliding", "sliding_mla") else 0
            found.append(max(prefix // width - gone, 0))
        return min(found, default=0)

    def shared_once(self, prefix: int) -> int:
        return self.shared(prefix, prefix)


class ByteHoldings:
    """Any planner: bytes of one session on the fullest GPU, interpolated between points up to `longest` tokens."""

    paged = False
    unit_bytes = 1

    def __init__(self, planner: Planner, *, longest: int, encoder_tokens: int = 0, shares_prefix: bool = True) -> None:
        self._planner = planner
        self._encoder = encoder_tokens
        self._shares = shares_prefix
        # What two sessions take beside the first is a session; the rest (placeholders, tables) is there once.
        self._once = 2 * self._bytes(1, 1) - self._bytes(1, 2)
        self._step = max(ceil_div(longest, _GRID), 1)
        self._points: dict[int, int] = {}
        # A pool that an option fixes holds what one session of its length takes, however much memory there is.
        fixed = last_that_fits(lambda tokens: beyond(planner, Load(tokens)) is not None, 0, MAX_TOKENS)
        self._most = None if fixed is None else self._bytes(fixed, 1) if fixed else 0

    def _bytes(self, tokens: int, sessions: int) -> int:
        return self._planner.plan(Load(max(tokens, 1), sessions, self._encoder)).max_rank_bytes

    def _point(self, index: int) -> int:
        if index not in self._points:
            self._points[index] = self._bytes(index * self._step, 1) - self._once
        return self._points[index]

    def decode(self, tokens: int) -> int:
        index, rest = divmod(tokens, self._step)
        here = self._point(index)
        return here if not rest else here + (self._point(index + 1) - here) * rest // self._step

    def admit(self, tokens: int) -> int:
        return self.decode(tokens)

    def shared(self, prefix: int, tokens: int) -> int:
        """What a session of the prefix alone grows by: its fixed part stays its own."""
        if not self._shares or not prefix:
            return 0
        return max(self.decode(min(prefix, tokens)) - self.decode(0), 0)

    def shared_once(self, prefix: int) -> int:
        return self.shared(prefix, prefix)

    def capacity(self, pool_bytes: int) -> int:
        usable = pool_bytes if self._most is None else min(pool_bytes, self._most)
        return max(usable - self._once, 0)


class SlotHoldings:
    """Every session has a slot for the longest one, whatever it holds (llama.cpp's slots)."""

    paged = False
    unit_bytes = 1

    def __init__(self, bytes_per_slot: int, once: int = 0) -> None:
        self._slot = bytes_per_slot
        self._once = once

    def decode(self, tokens: int) -> int:
        return self._slot

    admit = decode

    def shared(self, prefix: int, tokens: int) -> int:
        return 0

    def shared_once(self, prefix: int) -> int:
        return 0

    def capacity(self, pool_bytes: int) -> int:
        return max(pool_bytes - self._once, 0)
