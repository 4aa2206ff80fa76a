"""What SGLang sets aside by default when it starts, in MiB.

Source: sglang 0.5.23, srt/arg_groups/memory_hook.py, srt/arg_groups/cuda_graph_hook.py.
"""

from __future__ import annotations

from typing import Any

from kvcalc.engines.sglang.launch import default_mem_fraction_static, prefill_graphs, tier


def test_launch_tiers() -> None:
    """Chunk and decode batch by MiB of the GPU: below 20, 35, 60, 160 GiB and above; more from 4 ranks on."""
    rows = ((20480, (2048, 8, 8)), (35840, (4096, 48, 160)), (61440, (4096, 32, 160)), (163840, (8192, 256, 512)))
    for most, (chunk, few, many) in rows:
        for tp, batch in ((1, few), (3, few), (4, many), (8, many)):
            assert tier(most - 1, tp) == (chunk, batch)
    assert [tier(least, 1).chunked_prefill_size for least, _ in rows] == [4096, 4096, 8192, 16384]
    assert tier(163840, 1) == tier(10**6, 8) == (16384, 512)


def test_launch_graphs() -> None:
    """A graph more at 4, 8 .. 32, 48 .. 256, 288 .. 512, 576 .. 1024, 1280 .. 4096, 4608 .. tokens, and at no other."""
    steps = {*range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64)}
    steps |= {*range(1280, 4097, 256), *range(4608, 9000, 512)}
    counts = [prefill_graphs(most) for most in range(9000)]
    assert {most for most in range(1, 9000) if counts[most] != counts[most - 1]} == steps
    assert counts[-1] == len(steps)


def test_launch_reserve() -> None:
    """A pretended GPU of 1000 MiB, whose third digit is 1 MiB: 512 + 1.5 x chunk + 128 x tp x pp + 2 x batch.

    Batches above 300 take 4.5 MiB a group, others 3; graphs 8 each, latents 1536; no chunk counts below 2048.
    """
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, 512 + 3072 + 128 + 16),
        ({"tp": 2, "pp": 3}, 512 + 3072 + 768 + 16),
        ({"max_running_requests": 5}, 512 + 3072 + 128 + 10),
        ({"max_running_requests": 9}, 512 + 3072 + 128 + 16),
        ({"chunked_prefill_size": 2047}, 512 + 3072 + 128 + 16),
        ({"chunked_prefill_size": 2050}, 512 + 3075 + 128 + 16),
        ({"tp": 2, "attn_dp": 2}, 512 + 3072 + 256 + 16 + 8 * 2 * 3),
        ({"prefill_graph": True}, 512 + 3072 + 128 + 16 + 8 * 42),  # 2048 tokens: 38 graphs to 1024, then 1280 .. 2048
        ({"prefill_graph": True, "latent": True}, 512 + 3072 + 128 + 16 + 1536),
    ]
    for asked, reserved in cases:
        assert default_mem_fraction_static(1000, **{"prefill_graph": False} | asked) == (1000 - reserved) / 1000, asked
    # 10 GiB stay free on larger GPUs; over this range a MiB more or less would turn the third digit of some.
    small = {"chunked_prefill_size": 2048, "max_running_requests": 8, "prefill_graph": False}
    for mib in range(61441, 69000):
        expected = round((mib - 10240) / mib, 3)
        assert default_mem_fraction_static(mib, **small) == expected  # type: ignore[arg-type]
