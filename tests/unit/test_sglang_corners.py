"""Rare branches of SGLang's pools, by the rules of srt/mem_cache/memory_pool.py and pool_configurator.py (0.5.23)."""

from __future__ import annotations

from starting import model_of, started

from kvcalc.core.plan import Load

HEADS = {"kind": "gqa", "heads": 8, "groups": 2, "head_dim": 64}
MLA = {"kind": "mla", "heads": 8, "latent_dim": 512, "rope_dim": 64}
KDA = {"kind": "kda", "heads": 4, "head_dim": 32, "conv_kernel": 4}


def test_latents_beside_states_do_not_know_fp4() -> None:
    """Kimi Linear in nvfp4: one byte per element and no scales, 576 elements of 112 tokens and the padding page."""
    model = model_of({"d": KDA, "a": MLA}, pattern=["d", "a"], cls="KimiLinearForCausalLM", max_context=4096)
    first = started("sglang", model, page_size=16, kv_cache_dtype="nvfp4").plan(Load(100)).ranks[0].tensors[:2]
    assert [(t.name, t.shape, t.dtype) for t in first] == [
        ("latent", (128, 1, 576), "int8"),
        ("conv_state", (1, 4, 3, 384), "bfloat16"),
    ]


def test_sliding_latents_without_an_index() -> None:
    """576 x 2 bytes of a full layer and 0.8 x 288 x 2 of a sliding one; no index, no page that it demands."""
    local = MLA | {"latent_dim": 256, "rope_dim": 32, "window": 128}
    model = model_of({"f": MLA, "l": local}, pattern=["f", "l"], cls="Dots3NoteForCausalLM", max_context=4096)
    assert started("sglang", model).report(Load(1)) == {"cell_size": 1152 + 0.8 * 576, "page_size": 1}


def test_the_least_pool_of_a_short_session() -> None:
    """Window 128 and a page of 16 and one token more: 160 in pages; 160 / 0.8 = 200, in pages 208. Padding: a page."""
    blocks = {"l": HEADS | {"window": 128}, "f": HEADS}
    model = model_of(blocks, pattern=["l", "f"], cls="Step3p5ForCausalLM", max_context=4096)
    tensors = started("sglang", model, page_size=16).plan(Load(16)).ranks[0].tensors
    assert [tensor.slots for tensor in tensors] == [224, 176, 225]


def test_who_keeps_every_token() -> None:
    """The warning names the class, or the model where no class is named."""
    blocks = {"l": HEADS | {"window": 128}, "f": HEADS}
    said = "SGLang keeps every token in all layers of {}: no sliding pool"
    named = model_of(blocks, pattern=["l", "f"], cls="Gemma3ForCausalLM")
    assert started("sglang", named).warnings == (said.format("Gemma3ForCausalLM"),)
    assert started("sglang", model_of(blocks, pattern=["l", "f"])).warnings == (said.format("m"),)
