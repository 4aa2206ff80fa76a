"""The levers of `advise`: each change of the setting, answered by the same forward function, the largest gain first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvcalc.answers.advise_held import better, divided, judge
from kvcalc.answers.common import Ask
from kvcalc.answers.fit import ledger_ask
from kvcalc.answers.offload import Offload, offload
from kvcalc.core.gpu import Gpu
from kvcalc.core.plan import Layout
from kvcalc.dtypes import get_dtype
from kvcalc.engines import LAYERWISE, engine_names, get_engine
from kvcalc.errors import KvcalcError
from kvcalc.planning.layouts import Division, all_divisions
from kvcalc.planning.ledger import levers as ledger_levers
from kvcalc.planning.weights import checkpoint
from kvcalc.targets import Target

if TYPE_CHECKING:
    from kvcalc.core.advised import HeldRecord, LeverRecord

#: Cache types tried: what engines of today take somewhere. Narrower ones than the present are asked for, and an
#: engine's refusal is part of the answer.
_KV_TYPES = ("fp8_e4m3", "int8", "q8_0", "nvfp4", "q4_0")
#: Weight types tried; engines that read GGUF have their own.
_WEIGHT_TYPES = ("fp8_e4m3", "nvfp4")
_GGUF_TYPES = ("q8_0", "q4_0")
#: More layouts than this many GPUs allow are `plan`'s question.
_MOST_GPUS = 64


class Setting(NamedTuple):
    """Where the advice starts: the question as it was resolved, and what it holds (None: refused)."""

    target: Target
    ask: Ask
    gpu: Gpu
    layout: Layout
    held: HeldRecord | None

    @property
    def fixed(self) -> Ask:
        """The question with its layout written out, so that one change changes one thing."""
        return divided(self.ask, Division(self.layout, ep=self.ask.ep))


class Change(NamedTuple):
    """One lever before it is answered."""

    lever: str
    change: str
    ask: Ask
    gpu: Gpu
    note: str = ""


def levers(setting: Setting, gpus: Sequence[Gpu], refusal: str | None = None) -> list[LeverRecord]:
    """Every lever with its numbers: the largest gain first, refused ones last.

    refusal: the engine's reason against the question itself; a lever that meets the same says nothing new.
    gpus: those that a bigger one may be chosen from.
    """
    found = [_answered(setting, change) for change in _changes(setting)]
    found += [*_layouts(setting), *_bigger(setting, gpus), *_offload(setting)]
    return sorted((lever for lever in found if refusal is None or lever["refused"] != refusal), key=_rank, reverse=True)


def _rank(record: LeverRecord) -> tuple[bool, bool, float, float, int]:
    held = record["held"]
    return (False, False, 0, 0, 0) if held is None else (True, *better(held))


def _answered(setting: Setting, change: Change) -> LeverRecord:
    """The change's own numbers, or why it is refused."""
    try:
        held = judge(setting.target, change.ask, change.gpu).held
    except KvcalcError as error:
        return _record(change, None, None, str(error))
    return _record(change, held, _gain(setting.held, held), None)


def _record(change: Change, held: HeldRecord | None, gain: int | None, refused: str | None) -> LeverRecord:
    return {
        "lever": change.lever,
        "change": change.change,
        "note": change.note,
        "refused": refused,
        "held": held,
        "gain_sessions": gain,
        "host_bytes": None,
    }


def _gain(now: HeldRecord | None, then: HeldRecord) -> int | None:
    """More sessions than now; a setting that is refused holds none."""
    before = 0 if now is None else now["max_sessions"]
    after = then["max_sessions"]
    return None if before is None or after is None else after - before


def _changes(setting: Setting) -> Iterator[Change]:
    """Changes that keep the GPUs."""
    ask, gpu = setting.fixed, setting.gpu
    if setting.held is None:
        for name in engine_names():
            if name not in (get_engine(ask.engine)[0].name, "ideal"):
                other = setting.ask._replace(engine=name, engine_options=())
                yield Change("engine", f"-e {name}", other, gpu, "another engine's own rules")
    yield from _cache_types(setting)
    if _has(setting.target, "state") and ask.state_dtype is None:
        changed = ask._replace(state_dtype="bfloat16")
        yield Change("state dtype", "--state-dtype bfloat16", changed, gpu, "recurrent states in 16 bits")
    yield from _weight_types(setting)
    half = ask.context_tokens // 2
    if half:
        yield Change("context", f"-c {half}", ask._replace(context_tokens=half), gpu, "half the context")
    longest = None if setting.held is None else setting.held["max_context_tokens"]
    if longest is not None and 0 < longest < ask.context_tokens:
        changed = ask._replace(context_tokens=longest)
        yield Change("context", f"-c {longest}", changed, gpu, "the longest that the asked sessions have room for")
    for lever in _engine_levers(setting):
        pairs = [f"{key}={_typed(value)}" for key, value in lever.items()]
        changed = ask._replace(engine_options=(*ask.engine_options, *pairs))
        yield Change("engine option", " ".join(f"-o {pair}" for pair in pairs), changed, gpu, "an engine's flag")


def _cache_types(setting: Setting) -> Iterator[Change]:
    """KV types narrower than the present one."""
    ask = setting.fixed
    if not _has(setting.target, "key", "value"):
        return
    now = setting.held["kv_dtype"] if setting.held else setting.target.model.cache_dtype or setting.target.model.dtype
    wide = get_dtype(now).bits_per_element
    for name in _KV_TYPES:
        if get_dtype(name).bits_per_element < wide:
            short = "fp8" if name == "fp8_e4m3" else name
            changed = ask._replace(kv_dtype=short)
            yield Change(
                "KV type", f"--kv-dtype {short}", changed, setting.gpu, "fewer bits per element; check quality"
            )


