"""What transformers keeps for one component: how many slots, of what type. The rules that hold for every architecture.

A slab is one tensor per layer and session. Slots are counted in tokens whose K and V are in the cache: after
generating T tokens from a prompt of P that is P + T - 1, because the last token is never fed back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal

from kvcalc.core.component import Chunked, Component, Constant, Law, Linear, Windowed, period_of, saturates_at
from kvcalc.core.model import Kind, Model
from kvcalc.dtypes import DTYPES

CacheClass = Literal["dynamic", "static", "fp8"]
View = Literal["logical", "resident", "prefill"]


@dataclass(frozen=True, slots=True)
class Offset:
    """`extra` slots before the first token, then one per token."""

    extra: int

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        return tokens + self.extra

    def __str__(self) -> str:
        return f"linear + {self.extra:,}"


@dataclass(frozen=True, slots=True)
class OpenGroup:
    """The storage of an open group after a decode step: 1 to `size` tokens, because the closing token stays in it."""

    size: int

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        return (tokens - 1) % self.size + 1

    def __str__(self) -> str:
        return f"storage of the open group of {self.size:,} tokens"


@dataclass(frozen=True, slots=True)
class ClosedGroup:
    """The last closed group of `size` tokens, once there is one."""

    size: int

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        return self.size if tokens >= self.size else 0

    def __str__(self) -> str:
        return f"last closed group of {self.size:,} tokens"


SlabLaw = Law | Offset | OpenGroup | ClosedGroup


def period(law: SlabLaw) -> int:
    """Tokens after which a constant rate has added a whole number of slots."""
    if isinstance(law, OpenGroup):
        return law.size
    return 1 if isinstance(law, Offset | ClosedGroup) else period_of(law)


def saturation(law: SlabLaw) -> int:
    """Tokens from which on the law adds slots at a constant rate."""
    if isinstance(law, ClosedGroup):
        return law.size
    return 0 if isinstance(law, Offset | OpenGroup) else saturates_at(law)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slab:
    """One tensor: `law.slots` x `widths` elements of `dtype`.

    per_session False: one for the whole batch (the scales of a quantised layer).
    """

    name: str
    law: SlabLaw
    widths: tuple[int, ...]
    dtype: str
    per_session: bool = True

    @property
    def slot_bytes(self) -> int:
        return prod(self.widths) * DTYPES[self.dtype].row_bytes(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cached:
    """The cache class a model is run with. dtype: of the weights and so of keys and values."""

    model: Model
    dtype: str
    cache: CacheClass
    view: View


#: An architecture's own rule: the slabs of one component of one block, None where the general rules hold.
Rule = Callable[[Component, Kind, Cached], "list[Slab] | None"]


def slab(component: Component, run: Cached) -> Slab:
    """The general rules.

    Source: transformers 5.23 cache_utils.py: DynamicLayer (104-138), DynamicSlidingWindowLayer (196-259),
    StaticSlidingWindowLayer (525-527), LinearAttentionLayer (1160-1232).
    """
    widths = tuple(part.units * part.width for part in component.parts)
    elements = (component.parts[0].units, component.parts[0].width) if len(widths) == 1 else (sum(widths),)
    # LinearAttentionLayer keeps the type of the first state it is given, and every kernel hands back float32
    dtype = "float32" if component.role == "state" else run.dtype
    return Slab(name=component.name, law=law_of(component, run), widths=elements, dtype=dtype)


def law_of(component: Component, run: Cached) -> SlabLaw:
    """The growth law under the cache class and the view."""
    law = component.law
    if component.role == "conv" and isinstance(law, Constant):
        # the newest input is stored too: conv_states[..., -kernel:], one more than a convolution needs
        return Constant(law.count + 1)
    if isinstance(law, Windowed | Chunked):
        size = law.window + law.sinks if isinstance(law, Windowed) else law.chunk
        return window_law(size, run)
    return law


def window_law(size: int, run: Cached) -> SlabLaw:
    """A window of `size` tokens, the current one included. Chunks are cached as windows, never reset at a border."""
    if run.cache == "static":
        return Windowed(size)
    if size == 1 and run.view != "resident":
        return Linear()  # keys[..., -1 + 1:, :] is everything: a window of one is never cut
    if run.view == "logical":
        return Windowed(size - 1)  # the current token joins at attention time: keys[..., -window + 1:, :]
    if run.view == "prefill" or size == 1:
        return Linear()  # the window is a view: the whole prompt's storage stays until the next update
    return Windowed(size)  # after a decode step the storage holds the new token beside the window - 1 old ones
