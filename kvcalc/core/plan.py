"""The one list everything downstream reads: the tensors each rank allocates.

Sums, the inverse, the ledger, tables, JSON and the measurement all take a `CachePlan`; there is no second
formula. A planner is prepared once per (model, engine, layout, dtypes, options) and then answers any load.
"""

from __future__ import annotations

from kvcalc.core.light import NamedTuple, Protocol


class Load(NamedTuple):
    """What the cache must hold: `sessions` sessions of `context_tokens` tokens each."""

    context_tokens: int
    sessions: int = 1
    encoder_tokens: int = 0


class Layout(NamedTuple):
    """How the model is divided: tensor, pipeline, data and decode-context parallel degrees."""

    tp: int = 1
    pp: int = 1
    dp: int = 1
    dcp: int = 1

    @property
    def ranks(self) -> int:
        return self.tp * self.pp * self.dp

    def rank(self, dp: int, pp: int, tp: int) -> int:
        """Global rank, TP innermost, then PP, then DP."""
        return (dp * self.pp + pp) * self.tp + tp


class Tensor(NamedTuple):
    """`count` equal tensors (one per layer, unless the engine merges layers); `bytes` is all of them.

    shape: of one tensor, in elements of `dtype` (block formats: elements before packing).
    """

    name: str
    kind: str
    block: str
    law: str
    layers: tuple[int, ...]
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    slots: int
    shape: tuple[int, ...]
    dtype: str
    bytes: int


class RankPlan(NamedTuple):
    """The tensors that each of `ranks` (global rank numbers) allocates.

    uncharged: bytes among them that the engine does not take from its pool (padding, tables); negative where it
    sets more aside than it allocates. What has to fit in the pool is `bytes - uncharged`.
    """

    ranks: tuple[int, ...]
    tensors: list[Tensor]
    bytes: int
    uncharged: int = 0

    @property
    def charged_bytes(self) -> int:
        """What the engine's pool must have for these tensors."""
        return self.bytes - self.uncharged


class CachePlan(NamedTuple):
    """Every rank's tensors. Ranks with equal tensors share one `RankPlan`.

    host: what an engine keeps in the host's memory instead (layers that are not offloaded); no rank pays for it.
    """

    ranks: list[RankPlan]
    host: RankPlan | None = None

    @property
    def total_bytes(self) -> int:
        """All ranks and the host together."""
        total = sum(len(plan.ranks) * plan.bytes for plan in self.ranks)
        return total if self.host is None else total + self.host.bytes

    @property
    def max_rank_bytes(self) -> int:
        """The fullest rank, as its pool is charged: it decides what fits."""
        ranks = self.ranks
        return ranks[0].charged_bytes if len(ranks) == 1 else max(plan.charged_bytes for plan in ranks)

    def by_rank(self) -> dict[int, int]:
        """Global rank -> bytes, in rank order."""
        return dict(sorted((rank, plan.bytes) for plan in self.ranks for rank in plan.ranks))


def beyond(planner: Planner, load: Load) -> str | None:
    """Why options that fix the size of the engine's pool do not serve the load; None where they do, or fix nothing.

    Not a refusal: the engine starts, and a smaller load is served. Planners with such options say it in `beyond`.
    """
    said = getattr(planner, "beyond", None)
    return None if said is None else said(load)


class Planner(Protocol):
    """One engine's allocation of one model, ready for any load.

    saturation_tokens: from here on bytes grow by the same amount every `period_tokens` tokens.
    """

    @property
    def exactness(self) -> str: ...
    @property
    def assumptions(self) -> tuple[str, ...]: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def period_tokens(self) -> int: ...
    @property
    def saturation_tokens(self) -> int: ...

    def plan(self, load: Load) -> CachePlan:
        """The tensors of every rank for this load.

        Raises: EngineRefusal for more sessions than the engine serves, or a context too short for it.
        """

    def report(self, load: Load, pool_bytes: int | None = None) -> dict[str, object]:
        """The engine's own numbers under the engine's own names; empty where it prints none.

        pool_bytes: KV memory per GPU, for the numbers that need it.
        """