def _weight_types(setting: Setting) -> Iterator[Change]:
    """Narrower weights: every byte they leave is the cache's."""
    ask, model = setting.fixed, setting.target.model
    if ask.weight_dtype is not None or model.parameters is None:
        return
    now = checkpoint(model, None).bytes
    gguf = get_engine(ask.engine)[0].name in LAYERWISE
    for name in _GGUF_TYPES if gguf else _WEIGHT_TYPES:
        if checkpoint(model, name).bytes < now:
            short = "fp8" if name == "fp8_e4m3" else name
            changed = ask._replace(weight_dtype=short)
            yield Change("weights", f"--weight-dtype {short}", changed, setting.gpu, "needs a checkpoint in that type")


def _engine_levers(setting: Setting) -> list[dict[str, object]]:
    """Options of the engine that leave more for the cache, as its ledger knows them."""
    try:
        found = ledger_levers(ledger_ask(setting.target, setting.fixed, setting.gpu, setting.layout))
    except KvcalcError:
        return []
    return [dict(lever.options) for lever in found]


def _typed(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _has(target: Target, *roles: str) -> bool:
    """Whether some layer keeps an array of one of these roles."""
    return any(part.role in roles for kind in target.model.blocks.values() for part in kind.lower())


def _layouts(setting: Setting) -> list[LeverRecord]:
    """The best layout of the same GPUs, of twice and of four times as many, where it gains; if none of these holds the
    load, the first doubling that does. Beside them plain TP and plain replicas on twice as many.
    """
    now, count = setting.layout, setting.layout.ranks
    plain = (now._replace(tp=2 * now.tp), now._replace(dp=2 * now.dp))
    found: list[LeverRecord] = []
    for doubling in range(_MOST_GPUS.bit_length()):
        gpus = count << doubling
        if gpus > _MOST_GPUS or (doubling > 2 and any(map(holds, found))):
            break
        answered = [(division, _answered(setting, change)) for division, change in _divisions(setting, gpus)]
        best = max((record for _, record in answered), key=_rank, default=None)
        worth = best is not None and (holds(best) if doubling > 2 else (best["gain_sessions"] or 0) > 0)
        found += [
            record
            for division, record in answered
            if (worth and record is best) or (division.layout in plain and not division.ep)
        ]
    return found


def holds(lever: LeverRecord) -> bool:
    """Whether the asked load fits with it, even in the ledger's worst case."""
    return lever["held"] is not None and lever["held"]["verdict"] == "FITS"


def _divisions(setting: Setting, gpus: int) -> Iterator[tuple[Division, Change]]:
    """Layouts of so many GPUs, without the present one and without deeper pipelines than it has."""
    ask, layerwise = setting.fixed, get_engine(setting.ask.engine)[0].name in LAYERWISE
    times = gpus // setting.layout.ranks
    for division in all_divisions(setting.target.model, gpus):
        layout = division.layout
        deep = layout.tp > 1 if layerwise else layout.pp != setting.layout.pp
        if deep or (layout == setting.layout and division.ep == ask.ep) or (division.ep and layout.dp == 1):
            continue
        note = f"{division.name} on " + ("the same GPUs" if times == 1 else f"{times} x the GPUs")
        text = f"--gpu {setting.gpu.name}:{gpus} {flags(division)}"
        lever = "layout" if times == 1 else "more GPUs"
        yield division, Change(lever, text, divided(ask, division), setting.gpu, note)


def flags(division: Division) -> str:
    """The options of a layout as they are typed."""
    words = [f"--{name} {value}" for name, value in division.layout._asdict().items() if value > 1]
    return " ".join([*(words or ["--tp 1"]), *(["--ep"] if division.ep else [])])


def _bigger(setting: Setting, gpus: Sequence[Gpu]) -> list[LeverRecord]:
    """The same number of a larger GPU of the same maker: the smallest that holds the load, and the largest."""
    here, number = setting.gpu, setting.layout.ranks
    found = []
    for gpu in sorted(gpus, key=lambda gpu: gpu.total_bytes):
        if (gpu.vendor, gpu.unified_memory) == (
            here.vendor,
            here.unified_memory,
        ) and gpu.total_bytes > here.total_bytes:
            asked = setting.fixed._replace(gpu=gpu.name)
            note = "the same number of a larger GPU"
            found.append(_answered(setting, Change("bigger GPU", f"--gpu {gpu.name}:{number}", asked, gpu, note)))
    taken = [record for record in found if record["held"] is not None]
    if not taken:
        return found[-1:]
    fits_now = setting.held is not None and setting.held["verdict"] == "FITS"
    holding = [] if fits_now else [record for record in taken if holds(record)][:1]
    return holding if holding == taken[-1:] else [*holding, taken[-1]]


def _offload(setting: Setting) -> list[LeverRecord]:
    """Host memory for the sessions that the GPUs have no room for, while they are idle."""
    now = setting.held
    if now is None or now["fits"] or not now["max_sessions"]:
        return []
    waiting = setting.ask.sessions - now["max_sessions"]
    if waiting <= 0:
        return []
    try:
        stored = offload(setting.target, setting.fixed._replace(sessions=waiting), Offload(), setting.gpu)
    except KvcalcError as error:
        return [_record(Change("host offload", "kvcalc offload", setting.ask, setting.gpu), None, None, str(error))]
    note = f"{waiting:,} idle sessions in host memory; {now['max_sessions']:,} can run at once as before"
    record = _record(
        Change("host offload", f"kvcalc offload -n {waiting}", setting.ask, setting.gpu, note), now, 0, None
    )
    return [{**record, "host_bytes": stored["total_bytes"]}]
