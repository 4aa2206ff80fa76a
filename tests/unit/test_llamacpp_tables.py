"""What llama.cpp's loaders decide, by property instead of by architecture, and every tensor of a few small models.

Source: llama.cpp 0c1e57098 src/models/*.cpp, src/llama-arch.cpp, src/llama-model.cpp `create_memory`,
src/llama-kv-cache*.cpp, src/llama-memory-recurrent.cpp.
"""

from __future__ import annotations

from typing import Any

import pytest
from starting import model_of, started

from kvcalc.core.plan import Layout, Load, Tensor
from kvcalc.engines.llamacpp.arch import _NONE, _PLAIN, _SLIDING, ARCHS, Arch, Windows, _table, arch_of
from kvcalc.errors import EngineRefusal

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
LOCAL = HEADS | {"window": 64}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 64, "rope_dim": 32}

PLAIN = """
    apertus arcee arctic baichuan bailingmoe bailingmoe2 bitnet bloom chameleon chatglm codeshell cogvlm command-r dbrx
    deci deepseek deepseek2-ocr dots1 ernie4_5 ernie4_5-moe exaone falcon gemma glm4 glm4moe gpt2 gptneox granite
    granitemoe grovemoe hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 internlm2 jais jais2 llama llama-embed maincoder
    minicpm minimax-m2 mistral3 mpt nanbeige nemotron olmo olmoe openelm orion paddleocr pangu-embedded phi2 phi3
    phimoe plamo pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen3moe qwen3tts qwen3vl qwen3vlmoe refact seed_oss
    smollm3 stablelm starcoder starcoder2 talkie xverse
"""
CACHELESS = """
    bert dream eurobert gemma-embedding jina-bert-v2 jina-bert-v3 llada llada-moe modern-bert neo-bert nomic-bert
    nomic-bert-moe rnd1 t5encoder wavtokenizer-dec
"""
#: Fields of Arch: value -> the architectures that have it; all others have the first value named.
PROPERTIES: dict[str, dict[Any, str]] = {
    "memory": {
        "attention": "", "none": CACHELESS, "recurrent": "mamba mamba2 rwkv6 rwkv6qwen2 rwkv7 arwkv7",
        "hybrid": "jamba falcon-h1 plamo2 granitehybrid qwen3next qwen35 qwen35moe nemotron_h nemotron_h_moe lfm2 "
        "lfm2moe minimax-01 kimi-linear kimi-k3 bailingmoe3 glm5-next qwen4exp",
    },
    "latent": {
        "no": "", "expanded": "minicpm3",
        "row": "deepseek2 mistral4 deepseek32 glm-dsa hy_v4 kimi-linear kimi-k3 bailingmoe3 glm5-next dots3note",
    },
    "rollback": {
        False: "",
        True: "qwen35 qwen35moe nemotron_h nemotron_h_moe lfm2 lfm2moe kimi-k3 bailingmoe3 glm5-next qwen4exp "
        "deepseek4",
    },
    "kv_layers": {None: "", 20: "gemma3n"},
    "index": {False: "", True: "deepseek32 glm-dsa hy_v4 glm5-next qwen4exp minimax-m3 dots3note deepseek4"},
    "index_factor": {1: "", 3: "glm5-next"},
    "index_value": {False: "", True: "minimax-m3"},
    "flash": {True: "", False: "grok"},
    "streams_always_split": {False: "", True: "deepseek4"},
    "shares": {False: "", True: "gemma3n gemma4"},
    "split": {"works": "", "aborts": "t5", "even": "minimax-01 kimi-linear"},
}  # fmt: skip
#: (pattern, dense_first, default, fixed, optional, chunked, layers)
WINDOWS: dict[str, tuple[Any, ...]] = {
    "gemma2": (2, False, 4096, None, False, False, None),
    "gemma3": (6, False, None, None, True, False, None),
    "gemma3n": (5, False, None, None, False, False, None),
    "gemma4 maple mimo2 step35 spark2_5 granite_swa dots3note": (None, False, None, None, False, False, None),
    "cohere2 muse-glimmer exaone-moe": (4, False, None, None, False, False, None),
    "cohere2moe": (4, True, None, None, False, False, None),
    "gpt-oss": (2, False, None, None, False, False, None),
    "exaone4": (4, False, 4096, None, False, False, 64),
    "olmo2 afmoe mellum": (4, False, None, None, True, False, None),
    "plamo3": (8, False, None, None, True, False, None),
    "laguna": (4, True, None, None, True, False, None),
    "llama4": (4, False, None, 8192, False, True, None),
    "smallthinker": (4, True, None, 4096, True, False, None),
    "lfm2": (0, False, None, None, True, False, None),
    "deepseek4": (0, False, None, None, False, False, None),
}


