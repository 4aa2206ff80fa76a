"""Grouping, pool bytes, start-up check and capacity against an installed vLLM, on drawn sets of layers.

Needs vLLM's Python (any build, no GPU); skipped without it. See scripts/vllm-conformance.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

vllm = pytest.importorskip("vllm")

import torch  # noqa: E402
from vllm.v1 import kv_cache_interface as real  # noqa: E402

from kvcalc.engines.vllm.grouping import Group, Layer, group_layers, pool_bytes_per_block  # noqa: E402
from kvcalc.engines.vllm.pool import StagePool, num_blocks, shortage  # noqa: E402
from kvcalc.engines.vllm.spec import Limits, Spec  # noqa: E402
from kvcalc.engines.vllm.versions import RULES  # noqa: E402
from kvcalc.errors import EngineRefusal  # noqa: E402

try:
    from vllm.v1.core import kv_cache_planning as planning
except ImportError:
    from vllm.v1.core import kv_cache_utils as planning  # type: ignore[no-redef]

from vllm.v1.core import kv_cache_utils  # noqa: E402

VERSION = next((line for line in RULES if vllm.__version__.startswith(line + ".")), next(iter(RULES)))
DRAWS = 3000


def held(group: Group, tokens: int, drawn: Drawn) -> int:
    """Blocks of the group's table one request may hold."""
    return max(spec.blocks(tokens, drawn.limits) for spec in group.specs)


