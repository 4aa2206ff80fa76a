"""How vLLM is started: its options, their defaults and what they resolve to.

Source: vLLM 0.33.0 engine/arg_utils.py, config/vllm.py, config/cache.py, config/model.py.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.engines.vllm import settings as settings_module
from kvcalc.engines.vllm.cachedtypes import CACHE_DTYPES
from kvcalc.engines.vllm.defaults import default_batch, default_sequences, is_a100, read_version
from kvcalc.engines.vllm.settings import OPTIONS, read_settings
from kvcalc.engines.vllm.versions import RULES
from kvcalc.errors import EngineRefusal, UsageError

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
MAMBA = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
GIB = 2**30


def settings(model: Model, **asked: Any) -> Any:
    made: Any = started("vllm", model, **asked)
    return made.settings


def setup(version: str = "0.33", gpu: str | None = "sm90", gpu_bytes: int | None = None, **options: Any) -> Setup:
    types = CacheDtypes(**dict.fromkeys(("key", "value", "index", "pending", "conv", "state"), "bfloat16"))
    return Setup(version=version, dtypes=types, layout=Layout(), options=options, gpu=gpu, gpu_bytes=gpu_bytes)


def read(made: Setup, *, states: bool = False, attention: bool = True, crosses: bool = False) -> Any:
    return read_settings(model_of(HEADS), made, has_states=states, has_attention=attention, crosses=crosses)


#: name, how it is read, default (words of its choices behind a colon). Source: engine/arg_utils.py.
READ = """
    max_model_len tokens, block_size count, max_num_batched_tokens tokens, max_num_seqs count,
    enable_prefix_caching switch, async_scheduling switch True, disable_hybrid_kv_cache_manager switch False,
    kv_cache_dtype choice, kv_cache_dtype_skip_layers text, mamba_cache_dtype choice, mamba_ssm_cache_dtype choice,
    num_speculative_tokens count 0, speculative_method choice mtp, flashinfer switch True,
    gpu_memory_utilization fraction, enforce_eager switch False, enable_expert_parallel switch False,
    language_model_only switch False, use_flashinfer_sampler switch, num_gpu_blocks_override count
