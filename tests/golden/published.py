"""Published KV-cache figures, recomputed: what each row of tests/data/published.json means, and docs/published.md.

Rewrite the tables of the page:  python tests/golden/published.py

A row says how its figure follows from the model (`how`), never what comes out. Forms:
  cache       bytes of `sessions` x `context` tokens
  unwindowed  `context` x the bytes of one token in all attention layers: windows ignored, no state, no indexer
  rate        bytes per token between the contexts `between`
  mha         `context` tokens of the model's own MHA form
  tokens      tokens in whole blocks of `block` that a `pool` holds
  sessions    cache of `pool_tokens` over the cache of `context`
  ratio, reduction   cache of this model over that of `other` (reduction: 1 - ratio), times `scale`
`components`, `law`: count only these arrays. `per`: rank = the fullest GPU's share of `tp` x `pp`.
"""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Layout, Load
from kvcalc.document import model_from_document
from kvcalc.dtypes import DTYPES
from kvcalc.engines import get_engine
from kvcalc.engines.base import CacheDtypes, Setup
from kvcalc.registry import load_registry
from kvcalc.units import parse_bytes

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "published.json"
PAGE = ROOT / "docs" / "published.md"
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
Row = dict[str, Any]


def rows(kind: str) -> list[Row]:
    """The `reproduced` or the `unexplained` rows."""
    found: list[Row] = json.loads(DATA.read_text(encoding="utf-8"))[kind]
    return found


@cache
def _registry() -> Any:
    return load_registry()


def model_of(target: str | Row) -> Model:
    """A shipped model by name, or a shape written in the row."""
    if isinstance(target, str):
        model = _registry().model(target)
        assert isinstance(model, Model)
        return model
    return model_from_document({"name": "shape", "dtype": "bfloat16", **target})


def plan_of(target: str | Row, how: Row, *, context: int, sessions: int = 1) -> CachePlan:
    """The ideal cache of one load."""
    engine, version = get_engine("ideal")
    kv = str(how.get("dtype", "bfloat16"))
    state, conv = how.get("state_dtype", "float32"), how.get("conv_dtype", "bfloat16")
    dtypes = CacheDtypes(key=kv, value=kv, index=how.get("index_dtype", kv), pending=kv, conv=conv, state=state)
    layout = Layout(tp=how.get("tp", 1), pp=how.get("pp", 1))
    return engine.prepare(model_of(target), Setup(version=version, layout=layout, dtypes=dtypes)).plan(
        Load(context, sessions, how.get("encoder_tokens", 0))
    )


def bytes_of(target: str | Row, how: Row, *, context: int, sessions: int = 1, attention_only: bool = False) -> int:
    """Bytes of the counted arrays: of all ranks, or of the fullest one."""
    names, law = how.get("components"), how.get("law")
    sizes = []
    plan = plan_of(target, how, context=context, sessions=sessions)
    for rank in plan.ranks:
        size = sum(
            tensor.bytes
            for tensor in rank.tensors
            if (names is None or tensor.name in names)
            and (law is None or tensor.law == law)
            and not (attention_only and (tensor.law == "constant" or tensor.name == "index_key"))
        )
        sizes.append((size, len(rank.ranks)))
    if how.get("per") == "rank":
        return max(size for size, _ in sizes)
    return sum(size * count for size, count in sizes)


def computed(row: Row) -> Fraction:
    """The row's figure in its unit, exactly."""
    how, model = row["how"], row["model"]
    return Fraction(_FORMS[how["form"]](model, how)) / UNITS.get(row["unit"], 1)


def _cache(model: str | Row, how: Row) -> Fraction:
    return Fraction(bytes_of(model, how, context=how["context"], sessions=how.get("sessions", 1)))


def _unwindowed(model: str | Row, how: Row) -> Fraction:
    return Fraction(how.get("context", 1) * bytes_of(model, how, context=1, attention_only=True))


