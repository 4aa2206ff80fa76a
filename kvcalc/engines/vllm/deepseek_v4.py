"""DeepSeek-V4: four caches per layer with blocks of their own, packed side by side in one block.

Every layer has a window of raw latents; layers that compress have the compressed latents and a buffer of
inputs of the open group, and those with an indexer the same two again for its keys.

Source: vLLM 0.33.0 models/deepseek_v4/attention.py:860,911, compressor.py:152-192,
v1/attention/backends/mla/sparse_swa.py:110-147. Checked at head_dim 512 in the fp8_ds_mla layout, the only one
vLLM's Hopper backend has.
"""

from __future__ import annotations

from kvcalc.core.component import Component, Strided, Windowed
from kvcalc.core.model import Model
from kvcalc.engines.vllm import archs
from kvcalc.engines.vllm.grouping import Layer
from kvcalc.engines.vllm.settings import Settings
from kvcalc.engines.vllm.spec import Spec, SpecKind
from kvcalc.errors import EngineRefusal
from kvcalc.units import ceil_div

BLOCK_TOKENS = 256
#: pages of different sizes lie side by side inside a block
LAYOUT = "BLHNC"
_WINDOW_BLOCK = 64
_LEAST_CAPABILITY = 90
_PAGE_ALIGNMENT = 576
#: 448 fp8 + 64 bfloat16 rope + 8 scale bytes of a 512-wide latent.
_LATENT_BYTES, _LATENT_DIM = 584, 512
#: compressor buffers, float32: ratio -> tokens per block, chosen by vLLM so that pages match the latents'.
_BUFFER_BLOCK = {4: 4, 128: 8}


def is_packed(model: Model) -> bool:
    """Whether the model's layers are packed block-outermost."""
    return model.architecture in archs.DEEPSEEK_V4


def layers(model: Model, settings: Settings, draft_layers: int) -> list[Layer]:
    """All caches in the order vLLM builds them; drafts have the window only.

    Raises: EngineRefusal for shapes vLLM's kernels do not have, and for short blocks.
    """
    if settings.capability < _LEAST_CAPABILITY:
        raise EngineRefusal(
            f"vLLM's DeepSeek-V4 kernels need sm{_LEAST_CAPABILITY}", fix="name a newer GPU with --gpu", field="gpu"
        )
    block = settings.block_tokens or BLOCK_TOKENS
    placed: list[Layer] = []
    window: Spec | None = None
    for index, names in enumerate(model.layers):
        for name in names:
            specs = _specs(model.blocks[name].lower(), block)
            window = specs[0]
            placed.extend(Layer(index, name, spec) for spec in specs)
    if draft_layers and window is not None and model.mtp is not None:
        first = len(model.layers)
        placed.extend(Layer(first + extra, model.mtp.block, window) for extra in range(draft_layers))
    return placed


def _specs(components: tuple[Component, ...], block: int) -> list[Spec]:
    window = next((c for c in components if isinstance(c.law, Windowed)), None)
    if window is None or window.elements_per_slot != _LATENT_DIM or not isinstance(window.law, Windowed):
        raise EngineRefusal(
            f"vLLM's DeepSeek-V4 kernels need a window of latents of {_LATENT_DIM}",
            fix="name another engine with --engine",
        )
    specs = [_spec("sliding_mla", _WINDOW_BLOCK, _LATENT_BYTES, span=window.law.window, body=("window",))]
    entries = [c for c in components if isinstance(c.law, Strided)]
    # The indexer is built before the main latent; its keys and buffers come first.
    for component in sorted(entries, key=lambda c: c.role != "index"):
        specs.extend(_compressed(component, block))
    return specs


def _compressed(component: Component, block: int) -> list[Spec]:
    """The compressed entries (one per `ratio` tokens) and the float32 buffer of the open group's inputs."""
    if not isinstance(component.law, Strided) or component.law.tokens_per_slot not in _BUFFER_BLOCK:
        raise EngineRefusal(
            f"vLLM's DeepSeek-V4 compresses 4 or 128 tokens, not {component.law}",
            fix="name another engine with --engine",
        )
    ratio, width = component.law.tokens_per_slot, component.elements_per_slot
    index = component.role == "index"
    if block < ratio:
        raise EngineRefusal(
            f"vLLM fails with block_size {block}: a block must hold one group of {ratio} tokens",
            fix=f"drop block_size (vLLM uses {BLOCK_TOKENS})",
            field="block_size",
            value=block,
        )
    entry = width + width // 128 * 4 if index else _LATENT_BYTES
    body = ("index" if index else "latent", entry)
    overlap = 2 if ratio == 4 else 1  # short groups overlap: each token feeds two of them
    # KV and gate inputs of each token, both in float32.
    buffer = 2 * overlap * width * 4
    return [
        _spec("mla", block, entry, states=ratio, body=body),
        _spec("sliding_mla", _BUFFER_BLOCK[ratio], buffer, span=overlap * ratio, body=("buffer", buffer)),
    ]


def _spec(
    kind: SpecKind, block: int, entry_bytes: int, *, body: tuple[object, ...], states: int = 1, span: int = 0
) -> Spec:
    content = block // states * entry_bytes
    page = ceil_div(content, _PAGE_ALIGNMENT) * _PAGE_ALIGNMENT
    return Spec(
        kind=kind, block_tokens=block, page_bytes=page, content_bytes=content, body=body, span=span,
        tokens_per_state=states, stride_multiple=BLOCK_TOKENS if kind == "mla" else 0,
    )  # fmt: skip