"""


def test_every_option() -> None:
    """OPTIONS in their order: name, how it is read, default where there is one; and the words of the choices."""
    read_so = [
        " ".join([option.name, option.parse, *([] if option.default is None else [str(option.default)])])
        for option in OPTIONS
    ]
    assert read_so == [" ".join(row.split()) for row in READ.split(",")]
    choices = {option.name: option.choices for option in OPTIONS if option.choices}
    states = ("auto", "float32", "float16", "bfloat16")
    assert choices == {
        "kv_cache_dtype": CACHE_DTYPES, "mamba_cache_dtype": states, "mamba_ssm_cache_dtype": states,
        "speculative_method": ("mtp", "ngram"),
    }  # fmt: skip


def test_tables_of_defaults() -> None:
    """Batched tokens by architecture (2,048 where it is not named), sm90 where none is given, bytes of each type."""
    assert settings_module._BATCH_TOKENS == {90: 8192, 100: 16384, 103: 16384}
    assert (settings_module._SMALL_BATCH, settings_module._DEFAULT_CAPABILITY) == (2048, 90)
    assert settings_module._NATIVE_BYTES == {"bfloat16": 2, "float16": 2, "float32": 4}
    assert settings_module._STATE_TYPES == ("auto", "float32", "float16", "bfloat16")


def test_drafts_of_the_models_own_layers() -> None:
    """From one token on, and not with ngram."""
    for options, layers in (({}, False), ({"num_speculative_tokens": 1}, True), ({"num_speculative_tokens": 0}, False),
                            ({"num_speculative_tokens": 1, "speculative_method": "ngram"}, False)):  # fmt: skip
        made = read(Setup("0.33", setup().dtypes, options=options))
        assert (made.draft_layers, made.draft_tokens) == (layers, options.get("num_speculative_tokens", 0))


def test_settings_of_a_plain_start() -> None:
    """All fields where nothing is asked for: Hopper, 8,192 batched tokens, two batches in flight."""
    made = settings(model_of(HEADS))
    fields = asdict(made)
    assert fields.pop("rules") == asdict(RULES["0.33"])
    assert fields.pop("layout") == Layout()
    assert fields == {
        "capability": 90, "model_dtype": "bfloat16", "kv_dtype": "auto", "conv_dtype": "bfloat16",
        "asked_ssm_dtype": None, "block_tokens": None, "batch_tokens": 8192, "prefix_caching": True,
        "async_scheduling": True, "hybrid_manager": True, "draft_tokens": 0, "draft_layers": False,
        "skip_layers": frozenset(), "has_states": False, "flashinfer": True,
        "assumptions": (
            "GPU of compute capability 9.0 (Hopper): it decides block sizes",
            "max_num_batched_tokens 8,192: what vllm serve sets on this GPU",
        ),
    }  # fmt: skip
    assert (made.in_flight_tokens, made.native_bytes, made.align_states) == (16384, 2, False)
    assert made.limits == (16384, 8192, 1, False)


def test_settings_of_a_full_start() -> None:
    """Every option said: each ends in its own field, and nothing is assumed."""
    model = model_of({"m": MAMBA, "a": HEADS}, pattern=["m", "a"], architecture="jamba", dtype="float16",
                     mtp={"layers": 1, "block": "a"})  # fmt: skip
    made: Any = read_settings(
        model,
        Setup(
            version="0.33",
            dtypes=setup().dtypes,
            layout=Layout(pp=2),
            gpu=" SM_80a ",
            options={
                "block_size": 32, "max_num_batched_tokens": 100, "enable_prefix_caching": True,
                "async_scheduling": False, "disable_hybrid_kv_cache_manager": True, "kv_cache_dtype": "bfloat16",
                "kv_cache_dtype_skip_layers": " 1, ,sliding_window", "mamba_cache_dtype": "float32",
                "mamba_ssm_cache_dtype": "bfloat16", "num_speculative_tokens": 3, "flashinfer": False,
            },
        ),
        has_states=True, has_attention=True, crosses=False,
    )  # fmt: skip
    fields = asdict(made)
    del fields["rules"], fields["layout"]
    assert fields == {
        "capability": 80, "model_dtype": "float16", "kv_dtype": "bfloat16", "conv_dtype": "float32",
        "asked_ssm_dtype": "bfloat16", "block_tokens": 32, "batch_tokens": 100, "prefix_caching": True,
        "async_scheduling": False, "hybrid_manager": False, "draft_tokens": 3, "draft_layers": True,
        "skip_layers": frozenset({"1", "sliding_window"}), "has_states": True, "flashinfer": False, "assumptions": (),
    }  # fmt: skip
    assert (made.in_flight_tokens, made.align_states) == (200, True)  # two stages, one batch each
    assert made.limits == (200, 100, 1, True)


BATCHES_IN_FLIGHT: list[tuple[str, int, bool, int]] = [
     ("0.33", 1, True, 2), ("0.33", 1, False, 1), ("0.33", 4, True, 5), ("0.33", 4, False, 4), ("0.26", 2, True, 3),
     ("0.25", 1, True, 1), ("0.25", 4, True, 1)]  # fmt: skip


def test_batches_in_flight() -> None:
    """One per stage and one more where scheduling overlaps; before 0.26 one."""
    for version, stages, overlapped, tokens in BATCHES_IN_FLIGHT:
        options: dict[str, Any] = {"max_num_batched_tokens": 1000, "async_scheduling": overlapped}
        made = read(setup(version, **options)._replace(layout=Layout(pp=stages)))
        assert made.in_flight_tokens == tokens * 1000


DEFAULT_BATCHES: list[tuple[str | None, int | None, str, int]] = [
        ("sm80", None, "0.33", 2048), ("sm89", None, "0.33", 2048), ("sm90", None, "0.33", 8192),
        ("sm100", None, "0.33", 16384), ("sm103", None, "0.33", 16384), ("sm120", None, "0.33", 2048),
        (None, None, "0.33", 8192), ("sm90", 69 * GIB, "0.33", 2048), ("sm90", 70 * GIB - 1, "0.33", 2048),
        ("sm90", 70 * GIB, "0.33", 8192), ("sm80", 79 * GIB, "0.33", 2048), ("sm100", 160 * GIB - 1, "0.33", 8192),
        ("sm100", 160 * GIB, "0.33", 16384), ("sm100", 160 * GIB, "0.22", 16384), ("sm100", 160 * GIB, "0.21", 8192),
    ]  # fmt: skip


def test_default_batches() -> None:
    """By the memory where it is known (70 and 160 GiB), else by the architecture's usual card."""
    for gpu, gpu_bytes, version, tokens in DEFAULT_BATCHES:
        made = read(setup(version, gpu, gpu_bytes))
        assert made.batch_tokens == tokens
        assert f"max_num_batched_tokens {tokens:,}: what vllm serve sets on this GPU" in made.assumptions


