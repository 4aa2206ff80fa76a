"""What the weights take, and the ledger of engines without rules of their own."""

from __future__ import annotations

from typing import Any

import pytest

from kvcalc.core.gpu import Gpu
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout
from kvcalc.document import model_from_document
from kvcalc.errors import UsageError
from kvcalc.planning.ledger import Ledger, LedgerAsk, build_ledger
from kvcalc.planning.shape import known_shape
from kvcalc.planning.weights import checkpoint, rank_weights
from kvcalc.registry import load_registry
from kvcalc.units import GIB

#: `nvidia-smi` of an H100 80GB says 81559 MiB.
H100 = load_registry().gpu("h100-80gb")


def model(**fields: Any) -> Model:
    attention = {"kind": "mha", "heads": 2, "head_dim": 4}
    return model_from_document({"name": "m", "layers": 2, "dtype": "bfloat16", "attention": attention, **fields})


def ledger_of(model: Model, gpu: Gpu, layout: Layout, *, overhead: int | None = None) -> Ledger:
    return build_ledger(LedgerAsk(model=model, gpu=gpu, layout=layout, overhead_bytes=overhead))


@pytest.mark.parametrize(
    ("fields", "asked", "size", "exactness"),
    [
        ({"parameters": 1001}, None, 2002, "estimate"),
        ({"parameters": 1001}, "fp8", 1001, "estimate"),
        ({"parameters": 1001}, "int4", 501, "estimate"),
        ({"parameters": 64}, "q4_0", 36, "estimate"),
        ({"parameters": 1001, "weights": {"bytes": 5555}}, None, 5555, "exact"),
        ({"parameters": 1001, "weights": {"bytes": 5555, "rounded": True}}, None, 5555, "estimate"),
        ({"parameters": 1001, "weights": {"bytes": 5555}}, "fp8", 1001, "estimate"),
        ({"parameters": 1001, "weights": {"dtype": "fp8"}}, None, 1001, "estimate"),
        ({"weights": {"bytes": 5555}}, None, 5555, "exact"),
    ],
)
def test_weights(*, fields: dict[str, Any], asked: str | None, size: int, exactness: str) -> None:
    """The type asked for, else the checkpoint's own bytes, else parameters in the stated or the model's type."""
    found = checkpoint(model(**fields), asked)
    assert (found.bytes, found.exactness) == (size, exactness)
    assert type(found.bytes) is int
    assert found.detail


