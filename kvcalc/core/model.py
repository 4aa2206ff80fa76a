"""A model as the calculator sees it: which cache kinds each layer has, and the facts around them. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from kvcalc.core.component import Component
from kvcalc.core.light import Protocol, Record

NO_FACTS: Mapping[str, int | float | str | bool] = MappingProxyType({})


class Kind(Protocol):
    """How one layer keeps its past. Implementations are the records of `kvcalc.kinds`."""

    @property
    def kind(self) -> str:
        """The tag in the YAML: `gqa`, `mla`, `mamba2` ..."""

    def lower(self) -> tuple[Component, ...]:
        """The arrays one layer of this kind keeps for one session."""

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        """(K, V) elements per token of the layer's own MHA form: every query head, its own head dims.

        (0, 0) where the layer has no attention heads; None where the file does not say enough.
        blocks: all blocks of the model, for a layer that reads another one's cache.
        """


class Source(Record):
    """Where the numbers of a model file were read."""

    repo: str | None = None
    revision: str | None = None
    file: str | None = None
    url: str | None = None
    date: str | None = None
    via: str | None = None
    note: str | None = None


class Weights(Record):
    """Weight bytes of the checkpoint, or the type (nearly) all parameters are stored in.

    rounded: `bytes` was read from a rounded figure ("51.1 GiB"), so what is computed from it is an estimate.
    """

    dtype: str | None = None
    bytes: int | None = None
    source: str | None = None
    rounded: bool = False


class Check(Record):
    """A published figure that this file reproduces; a test runs every one."""

    context: int
    bytes: int
    published: str
    sessions: int = 1
    dtype: str | None = None
    engine: str = "ideal"


class Mtp(Record):
    """Multi-token-prediction layers of the checkpoint: cached only where an engine speculates with them.

    Each of `layers` extra layers has the cache of block `block`.
    """

    layers: int
    block: str


class Model(Record):
    """Layers with their cache kinds, plus weights, limits and provenance.

    layers: for each layer the names of its blocks (two names: the layer has two caches);
    blocks: name -> kind. Dtypes are names of `kvcalc.dtypes`.
    architecture: the config's `model_type`; facts: further config keys that some engine's rule asks for,
    under their config.json names. Neither changes the `ideal` cache.
    """

    name: str
    layers: tuple[tuple[str, ...], ...]
    blocks: Mapping[str, Kind]
    dtype: str
    cache_dtype: str | None = None
    state_dtype: str | None = None
    index_dtype: str | None = None
    architecture: str | None = None
    parameters: int | None = None
    weights: Weights | None = None
    max_context: int | None = None
    hidden_size: int | None = None
    vocab_size: int | None = None
    mtp: Mtp | None = None
    facts: Mapping[str, int | float | str | bool] = NO_FACTS
    source: Source = Source()
    aliases: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()

    def stage_blocks(self, start: int, stop: int) -> dict[str, tuple[int, ...]]:
        """Block name -> indices of the layers in [start, stop) that have it, in order of first use."""
        found: dict[str, list[int]] = {}
        for index in range(start, stop):
            for name in self.layers[index]:
                found.setdefault(name, []).append(index)
        return {name: tuple(indices) for name, indices in found.items()}

    def kinds_summary(self) -> dict[str, int]:
        """Kind tag -> number of layers that have it, for display."""
        counts: dict[str, int] = {}
        for name, indices in self.stage_blocks(0, len(self.layers)).items():
            tag = self.blocks[name].kind
            counts[tag] = counts.get(tag, 0) + len(indices)
        return counts

    def mha_bytes_per_token(self, key_bytes: int, value_bytes: int) -> int | None:
        """Bytes per token if every attention layer kept K and V for every query head, full length.

        `key_bytes`, `value_bytes`: bytes per element. None where a block does not say its head dims.
        """
        total = 0
        for name, indices in self.stage_blocks(0, len(self.layers)).items():
            widths = self.blocks[name].mha_widths(self.blocks)
            if widths is None:
                return None
            total += len(indices) * (widths[0] * key_bytes + widths[1] * value_bytes)
        return total