def test_defaults_of_serve_and_of_the_class() -> None:
    """Batched tokens and sequences on both sides of each limit. Source: arg_utils.py `get_batch_defaults`."""
    large, huge = 70 * GIB, 160 * GIB
    for total, a100, server, library in (
        (large - 1, False, 2048, 8192), (large, False, 8192, 16384), (large, True, 2048, 8192),
        (huge - 1, False, 8192, 16384), (huge, False, 16384, 16384), (huge, True, 16384, 16384),
    ):  # fmt: skip
        assert default_batch((0, 22), total, a100=a100) == server
        assert default_batch((0, 22), total, a100=a100, server=False) == library
    assert (default_batch((0, 21), huge, a100=False), default_batch((1, 0), huge, a100=False)) == (8192, 16384)
    assert default_sequences((0, 8), large, a100=False) == 1024
    for version, total, a100 in (((0, 7), large, False), ((0, 8), large - 1, False), ((0, 8), large, True)):
        assert default_sequences(version, total, a100=a100) == 256
    assert [is_a100(name) for name in ("sm80", "sm90", None)] == [True, False, False]
    assert [read_version(text) for text in ("0.33", "0.9.2", "1", "1.2.3", ".5")] == [
        (0, 33), (0, 9), (1, 0), (1, 2), (0, 5),
    ]  # fmt: skip


DEFAULT_PREFIX_CACHING: list[tuple[str, bool, bool, bool, bool]] = [
        ("0.33", False, True, False, True), ("0.33", True, True, False, True), ("0.33", True, False, False, False),
        ("0.33", False, False, False, False), ("0.33", False, True, True, False), ("0.26", True, True, False, True),
        ("0.25", True, True, False, False), ("0.25", False, True, False, True), ("0.25", False, True, True, False),
    ]  # fmt: skip


def test_default_prefix_caching() -> None:
    """On with attention and without an encoder; beside states since 0.26. What is asked for decides."""
    for version, states, attention, crosses, caches in DEFAULT_PREFIX_CACHING:
        made = read(setup(version), states=states, attention=attention, crosses=crosses)
        assert made.prefix_caching is caches
        for asked in (True, False):
            said = setup(version, enable_prefix_caching=asked)
            assert read(said, states=states, attention=attention, crosses=crosses).prefix_caching is asked


ARCHITECTURES_OF_GPUS: list[tuple[str, int | None]] = [
     ("sm80", 80), ("sm_90", 90), ("SM100a", 100), ("sm120f", 120), ("sm129", 129), ("sm130", None), ("sm79", None),
     ("sm9", None), ("sm1000", None), ("90", None),
     ("sm90aa", None), ("gfx942", None), ("sm\u0669\u0660", None)]  # fmt: skip


