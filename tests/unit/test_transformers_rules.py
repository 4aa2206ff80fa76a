"""Which caches transformers builds: its rules by architecture, the general ones, and what it refuses.

Source: transformers 5.23.0 src/transformers/cache_utils.py and models/*/modeling_*.py, as cited in
kvcalc/engines/transformers.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.component import Constant, Linear, Windowed
from kvcalc.core.plan import Layout, Load
from kvcalc.engines.transformers import ENGINE
from kvcalc.engines.transformers.rules import NO_DTYPE, NO_STATIC, RULES
from kvcalc.engines.transformers.slabs import Cached, ClosedGroup, Offset, OpenGroup, period, saturation, window_law
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LOCAL = HEADS | {"window": 128}
CONV = {"kind": "short_conv", "dim": 256, "conv_kernel": 4}


def rows(attention: dict[str, Any], load: Load | None = None, **more: Any) -> list[tuple[Any, ...]]:
    """(name, shape, dtype, bytes) of the tensors of a model of two layers."""
    asked = {name: more.pop(name) for name in ("cache", "view") if name in more}
    plan = started("transformers", model_of(attention, **more), **asked).plan(load or Load(1000, 3))
    return [(each.name, each.shape, each.dtype, each.bytes) for each in plan.ranks[0].tensors]


def test_architectures_with_rules_of_their_own() -> None:
    """RULES, NO_STATIC and NO_DTYPE: which architecture has which."""
    expected = {
        "_cpmant": "cpmant", "_deepseek_v4": "deepseek_v4", "_float32_index": "dots3_note dots3_note_text",
        "_falcon": "falcon", "_glm5_next": "glm5_next_text", "_float32_convs": "inkling2_text inkling_text",
        "_model_dtype_states": "minimax xlstm", "_qwen4_exp": "qwen4_exp qwen4_exp_text",
        "_recurrent_gemma": "recurrent_gemma", "_kernel_less_one": "rwkv zaya",
    }  # fmt: skip
    found = {name: getattr(rule, "__name__", "") for name, rule in RULES.items()}
    assert found == {name: rule for rule, names in expected.items() for name in names.split()}
    static = "cpmant deepseek_v4 inkling2_text inkling_text minimax prophetnet recurrent_gemma rwkv xlstm"
    assert set(NO_STATIC) == set(static.split())
    assert {name: set(types) for name, types in NO_DTYPE.items()} == {"deepseek_v4": {"float16"}}


def test_options_of_transformers() -> None:
    """The cache class and the view, the first word of each by default."""
    found = [(each.name, each.parse, each.default, each.choices) for each in ENGINE.options]
    assert found == [
        ("cache", "choice", "dynamic", ("dynamic", "static", "fp8")),
        ("view", "choice", "logical", ("logical", "resident", "prefill")),
    ]


def test_who_has_no_static_cache() -> None:
    """Each says why; with a dynamic cache they run, and the others with both."""
    for name in NO_STATIC:
        with pytest.raises(EngineRefusal, match=f"{name} has no static cache: {NO_STATIC[name]}$") as refused:
            rows(HEADS, architecture=name, cache="static")
        assert (refused.value.field, refused.value.value) == ("cache", "static")
        assert rows(HEADS, architecture=name)
    for architecture in (None, "llama"):
        assert rows(HEADS, architecture=architecture, cache="static")


def test_growth_of_slabs() -> None:
    """Offsets, open groups (1 to size tokens) and closed ones, with their periods and where they become steady."""
    assert [Offset(5).slots(tokens) for tokens in (0, 1, 10)] == [5, 6, 15]
    assert [OpenGroup(4).slots(tokens) for tokens in (1, 4, 5, 8, 9)] == [1, 4, 1, 4, 1]
    assert [ClosedGroup(4).slots(tokens) for tokens in (0, 3, 4, 9)] == [0, 0, 4, 4]
    assert [period(law) for law in (Offset(5), OpenGroup(4), ClosedGroup(4), Linear(), Windowed(8))] == [1, 4, 1, 1, 1]
    laws = (Offset(5), OpenGroup(4), ClosedGroup(4), Linear(), Windowed(8), Constant(3))
    assert [saturation(law) for law in laws] == [0, 0, 4, 0, 8, 0]
    assert [Offset(1).slots(3, 7), OpenGroup(4).slots(6, 7), ClosedGroup(4).slots(6, 7)] == [4, 2, 4]


@pytest.mark.parametrize(
    ("size", "cache", "view", "law"),
    [
        (8, "static", "logical", Windowed(8)), (1, "static", "prefill", Windowed(1)),
        (8, "dynamic", "logical", Windowed(7)),
        (8, "dynamic", "prefill", Linear()), (8, "dynamic", "resident", Windowed(8)),
        (1, "dynamic", "logical", Linear()),
        (1, "dynamic", "prefill", Linear()), (1, "dynamic", "resident", Linear()),
        (2, "dynamic", "logical", Windowed(1)), (2, "dynamic", "resident", Windowed(2)),
    ],
)  # fmt: skip
def test_windows_in_each_cache(size: int, cache: Any, view: Any, law: Any) -> None:
    """Static: all; dynamic: one less, its storage all, after a prefill the whole prompt; a window of one is not cut."""
    run = Cached(model=model_of(HEADS), dtype="bfloat16", cache=cache, view=view)
    assert window_law(size, run) == law


def test_tensors_of_each_cache_class() -> None:
    """K and V of 2 heads of 64, 3 sessions of 1,000 tokens; fp8 has one float32 scale for all sessions of a layer."""
    key, value = "key", "value"
    size = 2 * 3 * 1000 * 128
    plain = rows(HEADS)
    assert [each[1:] for each in plain] == [((3, 1000, 2, 64), "bfloat16", 2 * size)] * 2
    assert [each[0] for each in plain] == [key, value]
    assert rows(LOCAL)[0][1] == (3, 127, 2, 64)
    assert rows(LOCAL, view="resident")[0][1] == (3, 128, 2, 64)
    assert rows(LOCAL, view="prefill")[0][1] == (3, 1000, 2, 64)
    assert rows(HEADS, cache="fp8") == [
        (key, (3, 1000, 2, 64), "fp8_e4m3", size), ("key_scale", (1, 1, 1), "float32", 8),
        (value, (3, 1000, 2, 64), "fp8_e4m3", size), ("value_scale", (1, 1, 1), "float32", 8),
    ]  # fmt: skip
    assert [each[3] for each in rows(HEADS, Load(1000, 0), cache="fp8")] == [0, 0, 0, 0]
    for other in (LOCAL, CONV, HEADS | {"indexer": {"head_dim": 64}}):
        with pytest.raises(EngineRefusal, match="full attention layers only"):
            rows(other, cache="fp8")


def test_convolution_tails_by_architecture() -> None:
    """The newest input beside the 3 past ones; past ones only in Zaya, RWKV and RecurrentGemma (not its storage)."""
    for architecture, view, slots, dtype in (
        ("lfm2", "logical", 4, "bfloat16"), ("zaya", "logical", 3, "bfloat16"), ("rwkv", "logical", 3, "bfloat16"),
        ("recurrent_gemma", "logical", 3, "bfloat16"), ("recurrent_gemma", "resident", 4, "bfloat16"),
        ("recurrent_gemma", "prefill", 3, "bfloat16"), ("inkling_text", "logical", 4, "float32"),
        ("inkling2_text", "logical", 4, "float32"), (None, "logical", 4, "bfloat16"),
    ):  # fmt: skip
        ((_, shape, found, _),) = rows(CONV, architecture=architecture, view=view)
        assert (shape[1], found) == (slots, dtype), architecture


def test_other_rules() -> None:
    """Falcon's broadcast heads, CPM-Ant's prompt, Qwen4-exp's token ids, states in the model's type."""
    for facts, heads in (({"new_decoder_architecture": True}, 8), ({"new_decoder_architecture": False}, 2), ({}, 2)):
        assert rows(HEADS, architecture="falcon", facts=facts)[0][1] == (3, 1000, heads, 64)
    assert rows(HEADS, architecture="cpmant", facts={"prompt_length": 32})[0][1][1] == 1032
    assert rows(HEADS, architecture="cpmant")[0][1][1] == 1000
    assert rows(LOCAL, architecture="cpmant", facts={"prompt_length": 32})[0][1][1] == 127
    for architecture in ("qwen4_exp", "qwen4_exp_text"):
        made = rows(CONV, architecture=architecture, facts={"ngram_size": 3})
        assert [(each[0], each[1][1], each[2]) for each in made][1:] == [("token_ids", 2, "int64")]
        assert made[0][1][1] == 3
        assert len(rows(CONV, architecture=architecture)) == 1
    light = {"kind": "lightning", "heads": 8, "head_dim": 64}
    assert [rows(light, architecture=name)[0][2] for name in ("minimax", "other", None)] == [
        "bfloat16", "float32", "float32",
    ]  # fmt: skip


def test_layouts_and_types_that_run() -> None:
    """Whole layers over stages and sessions over copies; one floating type, and float16 not for DeepSeek-V4."""
    model = model_of(HEADS, layers=3)
    for layout, field in ((Layout(tp=2), "tp"), (Layout(dcp=2), "dcp"), (Layout(tp=2, dcp=2), "tp")):
        with pytest.raises(EngineRefusal, match="tensor parallel caches") as refused:
            started("transformers", model, layout=layout)
        assert refused.value.field == field
    with pytest.raises(EngineRefusal, match="4 pipeline stages for 3 layers"):
        started("transformers", model, layout=Layout(pp=4))
    divided = "layers are divided evenly; device_map=auto divides by free memory"
    for pp in (1, 2, 3):
        made = started("transformers", model, layout=Layout(pp=pp))
        assert (divided in made.assumptions) == (pp > 1)
        assert len(made.plan(Load(10)).ranks) == pp
    copies = started("transformers", model, layout=Layout(dp=2)).plan(Load(10, 3))
    assert copies.by_rank() == {0: 2 * 3 * 10 * 512, 1: 3 * 10 * 512}
    with pytest.raises(EngineRefusal, match="deepseek_v4 does not run in float16"):
        rows(HEADS, architecture="deepseek_v4", dtype="float16")
    for types, words in (
        ({"key": "float16"}, "K and V in one type"),
        ({"key": "int8", "value": "int8"}, "not in int8"),
    ):
        with pytest.raises(EngineRefusal, match=words):
            started("transformers", model, types=types)
    for dtype in ("bfloat16", "float16", "float32"):
        assert rows(HEADS, dtype=dtype)[0][2] == dtype
    empty = started("transformers", model_of({"kind": "none"}))
    assert (empty.saturation_tokens, empty.period_tokens, empty.plan(Load(10)).total_bytes) == (0, 1, 0)
    both = started("transformers", model_of({"a": LOCAL, "b": HEADS}, pattern=["a", "b"]))
    assert both.saturation_tokens == 127


def test_what_transformers_assumes() -> None:
    """What a token is; architectures that were not measured, or not named; cache types of a checkpoint."""
    tokens = "tokens are those whose K and V are cached: prompt + generated - 1"
    unmeasured = "is not measured against transformers: general rules of its caches"
    for architecture, exactness, notes in (
        ("llama", "exact", []), ("other", "estimate", [f"model_type other {unmeasured}"]),
        (None, "estimate", [f"the model names no architecture, which {unmeasured}"]),
    ):  # fmt: skip
        made = started("transformers", model_of(HEADS, architecture=architecture))
        assert (made.exactness, list(made.assumptions)) == (exactness, [tokens, *notes])
    scaled = model_of(HEADS, architecture="llama", cache_dtype="fp8_e4m3")
    said = "the checkpoint's cache type fp8_e4m3 is ignored: transformers caches in bfloat16"
    for types in ({}, {"key": "fp8_e4m3", "value": "fp8_e4m3"}):
        assert list(started("transformers", scaled, types=types).assumptions) == [tokens, said]
        assert list(started("transformers", scaled, types=types, cache="fp8").assumptions) == [tokens]
