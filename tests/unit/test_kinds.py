"""What each kind stores, array by array, and which numbers it refuses.

Shapes are the papers' and the modelling code's, as the docstring of each kind cites them; figures are small enough to
check by hand: a part is (units, elements each, how tensor parallelism divides the units).
"""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.errors import ModelFileError
from kvcalc.kinds import kind_class
from kvcalc.kinds._check import MAX_DIM, MAX_WINDOW, need_divides, need_int, need_optional_int
from kvcalc.kinds.indexer import Indexer

Stored = list[tuple[str, str, str | int, list[tuple[int, int, str]]]]

#: tag, fields, arrays (name, role, law, parts), (K, V) widths as MHA.
ROWS: list[tuple[str, dict[str, Any], Stored, tuple[int, int] | None]] = [
    (
        "mha",
        {"heads": 6, "head_dim": 10},
        [("key", "key", "linear", [(6, 10, "heads")]), ("value", "value", "linear", [(6, 10, "heads")])],
        (60, 60),
    ),
    (
        "mqa",
        {"heads": 6, "head_dim": 10, "v_head_dim": 7, "chunk": 9},
        [("key", "key", "chunk 9", [(1, 10, "heads")]), ("value", "value", "chunk 9", [(1, 7, "heads")])],
        (60, 42),
    ),
    (
        "gqa",
        {"heads": 6, "head_dim": 10, "groups": 3, "window": 8, "sinks": 2, "indexer": {"head_dim": 5, "heads": 4}},
        [
            ("key", "key", "window 8 + 2 sinks", [(3, 10, "heads")]),
            ("value", "value", "window 8 + 2 sinks", [(3, 10, "heads")]),
            ("index_key", "index", "linear", [(1, 20, "replicated")]),
        ],
        (60, 60),
    ),
    (
        "gqa",
        {"heads": 6, "head_dim": 10, "groups": 3, "tied_kv": True, "indexer": {"head_dim": 5, "shared": True}},
        [("key", "key", "linear", [(3, 10, "heads")])],
        (60, 60),
    ),
    (
        "mla",
        {"heads": 6, "latent_dim": 12, "rope_dim": 4, "nope_dim": 10, "v_head_dim": 7, "window": 8},
        [
            ("latent", "key", "window 8", [(1, 12, "replicated")]),
            ("rope_key", "key", "window 8", [(1, 4, "replicated")]),
        ],
        (84, 42),  # 6 x (10 + 4), 6 x 7
    ),
    (
        "mla",
        {"heads": 6, "latent_dim": 12, "rope_dim": 0, "v_head_dim": 7,
         "indexer": {"head_dim": 5, "tokens_per_slot": 4}},
        [
            ("latent", "key", "linear", [(1, 12, "replicated")]),
            ("index_key", "index", "1 slot per 4 tokens", [(1, 5, "replicated")]),
        ],
        None,
    ),
    ("mla", {"heads": 6, "latent_dim": 12, "rope_dim": 0, "nope_dim": 0},
     [("latent", "key", "linear", [(1, 12, "replicated")])], None),
    (
        # csa projects each token for two neighbouring groups: the open group is 2 x (head_dim + index_dim) wide.
        "csa",
        {"heads": 6, "head_dim": 10, "tokens_per_slot": 4, "window": 8, "index_dim": 3},
        [
            ("window_kv", "key", "window 8", [(1, 10, "replicated")]),
            ("compressed_kv", "key", "1 slot per 4 tokens", [(1, 10, "replicated")]),
            ("index_key", "index", "1 slot per 4 tokens", [(1, 3, "replicated")]),
            ("pending_kv", "pending", "open group of 4 tokens", [(1, 26, "replicated")]),
            ("pending_gate", "pending", "open group of 4 tokens", [(1, 26, "replicated")]),
        ],
        (60, 60),
    ),
    (
        "hca",
        {"heads": 6, "head_dim": 10, "tokens_per_slot": 128, "window": 8},
        [
            ("window_kv", "key", "window 8", [(1, 10, "replicated")]),
            ("compressed_kv", "key", "1 slot per 128 tokens", [(1, 10, "replicated")]),
            ("pending_kv", "pending", "open group of 128 tokens", [(1, 10, "replicated")]),
            ("pending_gate", "pending", "open group of 128 tokens", [(1, 10, "replicated")]),
        ],
        (60, 60),
    ),
    (
        "mamba1",
        {"inner_dim": 12, "state_dim": 5, "conv_kernel": 4},
        [("conv_state", "conv", 3, [(12, 1, "channels")]), ("ssm_state", "state", 1, [(12, 5, "channels")])],
        (0, 0),
    ),
    (
        # The convolution runs over x, B and C: 6 x 10 + 2 x 3 x 5 channels; one 10 x 5 matrix per head.
        "mamba2",
        {"heads": 6, "head_dim": 10, "state_dim": 5, "groups": 3, "conv_kernel": 4},
        [
            ("conv_state", "conv", 3, [(6, 10, "channels"), (3, 10, "heads")]),
            ("ssm_state", "state", 1, [(6, 50, "channels")]),
        ],
        (0, 0),
    ),
    (
        # Queries and keys of 3 heads x 10, values of 6 heads x 7.
        "gated_deltanet",
        {"key_heads": 3, "value_heads": 6, "key_dim": 10, "value_dim": 7, "conv_kernel": 4},
        [
            ("conv_state", "conv", 3, [(3, 20, "channels"), (6, 7, "channels")]),
            ("recurrent_state", "state", 1, [(6, 70, "channels")]),
        ],
        (0, 0),
    ),
    (
        "kda",
        {"heads": 6, "head_dim": 10, "conv_kernel": 4, "v_head_dim": 7},
        [
            ("conv_state", "conv", 3, [(6, 27, "channels")]),
            ("recurrent_state", "state", 1, [(6, 70, "channels")]),
        ],
        (0, 0),
    ),
    (
        "kda",
        {"heads": 6, "head_dim": 10, "conv_kernel": 2},
        [
            ("conv_state", "conv", 1, [(6, 30, "channels")]),
            ("recurrent_state", "state", 1, [(6, 100, "channels")]),
        ],
        (0, 0),
    ),
    ("lightning", {"heads": 6, "head_dim": 10}, [("recurrent_state", "state", 1, [(6, 100, "channels")])], (0, 0)),
    (
        "mlstm",
        {"heads": 6, "key_dim": 10, "value_dim": 7},
        [
            ("matrix_state", "state", 1, [(6, 70, "channels")]),
            ("normaliser_state", "state", 1, [(6, 10, "channels")]),
            ("max_state", "state", 1, [(6, 1, "channels")]),
        ],
        (0, 0),
    ),
    (
        "rglru",
        {"width": 12, "conv_kernel": 4},
        [("lru_conv_state", "conv", 3, [(12, 1, "channels")]), ("lru_state", "state", 1, [(12, 1, "channels")])],
        (0, 0),
    ),
    (
        "rglru",
        {"width": 12, "conv_kernel": 4, "conv_dim": 14},
        [("lru_conv_state", "conv", 3, [(14, 1, "channels")]), ("lru_state", "state", 1, [(12, 1, "channels")])],
        (0, 0),
    ),
    (
        "rwkv",
        {"hidden_dim": 12, "head_dim": 4},
        [("shift_state", "conv", 2, [(1, 12, "replicated")]), ("wkv_state", "state", 1, [(3, 16, "channels")])],
        (0, 0),
    ),
    (
        # RWKV-4: numerator, denominator and running maximum of each channel.
        "rwkv",
        {"hidden_dim": 12, "shifts": 1},
        [("shift_state", "conv", 1, [(1, 12, "replicated")]), ("wkv_state", "state", 1, [(12, 3, "channels")])],
        (0, 0),
    ),
    (
        "rwkv",
        {"hidden_dim": 12, "attention_dim": 8},
        [("shift_state", "conv", 2, [(1, 12, "replicated")]), ("wkv_state", "state", 1, [(8, 3, "channels")])],
        (0, 0),
    ),
    ("short_conv", {"dim": 12, "conv_kernel": 3}, [("conv_state", "conv", 2, [(12, 1, "channels")])], (0, 0)),
    (
        "cross",
        {"heads": 6, "head_dim": 10, "groups": 3, "v_head_dim": 7},
        [
            ("cross_key", "key", "encoder tokens", [(3, 10, "heads")]),
            ("cross_value", "value", "encoder tokens", [(3, 7, "heads")]),
        ],
        (0, 0),
    ),
    (
        "cross",
        {"heads": 6, "head_dim": 10},
        [
            ("cross_key", "key", "encoder tokens", [(6, 10, "heads")]),
            ("cross_value", "value", "encoder tokens", [(6, 10, "heads")]),
        ],
        (0, 0),
    ),
    ("shared", {"indexer": {"head_dim": 5}}, [("index_key", "index", "linear", [(1, 5, "replicated")])], None),
    ("shared", {"of": "missing"}, [], None),
    ("none", {}, [], (0, 0)),
]  # fmt: skip


