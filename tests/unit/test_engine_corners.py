"""Corners of the larger engines that neither recordings nor shipped models reach, each worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.component import Component, Strided, whole_part
from kvcalc.core.model import Kind, Weights
from kvcalc.core.plan import Layout, Load, beyond
from kvcalc.engines.sglang.launch import default_mem_fraction_static, kv_budget_bytes, prefill_graphs, tier
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
V4 = {
    "csa": {"kind": "csa", "heads": 8, "head_dim": 512, "tokens_per_slot": 4, "window": 128, "index_dim": 128},
    "hca": {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128},
}


def test_sglang_adds_pages_until_the_product_is_enough() -> None:
    """29 sessions keep 29 x 128 = 3712 tokens of a window of 127; 3712 / 0.29 = 12800, but int(12800 x 0.29) = 3711."""
    blocks = {"local": HEADS | {"window": 128}, "full": HEADS}
    model = model_of(blocks, pattern=["local", "full"], cls="GptOssForCausalLM", max_context=4096)
    made = started("sglang", model, swa_full_tokens_ratio=0.29)
    tensors = made.plan(Load(200, 29)).ranks[0].tensors
    assert [tensor.slots - 1 for tensor in tensors if tensor.block in ("full", "swa")] == [12801, 3712]


@pytest.mark.parametrize(
    ("mib", "tp", "chunk", "batch"),
    [
        (20479, 1, 2048, 8), (20480, 1, 4096, 48), (20480, 3, 4096, 48), (20480, 4, 4096, 160), (35839, 1, 4096, 48),
        (35840, 1, 4096, 32), (35840, 4, 4096, 160), (61439, 1, 4096, 32), (61440, 1, 8192, 256),
        (61440, 4, 8192, 512), (163839, 1, 8192, 256), (163840, 1, 16384, 512),
    ],
)  # fmt: skip
def test_sglang_defaults_by_the_size_of_the_gpu(mib: int, tp: int, chunk: int, batch: int) -> None:
    """Below 20, 35, 60 and 160 GiB, and above. Source: memory_hook.py `_handle_gpu_memory_settings`."""
    assert tier(mib, tp) == (chunk, batch)


def test_sglang_prefill_graphs() -> None:
    """4 to 32 by 4, to 256 by 16, to 512 by 32, to 1024 by 64, to 4096 by 256, then by 512: 8, 14, 8, 8, 12 graphs."""
    counts = {3: 0, 4: 1, 32: 8, 47: 8, 48: 9, 256: 22, 288: 23, 512: 30, 576: 31, 1024: 38, 1280: 39, 4096: 50,
              4607: 50, 4608: 51, 8192: 58, 16384: 74}  # fmt: skip
    assert {most: prefill_graphs(most) for most in counts} == counts


def test_sglang_reserves() -> None:
    """512 + 1.5 x chunk + 1024 x tp x pp / 8 + 2 x batch; graphs 8 MiB each, or 1.5 GiB for latents; 10 GiB from 60 on.

    24564 MiB, chunk 4096, batch 48: 512 + 6144 + 128 + 96 = 6880, and 50 graphs. 40960 MiB: batch 32.
    """
    assert default_mem_fraction_static(24564, prefill_graph=False) == round((24564 - 6880) / 24564, 3)
    assert default_mem_fraction_static(24564) == round((24564 - 6880 - 400) / 24564, 3)
    assert default_mem_fraction_static(24564, latent=True) == round((24564 - 6880 - 1536) / 24564, 3)
    few = default_mem_fraction_static(24564, max_running_requests=10, chunked_prefill_size=1000, prefill_graph=False)
    assert few == round((24564 - (512 + 3072 + 128 + 20)) / 24564, 3)
    assert default_mem_fraction_static(61440, prefill_graph=False) == round((61440 - 13440) / 61440, 3)
    small = {"chunked_prefill_size": 2048, "max_running_requests": 8, "prefill_graph": False}
    assert default_mem_fraction_static(61440, **small) == round((61440 - 3728) / 61440, 3)  # type: ignore[arg-type]
    assert default_mem_fraction_static(61441, **small) == round((61441 - 10240) / 61441, 3)  # type: ignore[arg-type]
    assert kv_budget_bytes(80, 60, 0.75) == 40 * 2**30


def test_llamacpp_counts_layers_that_fit() -> None:
    """DeepSeek-V4's own file has an extra draft layer, which is not among the layers that -ngl counts.

    GPU room = pool + weights: with no pool the cache of the last layers decides how many layers go to the GPU.
    """
    model = model_of(
        V4, pattern=["csa", "hca"], mtp={"layers": 1, "block": "hca"}, architecture="deepseek_v4",
        facts={"gguf_architecture": "deepseek4"},
    )  # fmt: skip
    model = replace(model, weights=Weights(dtype="bfloat16", bytes=3 * 10**9))
    made = started("llama.cpp", model)
    tensors = [tensor for rank in made.plan(Load(256)).ranks for tensor in rank.tensors]
    assert max(layer for tensor in tensors for layer in tensor.layers) == 2
    needed = sum(tensor.bytes // tensor.count for tensor in tensors for layer in tensor.layers if layer < 2)
    everything = made.report(Load(256), needed)
    assert (everything["max_n_gpu_layers"], everything["all_n_gpu_layers"]) == (3, 3)
    assert made.report(Load(256), needed - 1)["max_n_gpu_layers"] == 2
    assert made.report(Load(256), needed - 10**9)["max_n_gpu_layers"] == 2
    assert made.report(Load(256), -3 * 10**9)["max_n_gpu_layers"] == 0
    assert made.report(Load(256), -2 * 10**9)["max_n_gpu_layers"] == 1


def test_llamacpp_counts_layers_of_a_plain_model() -> None:
    """Two layers of 256 x 2 x 128 x 2 bytes; weights in three equal parts of 1000 bytes, the output layer first."""
    model = replace(model_of(HEADS, architecture="llama"), weights=Weights(dtype="bfloat16", bytes=3000))
    made = started("llama.cpp", model)
    cache = 256 * 2 * 128 * 2
    for room, layers in (
        (999, 0), (1000, 1), (1999 + cache, 1), (2000 + cache, 2), (2999 + 2 * cache, 2), (3000 + 2 * cache, 3),
        (10**9, 3),
    ):  # fmt: skip
        assert made.report(Load(256), room - 3000)["max_n_gpu_layers"] == layers
    assert "max_n_gpu_layers" not in made.report(Load(256))
    split = started("llama.cpp", model, layout=Layout(pp=2))
    assert "max_n_gpu_layers" not in split.report(Load(256), 1000)


def test_transformers_position_rows_are_on_the_stage_of_their_layer() -> None:
    """Qwen4-exp: three int64 positions per token beside the first indexed layer; nothing where no layer is indexed."""
    plain = HEADS
    indexed = HEADS | {"indexer": {"head_dim": 16}}
    model = model_of({"a": plain, "b": indexed}, pattern=["a", "b"], architecture="qwen4_exp")
    for layout, ranks in ((None, [0]), (Layout(pp=2), [1])):
        plan = started("transformers", model, layout=layout).plan(Load(10, 3))
        found = {
            number: tensor.bytes
            for part in plan.ranks
            for number in part.ranks
            for tensor in part.tensors
            if tensor.name == "position_ids"
        }
        assert found == dict.fromkeys(ranks, 10 * 3 * 3 * 8)
    bare = started("transformers", model_of(plain, architecture="qwen4_exp")).plan(Load(10))
    assert {tensor.name for tensor in bare.ranks[0].tensors} == {"key", "value"}


def test_transformers_prompt_tokens_of_cpmant() -> None:
    """32 learned tokens in front of 10; without prompt_length in the file, the session's own alone."""
    for facts, tokens in (({"prompt_length": 32}, 42), ({}, 10)):
        plan = started("transformers", model_of(HEADS, architecture="cpmant", facts=facts)).plan(Load(10))
        assert plan.total_bytes == 2 * tokens * 2 * 2 * 64 * 2


