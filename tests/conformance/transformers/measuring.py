"""One case from end to end: checkpoint, runs, counts, and the comparison with what kvcalc says for its config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from cases import Case, config_of, wrapped
from checking import DERIVED_LISTS, Cell, as_json, compare, model_of
from running import ENCODER_TOKENS, Measured, Session, load, save, static_cache
from shrink import OVERRIDES, VARIANTS

from kvcalc.engines.transformers.rules import NO_DTYPE, NO_STATIC
from kvcalc.errors import ModelFileError

#: Below and above the window of 8, and ending on both sides of every group size.
PROMPTS = (6, 13)
#: StaticCache length -> prompt; then decoded until it is full.
STATIC = {9: 6, 15: 13}


@dataclass
class Result:
    """Every comparison of one case."""

    case: Case
    measurements: int = 0
    cells: list[Cell] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str, int, int, int, int]] = field(default_factory=list)

    @property
    def wrong(self) -> list[Cell]:
        return [cell for cell in self.cells if not cell.equal]


def documents(case: Case, config: Any, folder: Path) -> dict[str, dict[str, Any]]:
    """The config as people have it: with all keys, as save_pretrained writes it, and without the derived lists."""
    whole = wrapped(case, config)
    if case.wrapper is None:
        saved = as_json(folder)
    else:
        whole.dtype = "bfloat16"
        saved = json.loads(whole.to_json_string(use_diff=True))
    whole.architectures = saved.get("architectures")
    whole.dtype = "bfloat16"
    full = json.loads(whole.to_json_string(use_diff=False))
    given = {**OVERRIDES.get(case.model_type, {}), **VARIANTS.get(case.model_type, {}).get(case.variant, {})}
    bare = {key: value for key, value in saved.items() if key not in DERIVED_LISTS or key in given}
    return {"all keys": full, "saved": saved} | ({"without derived lists": bare} if bare != saved else {})


def measure(case: Case, config: Any, folder: Path) -> list[Measured]:
    """Every count of one case: prompts and two decode steps, batches, types, static caches."""
    save(case, config, folder)
    model = load(case, folder, "bfloat16")
    short = case.wrapper is not None
    found = []
    for batch in (1,) if short else (1, 2):
        for prompt in PROMPTS[:1] if short else PROMPTS:
            found += _grow(model, case, "bfloat16", batch, prompt)
    if short:
        return found
    for max_length, prompt in STATIC.items():
        if case.model_type not in NO_STATIC:
            found += _static(model, case, max_length, prompt)
    if case.variant == "default" and case.family != "seq2seq":
        for dtype in {"float16", "float32"} - NO_DTYPE.get(case.model_type, {}).keys():
            found += _grow(load(case, folder, dtype), case, dtype, 1, PROMPTS[1])
    return found


def _grow(model: Any, case: Case, dtype: str, batch: int, prompt: int) -> list[Measured]:
    session = Session(model, case, batch)
    steps = [("prefill", prompt), ("decode", 1), ("decode", 1)]
    return [Measured(phase, dtype, batch, session.tokens + tokens, session.advance(tokens)) for phase, tokens in steps]


def _static(model: Any, case: Case, max_length: int, prompt: int) -> list[Measured]:
    session = Session(model, case, 2)
    session.kept = {"past_key_values": static_cache(model, case, max_length)}
    counted = session.advance(prompt)
    while session.tokens < max_length:
        counted = session.advance(1)
    return [Measured("static", "bfloat16", 2, max_length, counted)]


def run(case: Case, folder: Path) -> Result:
    """Measure and compare: every document, logical bytes; the saved one also resident bytes."""
    torch.manual_seed(0)
    config = config_of(case)
    result = Result(case)
    measured = measure(case, config, folder)
    result.measurements = len(measured)
    result.rows = [
        (item.phase, item.dtype, item.batch, item.tokens, item.counted.total, item.counted.resident_total)
        for item in measured
    ]
    encoder_tokens = 0 if case.model_type == "mllama_text_model" else ENCODER_TOKENS  # fed with text only
    for name, document in documents(case, config, folder).items():
        result.config = document if name == "saved" else result.config
        try:
            model = model_of(document)
        except ModelFileError as refusal:
            if name != "without derived lists":
                raise
            result.refused.append(
                f"a config.json {name} is refused: {refusal}"
            )  # better no number than one from a default
            continue
        for item in measured:
            cell = compare(model, item, encoder_tokens=encoder_tokens)
            result.cells.append(Cell(f"{name}: {cell.what}", cell.predicted, cell.measured, cell.layers))
        if name == "saved" and case.wrapper is None:
            views = {"prefill": "prefill", "decode": "resident"}
            result.cells += [
                compare(model, item, encoder_tokens=encoder_tokens, view=views[item.phase])
                for item in measured
                if item.phase in views
            ]
    return result


__all__ = ["Result", "run"]
