"""Random model documents made of every kind, for property tests of the core and of every engine.

`kind_documents()` walks `kinds_by_tag()`: a new kind without a builder here fails `test_every_kind_has_a_builder`.
Numbers are small and odd on purpose, so that windows saturate, heads do not divide and rounding shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from kvcalc.core.plan import Layout, Load
from kvcalc.document import model_from_document
from kvcalc.dtypes import DTYPES
from kvcalc.engines.base import CacheDtypes
from kvcalc.kinds import kinds_by_tag

Doc = dict[str, Any]
Draw = Callable[..., Any]

DIM = st.integers(1, 96)
SMALL = st.integers(1, 12)
TOKENS = st.integers(1, 5000)
#: Plain types from wide to narrow, and the ggml block types of 32 elements from wide to narrow.
PLAIN = ("float32", "bfloat16", "fp8_e4m3", "int4")
GGML = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")


def _heads(draw: Draw) -> tuple[int, int]:
    """(query heads, KV heads that divide them)."""
    groups = draw(SMALL)
    return groups * draw(st.integers(1, 6)), groups


def _maybe(draw: Draw, doc: Doc, key: str, values: st.SearchStrategy[Any]) -> None:
    if draw(st.booleans()):
        doc[key] = draw(values)


def _retention(draw: Draw, doc: Doc) -> None:
    axis = draw(st.sampled_from(["window", "full", "window", "chunk"]))
    if axis != "full":
        doc[axis] = draw(st.integers(1, 600))
    if axis == "window":
        _maybe(draw, doc, "sinks", st.integers(1, 5))


def _indexer(draw: Draw, doc: Doc) -> None:
    if draw(st.booleans()):
        doc["indexer"] = {"head_dim": draw(DIM), "heads": draw(SMALL), "tokens_per_slot": draw(SMALL)}
        if draw(st.booleans()):
            doc["indexer"]["shared"] = True


def _attention(draw: Draw, tag: str) -> Doc:
    heads, groups = _heads(draw)
    doc: Doc = {"kind": tag, "heads": heads, "head_dim": draw(DIM)}
    if tag == "gqa":
        doc["groups"] = groups
    if draw(st.booleans()):
        doc["tied_kv"] = True
    else:
        _maybe(draw, doc, "v_head_dim", DIM)
    _retention(draw, doc)
    _indexer(draw, doc)
    return doc


def _mla(draw: Draw, tag: str) -> Doc:
    doc: Doc = {"kind": tag, "heads": draw(SMALL), "latent_dim": draw(DIM), "rope_dim": draw(st.integers(0, 32))}
    _maybe(draw, doc, "nope_dim", DIM)
    _maybe(draw, doc, "v_head_dim", DIM)
    _retention(draw, doc)
    _indexer(draw, doc)
    return doc


def _compressed(draw: Draw, tag: str) -> Doc:
    doc: Doc = {"kind": tag, "heads": draw(SMALL), "head_dim": draw(DIM), "window": draw(st.integers(1, 300))}
    doc["tokens_per_slot"] = draw(st.integers(2, 40))
    if tag == "csa":
        doc["index_dim"] = draw(DIM)
    return doc


def _mamba1(draw: Draw, tag: str) -> Doc:
    return {"kind": tag, "inner_dim": draw(DIM), "state_dim": draw(DIM), "conv_kernel": draw(st.integers(2, 5))}


def _mamba2(draw: Draw, tag: str) -> Doc:
    heads, groups = _heads(draw)
    doc: Doc = {"kind": tag, "heads": heads, "groups": groups, "head_dim": draw(DIM), "state_dim": draw(DIM)}
    return doc | {"conv_kernel": draw(st.integers(2, 5))}


def _gated_deltanet(draw: Draw, tag: str) -> Doc:
    value_heads, key_heads = _heads(draw)
    doc: Doc = {"kind": tag, "key_heads": key_heads, "value_heads": value_heads, "key_dim": draw(DIM)}
    return doc | {"value_dim": draw(DIM), "conv_kernel": draw(st.integers(2, 5))}


def _kda(draw: Draw, tag: str) -> Doc:
    doc: Doc = {"kind": tag, "heads": draw(SMALL), "head_dim": draw(DIM), "conv_kernel": draw(st.integers(2, 5))}
    _maybe(draw, doc, "v_head_dim", DIM)
    return doc


def _lightning(draw: Draw, tag: str) -> Doc:
    return {"kind": tag, "heads": draw(SMALL), "head_dim": draw(DIM)}


def _rglru(draw: Draw, tag: str) -> Doc:
    doc: Doc = {"kind": tag, "width": draw(DIM), "conv_kernel": draw(st.integers(2, 5))}
    _maybe(draw, doc, "conv_dim", DIM)
    return doc


def _rwkv(draw: Draw, tag: str) -> Doc:
    if draw(st.booleans()):
        head_dim = draw(DIM)
        return {"kind": tag, "hidden_dim": head_dim * draw(SMALL), "head_dim": head_dim}
    doc: Doc = {"kind": tag, "hidden_dim": draw(DIM)}
    _maybe(draw, doc, "attention_dim", DIM)
    return doc


def _mlstm(draw: Draw, tag: str) -> Doc:
    return {"kind": tag, "heads": draw(SMALL), "key_dim": draw(DIM), "value_dim": draw(DIM)}


def _short_conv(draw: Draw, tag: str) -> Doc:
    return {"kind": tag, "dim": draw(DIM), "conv_kernel": draw(st.integers(2, 5))}


def _cross(draw: Draw, tag: str) -> Doc:
    heads, groups = _heads(draw)
    doc: Doc = {"kind": tag, "heads": heads, "head_dim": draw(DIM)}
    _maybe(draw, doc, "groups", st.just(groups))
    _maybe(draw, doc, "v_head_dim", DIM)
    return doc


def _shared(draw: Draw, tag: str) -> Doc:
    doc: Doc = {"kind": tag}
    _indexer(draw, doc)
    return doc


def _bare(draw: Draw, tag: str) -> Doc:  # one signature for all builders
    return {"kind": tag}


BUILDERS: dict[str, Callable[[Draw, str], Doc]] = {
    "mha": _attention,
    "mqa": _attention,
    "gqa": _attention,
    "mla": _mla,
    "csa": _compressed,
    "hca": _compressed,
    "mamba1": _mamba1,
    "mamba2": _mamba2,
    "gated_deltanet": _gated_deltanet,
    "kda": _kda,
    "lightning": _lightning,
    "mlstm": _mlstm,
    "rglru": _rglru,
    "rwkv": _rwkv,
    "short_conv": _short_conv,
    "cross": _cross,
    "shared": _shared,
    "none": _bare,
}


@st.composite
def kind_documents(draw: Draw, tags: tuple[str, ...] | None = None) -> Doc:
    """One block of a random kind (of `tags`, or of all there are)."""
    tag = draw(st.sampled_from(tags or tuple(kinds_by_tag())))
    return BUILDERS[tag](draw, tag)


@st.composite
def model_documents(draw: Draw, tags: tuple[str, ...] | None = None, max_blocks: int = 4, max_layers: int = 12) -> Doc:
    """A whole model: one unnamed block, or several with a pattern (some layers with two caches, some without)."""
    layers = draw(st.integers(1, max_layers))
    doc: Doc = {"name": "random", "layers": layers, "dtype": draw(st.sampled_from(["bfloat16", "float16", "float32"]))}
    if draw(st.integers(0, 3)) == 0:
        return doc | {"attention": draw(kind_documents(tags))}
    count = draw(st.integers(1, min(max_blocks, layers)))
    blocks = {f"block{index}": draw(kind_documents(tags)) for index in range(count)}
    own = [name for name, block in blocks.items() if block["kind"] != "shared"]
    for block in blocks.values():
        if block["kind"] == "shared" and own:
            _maybe(draw, block, "of", st.sampled_from(own))
    pattern: list[Any] = draw(st.permutations(list(blocks)))
    free = layers - len(pattern)
    extra = st.one_of(st.sampled_from([*blocks, "none"]), st.permutations(list(blocks)).map(list))
    pattern += draw(st.lists(extra, max_size=free))
    return doc | {"attention": blocks, "pattern": pattern}


@st.composite
def rich_documents(draw: Draw) -> Doc:
    """A model document with optional fields around the blocks: sources, weights, limits, checks, facts, MTP."""
    doc: Doc = draw(model_documents())
    word = st.sampled_from(["alpha", "beta-2", "gamma.3b"])
    number = st.integers(1, 10**12)
    _maybe(draw, doc, "aliases", st.lists(word, min_size=1, max_size=3))
    _maybe(draw, doc, "source", st.fixed_dictionaries({"repo": word, "file": st.just("config.json"), "note": word}))
    _maybe(draw, doc, "weights", st.fixed_dictionaries({"bytes": number, "source": word}))
    _maybe(draw, doc, "facts", st.dictionaries(word, number, min_size=1, max_size=3))
    _maybe(draw, doc, "notes", st.lists(word, min_size=1, max_size=2))
    check = {"context": number, "bytes": number, "published": word, "sessions": SMALL, "dtype": st.just("float32")}
    _maybe(draw, doc, "checks", st.lists(st.fixed_dictionaries(check), min_size=1, max_size=2))
    for key, most in (("parameters", 2**40), ("max_context", 2**40), ("hidden_size", 2**20), ("vocab_size", 2**20)):
        _maybe(draw, doc, key, st.integers(1, most))
    for key in ("cache_dtype", "state_dtype", "index_dtype"):
        _maybe(draw, doc, key, st.sampled_from(list(DTYPES)))
    if "kind" not in doc["attention"]:
        _maybe(draw, doc, "mtp", st.fixed_dictionaries({"layers": SMALL, "block": st.just("block0")}))
    return doc


def models(tags: tuple[str, ...] | None = None) -> st.SearchStrategy[Any]:
    """Random models, read from random documents."""
    return model_documents(tags).map(model_from_document)


def cache_dtypes(names: tuple[str, ...] = tuple(DTYPES)) -> st.SearchStrategy[CacheDtypes]:
    """A type per role, each drawn on its own."""
    one = st.sampled_from(names)
    return st.builds(CacheDtypes, key=one, value=one, index=one, pending=one, conv=one, state=one)


def same_dtype(name: str) -> CacheDtypes:
    """One type for every role."""
    return CacheDtypes(key=name, value=name, index=name, pending=name, conv=name, state=name)


def loads(max_tokens: int = 5000) -> st.SearchStrategy[Load]:
    """Contexts around the windows drawn above, few sessions, some encoder tokens."""
    return st.builds(Load, st.integers(1, max_tokens), st.integers(1, 9), st.integers(0, 300))


def layouts(max_stages: int = 1, max_tp: int = 8) -> st.SearchStrategy[Layout]:
    """Layouts of up to `max_tp` x `max_stages` x 4 ranks, without decode context parallelism."""
    stages = st.integers(1, max_stages)
    return st.builds(Layout, tp=st.integers(1, max_tp), pp=stages, dp=st.integers(1, 4), dcp=st.just(1))