def build(tag: str, fields: dict[str, Any]) -> Any:
    made = {name: Indexer(**value) if name == "indexer" else value for name, value in fields.items()}
    cls: Any = kind_class(tag)
    return cls(kind=tag, **made)


@pytest.mark.parametrize(("tag", "fields", "stored", "widths"), ROWS)
def test_what_a_kind_stores(
    tag: str, fields: dict[str, Any], stored: list[Any], widths: tuple[int, int] | None
) -> None:
    """Every array with its name, role, growth law and parts; and the widths the layer would have as MHA."""
    kind = build(tag, fields)
    found = [
        (part.name, part.role, part.law.count if part.law.rule == "constant" else str(part.law),
         [tuple(piece) for piece in part.parts])
        for part in kind.lower()
    ]  # fmt: skip
    assert found == stored
    assert kind.mha_widths({}) == widths


def test_a_shared_cache_is_compared_as_what_it_reads() -> None:
    """Its MHA form is that of the block it names; a block that itself shares has none."""
    heads = build("mha", {"heads": 6, "head_dim": 10})
    shared = build("shared", {"of": "first"})
    assert shared.mha_widths({"first": heads}) == (60, 60)
    assert shared.mha_widths({"first": shared}) is None
    assert build("shared", {}).mha_widths({"first": heads}) is None


