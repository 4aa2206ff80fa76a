"""Whole plans and whole reports of SGLang, every field, worked out by hand with small numbers.

Rules: sglang 0.5.23, srt/model_executor/pool_configurator.py (prices), srt/mem_cache/memory_pool.py (tensors, logs),
srt/mem_cache/kv_cache_configurator.py (sizes); a pool has one page more than tokens.
"""

from __future__ import annotations

from typing import Any

from starting import model_of, started

from kvcalc.core.plan import Layout, Load, RankPlan, Tensor

GIB = 2**30
HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
DELTA = {"kind": "gated_deltanet", "key_heads": 2, "value_heads": 4, "key_dim": 32, "value_dim": 16, "conv_kernel": 4}
V4 = {
    "window": {"kind": "mqa", "heads": 8, "head_dim": 512, "tied_kv": True, "window": 128},
    "csa": {"kind": "csa", "heads": 8, "head_dim": 512, "tokens_per_slot": 4, "window": 128, "index_dim": 128},
    "hca": {"kind": "hca", "heads": 8, "head_dim": 512, "tokens_per_slot": 128, "window": 128},
}
#: Request tables of 4096 requests (row 0 is for padding) of 4096 tokens and 4 more, int32; a generation is int64.
TABLES = {"req.req_generation": 4097 * 8, "req.req_to_token": 4097 * 4100 * 4}


def kv_bytes(storage: dict[str, int]) -> int:
    return sum(size for name, size in storage.items() if name.startswith("kv."))


def test_two_stages_of_heads() -> None:
    """3 layers on 2 stages of 2 ranks: the last stage has 2; each rank one of 2 heads, K and V in one tensor.

    100 tokens in pages of 16 are 112; 3 sessions 336, with the padding page 352. A token and layer: 2 x 64 x 2 bytes.
    """
    model = model_of(HEADS, cls="LlamaForCausalLM", max_context=4096, layers=3)
    made = started("sglang", model, page_size=16, layout=Layout(tp=2, pp=2))
    size = 2 * 352 * 64 * 2
    first = Tensor("key_value", "heads", "kv", "tokens", (0,), 1, 352, (2, 352, 1, 64), "bfloat16", size)
    second = Tensor("key_value", "heads", "kv", "tokens", (1, 2), 2, 352, (2, 352, 1, 64), "bfloat16", 2 * size)
    assert made.plan(Load(100, 3)).ranks == [
        RankPlan((0, 1), [first], size, 16 * 256),
        RankPlan((2, 3), [second], 2 * size, 16 * 512),
    ]
    assert (made.period_tokens, made.saturation_tokens, made.exactness, made.warnings) == (16, 256, "exact", ())
    tokens = GIB // 512

    def stage(layers: int, where: list[int], log: str) -> dict[str, Any]:
        storage = {
            "kv.data_ptrs": 16 * layers,
            "kv.data_strides": 16 * layers,
            "kv.k_buffer": layers * 2 * (tokens + 16) * 64 * 2,
            "kv.k_data_ptrs": 8 * layers,
            "kv.v_data_ptrs": 8 * layers,
        }
        return {
            "layers": where,
            "cell_size": layers * 256,
            "allocated_bytes": kv_bytes(storage),
            "req_to_token_bytes": TABLES["req.req_to_token"],
            "storage": storage | TABLES,
            "log": [f"KV Cache is allocated. dtype: torch.bfloat16, #tokens: {tokens}, {log}"],
        }

    few, many = (
        stage(1, [0, 1], "K size: 0.25 GB, V size: 0.25 GB"),
        stage(2, [1, 3], "K size: 0.50 GB, V size: 0.50 GB"),
    )
    assert made.report(Load(1), GIB) == {
        "cell_size": 512,
        "page_size": 16,
        "cell_sizes": [256, 512],
        "budget_bytes": GIB,
        "max_total_num_tokens": tokens,
        "full_max_total_num_tokens": None,
        "swa_max_total_num_tokens": None,
        "max_mamba_cache_size": None,
        "max_running_requests": 4096,
        "context_len": 4096,
        "allocated_bytes": many["allocated_bytes"],
        "req_to_token_bytes": TABLES["req.req_to_token"],
        "storage": many["storage"],
        "log": many["log"],
        "stages": [few, many],
    }
    assert made.report(Load(1)) == {"cell_size": 512, "page_size": 16, "cell_sizes": [256, 512]}
    alone = started("sglang", model, page_size=16)
    assert alone.report(Load(1)) == {"cell_size": 3 * 512, "page_size": 16}