def test_every_architecture_by_property() -> None:
    """Each field of every Arch of ARCHS (made by _table of _PLAIN, _NONE and _SLIDING), and no other architecture."""
    windows = {name: row for names, row in WINDOWS.items() for name in names.split()}
    names = {*PLAIN.split(), *windows}
    names |= {name for values in PROPERTIES.values() for words in values.values() for name in words.split()}
    assert set(ARCHS) == names
    assert (set(_PLAIN.split()), set(_NONE.split())) == (set(PLAIN.split()), set(CACHELESS.split()))
    assert set(_SLIDING) == set(windows) - {"lfm2", "gemma3n", "gemma4", "dots3note", "deepseek4"}
    for field, values in PROPERTIES.items():
        usual = next(iter(values))
        for made in (ARCHS, _table()):
            expected = {name: value for value, words in values.items() for name in words.split()}
            assert {name: getattr(arch, field) for name, arch in made.items()} == dict.fromkeys(names, usual) | expected
        assert getattr(Arch(), field) == usual
    fields = ("pattern", "dense_first", "default", "fixed", "optional", "chunked", "layers")
    for arch in (ARCHS, _table()):
        found = {name: each.windows for name, each in arch.items() if each.windows is not None}
        assert {name: tuple(getattr(each, field) for field in fields) for name, each in found.items()} == windows
    assert Windows(pattern=2) == Windows(
        pattern=2, dense_first=False, default=None, fixed=None, optional=False, chunked=False, layers=None
    )


def test_layers_that_slide() -> None:
    """Every fourth is full, the last of each round or the first; 0: all slide; 1: none."""
    last, first = Windows(pattern=4), Windows(pattern=4, dense_first=True)
    assert [last.slides(layer, 4) for layer in range(9)] == [True, True, True, False] * 2 + [True]
    assert [first.slides(layer, 4) for layer in range(9)] == [False, True, True, True] * 2 + [False]
    assert [windows.slides(3, 0) for windows in (last, first)] == [True, True]
    assert [windows.slides(3, 1) for windows in (last, first)] == [False, False]


def test_rules_of_both_builds() -> None:
    """b10566 lacks six architectures, two kinds of snapshots and one assertion; EXAONE 4 slides with 64 layers only."""
    later = {name for name in ARCHS if arch_of(name, 4, "b10566") is None}
    assert later == {"maple", "spark2_5", "hy_v4", "glm5-next", "qwen4exp", "dots3note"}
    assert arch_of("nothing", 4, "b11549") is None
    for name in set(ARCHS) - {"exaone4"}:
        assert arch_of(name, 4, "b11549") == ARCHS[name]
    changed = {name for name in set(ARCHS) - later - {"exaone4"} if arch_of(name, 4, "b10566") != ARCHS[name]}
    assert changed == {"kimi-k3", "bailingmoe3", "minimax-01", "kimi-linear"}
    old = {name: arch_of(name, 4, "b10566") for name in (*changed, "t5", "qwen35")}
    assert [old[name].rollback for name in ("kimi-k3", "bailingmoe3", "qwen35") if old[name]] == [False, False, True]  # type: ignore[union-attr]
    assert [old[name].split for name in ("minimax-01", "kimi-linear", "t5")] == ["works", "works", "aborts"]  # type: ignore[union-attr]
    for layers, slides in ((64, True), (63, False), (32, False)):
        arch = arch_of("exaone4", layers, "b11549")
        assert arch is not None
        assert (arch.windows is not None) == slides


