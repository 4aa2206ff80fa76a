"""What one layer keeps, without saying who allocates it.

A `Component` is one array: its role decides the dtype, its growth law how many slots a session of n tokens
fills, its parts how wide one slot is and how tensor parallelism divides it. Kinds produce components,
engines turn them into tensors; neither needs to know the other.

Named tuples; `rule` keeps laws with equal numbers apart (a tuple equals any tuple with the same items).
"""

from __future__ import annotations

from kvcalc.core.light import Literal, NamedTuple

Role = Literal["key", "value", "index", "pending", "conv", "state"]
#: heads: divided over TP ranks, a head is replicated once ranks outnumber heads (KV heads, SSM groups).
#: channels: divided, never replicated (state channels and state heads). replicated: whole on every rank (MLA latent).
Shard = Literal["heads", "channels", "replicated"]


class Linear(NamedTuple):
    """One slot per token."""

    rule: str = "linear"

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        return tokens

    def __str__(self) -> str:
        return "linear"


class Windowed(NamedTuple):
    """The last `window` tokens, after `sinks` first tokens that are never dropped.

    Source: Longformer (arXiv:2004.05150) section 3.1; Mistral 7B (arXiv:2310.06825) section 2;
    sinks: StreamingLLM (arXiv:2309.17453) section 3.2.
    """

    window: int
    sinks: int = 0
    rule: str = "windowed"

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        kept = self.window + self.sinks
        return min(kept, tokens)

    def __str__(self) -> str:
        return f"window {self.window:,}" + (f" + {self.sinks:,} sinks" if self.sinks else "")


class Chunked(NamedTuple):
    """The tokens of the current chunk: at most `chunk`.

    Source: Llama 4, `attention_chunk_size`; transformers 5.23 cache_utils.py:1423.
    """

    chunk: int
    rule: str = "chunked"

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        return min(self.chunk, tokens)

    def __str__(self) -> str:
        return f"chunk {self.chunk:,}"


class Strided(NamedTuple):
    """One slot per `tokens_per_slot` tokens; a slot exists once its last token has come.

    >>> [Strided(4).slots(n) for n in (3, 4, 7, 8)]
    [0, 1, 1, 2]
    """

    tokens_per_slot: int
    rule: str = "strided"

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        return tokens // self.tokens_per_slot

    def __str__(self) -> str:
        return f"1 slot per {self.tokens_per_slot:,} tokens"


class Remainder(NamedTuple):
    """Inputs of a `Strided` slot that is not complete yet: tokens mod `tokens_per_slot`, what is live.

    Not monotone: an engine that prices it decides between the live count and the reserve.
    """

    tokens_per_slot: int
    rule: str = "remainder"

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        return tokens % self.tokens_per_slot

    def __str__(self) -> str:
        return f"open group of {self.tokens_per_slot:,} tokens"


class Constant(NamedTuple):
    """A fixed number of slots per session, present from the first token."""

    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    rule: str = "constant"

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        return self.count

    def __str__(self) -> str:
        return "constant"


class Encoder(NamedTuple):
    """One slot per encoder token, whatever the decoder's length."""

    rule: str = "encoder"

    def slots(self, tokens: int, encoder_tokens: int = 0) -> int:
        return encoder_tokens

    def __str__(self) -> str:
        return "encoder tokens"


Law = Linear | Windowed | Chunked | Strided | Remainder | Constant | Encoder


def saturates_at(law: Law) -> int:
    """Tokens from which on the law adds slots at a constant rate (possibly none)."""
    if isinstance(law, Windowed):
        return law.window + law.sinks
    return law.chunk if isinstance(law, Chunked) else 0


def period_of(law: Law) -> int:
    """Tokens after which a constant rate has added a whole number of slots."""
    return law.tokens_per_slot if isinstance(law, Strided | Remainder) else 1


class Part(NamedTuple):
    """`units` neighbours of `width` elements inside one slot, and how TP divides the units."""

    units: int
    width: int
    shard: Shard

    def units_on_rank(self, rank: int, tp: int) -> int:
        """Units that TP rank `rank` of `tp` stores.

        Whole units only. More ranks than heads: every rank keeps one (replication). Units that do not
        divide go to the first ranks, one more each, so that nothing is left out.

        >>> [Part(8, 128, "heads").units_on_rank(r, 3) for r in range(3)]
        [3, 3, 2]
        >>> Part(2, 128, "heads").units_on_rank(7, 8), Part(1, 576, "replicated").units_on_rank(7, 8)
        (1, 1)
        """
        if self.shard == "replicated":
            return self.units
        share, extra = divmod(self.units, tp)
        if share == 0 and self.shard == "heads":
            return 1
        return share + (rank < extra)

    def divides(self, tp: int) -> bool:
        """Whether `tp` ranks hold equal shares (every engine asks for that)."""
        if self.shard == "replicated" or self.units % tp == 0:
            return True
        return self.shard == "heads" and tp % self.units == 0


class Component(NamedTuple):
    """One array that one layer keeps for one session.

    name: key, value, latent, rope_key, index_key, conv_state, ssm_state ...
    A slot is the concatenation of `parts`; a session of n tokens holds `law.slots(n)` slots.
    """

    name: str
    role: Role
    law: Law
    parts: tuple[Part, ...]

    @property
    def elements_per_slot(self) -> int:
        return sum(part.units * part.width for part in self.parts)


def heads_part(units: int, width: int) -> tuple[Part, ...]:
    """`units` KV heads of `width` elements."""
    return (Part(units, width, "heads"),)


def whole_part(width: int) -> tuple[Part, ...]:
    """One vector of `width` elements that every TP rank stores."""
    return (Part(1, width, "replicated"),)
