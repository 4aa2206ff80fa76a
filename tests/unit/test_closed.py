"""API-only models: said to be closed wherever a target is named, and no open model is mistaken for one."""

from __future__ import annotations

import pytest
from calling import Call

from kvcalc.closed import closed_model
from kvcalc.errors import UsageError
from kvcalc.registry import load_registry

CLOSED = (
    "gpt-4o",
    "GPT-4",
    "gpt4",
    "gpt-3.5-turbo",
    "gpt-4.1-mini",
    "gpt-5",
    "gpt_5.2",
    "chatgpt",
    "o1",
    "o3-mini",
    "claude",
    "claude-opus-4",
    "claude3",
    "anthropic/claude-sonnet-4",
    "hf:openai/gpt-4o",
    "gemini-2.5-pro",
    "google/gemini-3-pro",
    "grok-4",
    "amazon.nova-pro-v1",
    "nova-lite",
    "qwen-max",
    "qwen3-max",
)
OPEN = (
    "gpt-oss-120b",
    "openai/gpt-oss-20b",
    "gpt2",
    "gpt-2-xl",
    "gpt-3",  # arXiv:2005.14165 prints its layers and heads
    "gpt3-175b",
    "gpt-j-6b",
    "gpt-neox-20b",
    "gpt4all-j",
    "gpt-40b",
    "gemma-3-27b",
    "google/gemma-3-27b-it",
    "grok-1",
    "grok-2",
    "olmo-2-1124-7b",
    "opt-66b",
    "mistral-medium-3.5",
    "qwen3-235b-a22b",
    "qwen3.8-max",
    "hf:somebody/claude-distill-8b",
    "./claude.yaml",
    "claude.json",
    "claudette",
    "novartis",
)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_models_are_named_closed(name: str) -> None:
    """Each is refused as usage, the maker's policy said, with shipped open models to look at instead."""
    registry = load_registry()
    error = closed_model(name, registry)
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert "shapes are unpublished" in error.what
    assert error.fix is not None
    named = error.fix.removeprefix("open models instead: ").partition(";")[0].split(", ")
    assert len(named) == 4
    assert all(registry.has_model(model) for model in named)


@pytest.mark.parametrize("name", OPEN)
def test_open_models_are_not(name: str) -> None:
    """Open models, their repositories and files are nobody's API."""
    assert closed_model(name, load_registry()) is None


def test_no_shipped_model_or_alias_is_called_closed() -> None:
    """The registry wins: and no pattern matches a name in it anyway."""
    registry = load_registry()
    words = [word for name in registry.model_names() for word in (name, *registry.aliases_of(name))]
    assert [word for word in words if closed_model(word, registry) is not None] == []


@pytest.mark.parametrize(
    "arguments",
    [("advise", "gpt-4o"), ("compare", "llama3", "claude-opus-4"), ("size", "gemini-2.5-pro"), ("fit", "openai/gpt-5")],
)
def test_every_command_says_it(call: Call, arguments: tuple[str, ...]) -> None:
    """Exit 2 and two lines, whatever the command."""
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "is closed" in done.err
    assert "kvcalc advise" in done.err
    assert done.err.count("\n") == 2
    assert call(*arguments, "--json").error["field"] == "target"
