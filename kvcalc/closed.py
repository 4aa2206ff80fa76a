"""Models that can only be called over an API: nobody outside knows their layers, so no number about them can be right.

Names are matched, not listed: makers rename every few months. Open models of the same makers (gpt-oss, gpt2, gemma,
grok-1, grok-2, GPT-3 whose paper prints its shape) are not matched.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kvcalc.errors import UsageError, short

if TYPE_CHECKING:
    from kvcalc.registry import Registry

_GENERAL = ("deepseek-v3.2", "kimi-k2", "glm-4.6", "qwen3-235b-a22b", "gpt-oss-120b")
#: (maker, its API-only names, open models to look at instead). After a name comes its end or a separator.
_MAKERS = (
    (
        "OpenAI",
        r"(chat-?gpt|gpt-?(3[.-]5|[4-9])o?|text-(davinci|embedding)|davinci|o[1-9])",
        ("gpt-oss-120b", "gpt-oss-20b"),
    ),
    ("Anthropic", r"claude[0-9]?", ()),
    ("Google", r"gemini[0-9]?", ("gemma-3-27b", "gemma-4-31b", "gemma-4-26b-a4b")),
    ("xAI", r"grok-?([3-9]|code|beta|fast)", ("grok-1",)),
    ("Amazon", r"(amazon[.-])?(nova-?(micro|lite|pro|premier)|titan-text)", ()),
    ("Alibaba", r"qwen(2\.5|3)?-?(max|turbo)", ("qwen3-235b-a22b", "qwen3.5-27b")),
)
_KNOWN = tuple((maker, re.compile(rf"{words}(?![a-z0-9])", re.ASCII), open_ones) for maker, words, open_ones in _MAKERS)
#: Who such a name may be prefixed with: any other `org/name` is somebody's open checkpoint or a path.
_SELLERS = frozenset(
    ("", "openai", "anthropic", "google", "gemini", "x-ai", "xai", "amazon", "bedrock", "azure", "qwen")
)
_FILES = (".yaml", ".yml", ".json", ".gguf")
_SHOWN = 4


def closed_model(text: str, registry: Registry) -> UsageError | None:
    """What to say about an API-only name like `gpt-4o` or `anthropic/claude-opus-4`; None for any other."""
    seller, _, name = text.strip().lower().removeprefix("hf:").rpartition("/")
    if seller not in _SELLERS or name.endswith(_FILES):
        return None
    name = name.replace("_", "-").replace(" ", "-")
    for maker, words, own in _KNOWN:
        if words.match(name):
            instead = [model for model in dict.fromkeys((*own, *_GENERAL)) if registry.has_model(model)][:_SHOWN]
            ranks = "`kvcalc advise --gpu h100-80gb:8 -c 128k` ranks them all"
            return UsageError(
                f"{short(text)} is closed: {maker} serves it over an API only and its shapes are unpublished, so no "
                "number about its cache can be right, and it cannot be self-hosted",
                fix=f"open models instead: {', '.join(instead)}; {ranks}",
                field="target",
                value=text,
            )
    return None