class Drawn:
    """One drawn model: the same layers as vLLM's specs and as ours."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.draw = draw
        self.align = draw.random() < 0.5
        self.limits = Limits(draw.choice([512, 2048, 16384]), draw.choice([512, 8192]), 1, self.align)
        self.outer = draw.random() < 0.25
        self.hybrid = draw.random() < 0.85
        kinds = [self._kind() for _ in range(draw.choice([1, 2, 2, 2, 3, 3, 4]))]
        count = draw.randrange(2, 40)
        weights = [draw.choice([1, 1, 2, 5]) for _ in kinds]
        picks = draw.choices(range(len(kinds)), weights, k=count)
        self.stages = draw.choice([1, 1, 1, 2, 3])
        self.bounds = [count * stage // self.stages for stage in range(self.stages + 1)]
        self.real = {f"layer.{index}.x": kinds[pick][0] for index, pick in enumerate(picks)}
        self.ours = [Layer(index, str(pick), kinds[pick][1]) for index, pick in enumerate(picks)]

    def _kind(self) -> tuple[Any, Spec]:
        kind = self.draw.choice(["full", "full", "sliding", "sliding", "chunked", "mla", "mamba", "mamba"])
        if self.outer:
            kind = self.draw.choice(["mla", "sliding_mla", "sliding_mla", "full", "sliding"])
        return getattr(self, f"_{kind}")()

    def _heads(self) -> tuple[int, int, int, int]:
        heads = self.draw.choice([1, 2, 4, 8])
        key = self.draw.choice([64, 128, 192, 256])
        value = key if self.draw.random() < 0.8 else 128
        return heads, key, value, self.draw.choice([16, 16, 16, 32, 48, 64])

    def _full(self) -> tuple[Any, Spec]:
        heads, key, value, block = self._heads()
        spec = real.FullAttentionSpec(
            block_size=block, num_kv_heads=heads, head_size=key, head_size_v=value, dtype=torch.bfloat16
        )
        return spec, self._attention("full", heads, key, value, block)

    def _attention(self, kind: Any, heads: int, key: int, value: int, block: int, span: int = 0) -> Spec:
        size = heads * (key + value) * 2 * block
        return Spec(
            kind=kind,
            block_tokens=block,
            page_bytes=size,
            content_bytes=size,
            body=(heads, key, value, "bf16"),
            span=span,
        )

    def _sliding(self) -> tuple[Any, Spec]:
        heads, key, value, block = self._heads()
        window = self.draw.choice([128, 1024, 4096])
        spec = real.SlidingWindowSpec(
            block_size=block,
            num_kv_heads=heads,
            head_size=key,
            head_size_v=value,
            dtype=torch.bfloat16,
            sliding_window=window,
        )
        return spec, self._attention("sliding", heads, key, value, block, window)

    def _chunked(self) -> tuple[Any, Spec]:
        heads, key, _, block = self._heads()
        chunk = self.draw.choice([1024, 8192])
        spec = real.ChunkedLocalAttentionSpec(
            block_size=block, num_kv_heads=heads, head_size=key, dtype=torch.bfloat16, attention_chunk_size=chunk
        )
        return spec, self._attention("chunked", heads, key, key, block, chunk)

    def _mla(self) -> tuple[Any, Spec]:
        width, block = self.draw.choice([132, 320, 576]), self.draw.choice([16, 64, 256])
        states, align = (self.draw.choice([1, 4]), 576) if self.outer else (1, None)
        spec = real.MLAAttentionSpec(
            block_size=block,
            num_kv_heads=1,
            head_size=width,
            dtype=torch.uint8,
            tokens_per_state=states,
            alignment=align,
        )
        return spec, self._latent("mla", block, width, states)

    def _latent(self, kind: Any, block: int, width: int, states: int = 1, span: int = 0, item: int = 1) -> Spec:
        content = block // states * width * item
        page = -(-content // 576) * 576 if self.outer else content
        return Spec(
            kind=kind, block_tokens=block, page_bytes=page, content_bytes=content, body=(width, item),
            tokens_per_state=states, span=span,
        )  # fmt: skip

    def _sliding_mla(self) -> tuple[Any, Spec]:
        width, block = self.draw.choice([512, 1024]), self.draw.choice([4, 8, 64])
        window, item = self.draw.choice([8, 128]), self.draw.choice([1, 4])
        spec = real.SlidingWindowMLASpec(
            block_size=block, num_kv_heads=1, head_size=width, dtype={1: torch.uint8, 4: torch.float32}[item],
            sliding_window=window, alignment=576, cache_dtype_str=f"{block}x{width}x{item}",
        )  # fmt: skip
        return spec, self._latent("sliding_mla", block, width, 1, window, item)

    def _mamba(self) -> tuple[Any, Spec]:
        size, extra = self.draw.choice([30_000, 262_144, 1_000_000]), self.draw.choice([0, 0, 1])
        checkpoint = self.draw.choice([0, 1])
        block = 64
        padded = self.draw.choice([None, size + 4096])
        spec = real.MambaSpec(
            block_size=block, shapes=((size,),), dtypes=(torch.uint8,), page_size_padded=padded,
            mamba_cache_mode="align" if self.align else "none", num_speculative_blocks=extra,
            num_prefill_checkpoint_blocks=checkpoint,
        )  # fmt: skip
        ours = Spec(
            kind="mamba", block_tokens=block, page_bytes=padded or size, content_bytes=size, body=(size,),
            dcp_sharded=False, state_blocks=(2 + extra + checkpoint, 1 + extra),
        )  # fmt: skip
        return spec, ours

    def config(self, length: int) -> Any:
        layout = real.KVCacheLayout["BLHNC" if self.outer else "LBNHC"]
        cache = SimpleNamespace(
            get_resolved_kv_cache_layout=lambda: layout, num_gpu_blocks_override=None,
            prefix_cache_retention_interval=None, skip_page_size_padded=None,
            mamba_cache_mode="align" if self.align else "none",
        )  # fmt: skip
        return SimpleNamespace(
            model_config=SimpleNamespace(
                max_model_len=length, original_max_model_len=length, supports_kv_cache_grouping=False
            ),
            parallel_config=SimpleNamespace(
                decode_context_parallel_size=1, prefill_context_parallel_size=1, tensor_parallel_size=1
            ),
            scheduler_config=SimpleNamespace(
                disable_hybrid_kv_cache_manager=not self.hybrid, max_num_encoder_input_tokens=self.limits.encoder_tokens
            ),
            cache_config=cache, max_in_flight_tokens=self.limits.in_flight_tokens,
            attention_config=SimpleNamespace(hisparse_config=None), num_prefill_lookahead_tokens=0,
            speculative_config=None, device_config=SimpleNamespace(device_type="cuda"), num_speculative_tokens=0,
        )  # fmt: skip


def ours_of(drawn: Drawn, length: int, memory: int) -> tuple[Any, ...]:
    groups = group_layers(drawn.ours, RULES[VERSION], hybrid_manager=drawn.hybrid, block_outermost=drawn.outer)
    stages = []
    for start, stop in zip(drawn.bounds, drawn.bounds[1:], strict=False):
        block = pool_bytes_per_block(groups, range(start, stop), block_outermost=drawn.outer)
        if not block:
            raise EngineRefusal("a stage without layers in any group")
        stages.append(StagePool(memory, block, memory - block, need(groups, drawn, block)))
    shape = [
        ([layer.number for layer in group.layers], group.layers[0].spec.block_tokens, group.page_bytes)
        for group in groups
    ]
    refused = shortage(stages, length)
    if refused is not None:
        return ("refused", shape, round(refused.needed_bytes / 2**30, 2), refused.estimated_max_model_len)
    blocks = num_blocks(stages)
    concurrency = blocks / sum(held(group, length, drawn) for group in groups)
    return ("starts", shape, [stage.block_bytes for stage in stages], blocks, int(concurrency * length), concurrency)


def need(groups: list[Group], drawn: Drawn, block: int) -> Any:
    return lambda tokens: block * sum(held(group, tokens, drawn) for group in groups)


def theirs_of(drawn: Drawn, length: int, memory: int) -> tuple[Any, ...]:
    config = drawn.config(length)
    names = list(drawn.real)
    specs = [
        {name: drawn.real[name] for name in names[start:stop]}
        for start, stop in zip(drawn.bounds, drawn.bounds[1:], strict=False)
    ]
    groups = planning.get_global_kv_cache_groups(config, specs)
    shape = [
        (
            [int(name.split(".")[1]) for name in group.layer_names],
            group.kv_cache_spec.block_size,
            group.kv_cache_spec.page_size_bytes,
        )
        for group in groups
    ]
    try:
        configs = planning.get_kv_cache_configs(config, specs, [memory] * len(specs), groups)
    except ValueError as error:
        text = str(error)
        if "KV cache is needed" not in text:
            raise
        needed = float(text.split("(", 3)[2].split(" GiB", 1)[0])
        estimate = int(text.split("model length is ", 1)[1].split(".", 1)[0]) if "model length is" in text else 0
        return ("refused", shape, needed, estimate)
    tokens, concurrency = kv_cache_utils.get_kv_cache_capacity(config, configs[0])
    sizes = [config.kv_cache_tensors[0].size // config.num_blocks for config in configs]
    return ("starts", shape, sizes, configs[0].num_blocks, tokens, concurrency)


@pytest.mark.parametrize("seed", range(10))
def test_drawn_models_are_planned_alike(seed: int) -> None:
    """Groups, bytes per block, blocks, tokens, concurrency and refusals equal those of the installed vLLM."""
    misses = []
    for index in range(DRAWS // 10):
        drawn = Drawn(seed * 1_000_000 + index)
        length = drawn.draw.choice([100, 4096, 131_072])
        memory = drawn.draw.choice([2**28, 2**30, 20 * 2**30])
        try:
            expected: tuple[Any, ...] = theirs_of(drawn, length, memory)
        except (NotImplementedError, ValueError, AssertionError, ZeroDivisionError, TypeError, StopIteration) as error:
            expected = ("fails", type(error).__name__)
        try:
            found: tuple[Any, ...] = ours_of(drawn, length, memory)
        except EngineRefusal:
            found = ("fails",)
        if found != expected and not (found[0] == "fails" == expected[0]):
            misses.append((seed * 1_000_000 + index, found, expected))
    assert misses == []