@pytest.mark.parametrize(
    "fields", [{}, {"weights": {"dtype": "fp8"}}, {"parameters": 10, "facts": {"quant_method": "gptq"}}]
)
def test_unknown_weights_are_asked_for(fields: dict[str, Any]) -> None:
    """No parameters, or a quantised checkpoint of unknown size: a question, not a guess."""
    with pytest.raises(UsageError) as caught:
        checkpoint(model(**fields), None)
    assert "--pool" in (caught.value.fix or "")


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2), Layout(tp=3), Layout(tp=4, pp=2), Layout(tp=8, dp=2)])
def test_lines_sum_to_the_pool(layout: Layout) -> None:
    """Total, weights over TP x PP ranks (rounded up), overhead: the pool is what is left; replicas do not divide."""
    ledger = ledger_of(model(parameters=10**9), H100, layout, overhead=GIB)
    ranks = layout.tp * layout.pp
    assert [line["bytes"] for line in ledger.lines] == [81559 * 2**20, (-2 * 10**9) // ranks, -GIB]
    assert ledger.pool_bytes == sum(line["bytes"] for line in ledger.lines)
    assert all(type(line["bytes"]) is int and line["source"] and line["item"] for line in ledger.lines)


def test_estimates_say_so() -> None:
    """The overhead is an estimate unless it was given; so is a marketed size, and a division of weights."""
    exact = model(weights={"bytes": 10**9})
    labels = [line["exactness"] for line in ledger_of(exact, H100, Layout(), overhead=0).lines]
    assert labels == ["exact", "exact", "exact"]
    labels = [line["exactness"] for line in ledger_of(exact, H100, Layout(tp=2)).lines]
    assert labels == ["exact", "estimate", "estimate", "estimate"]
    marketed = next(gpu for gpu in load_registry().gpus() if gpu.total_is == "marketed")
    assert ledger_of(exact, marketed, Layout(), overhead=0).lines[0]["exactness"] == "estimate"


@pytest.mark.parametrize("gpu", load_registry().gpus(), ids=lambda gpu: gpu.name)
def test_overhead_is_a_part_of_every_gpu(gpu: Gpu) -> None:
    """The estimate is positive and leaves most of every card."""
    taken = -sum(line["bytes"] for line in ledger_of(model(parameters=1), gpu, Layout()).lines[2:])
    assert 0 < taken < gpu.total_bytes // 3


def test_weights_above_the_card() -> None:
    """Weights that do not fit leave a negative pool: how much is missing, not zero."""
    assert ledger_of(model(parameters=10**12), H100, Layout(), overhead=0).pool_bytes == 81559 * 2**20 - 2 * 10**12


def test_repeated_heads_belong_to_a_stage() -> None:
    """More ranks than KV heads: a pipeline stage stores the K and V projections of its own layers twice, no others."""
    # K and V of one layer: 2 x hidden x groups x head_dim = 2 x 8 x 1 x 4 elements, whole on each of 2 ranks.
    heads = {"kind": "mqa", "heads": 2, "head_dim": 4}
    facts = {"intermediate_size": 16, "tie_word_embeddings": False}
    wide = model(parameters=2_000, hidden_size=8, vocab_size=50, attention=heads, layers=4, facts=facts)
    whole, staged = (rank_weights(wide, layout).best for layout in (Layout(tp=2), Layout(tp=2, pp=4)))
    layer, ends = 2 * (2_000 - 2 * 50 * 8) // 4, 2 * 2 * 50 * 8
    projections = 2 * 2 * 8 * 4
    assert whole == (4 * layer + ends) // 2 + 4 * projections // 2
    assert staged == layer // 2 + projections // 2 + ends // 4


@pytest.mark.parametrize(("asked", "padded"), [(None, True), ("bf16", False)])
def test_only_packed_experts_are_padded(*, asked: str | None, padded: bool) -> None:
    """The mxfp4 kernel pads gpt-oss's hidden size 2880 to 3072; experts in 16 bits stay as they are."""
    found = rank_weights(load_registry().model("gpt-oss-20b"), Layout(), weight_dtype=asked).best
    assert (found > checkpoint(load_registry().model("gpt-oss-20b"), asked).bytes) is padded


@pytest.mark.parametrize(
    ("name", "period"), [("llama-4-maverick", 2), ("jamba-v0.1", 2), ("jamba-1.5-mini", 2), ("llama-4-scout", 1)]
)
def test_layers_without_experts(name: str, period: int) -> None:
    """interleave_moe_layer_step and expert_layer_period of the published configs: every so many layers have experts."""
    shape = known_shape(load_registry().model(name))
    assert shape.layers - shape.dense_layers == shape.layers // period
    parameters = load_registry().model(name).parameters or 0
    assert 0.8 * parameters < shape.expert_parameters < parameters


def test_draft_layer_is_no_larger_than_the_model_says() -> None:
    """Nemotron 3 Super: experts in 40 of 88 layers, of a latent width; 512 of them per layer would be 12 models.

    Its checkpoint of 230.25 GiB (kaito's catalogue) stays whole but for the draft layer's attention.
    """
    super_ = load_registry().model("nemotron-3-super-120b-a12b")
    whole = checkpoint(super_, None)
    assert whole.bytes * 99 // 100 < rank_weights(super_, Layout()).best < whole.bytes


@pytest.mark.parametrize(("name", "gib", "working_set"), [("m1-max-64gb", 64, 48), ("m4-max-128gb", 128, 107.52)])
def test_macos_keeps_its_share(name: str, gib: int, working_set: float) -> None:
    """Logged working sets (llama.cpp issue 1870: 48 GiB of 64; antirez/ds4 893: 107.52 GiB of 128) are in the band."""
    ask = LedgerAsk(model=model(parameters=1), gpu=load_registry().gpu(name), layout=Layout(), overhead_bytes=0)
    total, kept, *_ = build_ledger(ask).lines
    assert total["bytes"] == gib * GIB
    left = [gib * GIB + kept[key] for key in ("low_bytes", "high_bytes")]
    assert left[0] - GIB // 100 <= working_set * GIB <= left[1] + GIB // 100
    assert build_ledger(ask._replace(total_bytes=48 * GIB)).pool_bytes == 48 * GIB - 2


@pytest.mark.parametrize("name", ["q4_k_m", "Q6_K", "iq3_xxs"])
def test_mixtures_send_to_the_file(name: str) -> None:
    """A GGUF mixture is no element type: the error names the way to its exact bytes."""
    with pytest.raises(UsageError) as caught:
        checkpoint(model(parameters=10), name)
    assert ".gguf" in (caught.value.fix or "")