def test_ranks_of_groups_and_replicas() -> None:
    """2 replicas of 2 stages of 4 ranks, 2 groups: 5 sessions are 2, 1, 1, 1; rank = (dp x 2 + pp) x 4 + tp."""
    model = model_of(HEADS, cls="LlamaForCausalLM", max_context=4096)
    made = started("sglang", model, layout=Layout(tp=4, pp=2, dp=2), dp_size=2)
    assert [(plan.ranks, plan.charged_bytes) for plan in made.plan(Load(100, 5)).ranks] == [
        ((0, 1), 200 * 256),
        ((4, 5), 200 * 256),
        ((2, 3, 8, 9, 10, 11), 100 * 256),
        ((6, 7, 12, 13, 14, 15), 100 * 256),
    ]


def test_two_pools() -> None:
    """gpt-oss: window 128 is 127 to SGLang; one layer of each pool, 2 heads x 128 x 2 bytes a token.

    4 sessions of 112 tokens are 448. Each keeps min(112, 128 + 16) sliding tokens: 448; 448 / 0.8 = 560 full tokens,
    and int(560 x 0.8) = 448 sliding ones.
    """
    pattern = {"local": HEADS | {"window": 128}, "global": HEADS}
    model = model_of(pattern, cls="GptOssForCausalLM", pattern=["local", "global"], max_context=4096)
    made = started("sglang", model, page_size=16)
    full, swa = 2 * 576 * 128 * 2, 2 * 464 * 128 * 2
    tensors = [
        Tensor("key_value", "heads", "full", "tokens", (1,), 1, 576, (2, 576, 2, 64), "bfloat16", full),
        Tensor("key_value", "heads", "swa", "tokens", (0,), 1, 464, (2, 464, 2, 64), "bfloat16", swa),
        Tensor("full_to_swa_index_mapping", "table", "kv", "tokens", (), 1, 577, (577, 8), "int8", 577 * 8),
    ]
    allocated = full + swa + 577 * 8
    charged = 516096  # 560 x (512 + 0.8 x 512) = 516,096
    assert made.plan(Load(100, 4)).ranks == [RankPlan((0,), tensors, allocated, allocated - charged)]
    # 1000 pages of full tokens make whole pages of sliding ones at any ratio of 3 digits.
    assert (made.period_tokens, made.saturation_tokens) == (16000, 4 * 127 + 16 * 16)
    budget = 10 * 2**20
    tokens, short = 11376, 9088  # 10,485,760 / 921.6 = 11377.7 in pages of 16; 11376 x 0.8 = 9100.8
    storage = {
        "kv.full_kv_pool.data_ptrs": 16,
        "kv.full_kv_pool.data_strides": 16,
        "kv.full_kv_pool.k_buffer": 2 * (tokens + 16) * 128 * 2,
        "kv.full_kv_pool.k_data_ptrs": 8,
        "kv.full_kv_pool.v_data_ptrs": 8,
        "kv.full_to_swa_index_mapping": (tokens + 17) * 8,
        "kv.swa_kv_pool.data_ptrs": 16,
        "kv.swa_kv_pool.data_strides": 16,
        "kv.swa_kv_pool.k_buffer": 2 * (short + 16) * 128 * 2,
        "kv.swa_kv_pool.k_data_ptrs": 8,
        "kv.swa_kv_pool.v_data_ptrs": 8,
        "req.req_generation": 2049 * 8,
        "req.req_to_token": 2049 * 4100 * 4,
    }
    assert made.report(Load(1), budget) == {
        "cell_size": 921.6,
        "page_size": 16,
        "budget_bytes": budget,
        "max_total_num_tokens": tokens,
        "full_max_total_num_tokens": tokens,
        "swa_max_total_num_tokens": short,
        "max_mamba_cache_size": None,
        "max_running_requests": 2048,  # 11376 / 4096 x 512 = 1422 are raised to 2048
        "context_len": 4096,
        "allocated_bytes": kv_bytes(storage),
        "req_to_token_bytes": 2049 * 4100 * 4,
        "storage": storage,
        "log": [
            f"Use sliding window memory pool. full_layer_tokens={tokens}, swa_layer_tokens={short}",
            # 11392 x 256 bytes are 2.8 MiB, 9104 x 256 are 2.2 MiB: both 0.00 GiB.
            f"Full KV Cache is allocated. dtype: torch.bfloat16, #tokens: {tokens}, K size: 0.00 GB, V size: 0.00 GB",
            f"SWA KV Cache is allocated. dtype: torch.bfloat16, #tokens: {short}, K size: 0.00 GB, V size: 0.00 GB",
        ],
    }


