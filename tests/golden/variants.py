"""The tables of docs/variants.md, recomputed.  Rewrite the page: python tests/golden/variants.py"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from published import ROOT, bytes_of, model_of, shown

PAGE = ROOT / "docs" / "variants.md"
HEADS, GROUPS, WIDTH = 32, 8, 128
Shape = dict[str, Any]

#: variant -> (block, what articles commonly print)
CLAIMED: dict[str, tuple[Shape, str]] = {
    "MHA": ({"kind": "mha", "heads": HEADS, "head_dim": WIDTH}, "1x"),
    "GQA, 8 groups": ({"kind": "gqa", "heads": HEADS, "groups": GROUPS, "head_dim": WIDTH}, "0.25x"),
    "MQA": ({"kind": "mqa", "heads": HEADS, "head_dim": WIDTH}, "0.03x"),
    "MLA 512 + 64": ({"kind": "mla", "heads": HEADS, "latent_dim": 512, "rope_dim": 64}, "0.12x"),
}
REAL: dict[str, str] = {
    "Mistral-Small-4-119B": "mistral-small-4-119b",
    "gpt-oss-120b": "gpt-oss-120b",
    "DeepSeek-V3": "deepseek-v3",
    "Gemma-3-27B": "gemma-3-27b",
    "Qwen3-30B-A3B": "qwen3-30b-a3b",
    "Llama-3-8B": "llama-3-8b",
    "Qwen3-235B-A22B": "qwen3-235b-a22b",
    "Llama-3-70B": "llama-3-70b",
    "Llama-3.1-405B": "llama-3.1-405b",
}


def ratio(block: Shape, heads: int = HEADS) -> Fraction:
    """Cache of one layer over that of MHA with `heads` heads of 128."""
    mha = {"kind": "mha", "heads": heads, "head_dim": WIDTH}
    return Fraction(_layer(block), _layer(mha))


def _layer(block: Shape) -> int:
    return bytes_of({"layers": 1, "attention": block}, {}, context=1)


def growing(target: str) -> int:
    """Bytes of one more token, past every window."""
    return bytes_of(target, {}, context=200_001) - bytes_of(target, {}, context=200_000)


def tables() -> dict[str, str]:
    """The generated tables, by name."""
    claims = ["| variant | elements per token and layer | of MHA | articles print |", "|---|---:|---:|---:|"]
    for name, (block, claim) in CLAIMED.items():
        claims.append(f"| {name} | {_layer(block) // 2:,} | {shown(ratio(block), '0.00000')} | {claim} |")
    mla = CLAIMED["MLA 512 + 64"][0]
    heads = ["| query heads of 128 | MLA 512 + 64 of MHA |", "|---:|---:|"]
    heads += [f"| {count} | {shown(ratio(mla, count), '0.00000')} |" for count in (16, 32, 64, 128)]
    v3 = growing("deepseek-v3")
    real = ["| model | layers by kind | bytes per token, bf16 | of DeepSeek-V3 |", "|---|---|---:|---:|"]
    for name, target in sorted(REAL.items(), key=lambda item: growing(item[1])):
        kinds = ", ".join(f"{count} {kind}" for kind, count in model_of(target).kinds_summary().items())
        real.append(
            f"| {name} | {kinds} | {growing(target):,} | {round(Fraction(growing(target), v3) * 100) / 100:.2f}x |"
        )
    return {"claims": "\n".join(claims), "heads": "\n".join(heads), "real": "\n".join(real)}


def page(text: str) -> str:
    """`text` with every table between its markers replaced by the generated one."""
    for name, table in tables().items():
        start, end = f"<!-- {name}: generated -->", f"<!-- /{name} -->"
        head, _, rest = text.partition(start)
        _, _, tail = rest.partition(end)
        text = f"{head}{start}\n{table}\n{end}{tail}"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
