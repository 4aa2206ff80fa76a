"""The sentences of `advise`, made from its numbers: nothing is said that no number says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvcalc.answers.advise_levers import holds
from kvcalc.answers.common import Ask
from kvcalc.core.gpu import Gpu
from kvcalc.core.model import Model
from kvcalc.units import gib, tokens_short

if TYPE_CHECKING:
    from kvcalc.core.advised import AdvisedModel, Decision, HeldRecord, LeverRecord
    from kvcalc.core.result import FitRecord, VariantRecord

#: A cache below this share of the GPU, in percent, is not what to save on.
_SMALL_PERCENT = 5
#: Levers that need no other hardware, model or checkpoint.
_FREE = frozenset(("KV type", "state dtype", "layout", "engine option"))


class Facts(NamedTuple):
    """Everything the sentences are made of. held, record: None where the engine refuses (refusal says why)."""

    model: Model
    ask: Ask
    gpu: Gpu
    gpus: int
    refusal: str | None
    held: HeldRecord | None
    record: FitRecord | None
    crossover: int | None
    levers: Sequence[LeverRecord]
    variants: Sequence[VariantRecord]
    variants_engine: str
    results: Sequence[AdvisedModel]


def bottleneck(facts: Facts) -> str:
    """What stops the asked load, the first that applies.

    engine: it refuses. weights: they leave no pool, or they are more of the GPU than the cache that does not fit
    beside them. model_max_context: no memory buys a longer one. state: the cache does not fit and more than half of
    a session is fixed. cache: it does not fit. none: all fits.
    """
    held, record = facts.held, facts.record
    if held is None or record is None:
        return "engine"
    if held["pool_bytes"] <= 0:
        return "weights"
    limit = held["model_max_context"]
    if limit is not None and facts.ask.context_tokens > limit:
        return "model_max_context"
    if held["fits"]:
        return "none"
    if held["needed_bytes"] < held["weights_bytes"]:
        return "weights"
    return "state" if 2 * record["fixed_bytes_per_session"] > record["per_session_bytes"] else "cache"


def decision(facts: Facts) -> list[Decision]:
    """Self-hosting, long contexts, what binds, the attention, the levers, the models: one sentence each."""
    said = [("self-hosting", _hosting(facts)), ("bottleneck", _bottleneck(facts))]
    if facts.held is not None and facts.record is not None:
        said.insert(1, ("long contexts", _contexts(facts, facts.held, facts.record)))
    said += [("levers", text) for text in _levers(facts)]
    said += [("attention", _attention(facts))] if facts.variants else []
    said.append(("models", _models(facts)))
    return [{"topic": topic, "text": text} for topic, text in said]


def _where(facts: Facts) -> str:
    return f"{facts.gpus} x {facts.gpu.name}"


def _load(ask: Ask) -> str:
    return f"{_many(ask.sessions, 'session')} of {tokens_short(ask.context_tokens)} tokens"


def _many(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def _hosting(facts: Facts) -> str:
    held = facts.held
    if held is None:
        return f"{facts.model.name} does not start on {_where(facts)} as asked."
    if held["pool_bytes"] <= 0:
        return (
            f"{_where(facts)} cannot host {facts.model.name}: its weights take {gib(held['weights_bytes'])} of each "
            f"GPU's {gib(held['gpu_bytes'])}."
        )
    share = _percent(held["weights_bytes"], held["gpu_bytes"])
    return (
        f"{_where(facts)} can host {facts.model.name}: weights {gib(held['weights_bytes'])} per GPU ({share} of it), "
        f"{gib(held['pool_bytes'])} left for the cache."
    )


def _contexts(facts: Facts, held: HeldRecord, record: FitRecord) -> str:
    """Critical: the asked cache takes more than half of what is left for it (of the weights, where nothing is left)."""
    room = held["pool_bytes"] if held["pool_bytes"] > 0 else held["weights_bytes"]
    word = "are critical" if 2 * held["needed_bytes"] > room else "are not critical"
    needs = "needs" if facts.ask.sessions == 1 else "need"
    start = (
        f"Long contexts {word}: {_load(facts.ask)} {needs} {gib(held['needed_bytes'])} per GPU, "
        f"{_percent(held['needed_bytes'], held['gpu_bytes'])} of it ({gib(record['per_session_bytes'])} a session)"
    )
    if facts.crossover is None:
        return f"{start}; that never outweighs the weights, however long the context."
    if facts.crossover == 0:
        return f"{start}; so many sessions outweigh the weights at any length."
    each = "a session" if facts.ask.sessions == 1 else f"each of {facts.ask.sessions:,} sessions"
    return f"{start}; the cache outweighs the weights above {facts.crossover:,} tokens for {each}."


def _bottleneck(facts: Facts) -> str:
    held, ask = facts.held, facts.ask
    if held is None:
        return f"The engine refuses, so memory is not the question: {facts.refusal}."
    kind, short = bottleneck(facts), gib(-held["spare_bytes"])
    if kind == "weights" and held["pool_bytes"] <= 0:
        return f"The weights bind, not the cache: they exceed what each GPU has for them by {gib(-held['pool_bytes'])}."
    if kind == "weights":
        return (
            f"The weights bind more than the cache: {short} short per GPU, where weights take "
            f"{gib(held['weights_bytes'])} and the cache would take {gib(held['needed_bytes'])}."
        )
    if kind == "model_max_context":
        also = "the memory would do" if held["fits"] else f"the memory is {short} short per GPU, too"
        return (
            f"The model binds, not the cache: its own limit is {held['model_max_context']:,} tokens, "
            f"{ask.context_tokens:,} are asked; {also}."
        )
    if kind in ("state", "cache"):
        what = "fixed state of each session" if kind == "state" else "cache"
        best = "no session" if not held["max_sessions"] else _many(held["max_sessions"], "session")
        return (
            f"The {what} binds: {gib(held['needed_bytes'])} needed per GPU, {gib(held['pool_bytes'])} there, {short} "
            f"short; {best} of that length fit."
        )
    return _spare(held)


def _spare(held: HeldRecord) -> str:
    """It fits: by how much, and whether the cache is worth saving on."""
    sessions = "any number" if held["max_sessions"] is None else f"{held['max_sessions']:,}"
    text = f"It fits with {gib(held['spare_bytes'])} to spare per GPU; {sessions} such sessions would"
    if held["verdict"] != "FITS":
        text = f"It fits by the best guess only ({gib(held['spare_bytes'])} to spare); {sessions} such sessions would"
    if held["needed_bytes"] * 100 < _SMALL_PERCENT * held["gpu_bytes"]:
        share = _percent(held["needed_bytes"], held["gpu_bytes"])
        return f"The cache is not the bottleneck: it is {share} of each GPU. {text}."
    return f"{text}."


def _levers(facts: Facts) -> list[str]:
    """The largest gain on the same GPUs and model, the least hardware that holds it, and what is refused."""
    said = []
    if facts.held is not None and bottleneck(facts) == "model_max_context":
        return ["No lever here lifts the model's own limit: ask for a shorter context or another model."]
    free = [lever for lever in facts.levers if lever["lever"] in _FREE and (lever["gain_sessions"] or 0) > 0]
    if free:
        said.append(f"Most on the same GPUs: {_gain(free[0])}.")
    elif facts.held is not None and facts.held["pool_bytes"] > 0:
        said.append("No cache type, layout or engine option gains a session on these GPUs.")
    if facts.held is None or not facts.held["fits"]:
        holding = [lever for lever in facts.levers if holds(lever) and lever["lever"] != "context"]
        said.append(
            f"Holds all of it: {_gain(min(holding, key=_hardware))}."
            if holding
            else "No single lever here holds all of it; `kvcalc plan` searches over GPUs and layouts."
        )
    refused = [lever["change"] for lever in facts.levers if lever["refused"] is not None and lever["lever"] != "engine"]
    if refused:
        said.append(f"Refused by {facts.ask.engine}: {', '.join(refused)}; the reasons are with the levers.")
    return said


def _hardware(lever: LeverRecord) -> tuple[int, int]:
    """GPUs, then their bytes."""
    held = lever["held"]
    return (0, 0) if held is None else (held["gpus"], held["gpu_bytes"])


def _gain(lever: LeverRecord) -> str:
    held = lever["held"]
    if held is None:
        return lever["change"]
    sessions = "any number of sessions" if held["max_sessions"] is None else _many(held["max_sessions"], "session")
    gain = "" if lever["gain_sessions"] is None else f" ({lever['gain_sessions']:+,})"
    return f"{lever['change']}: {sessions}{gain}"


def _attention(facts: Facts) -> str:
    """The cache of the model beside its own MHA form and the smallest of the alternatives."""
    own, *others = facts.variants
    smallest = min(others, key=lambda row: row["per_session_bytes"])
    mha = next(row for row in others if row["variant"] == "mha")
    text = (
        f"Its attention keeps {gib(own['per_session_bytes'])} a session, {_ratio(own['mha_ratio'])} x its own MHA form "
        f"({gib(mha['per_session_bytes'])})"
    )
    shown = [row for row in others if row["variant"].startswith("mla") or "hybrid" in row["variant"]]
    shown = [row for row in shown if row["per_session_bytes"] != own["per_session_bytes"]]
    parts = [f"{row['variant']} would keep {gib(row['per_session_bytes'])}" for row in shown]
    if smallest not in shown:
        parts.append(f"{smallest['variant']}, the least, {gib(smallest['per_session_bytes'])}")
    return f"{text}; {', '.join(parts)}. Attention is trained in: this chooses a model, not a flag."


def _ratio(value: float) -> str:
    return f"{value:.3g}"


def _models(facts: Facts) -> str:
    """Which shipped models of similar size hold it."""
    if facts.model.parameters is None:
        return f"{facts.model.name} does not say its parameters: no models of similar size."
    number = len(facts.results)
    held = [row for row in facts.results if row["holds"]]
    size = _billions(facts.model.parameters)
    if not held:
        return f"None of {number} shipped models of similar size (x 0.5 to x 2 of {size}) holds it on {_where(facts)}."
    return (
        f"{len(held)} of {number} shipped models of similar size (x 0.5 to x 2 of {size}) hold it on {_where(facts)}, "
        f"the most sessions with {_best(held[0])}."
    )


def ranking_decision(results: Sequence[AdvisedModel], ask: Ask, gpu: Gpu, count: int) -> list[Decision]:
    """How many of all shipped models hold the load, and why the others do not."""
    held = [row for row in results if row["holds"]]
    why = {
        "own limit": "have a shorter context of their own",
        "memory": "have too little memory left for the cache",
        "weights": "do not fit with their weights",
    }
    parts = [f"{sum(row['why'] == key for row in results)} {text}" for key, text in why.items()]
    refused = sum(row["held"] is None for row in results)
    parts.append(f"{refused} cannot be judged (see why)")
    first = f"{len(held)} of {len(results)} shipped models hold {_load(ask)} on {count} x {gpu.name}"
    best = f", the most sessions with {_best(held[0])}" if held else ""
    said: list[Decision] = [{"topic": "models", "text": f"{first}{best}; {', '.join(parts)}."}]
    large = max(held, key=lambda row: row["parameters"] or 0, default=None)
    if large is not None and large["parameters"] is not None:
        text = f"The largest of them is {_best(large)}, {_billions(large['parameters'])} parameters."
        said.append({"topic": "models", "text": text})
    return said


def _best(row: AdvisedModel) -> str:
    held = row["held"]
    sessions = "no limit" if held is None or held["max_sessions"] is None else f"{held['max_sessions']:,}"
    return f"{row['model']} ({sessions})"


def _billions(parameters: int) -> str:
    return f"{parameters / 10**9:,.1f} B"


def _percent(part: int, whole: int) -> str:
    """Tenths of a percent below ten, for display."""
    share = 100 * part / whole
    return f"{share:.1f} %" if share < 10 else f"{share:.0f} %"
