"""Random small models over the families of memory that llama.cpp has: every run asks about other numbers."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from shapes import HYPER, MOE, SECTIONS, V4, Keys, attention, indexer, mla, ssm

Chance = random.Random
Shape = tuple[str, Keys]
#: Graphs that only build where heads x head_dim is the embedding's width.
_HEADS_FILL_EMBEDDING = (
    "internlm2",
    "command-r",
    "cohere2",
    "lfm2",
    "starcoder2",
    "qwen2",
    "olmo2",
    "granitehybrid",
    "jamba",
)


def _heads(chance: Chance) -> tuple[int, int]:
    kv = chance.choice((1, 2, 3, 4, 8))
    return kv * chance.choice((1, 2, 4)), kv


def _base(chance: Chance, *, heads: bool = True) -> Keys:
    query, kv = _heads(chance)
    keys = attention(chance.randrange(2, 9), 32 * query * chance.choice((1, 2, 3)), query, kv)
    if heads:
        width = chance.choice((32, 40, 48, 64, 80, 96, 128, 160))
        keys |= {"attention.key_length": width, "attention.value_length": width, "rope.dimension_count": width}
    return keys | {"context_length": chance.choice((300, 2048, 8192, 131072))}


def _layers(keys: Keys) -> int:
    return int(keys["block_count"])


def _flags(chance: Chance, count: int) -> list[int]:
    flags = [chance.randrange(2) for _ in range(count)]
    flags[chance.randrange(count)] = 1
    return flags


def _plain(chance: Chance) -> Shape:
    name = chance.choice(
        ("llama", "qwen2", "qwen3", "gemma", "granite", "starcoder2", "seed_oss", "internlm2", "command-r")
    )
    return name, _base(chance, heads=name not in _HEADS_FILL_EMBEDDING)


def _gaps(chance: Chance) -> Shape:
    keys = _base(chance, heads=False)
    query = [int(keys["attention.head_count"])] * _layers(keys)
    kv = [chance.choice((0, 1, keys["attention.head_count"])) for _ in query]
    kv[0] = 1
    return "deci", keys | {
        "attention.head_count": [heads if groups else 0 for heads, groups in zip(query, kv, strict=True)],
        "attention.head_count_kv": kv,
    }


def _sliding(chance: Chance) -> Shape:
    name = chance.choice(("gemma2", "gemma3", "olmo2", "cohere2", "gpt-oss", "plamo3", "spark2_5", "muse-glimmer"))
    keys = _base(chance, heads=name not in _HEADS_FILL_EMBEDDING) | {
        "attention.sliding_window": chance.choice((1, 64, 128, 500, 1024, 4096))
    }
    if name == "olmo2":
        keys["attention.head_count_kv"] = keys["attention.head_count"]
    if name == "gpt-oss":
        keys |= MOE
    if name in ("plamo3", "spark2_5"):
        keys["attention.sliding_window_pattern"] = _flags(chance, _layers(keys))
    elif chance.random() < 0.4:
        keys["attention.sliding_window_pattern"] = chance.randrange(2, 6)
    if name != "plamo3" and _layers(keys) < 2:
        keys["block_count"] = 2
    return name, keys


def _two_widths(chance: Chance) -> Shape:
    keys = _base(chance)
    flags = _flags(chance, _layers(keys))
    query = int(keys["attention.head_count"])
    kv = [chance.choice([n for n in (1, 2, query) if query % n == 0]) for _ in flags]
    return "mimo2", keys | MOE | {
        "attention.value_length": chance.choice((32, 64, 96)), "attention.sliding_window_pattern": flags,
        "attention.sliding_window": chance.choice((64, 128, 700)), "attention.head_count_kv": kv,
    }  # fmt: skip


def _sharing(chance: Chance) -> Shape:
    keys = _base(chance) | {"block_count": chance.choice((6, 9))}
    # Multiples of 64: with other widths b11549 fails an assertion of its own rotation of quantised keys.
    count, width, full = _layers(keys), chance.choice((64, 128)), chance.choice((64, 128, 256))
    flags = [index % 3 != 2 for index in range(count)]
    shared = chance.randrange(0, count - 2, 3)  # the last two layers that keep a cache must be one of each sort
    return "gemma4", keys | {
        "attention.key_length": full, "attention.value_length": full, "rope.dimension_count": full,
        "attention.sliding_window": chance.choice((64, 512, 1500)), "attention.sliding_window_pattern": flags,
        "attention.key_length_swa": width, "attention.value_length_swa": width, "rope.dimension_count_swa": width,
        "attention.shared_kv_layers": shared, "embedding_length_per_layer_input": 0,
    }  # fmt: skip


def _mla(chance: Chance, **rest: Any) -> Keys:
    rope = chance.choice((16, 32, 64))
    return mla(chance.choice((64, 96, 128, 512)), rope, chance.choice((32, 64)), chance.choice((32, 64)), **rest)


def _latent(chance: Chance) -> Shape:
    keys = _base(chance, heads=False) | MOE | _mla(chance)
    if chance.random() < 0.5:
        return chance.choice((("deepseek2", keys), ("mistral4", keys)))
    return "deepseek32", keys | indexer(chance.choice((64, 128)))


def _compressed(chance: Chance) -> Shape:
    keys = _base(chance)
    count, width = _layers(keys), chance.choice((96, 128, 160))
    return "deepseek4", keys | V4 | {
        "attention.key_length": width, "attention.value_length": width, "attention.head_count_kv": 1,
        "attention.head_count": 8, "embedding_length": 512, "rope.dimension_count": 32,
        "attention.sliding_window": chance.choice((64, 128, 300)), "swiglu_clamp_exp": [7.0] * count,
        "attention.compress_ratios": [chance.choice((0, 128, 4)) for _ in range(count - 1)] + [4],
    }  # fmt: skip


def _recurrent(chance: Chance) -> Shape:
    embd = 64 * chance.randrange(1, 9)
    keys = attention(chance.randrange(1, 6), embd, 0, None, ff=0)
    if chance.random() < 0.5:
        return "mamba", keys | ssm(chance.randrange(2, 6), 2 * embd, chance.randrange(1, 33), chance.randrange(1, 40))
    groups = chance.choice((1, 2, 4))
    return "mamba2", keys | ssm(chance.randrange(2, 6), 2 * embd, 8 * chance.randrange(1, 17), 8, groups)


def _hybrid(chance: Chance) -> Shape:
    name = chance.choice(("jamba", "granitehybrid", "lfm2", "nemotron_h", "falcon-h1"))
    keys = _base(chance, heads=name not in _HEADS_FILL_EMBEDDING)
    count, kv = _layers(keys), int(keys["attention.head_count_kv"])
    per_layer = [kv, 0] + [kv * chance.randrange(2) for _ in range(count - 2)]
    chance.shuffle(per_layer)
    inner = 2 * int(keys["embedding_length"]) if name == "granitehybrid" else 8 * chance.randrange(8, 65)
    if name == "jamba":
        extra = MOE | ssm(4, 2 * int(keys["embedding_length"]), chance.randrange(1, 33), 16)
    elif name == "lfm2":
        extra = {"shortconv.l_cache": chance.randrange(2, 6)}
    else:
        extra = ssm(chance.randrange(2, 6), inner, 8 * chance.randrange(1, 9), 8, chance.choice((1, 2, 4)))
    if name == "nemotron_h":
        extra["feed_forward_length"] = [0 if groups else chance.choice((0, 128)) for groups in per_layer]
    return name, keys | extra | ({} if name == "falcon-h1" else {"attention.head_count_kv": per_layer})


def _delta(chance: Chance) -> Shape:
    name = chance.choice(("qwen3next", "qwen35", "qwen35moe"))
    width, heads = chance.choice((32, 64, 128)), chance.choice((2, 4, 8))
    keys = _base(chance) | ssm(4, width * heads * 2, width, heads * 2, heads)
    # At least one layer attends: without any, the library still checks block formats against heads that nobody has.
    keys["full_attention_interval"] = chance.randrange(2, max(min(_layers(keys), 4), 2) + 1)
    if name != "qwen35":
        keys |= MOE
    return name, keys | ({} if name == "qwen3next" else SECTIONS)


def _kda(chance: Chance) -> Shape:
    name = chance.choice(("kimi-linear", "bailingmoe3", "glm5-next"))
    keys = _base(chance, heads=False) | {"block_count": chance.randrange(3, 8)}
    per_layer = [0, 1] + [chance.randrange(2) for _ in range(_layers(keys) - 2)]
    keys |= MOE | _mla(chance) | {"ssm.conv_kernel": 4, "kda.head_dim": chance.choice((16, 32, 48, 64))}
    if name == "bailingmoe3":
        keys["kda.gate_lower_bound"] = -5.0
    if name == "glm5-next":
        lora = keys["attention.kv_lora_rank"]
        keys |= HYPER | indexer(64, kpool=16) | {"attention.key_length": lora, "rope.dimension_count": 0}
    return name, keys | {"attention.head_count_kv": per_layer}


FAMILIES: tuple[Callable[[Chance], Shape], ...] = (
    _plain, _gaps, _sliding, _two_widths, _sharing, _latent, _compressed, _recurrent, _hybrid, _delta, _kda,
)  # fmt: skip