def test_vllm_drafts_of_deepseek_v4_have_windows_only() -> None:
    """One more layer with the window's format, after the model's own."""
    model = model_of(V4["hca"], architecture="deepseek_v4", mtp={"layers": 2, "block": "attention"})

    def windows(**options: Any) -> list[int]:
        groups: Any = started("vllm", model, **options).report(Load(4096))["groups"]
        return sorted(
            index for group in groups for index in group["layer_indices"] if index >= 2 or group["kind"] == "x"
        )

    assert windows() == []
    assert windows(num_speculative_tokens=1) == [2, 3]


def test_vllm_skipped_layers_beside_states() -> None:
    """Hybrid, fp8, layer 1 kept in bf16: blocks so long that an fp8 page holds a state, pages as the bf16 layer's.

    A state: 8 x 64 x 128 x 2 + 3 x (512 + 512) x 2 = 137216 bytes; an fp8 token 256 bytes: 34 x 16 tokens.
    """
    mamba = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
    model = model_of(
        {"mamba": mamba, "full": HEADS}, pattern=["mamba", "full", "full"], layers=3, architecture="falcon_h1"
    )
    made: Any = started("vllm", model, kv_cache_dtype="fp8", kv_cache_dtype_skip_layers="1").report(Load(4096))
    assert made["block_size"] == 34 * 16
    assert {page.split(":")[1] for group in made["groups"] for page in group["pages"]} == {str(34 * 16 * 512)}