def _rate(model: str | Row, how: Row) -> Fraction:
    low, high = how["between"]
    grown = bytes_of(model, how, context=high) - bytes_of(model, how, context=low)
    return Fraction(grown, high - low)


def _mha(model: str | Row, how: Row) -> Fraction:
    element = DTYPES[how.get("dtype", "bfloat16")].block_bytes
    per_token = model_of(model).mha_bytes_per_token(element, element)
    assert per_token is not None
    return Fraction(how["context"] * per_token)


def _tokens(model: str | Row, how: Row) -> Fraction:
    block = how["block"]
    return Fraction(parse_bytes(how["pool"]) // bytes_of(model, how, context=block) * block)


def _sessions(model: str | Row, how: Row) -> Fraction:
    return _cache(model, {**how, "context": how["pool_tokens"]}) / _cache(model, how)


def _ratio(model: str | Row, how: Row) -> Fraction:
    other = {**how, **how.get("other_how", {})}
    mine = _FORMS[how.get("of", "cache")](model, how)
    return Fraction(how.get("scale", "1")) * mine / _FORMS[other.get("of", "cache")](how["other"], other)


def _reduction(model: str | Row, how: Row) -> Fraction:
    return 100 * (1 - _ratio(model, how))


_FORMS = {
    "cache": _cache,
    "unwindowed": _unwindowed,
    "rate": _rate,
    "mha": _mha,
    "tokens": _tokens,
    "sessions": _sessions,
    "ratio": _ratio,
    "reduction": _reduction,
}


def prints_as(value: Fraction, printed: str) -> bool:
    """Whether `value` rounded to the printed number of decimals is the printed text (a tie may go either way)."""
    places = len(printed.partition(".")[2])
    return 2 * abs(value - Fraction(printed)) <= Fraction(1, 10**places)


def shown(value: Fraction, printed: str) -> str:
    """The computed figure with two more decimals than were printed, where it has them."""
    places = len(printed.partition(".")[2]) + 2
    scaled = round(value * 10**places)
    text = f"{Decimal(scaled).scaleb(-places):,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def tables() -> dict[str, str]:
    """The generated tables of docs/published.md, by name."""
    good = ["| where | model | what | printed | kvcalc |", "|---|---|---|---:|---:|"]
    for row in rows("reproduced"):
        label = _linked(row)
        good.append(
            f"| {label} | {row['name']} | {row['what']} | {_printed(row)} | {shown(computed(row), row['reported'])} |"
        )
    bad = ["| where | model | what | printed | plain formula | why not |", "|---|---|---|---:|---:|---|"]
    for row in rows("unexplained"):
        plain = shown(computed(row), row["reported"]) if "how" in row else "-"
        label = _linked(row)
        bad.append(f"| {label} | {row['name']} | {row['what']} | {_printed(row)} | {plain} | {row['reason']} |")
    return {"reproduced": "\n".join(good), "unexplained": "\n".join(bad)}


def _linked(row: Row) -> str:
    return f"[{row['where']}]({row['url']})" if row["url"] else str(row["where"])


def _printed(row: Row) -> str:
    unit = row["unit"]
    label = row.get("printed_unit")
    return f"{row['reported']} {unit}" + (f' (as "{label}")' if label else "")


def page(text: str) -> str:
    """`text` with every table between its markers replaced by the generated one."""
    for name, table in tables().items():
        start, end = f"<!-- {name}: generated -->", f"<!-- /{name} -->"
        head, _, rest = text.partition(start)
        _, _, tail = rest.partition(end)
        text = f"{head}{start}\n{table}\n{end}{tail}"
    counts = {kind: len(rows(kind)) for kind in ("reproduced", "unexplained")}
    start, end = "<!-- counts: generated -->", "<!-- /counts -->"
    head, _, rest = text.partition(start)
    _, _, tail = rest.partition(end)
    line = f"{counts['reproduced']} figures reproduced to the printed digit, "
    line += f"{counts['unexplained']} not explained by the plain formula."
    return f"{head}{start}\n{line}\n{end}{tail}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
