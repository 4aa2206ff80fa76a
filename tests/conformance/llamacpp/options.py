"""Option sets: the fixed ones that every shape is asked with, and random ones."""

from __future__ import annotations

import random
from typing import Any

Options = dict[str, Any]

#: llama-server's defaults, which differ from the library's in swa_full.
SERVER: Options = {
    "n_ctx": 4096, "n_seq_max": 1, "n_batch": 2048, "n_ubatch": 512, "kv_unified": False, "swa_full": False,
    "flash_attn": "auto", "type_k": "float16", "type_v": "float16", "n_rs_seq": 0, "offload_kqv": True,
}  # fmt: skip
_LENGTHS = (0, 1, 100, 255, 256, 257, 512, 1000, 8192, 16384)
_SLOTS = (2, 3, 4, 7)
_TYPES = ("float32", "bfloat16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_BATCHES = ((2048, 1), (2048, 64), (2048, 300), (2048, 2048), (128, 512), (512, 1024))


def fixed() -> list[Options]:
    """One axis at a time from the server's defaults, then the crossings where rules meet."""
    sets: list[Options] = [{}]
    sets += [{"n_ctx": length} for length in _LENGTHS]
    sets += [{"n_seq_max": slots, "kv_unified": unified} for slots in _SLOTS for unified in (False, True)]
    sets += [{"type_k": name, "type_v": name} for name in _TYPES]
    sets += [{"type_k": "q8_0"}, {"type_v": "q8_0"}, {"type_k": "q4_0", "type_v": "q8_0"}, {"type_k": "float32"}]
    sets += [{"n_batch": batch, "n_ubatch": ubatch} for batch, ubatch in _BATCHES]
    sets += [{"swa_full": True}, {"offload_kqv": False}, {"n_rs_seq": 1}, {"n_rs_seq": 3, "n_seq_max": 2}]
    sets += [{"flash_attn": "on"}, {"flash_attn": "off"}]
    sets += [{"flash_attn": "off", "type_k": "q8_0"}, {"flash_attn": "off", "type_v": "q8_0"}]
    sets += [{"flash_attn": "off", "n_seq_max": 3, "kv_unified": unified, "n_ctx": 1000} for unified in (False, True)]
    sets += [{"n_ctx": length, "n_seq_max": slots} for length in (1, 100, 257, 16384) for slots in (3, 4)]
    sets += [
        {"n_ctx": 8192, "n_seq_max": 4, "kv_unified": True, "n_ubatch": ubatch, "swa_full": full}
        for ubatch in (64, 1024)
        for full in (False, True)
    ]
    sets += [
        {"n_ctx": 5000, "n_seq_max": 5, "n_ubatch": 100, "type_k": "q8_0", "type_v": "q8_0", "n_rs_seq": 2},
        {"n_ctx": 700, "n_seq_max": 1, "n_ubatch": 2048, "flash_attn": "off", "swa_full": True},
        {"n_ctx": 12288, "n_seq_max": 8, "kv_unified": True, "type_k": "q4_0", "type_v": "q4_0", "n_batch": 512},
        {"n_ctx": 20, "n_seq_max": 20, "kv_unified": True},
        {"n_ctx": 5, "n_seq_max": 6, "kv_unified": True},
        {"n_seq_max": 257, "n_ctx": 65536},
    ]
    return [SERVER | item for item in sets]


def drawn(chance: random.Random, count: int) -> list[Options]:
    """Random option sets; types are f16 half of the time, and mostly equal for K and V."""
    sets = []
    for _ in range(count):
        key = chance.choice(("float16",) * 8 + _TYPES)
        value = key if chance.random() < 0.7 else chance.choice(("float16", *_TYPES))
        sets.append(
            {
                "n_ctx": chance.choice((*_LENGTHS, 4096, chance.randrange(1, 40_000))),
                "n_seq_max": chance.choice((1, 1, 2, 3, 4, 6, 7)),
                "n_batch": chance.choice((128, 512, 2048, 2048, 4096)),
                "n_ubatch": chance.choice((0, 1, 64, 300, 512, 512, 1024, 2048, chance.randrange(1, 3000))),
                "kv_unified": chance.random() < 0.4,
                "swa_full": chance.random() < 0.2,
                "flash_attn": chance.choice(("auto", "auto", "on", "off")),
                "type_k": key,
                "type_v": value,
                "n_rs_seq": chance.choice((0, 0, 0, 1, 3)),
                "offload_kqv": chance.random() < 0.8,
            }
        )
    return sets