#: Smallest value of a field, where it is not 1; and the largest, where it is not 2**20.
LEAST = {"conv_kernel": 2, "rope_dim": 0, "nope_dim": 0, "sinks": 0}
MOST = {"window": 2**40, "chunk": 2**40, "sinks": 2**40, "shifts": 2}
#: Fields that a row of ROWS leaves out.
MORE = {"mla": {"sinks": 0}, "mqa": {"groups": 1}, "rwkv": {"head_dim": 4, "attention_dim": 8}}


def numbers() -> list[tuple[str, dict[str, Any], str]]:
    """Every whole number of every kind once: tag, all fields, the field."""
    found: dict[tuple[str, str], tuple[str, dict[str, Any], str]] = {}
    for tag, fields, _, _ in ROWS:
        whole = MORE.get(tag, {}) | fields
        for name, value in whole.items():
            if type(value) is int:
                found.setdefault((tag, name), (tag, whole, name))
    return list(found.values())


@pytest.mark.parametrize(("tag", "fields", "name"), numbers(), ids=lambda value: value if type(value) is str else "")
def test_impossible_numbers_are_refused(tag: str, fields: dict[str, Any], name: str) -> None:
    """Below the least, above the most, a fraction, a text, true: refused, naming the field."""
    least = 2 if (tag in ("csa", "hca") and name == "tokens_per_slot") else LEAST.get(name, 1)
    for wrong in (least - 1, MOST.get(name, MAX_DIM) + 1, 8.0, "8", True):
        with pytest.raises(ModelFileError) as refused:
            build(tag, fields | {name: wrong})
        assert refused.value.field == name
        assert refused.value.fix


def test_the_ends_of_the_ranges_are_allowed() -> None:
    """1 and 2**20, 0 where it means none, and two tokens a slot where tokens are compressed."""
    assert (need_int("a", 1), need_int("a", 2**20), need_int("a", 5, most=5)) == (1, 2**20, 5)
    assert need_optional_int("a", None) is None
    assert need_optional_int("a", 0, least=0, most=0) == 0
    assert need_optional_int("a", 2**40, most=MAX_WINDOW) == 2**40
    csa = build("csa", {"heads": 1, "head_dim": 1, "tokens_per_slot": 2, "window": 2**40, "index_dim": 1})
    assert csa.lower()[1].law.tokens_per_slot == 2
    for kept in ({"window": 2**40, "sinks": 2**40}, {"chunk": 2**40}):
        assert build("mha", {"heads": 1, "head_dim": 1, **kept}).lower()[0].law.slots(2**50) >= 2**40
    for tag, fields in (
        ("mamba1", {"inner_dim": 1, "state_dim": 1}),
        ("mamba2", {"heads": 1, "head_dim": 1, "state_dim": 1, "groups": 1}),
        ("gated_deltanet", {"key_heads": 1, "value_heads": 1, "key_dim": 1, "value_dim": 1}),
        ("rglru", {"width": 1}),
        ("short_conv", {"dim": 1}),
    ):
        assert build(tag, {**fields, "conv_kernel": 2}).lower()[0].law.count == 1


