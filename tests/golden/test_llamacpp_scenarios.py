"""Numbers that llama.cpp, Ollama and LM Studio printed in public threads.

Shapes come from the thread, else from the model's published config; where a log says only bytes per token, any shape
with that many is as good. MiB in logs are 2**20 bytes, printed with two decimals.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.core.component import Role
from kvcalc.core.plan import CachePlan, Load, Planner
from kvcalc.document import model_from_document
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.registry import load_registry

MIB = 2**20
ASKED: frozenset[Role] = frozenset(("key", "value"))


def planner(model: Any, engine: str = "llama.cpp", *, kv: str = "float16", **options: Any) -> Planner:
    """A planner for a shipped model by name, or for (architecture, layers, attention, pattern)."""
    if isinstance(model, str):
        loaded = load_registry().model(model)
    else:
        architecture, layers, attention, *pattern = model
        doc = {"name": "quoted", "dtype": "bfloat16", "architecture": architecture, "layers": layers}
        loaded = model_from_document(doc | {"attention": attention} | ({"pattern": pattern[0]} if pattern else {}))
    found, version = get_engine(engine)
    dtypes = CacheDtypes(key=kv, value=kv, index=kv, pending="float32", conv="float32", state="float32")
    return found.prepare(loaded, Setup(version=version, dtypes=dtypes, options=options, asked=ASKED))


def mib(plan: CachePlan, *blocks: str) -> float:
    """MiB of some blocks of a plan, of all without names."""
    sizes = [t.bytes for rank in plan.ranks for t in rank.tensors if not blocks or t.block in blocks]
    return sum(sizes) / MIB


def gqa(groups: int, head_dim: int, heads: int = 0, **more: Any) -> dict[str, Any]:
    return {"kind": "gqa", "heads": heads or groups, "groups": groups, "head_dim": head_dim, **more}


def test_lm_studio_allots_one_pool_and_four_states() -> None:
    """Qwen3.6-27B in LM Studio, 262,144 cells: 16384.00 MiB of attention and 598.50 MiB of states in 4 slots.

    https://github.com/lmstudio-ai/lmstudio-bug-tracker/issues/1862
    """
    plan = planner("qwen3.5-27b", "lmstudio").plan(Load(262_144))  # the same 16 + 48 layers and widths
    states = [t for rank in plan.ranks for t in rank.tensors if t.dtype == "float32"]
    assert sum(t.bytes for t in states) / MIB == 598.50
    assert mib(plan) - 598.50 == 16384.00


def test_sliding_layers_hold_window_and_batch() -> None:
    """gemma3:4b at 128k: 2560.00 MiB of full layers, 174.00 MiB of sliding ones.

    https://github.com/ollama/ollama/pull/17037
    """
    plan = planner("gemma-3-4b").plan(Load(131_072))
    found = {t.block: 0.0 for rank in plan.ranks for t in rank.tensors}
    assert sorted(mib(plan, block) for block in found) == [174.00, 2560.00]


def test_quantised_cells_of_two_widths() -> None:
    """Gemma-4-12B with q8_0 at 262,144: 2176.00 MiB in 8 full layers, 255.00 MiB in 40 sliding ones of 1,536 cells.

    https://github.com/unslothai/unsloth/issues/10489
    """
    blocks = {"full": gqa(1, 512, 16), "local": gqa(8, 256, 16, window=1024)}
    shape = ("gemma4_text", 48, blocks, ["local*5", "full"])
    plan = planner(shape, kv="q8_0").plan(Load(262_144))
    assert (mib(plan, "full"), mib(plan, "local")) == (2176.00, 255.00)


def test_layers_that_share_a_cache_hold_none() -> None:
    """Gemma-4 E4B at 4,096: sliding layers fall from 160.00 to 60.00 MiB (1,536 cells), full ones stay at 64.00.

    The batch is not quoted; 1,536 cells are the model's window of 512 and a batch of 1,024.
    https://github.com/qualcomm/GenieX/pull/1346
    """
    for whole, sliding in ((True, 160.00), (False, 60.00)):
        plan = planner("gemma-4-e4b", swa_full=whole, n_ubatch=1024).plan(Load(4096))
        found = sorted(mib(plan, block) for block in {t.block for rank in plan.ranks for t in rank.tensors})
        assert found == sorted([64.00, sliding])


def test_ollama_multiplies_context_by_slots() -> None:
    """granite3.3:2b with num_ctx 32,768 and 20 slots: kv_size 655,360, 51200.00 MiB.

    https://github.com/ollama/ollama/issues/10735
    """
    granite = planner(("granite", 40, gqa(8, 64, 32)), "ollama")
    report = granite.report(Load(32_768, 20))
    assert report["n_ctx"] == 655_360
    assert mib(granite.plan(Load(32_768, 20))) == 51_200.00
    assert mib(granite.plan(Load(32_768, 1))) == 2560.00


@pytest.mark.parametrize(
    ("model", "context", "kv", "printed"),
    [
        # 28 layers of 8 x 128: https://github.com/ggml-org/llama.cpp/issues/27937
        (("qwen3", 28, gqa(8, 128, 16)), 32_768, "float16", 3584.00),
        (("qwen3", 28, gqa(8, 128, 16)), 4096, "float16", 448.00),
        # https://github.com/fedora-copr/logdetective/pull/106
        ("mistral-7b-v0.1", 2048, "float16", 256.00),
        ("mistral-7b-v0.1", 32_768, "float16", 4096.00),
        # Magidonia-24B is a Mistral-Small: https://github.com/ggml-org/llama.cpp/pull/21551
        ("mistral-small-24b-2501", 6656, "float16", 1040.00),
        ("mistral-small-24b-2501", 6656, "q8_0", 552.50),
        ("mistral-small-24b-2501", 6656, "q4_0", 292.50),
        # https://huggingface.co/dranger003/c4ai-command-r-v01-iMat.GGUF/discussions/6
        ("mixtral-8x7b", 2048, "float16", 256.00),
        ("llama-3-70b", 2048, "float16", 640.00),
        ("yi-34b", 2048, "float16", 480.00),
        ("command-r", 2048, "float16", 2560.00),
        # one sequence of Mamba 2.8B: https://github.com/ggml-org/llama.cpp/pull/5328
        ("mamba-2.8b", 512, "float16", 23.75),
        # DeepSeek-R1, q8_0 latent, printed 1166.62: https://github.com/ikawrakow/ik_llama.cpp/pull/259
        ("deepseek-v3", 32_768, "q8_0", 1166.625),
        # DeepSeek-Coder-V2-Lite from a file without the MLA keys: a key and a value per head
        (("deepseek_v2", 27, {"kind": "mha", "heads": 16, "head_dim": 192, "v_head_dim": 128}), 8192, "float16", 2160),
    ],
)
def test_printed_sizes(model: Any, context: int, kv: str, printed: float) -> None:
    """ "KV buffer size" of a log, to its last digit."""
    assert mib(planner(model, kv=kv).plan(Load(context))) == printed


def test_four_slots_of_a_small_context_are_padded_to_256_cells() -> None:
    """gemma-3-270m with n_ctx 1,024 over 4 slots takes 18.00 MiB: 256 cells each.

    https://github.com/unslothai/unsloth/pull/7530
    """
    assert mib(planner("gemma-3-270m", n_ctx=1024).plan(Load(256, 4))) == 18.00


@pytest.mark.parametrize(("num_ctx", "printed"), [(8192, "0.48"), (32_768, "0.99"), (131_072, "3.00")])
def test_gemma_4_in_gigabytes(num_ctx: int, printed: str) -> None:
    """Gemma-4-26B-A4B: 0.48, 0.99 and 3.0 GB (10**9), window 1,024 and a batch of 512.

    https://github.com/ollama/ollama/pull/16958
    """
    size = planner("gemma-4-26b-a4b").plan(Load(num_ctx)).total_bytes
    assert f"{size / 10**9:.2f}" == printed