def test_vllm_windows_larger_than_the_common_page_fail() -> None:
    """A window layer of 8 heads x 256 kept in bf16 beside an fp8 layer of 2 heads: no page holds 16 of its tokens."""
    wide = {"kind": "gqa", "heads": 8, "groups": 8, "head_dim": 256, "window": 128}
    model = model_of({"full": HEADS, "wide": wide}, pattern=["full", "wide"])
    with pytest.raises(EngineRefusal, match="is smaller than its"):
        started("vllm", model, kv_cache_dtype="fp8", kv_cache_dtype_skip_layers="sliding_window")


class Unknown:
    """A kind that some file may add: entries of several tokens, as a latent would store them."""

    kind = "unknown"

    def lower(self) -> tuple[Component, ...]:
        return (Component(name="entries", role="key", law=Strided(4), parts=whole_part(64)),)

    def mha_widths(self, blocks: Mapping[str, Kind]) -> tuple[int, int] | None:
        return None


def test_vllm_has_no_rule_for_unknown_growth() -> None:
    """A law that vLLM has no cache class for is refused, not priced as something else."""
    model = replace(model_of(HEADS), blocks={"attention": Unknown()})
    with pytest.raises(EngineRefusal, match="no rule for entries"):
        started("vllm", model)
    assert model.mha_bytes_per_token(2, 2) is None


@pytest.mark.parametrize(
    ("engine", "options", "load", "words"),
    [
        ("tensorrt-llm", {"max_tokens": 100}, Load(96), None),
        ("tensorrt-llm", {"max_tokens": 100}, Load(97), "max_tokens gives 96 tokens, 128 are needed"),
        ("tensorrt-llm", {"max_tokens": 100}, Load(32, 4), "max_tokens gives 96 tokens, 128 are needed"),
        ("tensorrt-llm", {"max_tokens": 100, "use_kv_cache_manager_v2": "true"}, Load(97), None),
        ("tensorrt-llm", {}, Load(10**6), None),
        ("llama.cpp", {"n_ctx": 1000}, Load(512, 2), None),
        ("llama.cpp", {"n_ctx": 1000}, Load(513, 2), "n_ctx gives 512 cells, 513 are needed"),
        ("llama.cpp", {"n_ctx": 1000, "kv_unified": True}, Load(512, 2), None),
        ("llama.cpp", {"n_ctx": 1000, "kv_unified": True}, Load(513, 2), "n_ctx gives 1,024 cells, 1,026 are needed"),
        ("llama.cpp", {}, Load(10**6), None),
        ("sglang", {"max_total_tokens": 64, "page_size": 16}, Load(32, 2), None),
        ("sglang", {"max_total_tokens": 64, "page_size": 16}, Load(33, 2), "max_total_tokens is 64, 96 are needed"),
        ("sglang", {}, Load(10**6), None),
        ("vllm", {"num_gpu_blocks_override": 5}, Load(32, 2), None),
        ("vllm", {"num_gpu_blocks_override": 5}, Load(33, 2), "num_gpu_blocks_override leaves 4 blocks, 6 are needed"),
        ("vllm", {}, Load(10**6), None),
    ],
)
def test_options_that_fix_the_pool(engine: str, options: dict[str, Any], load: Load, words: str | None) -> None:
    """In whole blocks, pages or cells; what a load needs and what there is."""
    model = model_of(HEADS, architecture="llama" if engine == "llama.cpp" else None)
    assert beyond(started(engine, model, **options), load) == words


@pytest.mark.parametrize("engine", ["tensorrt-llm", "llama.cpp", "sglang", "vllm"])
def test_fixed_pools_are_of_each_replica(engine: str) -> None:
    """3 sessions on 2 replicas are 2 on the fuller one."""
    options = {"tensorrt-llm": {"max_tokens": 64}, "llama.cpp": {"n_ctx": 512, "kv_unified": True},
               "sglang": {"max_total_tokens": 64}, "vllm": {"num_gpu_blocks_override": 5}}[engine]  # fmt: skip
    model = model_of(HEADS, architecture="llama" if engine == "llama.cpp" else None)
    made = started(engine, model, layout=Layout(dp=2), **options)
    tokens = 256 if engine == "llama.cpp" else 32
    assert beyond(made, Load(tokens, 3)) is None
    assert beyond(made, Load(tokens, 5)) is not None


def test_trt_fraction_is_charged() -> None:
    """Free memory of whose fraction the cache is a part: 0.9 of it, rounded up to the byte that is enough."""
    model = model_of(HEADS, layers=1)
    made: Any = started("tensorrt-llm", model, free_gpu_memory_fraction=0.9)
    for tokens in (32, 3200, 32_000):
        size = tokens * 2 * 128 * 2
        charged = made.plan(Load(tokens)).max_rank_bytes
        assert int(charged * 0.9) >= size > int((charged - 1) * 0.9)
        assert made.report(Load(tokens), charged)["max_tokens"] >= tokens
