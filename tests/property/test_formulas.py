"""Each kind's bytes against the formula of its paper, written here from the document's own fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import kind_documents, same_dtype
from test_ideal import one_layer, planner

from kvcalc.core.plan import Load
from kvcalc.kinds import kinds_by_tag

Doc = dict[str, Any]


def _or(d: Doc, field: str, other: str) -> int:
    """An optional field that defaults to another one."""
    return int(d[field] if field in d else d[other])


def _kept(d: Doc, n: int) -> Any:
    """Tokens a layer still holds after n: a window keeps its sinks too."""
    if "window" in d:
        return min(n, d["window"] + d.get("sinks", 0))
    return min(n, d.get("chunk", n))


def _index(d: Doc, n: int) -> Any:
    """Indexer keys, one per complete group of tokens."""
    i = d.get("indexer")
    return 0 if not i or i.get("shared") else n // i["tokens_per_slot"] * i["heads"] * i["head_dim"]


def _heads(d: Doc, n: int) -> Any:
    heads = {"mha": d["heads"], "mqa": 1}.get(d["kind"]) or d["groups"]
    width = d["head_dim"] + (0 if d.get("tied_kv") else _or(d, "v_head_dim", "head_dim"))
    return _kept(d, n) * heads * width + _index(d, n)


def _compressed(d: Doc, n: int) -> Any:
    entries = n // d["tokens_per_slot"]
    return min(n, d["window"]) * d["head_dim"] + entries * (d["head_dim"] + d.get("index_dim", 0))


def _mamba2(d: Doc) -> Any:
    inner = d["heads"] * d["head_dim"]
    return (d["conv_kernel"] - 1) * (inner + 2 * d["groups"] * d["state_dim"]) + inner * d["state_dim"]


def _delta(d: Doc) -> Any:
    channels = 2 * d["key_heads"] * d["key_dim"] + d["value_heads"] * d["value_dim"]
    return (d["conv_kernel"] - 1) * channels + d["value_heads"] * d["key_dim"] * d["value_dim"]


def _kda(d: Doc) -> Any:
    value = _or(d, "v_head_dim", "head_dim")
    return d["heads"] * ((d["conv_kernel"] - 1) * (2 * d["head_dim"] + value) + d["head_dim"] * value)


def _rwkv(d: Doc) -> Any:
    state = d["hidden_dim"] * d["head_dim"] if "head_dim" in d else 3 * _or(d, "attention_dim", "hidden_dim")
    return 2 * int(d["hidden_dim"]) + state


#: Elements of one layer and one session after n tokens, with e encoder tokens.
FORMULAS: dict[str, Callable[[Doc, int, int], Any]] = {
    "mha": lambda d, n, e: _heads(d, n),
    "mqa": lambda d, n, e: _heads(d, n),
    "gqa": lambda d, n, e: _heads(d, n),
    "mla": lambda d, n, e: _kept(d, n) * (d["latent_dim"] + d["rope_dim"]) + _index(d, n),
    "csa": lambda d, n, e: _compressed(d, n),
    "hca": lambda d, n, e: _compressed(d, n),
    "mamba1": lambda d, n, e: d["inner_dim"] * (d["conv_kernel"] - 1 + d["state_dim"]),
    "mamba2": lambda d, n, e: _mamba2(d),
    "gated_deltanet": lambda d, n, e: _delta(d),
    "kda": lambda d, n, e: _kda(d),
    "lightning": lambda d, n, e: d["heads"] * d["head_dim"] ** 2,
    "mlstm": lambda d, n, e: d["heads"] * (d["key_dim"] * d["value_dim"] + d["key_dim"] + 1),
    "rglru": lambda d, n, e: d["width"] + (d["conv_kernel"] - 1) * _or(d, "conv_dim", "width"),
    "rwkv": lambda d, n, e: _rwkv(d),
    "short_conv": lambda d, n, e: d["dim"] * (d["conv_kernel"] - 1),
    "cross": lambda d, n, e: e * _or(d, "groups", "heads") * (d["head_dim"] + _or(d, "v_head_dim", "head_dim")),
    "shared": lambda d, n, e: _index(d, n),
    "none": lambda d, n, e: 0,
}  # fmt: skip


@pytest.mark.parametrize("tag", list(kinds_by_tag()))
def test_bytes_follow_the_formula(tag: str) -> None:
    """One layer of each kind takes its formula's elements x element bytes x sessions."""

    @settings(max_examples=100)
    @given(
        kind_documents((tag,)),
        st.one_of(st.integers(1, 40), st.integers(601, 3000)),
        st.integers(1, 5),
        st.integers(0, 200),
        st.sampled_from([1, 2, 4]),
    )
    def holds(block: Doc, tokens: int, sessions: int, encoder_tokens: int, element_bytes: int) -> None:
        dtypes = same_dtype({1: "fp8_e4m3", 2: "bfloat16", 4: "float32"}[element_bytes])
        plan = planner(one_layer(block), dtypes=dtypes).plan(Load(tokens, sessions, encoder_tokens))
        assert plan.total_bytes == sessions * element_bytes * FORMULAS[tag](block, tokens, encoder_tokens)

    holds()
