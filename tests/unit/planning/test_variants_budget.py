"""`variants` compares caches in one and the same pool."""

from __future__ import annotations

from calling import Call


def test_every_variant_has_the_pool_of_the_shipped_model(call: Call) -> None:
    """Up to 8 KV heads on 8 ranks are one head per rank: equal caches per GPU, so equal contexts in one pool."""
    arguments = ("--gpu", "h100-80gb", "--tp", "8", "--json")
    answer = call("variants", "deepseek-v2", *arguments).answer
    rows = {row["variant"]: row["max_context_tokens"] for row in answer["results"]}
    assert rows["gqa-8"] == rows["gqa-4"] == rows["gqa-2"] == rows["mqa"]
    shipped = call("fit", "deepseek-v2", *arguments).answer
    assert (answer["pool_bytes"], rows["as shipped"]) == (shipped["pool_bytes"], shipped["max_context_tokens"])
    assert rows["mla 512+64"] == rows["as shipped"]