def test_architectures_of_gpus() -> None:
    """smNN or smNNN with at most one letter, from 8.0 up to 12.x."""
    for gpu, capability in ARCHITECTURES_OF_GPUS:
        if capability is not None:
            assert read(setup(gpu=gpu)).capability == capability
            continue
        with pytest.raises(EngineRefusal, match="compute capability 8") as refused:
            read(setup(gpu=gpu))
        assert (refused.value.field, refused.value.value) == ("gpu", gpu)


def test_older_releases_and_wide_checkpoints_are_said() -> None:
    """A note for an older release, one for float32 checkpoints, which run in bfloat16."""
    noted = "vLLM 0.32: its own rules for blocks and checks; attention backends as in 0.33"
    assert noted in read(setup("0.32")).assumptions
    assert not any("its own rules" in note for note in read(setup("0.33")).assumptions)
    for dtype, runs in (("bfloat16", "bfloat16"), ("float16", "float16"), ("float32", "bfloat16")):
        made = settings(model_of(HEADS, dtype=dtype))
        assert (made.model_dtype, made.conv_dtype, made.kv_dtype) == (runs, runs, "auto")
        said = f"--dtype auto runs this {dtype} checkpoint in bfloat16" in made.assumptions
        assert said == (dtype == "float32")


TURBOQUANT_KEEPS_THE_EDGES: list[tuple[int, str, str]] = [
     (1, "turboquant_k8v4", ""), (2, "turboquant_k8v4", "0 1"), (3, "turboquant_3bit_nc", "0 2"),
     (4, "turboquant_4bit_nc", "0 1 2 3"), (6, "turboquant_k3v4_nc", "0 1 4 5"), (6, "fp8", "")]  # fmt: skip


def test_turboquant_keeps_the_edges() -> None:
    """The first and last two layers, at most half of them each; beside states none."""
    for layers, dtype, skipped in TURBOQUANT_KEEPS_THE_EDGES:
        model = model_of(HEADS, layers=layers)
        asked = setup(kv_cache_dtype=dtype)
        made = read_settings(model, asked, has_states=False, has_attention=True, crosses=False)
        assert made.skip_layers == frozenset(skipped.split())
        hybrid = read_settings(model, asked, has_states=True, has_attention=True, crosses=False)
        assert hybrid.skip_layers == frozenset()


SKIPPED_LAYERS_THAT_ARE_NONE: list[str] = ["2", "x", "-1", "1.0", "sliding", "0,7"]  # fmt: skip


def test_skipped_layers_that_are_none() -> None:
    """Numbers below the layers' count, or sliding_window; the word that is neither is quoted."""
    for bad in SKIPPED_LAYERS_THAT_ARE_NONE:
        with pytest.raises(UsageError, match=f"has '{bad.rpartition(',')[2]}'") as refused:
            read(setup(kv_cache_dtype_skip_layers=bad))
        assert refused.value.field == "kv_cache_dtype_skip_layers"
        made = read(setup(kv_cache_dtype_skip_layers="1 , 0,sliding_window,"))
        assert made.skip_layers == {"0", "1", "sliding_window"}


ASKED_TYPES_OF_STATES: list[tuple[str | None, str | None, str | None]] = [
     (None, None, None), ("auto", None, None), (None, "bfloat16", "bfloat16"), ("auto", "float16", "float16"),
     ("float32", "bfloat16", "float32"), ("float16", None, "float16"), (None, "float32", "float32")]  # fmt: skip


def test_asked_types_of_states() -> None:
    """vLLM's flag first, then kvcalc's --state-dtype where it was given, else the model's rule (None)."""
    for flag, state, asked in ASKED_TYPES_OF_STATES:
        options: dict[str, Any] = {} if flag is None else {"mamba_ssm_cache_dtype": flag}
        made = setup(**options)
        if state is not None:
            made = made._replace(dtypes=made.dtypes._replace(state=state), asked=frozenset({"state"}))
        assert read(made, states=True).asked_ssm_dtype == asked