def row(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.name, tensor.block, tensor.law, tensor.layers, tensor.shape, tensor.dtype, tensor.bytes


def tensors(doc: dict[str, Any], load: Load | None = None, version: str = "b11549", **asked: Any) -> list[Any]:
    """(name, block, law, layers, [streams, cells, width], type, bytes) of the GPU's tensors."""
    made = started(f"llama.cpp@{version}", model_of(**doc), **asked)
    return [row(tensor) for tensor in made.plan(load or Load(300)).ranks[0].tensors]


def test_tensors_of_windows_and_full_layers() -> None:
    """300 tokens are 512 cells; a window of 64 and a batch of 100 need 164, so 256."""
    doc = {
        "attention": {"l": LOCAL, "f": HEADS},
        "pattern": ["l", "l", "f"],
        "layers": 3,
        "architecture": "gemma3_text",
    }
    key, value = names(doc)
    assert tensors(doc, n_ubatch=100) == [
        (key, "l", "window 64", (0, 1), (1, 256, 128), "float16", 2 * 256 * 128 * 2),
        (value, "l", "window 64", (0, 1), (1, 256, 128), "float16", 2 * 256 * 128 * 2),
        (key, "f", "linear", (2,), (1, 512, 128), "float16", 512 * 128 * 2),
        (value, "f", "linear", (2,), (1, 512, 128), "float16", 512 * 128 * 2),
    ]
    # Types of their own: q8_0 rows are 34 bytes per 32 elements.
    mixed_types = tensors(doc, types={"key": "q8_0", "value": "bfloat16"}, n_ubatch=100)
    assert [(each[5], each[6]) for each in mixed_types] == [
        ("q8_0", 2 * 256 * 136), ("bfloat16", 2 * 256 * 256), ("q8_0", 512 * 136), ("bfloat16", 512 * 256),
    ]  # fmt: skip
    # A llama has no windows: all layers are full.
    assert {each[2] for each in tensors(doc | {"architecture": "llama"})} == {"linear"}


def names(doc: dict[str, Any]) -> tuple[str, str]:
    """Names of the components of a GQA layer."""
    kinds = model_of(**doc).blocks["f"].lower()
    return kinds[0].name, kinds[1].name


def test_tensors_of_latents_and_index_keys() -> None:
    """MLA is one row of 96; its indexer a row per token, three times as wide in GLM 5, with a value in MiniMax M3."""
    latent = tensors({"attention": MLA, "architecture": "deepseek_v3"})
    assert [(each[4], each[6]) for each in latent] == [((1, 512, 96), 2 * 512 * 96 * 2)]
    indexed = MLA | {"indexer": {"head_dim": 128}}
    for architecture, width in (("deepseek_v32", 128), ("glm5_next", 384)):
        rows = tensors({"attention": indexed, "architecture": architecture})
        assert [each[4] for each in rows] == [(1, 512, 96), (1, 512, width)]
        assert rows[1][2] == "linear"
    heads = tensors({"attention": HEADS | {"indexer": {"head_dim": 32}}, "architecture": "minimax_m3"})
    assert [each[4][2] for each in heads] == [128, 128, 32, 64]  # the value row is one head of 64
    assert heads[3][:3] == ("index_value", "attention", "linear")
    # MiniCPM3: 8 heads of 16 + 32 for K, of 24 for V.
    expanded = MLA | {"nope_dim": 16, "v_head_dim": 24}
    rows = tensors({"attention": expanded, "architecture": "minicpm3"})
    assert [each[4][2] for each in rows] == [8 * 48, 8 * 24]
    for missing in ("nope_dim", "v_head_dim"):
        short: dict[str, Any] = {
            "attention": {k: v for k, v in expanded.items() if k != missing},
            "architecture": "minicpm3",
        }
        with pytest.raises(EngineRefusal, match="must say their widths"):
            tensors(short)
    for types, letter in (({"key": "q8_0", "value": "float16"}, "n_embd_head_k=48"),
                          ({"key": "float16", "value": "q8_0"}, "n_embd_head_v=24")):  # fmt: skip
        with pytest.raises(EngineRefusal, match=letter):
            tensors({"attention": expanded, "architecture": "minicpm3"}, types=types)


def test_tensors_of_states() -> None:
    """Mamba-2: a tail of 3 x (512 + 2 x 2 x 128) floats and a state of 8 x 64 x 128, one row per slot."""
    mamba = {"kind": "mamba2", "heads": 8, "head_dim": 64, "state_dim": 128, "groups": 2, "conv_kernel": 4}
    doc: dict[str, Any] = {
        "attention": {"m": mamba, "f": HEADS},
        "pattern": ["m", "f"],
        "layers": 2,
        "architecture": "nemotron_h",
    }
    rows = tensors(doc, Load(300, 2), n_rs_seq=2)  # two slots and two snapshots of each
    assert [each[3:] for each in rows] == [
        ((0,), (1, 6, 3072), "float32", 6 * 3072 * 4), ((0,), (1, 6, 65536), "float32", 6 * 65536 * 4),
        ((1,), (2, 512, 128), "float16", 2 * 512 * 256), ((1,), (2, 512, 128), "float16", 2 * 512 * 256),
    ]  # fmt: skip
    assert [each[2] for each in rows] == ["constant", "constant", "linear", "linear"]
    report = started("llama.cpp", model_of(**doc), n_rs_seq=2).report(Load(300, 2))
    assert report["recurrent_cells"] == 6
    assert "swa_cells" not in report
    assert "host_bytes" not in report
    for architecture, cells in (("nemotron_h", 6), ("jamba", 2)):
        rows = tensors(doc | {"architecture": architecture}, Load(300, 2), n_rs_seq=2)
        assert rows[0][4][1] == cells


def test_tensors_of_deepseek_v4() -> None:
    """Window 128 + batch 512 in 640 -> 768 cells; 4,096 tokens by 4 are 1,024 entries, by 128 are 32 -> 256.

    Open groups: two of 4 where an indexer stands beside, one of 128 elsewhere.
    """
    csa = {"kind": "csa", "heads": 8, "head_dim": 128, "tokens_per_slot": 4, "window": 128, "index_dim": 64}
    hca = {"kind": "hca", "heads": 8, "head_dim": 128, "tokens_per_slot": 128, "window": 128}
    doc: dict[str, Any] = {
        "attention": {"c": csa, "h": hca},
        "pattern": ["c", "h"],
        "layers": 2,
        "architecture": "deepseek_v4",
    }
    rows = tensors(doc, Load(4096))
    cells = {(each[1], each[4][:2], each[5]) for each in rows}
    assert cells == {
        ("c", (1, 768), "float16"), ("c", (1, 1024), "float16"), ("c", (1, 8), "float32"),
        ("h", (1, 768), "float16"), ("h", (1, 256), "float16"), ("h", (1, 128), "float32"),
    }  # fmt: skip
    made = started("llama.cpp", model_of(**doc))
    assert made.period_tokens == 256 * 128
    two = started("llama.cpp", model_of(**doc), kv_unified=True).plan(Load(4096, 2)).ranks[0].tensors
    assert {tensor.shape[0] for tensor in two if tensor.dtype == "float16"} == {2}  # unified or not, one stream each


def test_value_rows_without_flash_attention() -> None:
    """As wide as the widest; layers without KV heads get one, not where some share."""
    wide, none = HEADS | {"groups": 8}, {"kind": "none"}
    doc: dict[str, Any] = {"attention": {"a": HEADS, "n": none}, "pattern": ["a", "n"], "layers": 2}
    doc |= {"architecture": "llama"}
    plain = [(each[1], each[3], each[4][2]) for each in tensors(doc, flash_attn="off")]
    assert plain == [("a", (0,), 128), ("a", (0,), 128), ("n", (1,), 128)]
    files = doc | {"attention": {"a": HEADS, "n": none, "w": wide}, "pattern": ["a", "n", "w"], "layers": 3}
    assert [each[4][2] for each in tensors(files, flash_attn="off")] == [128, 512, 512, 512, 512]
    assert [each[4][2] for each in tensors(doc)] == [128, 128]
    assert [each[4][2] for each in tensors(doc | {"architecture": "grok"})] == [128, 128, 128]
    shared = {"attention": {"a": HEADS, "s": {"kind": "shared", "of": "a"}}, "pattern": ["a", "s"], "layers": 2}
    shared["architecture"] = "gemma4"
    assert len(tensors(shared, flash_attn="off")) == 2


def test_layers_on_gpus_and_host() -> None:
    """Parts of 4 layers and the output: of two GPUs floor(2 i / 5); with -ngl 3 the last two layers' are offloaded."""
    model = model_of(HEADS, layers=4, architecture="llama")

    def layers(asked: dict[str, Any], pp: int = 1) -> tuple[list[set[int]], set[int]]:
        plan = started("llama.cpp", model, layout=Layout(pp=pp), **asked).plan(Load(256))
        ranks = [{layer for tensor in rank.tensors for layer in tensor.layers} for rank in plan.ranks]
        return ranks, {layer for tensor in (plan.host.tensors if plan.host else ()) for layer in tensor.layers}

    assert layers({}) == layers({"n_gpu_layers": 5}) == layers({"n_gpu_layers": 9}) == ([{0, 1, 2, 3}], set())
    assert layers({"n_gpu_layers": 3}) == ([{2, 3}], {0, 1})
    assert layers({"n_gpu_layers": 1}) == layers({"n_gpu_layers": 0}) == ([set()], {0, 1, 2, 3})
    assert layers({"offload_kqv": False}) == ([set()], {0, 1, 2, 3})
    assert layers({}, 2) == ([{0, 1, 2}, {3}], set())
    assert layers({"n_gpu_layers": 3}, 2) == ([{2, 3}, set()], {0, 1})
    assert layers({"n_gpu_layers": 4}, 2) == ([{1, 2}, {3}], {0})
    copies = started("llama.cpp", model, layout=Layout(pp=2, dp=3)).plan(Load(256, 4))
    one = 256 * 512  # the first server has two slots; each has three layers on its first GPU, one on its second
    assert copies.by_rank() == {0: 6 * one, 1: 2 * one, 2: 3 * one, 3: one, 4: 3 * one, 5: one}
    assert layers({}, 5) == ([{0}, {1}, {2}, {3}, set()], set())


def test_how_many_layers_a_gpu_holds() -> None:
    """5 parts of 100,000 bytes of weights and 4 caches of 131,072: on both sides of each step, the last one first."""
    model = model_of(HEADS, layers=4, architecture="llama", weights={"bytes": 500003})
    made, cache = started("llama.cpp", model), 256 * 512
    for count in range(1, 6):
        used = 500003 * count // 5 + cache * (count - 1)
        for room, expected in ((used, count), (used - 1, count - 1)):
            assert made.report(Load(256), room - 500003)["max_n_gpu_layers"] == expected
    report = made.report(Load(256), 10**9)
    assert (report["max_n_gpu_layers"], report["all_n_gpu_layers"]) == (5, 5)
    assert type(report["max_n_gpu_layers"]) is int
    assert "max_n_gpu_layers" not in started("llama.cpp", model, layout=Layout(pp=2)).report(Load(256), 10**9)
    assert "max_n_gpu_layers" not in made.report(Load(256))
    unknown = started("llama.cpp", model_of(HEADS, layers=4, architecture="llama"))
    assert "max_n_gpu_layers" not in unknown.report(Load(256), 10**9)
