"""Request lengths: how long prompts and outputs are, as a person describes them, as a trace, or as both mixed.

Only two histograms reach the calculation: where requests begin (prompt tokens) and where they end (last token slot
used), so a trace of any length is read in one pass. Shapes (percentiles, sigma) become weighted points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from kvcalc.errors import UsageError, did_you_mean, short
from kvcalc.units import MAX_TOKENS, parse_tokens

if TYPE_CHECKING:
    import csv

#: value in tokens -> share of requests (or of weight); shares sum to 1.
Lengths = dict[int, float]

#: Standard normal quantiles of the percentiles people give.
_QUANTILES = {"p90": 1.2815515655446004, "p95": 1.6448536269514722, "p99": 2.3263478740408408}
#: Points of a continuous shape: evenly spaced from -4.5 to 4.5 standard deviations, weighted by the density.
_POINTS, _REACH = 192, 4.5
#: Uniform shapes up to this width have a point per token.
_WIDEST = 300
#: A shape without `max` ends here: 32 times its median, at least 1,000 tokens.
_TAIL = 32
#: Lognormal laws of real prompts have a sigma of 1 to 2; e to the square of this is still a float.
_WIDEST_SIGMA = 20
#: More classes of requests than anybody describes; each takes up to 300 x 300 steps.
_MAX_PARTS = 32
_KEYS = ("prompt", "output", "mix", "shared_prompt", "arrivals")
_SHAPE_KEYS = ("p50", "mean", "sigma", "max", "uniform", "fixed", *_QUANTILES)


class Requests(NamedTuple):
    """Requests with independent prompt and output lengths; weight: their share."""

    weight: float
    prompt: Lengths
    output: Lengths


@dataclass(frozen=True, slots=True)
class Workload:
    """What arrives. shared_prompt: tokens of one system prompt before every prompt.

    starts: prompt tokens (without the shared ones) -> share; ends: prompt + output - 1 -> share: the token slots at
    the last step, because the last sampled token is never written. steps: mean output tokens.
    """

    starts: Lengths
    ends: Lengths
    mean_prompt: float
    mean_output: float
    longest: int
    longest_output: int
    shared_prompt: int = 0
    poisson: bool = False
    notes: tuple[str, ...] = field(default=())


def make_workload(
    classes: Iterable[Requests], *, shared_prompt: int = 0, poisson: bool = False, notes: Iterable[str] = ()
) -> Workload:
    """The histograms of classes of requests; weights need not sum to 1."""
    classes = list(classes)
    total = sum(part.weight for part in classes)
    starts: Lengths = {}
    ends: Lengths = {}
    prompt = output = 0.0
    longest = longest_output = 0
    for part in classes:
        weight = part.weight / total
        prompt += weight * mean_of(part.prompt)
        output += weight * mean_of(part.output)
        longest = max(longest, max(part.prompt) + max(part.output) - 1)
        longest_output = max(longest_output, *part.output)
        for tokens, share in part.prompt.items():
            begins = weight * share
            starts[tokens] = starts.get(tokens, 0.0) + begins
            for steps, chance in part.output.items():
                last = tokens + steps - 1
                ends[last] = ends.get(last, 0.0) + begins * chance
    return Workload(starts, ends, prompt, output, longest, longest_output, shared_prompt, poisson, tuple(notes))


def mean_of(lengths: Lengths) -> float:
    return sum(tokens * share for tokens, share in lengths.items())


def from_rows(rows: Iterable[tuple[int, int]], *, shared_prompt: int = 0, poisson: bool = False) -> Workload:
    """The histograms of a trace of (prompt tokens, output tokens), read once.

    Raises: UsageError when it is empty.
    """
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    prompts = outputs = count = longest = longest_output = 0
    for prompt, output in rows:
        last = prompt + output - 1
        starts[prompt] = starts.get(prompt, 0) + 1
        ends[last] = ends.get(last, 0) + 1
        prompts, outputs, count = prompts + prompt, outputs + output, count + 1
        longest, longest_output = max(longest, last), max(longest_output, output)
    if not count:
        raise UsageError("the workload has no requests", fix="give prompt_tokens,output_tokens rows", field="workload")
    return Workload(
        {tokens: number / count for tokens, number in starts.items()},
        {tokens: number / count for tokens, number in ends.items()},
        prompts / count,
        outputs / count,
        longest,
        longest_output,
        shared_prompt,
        poisson,
        (f"{count:,} requests of a trace",),
    )


def from_document(doc: object, *, file: str | None = None) -> Workload:
    """The workload of a parsed YAML or JSON file.

    Raises: UsageError naming the key at fault.
    """
    if not isinstance(doc, Mapping):
        raise _fault("a workload is a mapping of prompt and output (or mix)", file=file, value=doc)
    _known(doc, _KEYS, "", file)
    shared = _count(doc.get("shared_prompt", 0), "shared_prompt", file, least=0)
    arrivals = doc.get("arrivals", "closed")
    if arrivals not in ("closed", "poisson"):
        error = _fault(f"arrivals is {short(arrivals)}", field="arrivals", file=file, value=arrivals)
        error.fix = "write arrivals: closed, or arrivals: poisson"
        raise error
    notes: list[str] = []
    if ("mix" in doc) == ("prompt" in doc or "output" in doc):
        raise _fault("give either prompt and output, or mix", field="mix", file=file)
    parts = doc["mix"] if "mix" in doc else [{**{key: doc[key] for key in ("prompt", "output") if key in doc}}]
    if not isinstance(parts, list) or not 0 < len(parts) <= _MAX_PARTS:
        raise _fault(f"mix is a list of 1 to {_MAX_PARTS} times {{weight, prompt, output}}", field="mix", file=file)
    classes = [_part(part, f"mix.{number}" if "mix" in doc else "", file, notes) for number, part in enumerate(parts)]
    return make_workload(classes, shared_prompt=shared, poisson=arrivals == "poisson", notes=notes)


def _part(part: object, path: str, file: str | None, notes: list[str]) -> Requests:
    if not isinstance(part, Mapping):
        raise _fault("a part of mix is {weight, prompt, output}", field=path, file=file, value=part)
    _known(part, ("weight", "prompt", "output"), path, file)
    weight = part.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise _fault(f"weight must be above 0, not {short(weight)}", field=_join(path, "weight"), file=file)
    shapes = []
    for key in ("prompt", "output"):
        if key not in part:
            raise _fault(f"{key} is missing", field=_join(path, key), file=file)
        shapes.append(shape(part[key], _join(path, key), file=file, notes=notes))
    return Requests(float(weight), shapes[0], shapes[1])


def shape(doc: object, name: str, *, file: str | None = None, notes: list[str] | None = None) -> Lengths:
    """The lengths of one shape: `{p50, p95}`, `{p50, sigma}`, `{mean, sigma}`, `{uniform: [a, b]}`, `{fixed: n}`,
    each with an optional `max`, or a plain number.

    Raises: UsageError.

    >>> shape({"fixed": 7}, "prompt")
    {7: 1.0}
    """
    if type(doc) is int:
        doc = {"fixed": doc}
    if not isinstance(doc, Mapping):
        raise _fault(f"{name} is a shape like {{p50: 900, p95: 3000}}, not {short(doc)}", field=name, file=file)
    _known(doc, _SHAPE_KEYS, name, file)
    if "fixed" in doc:
        _alone(doc, "fixed", name, file)
        return {_count(doc["fixed"], f"{name}.fixed", file): 1.0}
    if "uniform" in doc:
        _alone(doc, "uniform", name, file)
        return _uniform(doc["uniform"], name, file)
    median, sigma = _lognormal(doc, name, file)
    most = doc.get("max")
    if most is None:
        most = max(math.ceil(median * _TAIL), 1000)
        if notes is not None and sigma:
            notes.append(f"{name} cut at {most:,} tokens: no max was given")
    return _points(median, sigma, _count(most, f"{name}.max", file))


def _lognormal(doc: Mapping[str, Any], name: str, file: str | None) -> tuple[float, float]:
    """Median and sigma of log lengths. A percentile above the median gives sigma = ln(p / p50) / z."""
    given = [key for key in _QUANTILES if key in doc]
    spread = [*given, *(["sigma"] if "sigma" in doc else [])]
    centre = [key for key in ("p50", "mean") if key in doc]
    if len(centre) != 1 or len(spread) != 1:
        raise _fault(
            f"{name} needs p50 (or mean) and one of p90, p95, p99, sigma; or uniform; or fixed",
            field=name,
            file=file,
            value=dict(doc),
        )
    middle = _positive(doc[centre[0]], f"{name}.{centre[0]}", file)
    if spread[0] == "sigma":
        sigma = _positive(doc["sigma"], f"{name}.sigma", file, least=0.0, most=_WIDEST_SIGMA)
        return (middle if centre[0] == "p50" else middle / math.exp(sigma * sigma / 2)), sigma
    high = _positive(doc[given[0]], f"{name}.{given[0]}", file)
    if centre[0] == "mean":
        raise _fault(f"{name}: give {given[0]} with p50, or sigma with mean", field=name, file=file)
    if high < middle:
        raise _fault(f"{name}: {given[0]} is below p50", field=f"{name}.{given[0]}", file=file)
    return middle, math.log(high / middle) / _QUANTILES[given[0]]


def _points(median: float, sigma: float, most: int) -> Lengths:
    """A lognormal law as weighted whole tokens; what lies above `most` is cut to it."""
    steps = [_REACH * (2 * (index + 0.5) / _POINTS - 1) for index in range(_POINTS)]
    weights = [math.exp(-step * step / 2) for step in steps]
    total = sum(weights)
    found: Lengths = {}
    for step, weight in zip(steps, weights, strict=True):
        tokens = min(max(round(median * math.exp(sigma * step)), 1), most)
        found[tokens] = found.get(tokens, 0.0) + weight / total
    return found


def _uniform(ends: object, name: str, file: str | None) -> Lengths:
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        raise _fault(f"{name}.uniform is [least, most]", field=f"{name}.uniform", file=file, value=ends)
    least, most = (_count(value, f"{name}.uniform", file) for value in ends)
    if least > most:
        raise _fault(f"{name}.uniform is [least, most]", field=f"{name}.uniform", file=file, value=ends)
    width = most - least + 1
    if width <= _WIDEST:
        return dict.fromkeys(range(least, most + 1), 1.0 / width)
    points = [least + round((index + 0.5) * width / _WIDEST - 0.5) for index in range(_WIDEST)]
    found: Lengths = {}
    for tokens in points:
        found[tokens] = found.get(tokens, 0.0) + 1.0 / _WIDEST
    return found


def inline(prompt: str, output: str, *, shared_prompt: int = 0, poisson: bool = False) -> Workload:
    """The workload of `--input p50=900,p95=3000 --output p50=150,p95=800`.

    Raises: UsageError.
    """
    notes: list[str] = []
    shapes = [
        shape(_assignments(text, name), name, notes=notes) for name, text in (("input", prompt), ("output", output))
    ]
    return make_workload([Requests(1.0, *shapes)], shared_prompt=shared_prompt, poisson=poisson, notes=notes)


def _assignments(text: str, name: str) -> dict[str, Any]:
    """`p50=900,p95=3000`, `uniform=100-700` or `512` as a shape."""
    if text.strip() and "=" not in text:
        return {"fixed": parse_tokens(text, field=name)}
    found: dict[str, Any] = {}
    for item in text.split(","):
        key, equals, value = item.strip().partition("=")
        if not equals or key in found:
            raise UsageError(
                f"--{name} has {short(item)}", fix=f"write --{name} p50=900,p95=3000 or --{name} 512", field=name
            )
        if key == "uniform":
            low, dash, high = value.partition("-")
            if not dash:
                raise UsageError(f"--{name} has {short(item)}", fix=f"write --{name} uniform=100-700", field=name)
            found[key] = [parse_tokens(low, field=name), parse_tokens(high, field=name)]
        elif key == "sigma":
            found[key] = _decimal(value, name)
        else:
            found[key] = parse_tokens(value, field=name)
    return found


def _decimal(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _WIDEST_SIGMA:
        raise UsageError(f"--{name} has sigma={short(text)}", fix="sigma is a number like 0.8", field=name)
    return value


def rows_of_table(lines: Iterable[str], *, file: str) -> Iterator[tuple[int, int]]:
    """(prompt, output) of each line of a CSV with the columns prompt_tokens and output_tokens.

    Raises: UsageError naming the line.
    """
    import csv

    reader = csv.DictReader(lines)
    try:
        yield from _rows_of_reader(reader, file)
    except csv.Error as error:  # a field of 128 KiB, a quote that never ends
        raise _fault(f"{file}:{reader.line_num} is no CSV: {error}", file=file, line=reader.line_num) from None


def _rows_of_reader(reader: csv.DictReader[str], file: str) -> Iterator[tuple[int, int]]:
    columns = [name.strip() for name in reader.fieldnames or ()]
    missing = [name for name in ("prompt_tokens", "output_tokens") if name not in columns]
    if missing:
        raise _fault(f"{file} has no column {missing[0]}", file=file, field=missing[0])
    reader.fieldnames = columns
    for number, row in enumerate(reader, start=2):
        yield _row(row.get("prompt_tokens"), row.get("output_tokens"), file=file, line=number)


def rows_of_lines(lines: Iterable[str], *, file: str) -> Iterator[tuple[int, int]]:
    """(prompt, output) of each JSON object of a JSONL file.

    Raises: UsageError naming the line.
    """
    import json

    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, Mapping):
            raise _fault(f"{file}:{number} is no JSON object", file=file, line=number)
        yield _row(record.get("prompt_tokens"), record.get("output_tokens"), file=file, line=number)


def rows_of_pairs(held: object) -> Iterator[tuple[int, int]]:
    """(prompt, output) of each pair that Python hands over.

    Raises: UsageError naming the pair, counted from 1.
    """
    if not isinstance(held, Iterable):
        raise _fault(f"a workload is a mapping or pairs of prompt and output tokens, not {short(held)}", value=held)
    for line, pair in enumerate(held, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _fault(f"workload:{line}: {short(pair)} is no pair of prompt and output tokens", line=line)
        yield _row(*pair, file="workload", line=line)


def _row(prompt: object, output: object, *, file: str, line: int) -> tuple[int, int]:
    found = []
    for name, value in (("prompt_tokens", prompt), ("output_tokens", output)):
        text = str(value).strip()
        if not (text.isascii() and text.isdigit() and len(text) < 14 and int(text) <= MAX_TOKENS and int(text) > 0):
            raise _fault(
                f"{file}:{line}: {name} must be a positive whole number, not {short(value)}", file=file, line=line
            )
        found.append(int(text))
    return found[0], found[1]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _known(doc: Mapping[Any, Any], known: tuple[str, ...], path: str, file: str | None) -> None:
    for key in doc:
        if key not in known:
            near = did_you_mean(str(key), list(known)) or f"keys: {', '.join(known)}"
            error = _fault(f"unknown key {short(key)}", field=_join(path, str(key)), file=file)
            error.fix = near
            raise error


def _alone(doc: Mapping[str, Any], key: str, name: str, file: str | None) -> None:
    if len(doc) > 1:
        raise _fault(f"{name} has {key} and more, but {key} stands alone", field=name, file=file, value=dict(doc))


def _count(value: object, field: str, file: str | None, *, least: int = 1) -> int:
    if type(value) is not int or not least <= value <= MAX_TOKENS:
        raise _fault(
            f"{field} must be a whole number of tokens from {least}, not {short(value)}", field=field, file=file
        )
    return value


def _positive(value: object, field: str, file: str | None, *, least: float = 1.0, most: float = MAX_TOKENS) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _fault(f"{field} must be a number from {least:g} to {most:,}, not {short(value)}", field=field, file=file)
    return float(value)


def _fault(
    what: str, *, field: str | None = None, file: str | None = None, line: int | None = None, value: object = None
) -> UsageError:
    fix = "write prompt: {p50: 900, p95: 3000, max: 16384} and output alike; see docs/sessions.md"
    return UsageError(what, fix=fix, field=field or "workload", file=file, line=line, value=value)