def test_need_divides_names_the_divisor() -> None:
    """6 heads in 4 groups: the groups are what is wrong."""
    need_divides("heads", 6, "groups", 3)
    with pytest.raises(ModelFileError) as refused:
        need_divides("heads", 6, "groups", 4)
    assert refused.value.field == "groups"
    assert "heads (6)" in str(refused.value)
    assert "groups (4)" in str(refused.value)


#: tag, fields, the field the error names.
CONTRADICTIONS: list[tuple[str, dict[str, Any], str]] = [
    ("gqa", {"heads": 6, "head_dim": 10}, "groups"),
    ("gqa", {"heads": 6, "head_dim": 10, "groups": 4}, "groups"),
    ("mha", {"heads": 6, "head_dim": 10, "groups": 3}, "groups"),
    ("mqa", {"heads": 6, "head_dim": 10, "groups": 6}, "groups"),
    ("mha", {"heads": 6, "head_dim": 10, "window": 4, "chunk": 4}, "chunk"),
    ("mha", {"heads": 6, "head_dim": 10, "sinks": 4}, "sinks"),
    ("mha", {"heads": 6, "head_dim": 10, "tied_kv": 1}, "tied_kv"),
    ("mha", {"heads": 6, "head_dim": 10, "tied_kv": True, "v_head_dim": 9}, "v_head_dim"),
    ("mla", {"heads": 6, "latent_dim": 9, "rope_dim": 1, "window": 4, "chunk": 4}, "chunk"),
    ("csa", {"heads": 6, "head_dim": 10, "tokens_per_slot": 4, "window": 8}, "index_dim"),
    ("hca", {"heads": 6, "head_dim": 10, "tokens_per_slot": 4, "window": 8, "index_dim": 3}, "index_dim"),
    ("mamba2", {"heads": 6, "head_dim": 10, "state_dim": 5, "groups": 4, "conv_kernel": 4}, "groups"),
    ("gated_deltanet", {"key_heads": 4, "value_heads": 6, "key_dim": 1, "value_dim": 1, "conv_kernel": 4}, "key_heads"),
    ("rwkv", {"hidden_dim": 12, "head_dim": 5}, "head_dim"),
    ("cross", {"heads": 6, "head_dim": 10, "groups": 4}, "groups"),
    ("shared", {"of": ""}, "of"),
    ("shared", {"of": 3}, "of"),
]


@pytest.mark.parametrize(("tag", "fields", "named"), CONTRADICTIONS)
def test_fields_that_contradict_each_other_are_refused(tag: str, fields: dict[str, Any], named: str) -> None:
    """The error names the field to look at."""
    with pytest.raises(ModelFileError) as refused:
        build(tag, fields)
    assert refused.value.field == named


def test_tied_heads_may_say_their_width_again() -> None:
    """v_head_dim = head_dim says the same as leaving it out; groups = heads is what mha means."""
    kind = build("mha", {"heads": 6, "head_dim": 10, "groups": 6, "tied_kv": True, "v_head_dim": 10})
    assert [part.name for part in kind.lower()] == ["key"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"head_dim": 0}, "head_dim"),
        ({"head_dim": 4, "heads": 0}, "heads"),
        ({"head_dim": 4, "tokens_per_slot": 0}, "tokens_per_slot"),
        ({"head_dim": 4, "shared": 1}, "shared"),
    ],
)
def test_an_indexer_checks_its_fields(fields: dict[str, Any], named: str) -> None:
    """Each wrong field is named."""
    with pytest.raises(ModelFileError) as refused:
        Indexer(**fields)
    assert refused.value.field == named