def test_states_beside_heads() -> None:
    """Gated DeltaNet on 2 ranks: 2 x 2 x 32 + 4 x 16 channels / 2, kernel 4 keeps 3; 2 heads of 32 x 16 in float32.

    extra_buffer with overlap: 3 + 2 slots a request. A slot: 3 x 96 x 2 + 1024 x 4 = 4672 bytes; a token: 64 x 2 x 2.
    """
    model = model_of({"d": DELTA, "a": HEADS}, pattern=["d", "a"], cls="Qwen3NextForCausalLM", max_context=4096)
    made = started("sglang", model, page_size=16, layout=Layout(tp=2), mamba_radix_cache_strategy="extra_buffer")
    # 2 sessions of 56 tokens: 128 tokens in pages, so 144 rows; 10 slots and the padding slot.
    kv, conv, state = 2 * 144 * 64 * 2, 11 * 3 * 96 * 2, 11 * 2 * 512 * 4
    tensors = [
        Tensor("key_value", "heads", "kv", "tokens", (1,), 1, 144, (2, 144, 1, 64), "bfloat16", kv),
        Tensor("conv_state", "state", "state", "slots", (0,), 1, 11, (1, 11, 3, 96), "bfloat16", conv),
        Tensor("recurrent_state", "state", "state", "slots", (0,), 1, 11, (1, 11, 2, 512), "float32", state),
    ]
    allocated = kv + conv + state
    charged = 108495  # 11 x 4672 x 1.9 / 0.9 = 108,494.2; the tokens need 128 x 256 x 1.9 = 62,259.2
    assert made.plan(Load(56, 2)).ranks == [RankPlan((0, 1), tensors, allocated, allocated - charged)]
    got: Any = made.report(Load(1), GIB)
    slots = int((1 * 0.9 / 1.9 * GIB - 4672) // 4672)
    head = "Mamba Cache is allocated. max_mamba_cache_size"
    tokens = (GIB - (slots + 1) * 4672) // 256 // 16 * 16
    storage = {
        "kv.full_kv_pool.data_ptrs": 16,
        "kv.full_kv_pool.data_strides": 16,
        "kv.full_kv_pool.k_buffer": 2 * (tokens + 16) * 64 * 2,
        "kv.full_kv_pool.k_data_ptrs": 8,
        "kv.full_kv_pool.v_data_ptrs": 8,
        "kv.mamba_pool.mamba_cache.conv": (slots + 1) * 576,
        "kv.mamba_pool.mamba_cache.temporal": (slots + 1) * 4096,
        "req.mamba_allocator.free_slots": slots * 8,
        "req.req_generation": 4097 * 8,
        "req.req_index_to_mamba_index_mapping": 4097 * 4,
        "req.req_index_to_mamba_ping_pong_track_buffer_mapping": 4097 * 2 * 8,
        "req.req_to_token": 4097 * 4100 * 4,
    }
    assert got == {
        "cell_size": 256,
        "page_size": 16,
        "mamba_cache_per_req": 4672,
        "budget_bytes": GIB - (slots + 1) * 4672,
        "max_total_num_tokens": tokens,
        "full_max_total_num_tokens": None,
        "swa_max_total_num_tokens": None,
        "max_mamba_cache_size": slots,
        "max_running_requests": 4096,
        "context_len": 4096,
        "allocated_bytes": kv_bytes(storage),
        "req_to_token_bytes": 4097 * 4100 * 4,
        "storage": storage,
        "log": [
            # 0.9 / 1.9 GiB of slots: 576 / 4672 of it convolutions.
            f"{head}: {slots}, conv_state size: 0.06GB, ssm_state size: 0.42GB ",
            f"KV Cache is allocated. dtype: torch.bfloat16, #tokens: {tokens}, K size: 0.26 GB, V size: 0.26 GB",
        ],
    }
    for options, tracks in (
        ({"mamba_radix_cache_strategy": "extra_buffer", "disable_overlap_schedule": True}, 1),
        ({"mamba_radix_cache_strategy": "no_buffer"}, 0),
    ):
        held: Any = started("sglang", model, **options).report(Load(1), GIB)["storage"]
        assert held.get("req.req_index_to_mamba_ping_pong_track_buffer_mapping", 0) == 4097 * tracks * 8


def test_latents_with_an_index() -> None:
    """Two stages, the index only on the first: rows of 656 bytes in fp8, 132 bytes of index a token; pages of 64.

    100 tokens are 128 in pages, 192 rows with the padding page; (128 + 64 + 1) // 64 = 3 pages of index.
    """
    model = model_of(
        {"a": MLA | {"indexer": {"head_dim": 128}}, "b": MLA},
        pattern=["a", "b"],
        cls="DeepseekV32ForCausalLM",
        max_context=4096,
    )
    made = started("sglang", model, kv_cache_dtype="fp8_e4m3", layout=Layout(pp=2))
    latent, index = 192 * 656, 3 * 64 * 132
    row = ("latent", "latent", "kv", "tokens")
    first = [
        Tensor(*row, (0,), 1, 192, (192, 1, 656), "fp8_e4m3", latent),
        Tensor("index_key", "latent", "kv", "tokens", (0,), 1, 192, (3, 64 * 132), "int8", index),
    ]
    second = [Tensor(*row, (1,), 1, 192, (192, 1, 656), "fp8_e4m3", latent)]
    assert made.plan(Load(100)).ranks == [
        RankPlan((0,), first, latent + index, 64 * (656 + 132)),
        RankPlan((1,), second, latent, 64 * 656),
    ]
    got: Any = made.report(Load(1), 788 * 64000)
    assert got["storage"] == {
        "kv.data_ptrs": 8,
        "kv.index_key_cache.buffer": 1001 * 64 * 132,
        "kv.kv_buffer": 64064 * 656,
        "req.req_generation": 4097 * 8,
        "req.req_to_token": 4097 * 4100 * 4,
    }
    # 64064 x 788 bytes.
    assert got["log"] == ["KV Cache is allocated. dtype: torch.float8_e4m3fn, #tokens: 64000, KV size: 0.05 GB"]
    assert [stage["cell_size"] for stage in got["stages"]] == [788, 656]
    assert (got["cell_size"], got["page_size"], got["cell_sizes"]) == (788, 64, [788, 656])


def test_storage_and_log_of_every_recipe() -> None:
    """16,000,000 tokens and a padding page of 16: price, bytes by SGLang's attribute, and the GiB it prints.

    Recipes: fp4 halves K and V and has a byte of scale per 16, mxfp8 one per 32; FlashInfer copies one layer in fp8.
    """
    rows = 16_000_016
    llama, wide = "LlamaForCausalLM", HEADS | {"v_head_dim": 32}
    pointers = {"k_data_ptrs": 16, "v_data_ptrs": 16}
    moved = {"data_ptrs": 32, "data_strides": 32}
    four = {"data_ptrs": 64, "data_strides": 64}
    scales = {"quant_method.k_scales_gpu": 8, "quant_method.v_scales_gpu": 8}
    fp4 = {f"{side}_buffer": 2 * rows * 64 for side in "kv"} | {f"{side}_scale_buffer": 2 * rows * 8 for side in "kv"}
    e4m3, fp4x2 = "torch.float8_e4m3fn", "torch.float4_e2m1fn_x2"
    cases: list[tuple[dict[str, Any], str, dict[str, Any], int, dict[str, int], str]] = [
        (HEADS, llama, {"kv_cache_dtype": "fp8_e5m2"}, 512, {"k_buffer": 4 * rows * 128} | pointers | moved,
         "torch.float8_e5m2|3.81|3.81"),
        (wide, llama, {}, 768, {"k_buffer": 2 * rows * 256, "v_buffer": 2 * rows * 128} | pointers | moved,
         "torch.bfloat16|7.63|3.81"),
        (HEADS, llama, {"kv_cache_dtype": "mxfp8"}, 528,
         {"k_buffer": 2 * rows * 128, "k_scale_buffer": 2 * rows * 4, "v_buffer": 2 * rows * 128,
          "v_scale_buffer": 2 * rows * 4} | pointers | moved, f"{e4m3}|3.93|3.93"),
        (HEADS, llama, {"kv_cache_dtype": "fp4_mx_block16"}, 288, fp4 | pointers | four, f"{fp4x2}|2.15|2.15"),
        (HEADS, llama, {"kv_cache_dtype": "nvfp4"}, 288, fp4 | pointers | four | scales, f"{fp4x2}|2.15|2.15"),
        (HEADS, llama, {"kv_cache_dtype": "nvfp4", "attention_backend": "flashinfer"}, 288 + 256,
         fp4 | {"dq_k_buffer": rows * 128, "dq_v_buffer": rows * 128} | pointers | four | scales, f"{fp4x2}|4.05|4.05"),
        (MLA, "DeepseekV3ForCausalLM", {"kv_cache_dtype": "mxfp8"}, 1152,
         {"kv_buffer": 2 * rows * 576, "data_ptrs": 16}, f"{e4m3}|17.17"),
        (MLA, "DeepseekV3ForCausalLM", {"kv_cache_dtype": "nvfp4"}, 576 + 72,
         {"kv_buffer": 2 * rows * 288, "kv_scale_buffer": 2 * rows * 36, "data_ptrs": 16}, f"{fp4x2}|8.58"),
    ]  # fmt: skip
    for kind, cls, options, cell, expected, said in cases:
        made = started("sglang", model_of(kind, cls=cls, max_context=4096), page_size=16, **options)
        got: Any = made.report(Load(1), cell * (rows - 16))
        found = {name.removeprefix("kv."): size for name, size in got["storage"].items() if name.startswith("kv.")}
        assert (got["cell_size"], found) == (cell, expected)
        torch, *sizes = said.split("|")
        words = f"KV size: {sizes[0]} GB" if len(sizes) == 1 else f"K size: {sizes[0]} GB, V size: {sizes[1]} GB"
        assert got["log"] == [f"KV Cache is allocated. dtype: {torch}, #tokens: {rows - 16}, {words}"]


def test_heads_with_an_index() -> None:
    """MiniMax-M3: 2 x 2 heads x 64 x 2 bytes on 2 layers, 32 x 2 bytes of index on the layer that has one."""
    blocks = {"a": HEADS | {"indexer": {"head_dim": 32}}, "b": HEADS}
    model = model_of(blocks, pattern=["a", "b"], cls="MiniMaxM3SparseForCausalLM", max_context=4096)
    made = started("sglang", model, page_size=16)
    key = Tensor("key_value", "heads", "kv", "tokens", (0, 1), 2, 128, (2, 128, 2, 64), "bfloat16", 131072)
    index = Tensor("index_key", "heads", "kv", "tokens", (0,), 1, 128, (128, 1, 32), "bfloat16", 8192)
    assert made.plan(Load(100)).ranks == [RankPlan((0,), [key, index], 139264, 16 * (1024 + 64))]
    got: Any = made.report(Load(1), 1088 * 16000)
    assert got["cell_size"] == 1088
    assert {name: size for name, size in got["storage"].items() if name.startswith("kv.")} == {
        "kv.index_k_pool.k_buffer": 16016 * 64,
        "kv.main_pool.data_ptrs": 32,
        "kv.main_pool.data_strides": 32,
        "kv.main_pool.k_buffer": 4 * 16016 * 256,
        "kv.main_pool.k_data_ptrs": 16,
        "kv.main_pool.v_data_ptrs": 16,
    }
    head = "KV Cache is allocated. dtype: torch.bfloat16, #tokens: 16000"
    # 16016 x 512 bytes each; 16016 x 64.
    assert got["log"] == [f"{head}, K size: 0.01 GB, V size: 0.01 GB", f"{head}, K size: 0.00 GB, V size: 0.00 GB"]


def test_deepseek_v4_in_whole() -> None:
    """2560 x 256 tokens, a tenth of them sliding; two layers of windows, one CSA, one HCA.

    Pages of 256 take 149,760 bytes, of 64 37,440, of 2 1,728; 655,360 / 4096 x 512 requests are more than 4096.
    """
    pattern = ["window", "window", "csa", "hca"]
    model = model_of(V4, pattern=pattern, layers=4, cls="DeepseekV4ForCausalLM", max_context=4096)
    made = started("sglang", model)
    full, swa, rows4, rows128 = 655360, 65536, 2060, 4097 * 128 + 256  # 256 pages x 8 + 9 in fours; + a ring and 128
    shapes: list[tuple[str, int, tuple[int, int], str, int]] = [
        ("window_kv", 4, (257, 149760), "int8", 4),
        ("compressed_kv", 1, (2564, 37440), "int8", 1),  # (163,840 + 256) / 64
        ("compressed_kv", 1, (2688, 1728), "int8", 1),  # (5120 + 256) / 2
        ("index_key", 1, (2564, 64 * 132), "int8", 1),
        ("pending_kv_score", 1, (rows4, 2048), "float32", 4),
        ("pending_kv_score", 1, (rows128, 1024), "float32", 4),
        ("pending_index_kv_score", 1, (rows4, 512), "float32", 4),
    ]
    expected = [Tensor("full_to_swa_index_mapping", "table", "kv", "tokens", (), 1, full + 257, (full + 257, 8), "int8",
                       (full + 257) * 8)]  # fmt: skip
    for name, count, shape, dtype, by in shapes:
        size = shape[0] * shape[1] * by  # bytes of an element, or the four layers of one byte
        expected.append(Tensor(name, "compressed", "kv", "tokens", (), count, shape[0], shape, dtype, size))
    tensors = made.plan(Load(full)).ranks[0].tensors
    assert [tensor._replace(layers=()) for tensor in tensors] == expected
    assert tensors[1].layers == (0, 1, 2, 3)
    # A token: the window's 4 x 585 + 8 / 256 x (2048 + 512) x 4 bytes, a tenth; 585 / 4 + 132 / 4 + 864 / 128.
    token = 0.1 * (4 * 585 + 320) + (146.25 + 33 + 6.75)
    price = made.report(Load(1))
    assert price == {
        "cell_size": token,
        "page_size": 256,
        "bytes_per_full_token": token,
        "bytes_per_swa_token": 4 * 585 + 320,
    }
    states = rows128 * 1024 * 4
    got: Any = made.report(Load(1), states + int(655360 * token) + 1000)
    assert (got["full_max_total_num_tokens"], got["swa_max_total_num_tokens"]) == (full, swa)
    assert [repr(got[f"c{by}_max_total_num_tokens"]) for by in (4, 128)] == ["163840", "5120"]
    assert (
        got["storage"]
        == {
            "kv.compress_state_pools.kv_score_buffer.kv_score": rows4 * 2048 * 4 + states,
            "kv.full_to_swa_index_mapping": (full + 257) * 8,
            "kv.index_pools.index_k_with_scale_buffer": 2564 * 64 * 132,
            "kv.indexer_compress_state_pools.kv_score_buffer.kv_score": rows4 * 512 * 4,
            "kv.kv_pools.kv_buffer": 2564 * 37440 + 2688 * 1728,
            "kv.swa_kv_pool.kv_buffer": 4 * 257 * 149760,
        }
        | TABLES
    )
    assert got["log"] == [
        "DSV4 SWA sizing: mode=ratio (default), swa_tokens=65536, swa_full_tokens_ratio=0.1",
        "DSV4 pool sizes: full=655360, swa=65536, c4=163840, c128=5120, c4_state=2048, c128_state=0",
    ]
    explicit: Any = started("sglang", model, swa_full_tokens_ratio=0.5).report(Load(1), 8 * GIB)
    assert explicit["log"][0].startswith("DSV4 SWA sizing: mode=ratio (explicit), ")
    # A stage of windows only has neither groups nor an index.
    early = started("sglang", model, layout=Layout(pp=2)).plan(Load(full)).ranks
    assert [tensor.name for tensor in early[0].tensors] == ["full_to_swa_index_mapping", "window_kv"]
    assert [tensor.count for tensor in early[1].tensors] == [1, 2, 1, 1, 1, 1, 1, 1]
    assert early[1].tensors[1].layers == (2, 3)
