"""`schema`: JSON Schemas of model files and of every answer, from the types themselves."""

from __future__ import annotations

from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, Literal, NotRequired, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from kvcalc.answers.rows import DtypeRow, EngineRow, FileRow, GpuRow, ModelRow
from kvcalc.core.advised import AdvisedModel, Decision, Finding, HeldRecord, LeverRecord, SeenDevice
from kvcalc.core.drawn import Curve, LedgerBar, SweepRow
from kvcalc.core.result import (
    Advice,
    CacheRecord,
    EngineFitRecord,
    EngineInfo,
    FitRecord,
    GpuInfo,
    LayoutInfo,
    LedgerLine,
    MeasureRecord,
    ModelInfo,
    PlanRow,
    Requirement,
    SessionsRecord,
    Term,
    TierRow,
    VariantRecord,
)
from kvcalc.errors import UsageError, did_you_mean, short


class _Header(TypedDict):
    schema_version: int
    kvcalc_version: str
    command: str
    inputs: dict[str, Any]


class SizeAnswer(_Header, CacheRecord):
    """`kvcalc size`."""


class FitAnswer(_Header, FitRecord):
    """`kvcalc fit`: at_lengths is what `kvcalc sessions` says, where request lengths are given."""

    requirements: list[Requirement]
    advice: list[Advice]
    at_lengths: NotRequired[SessionsRecord]


class ExplainAnswer(_Header, CacheRecord):
    """`kvcalc explain`: `terms` are the fullest rank's; their bytes sum to `rank_bytes`."""

    terms: list[Term]
    rank_bytes: int


class RefusedEngine(TypedDict):
    """An engine that does not run the model (`--engines`), and why."""

    model: str
    engine: str
    reason: str
    fix: str | None


class CompareAnswer(_Header):
    """`kvcalc compare`: a fit record per target, in the order asked; with `--engines` per target and engine."""

    engine: EngineInfo
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    results: list[FitRecord | EngineFitRecord]
    refused: NotRequired[list[RefusedEngine]]


class SessionsAnswer(_Header, SessionsRecord):
    """`kvcalc sessions`."""

    model: ModelInfo
    engine: EngineInfo
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    gpu: GpuInfo | None
    layout: LayoutInfo
    ledger: list[LedgerLine]


class PlanAnswer(_Header):
    """`kvcalc plan`: cheapest first; no row where nothing holds the load. live_tokens: mean of a running session."""

    model: ModelInfo
    engine: EngineInfo
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    live_tokens: int
    results: list[PlanRow]


class AdviseAnswer(_Header):
    """`kvcalc advise`: null where no model was named, or the engine refuses it (refusal says why).

    bottleneck: engine, weights, model_max_context, state, cache or none. cache_equals_weights_tokens: up to this
    context the asked sessions' cache is no larger than the weights (null: at any). results: every model looked at.
    """

    model: ModelInfo | None
    engine: EngineInfo
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    now: HeldRecord | None
    refusal: str | None
    bottleneck: str | None
    per_session_bytes: int | None
    fixed_bytes_per_session: int | None
    marginal_bytes_per_token: int | None
    mha_ratio: float | None
    cache_equals_weights_tokens: int | None
    levers: list[LeverRecord]
    variants: list[VariantRecord]
    results: list[AdvisedModel]
    decision: list[Decision]


class OffloadAnswer(_Header):
    """`kvcalc offload`: session_bytes as stored by all ranks; copy_bytes of one undivided copy, no chunks."""

    model: ModelInfo
    engine: EngineInfo
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    session_bytes: int
    copy_bytes: int
    total_bytes: int
    reload_ns: int | None
    results: list[TierRow]


class TransferAnswer(_Header):
    """`kvcalc transfer`: handoff_bytes to all decode ranks, rank_bytes to the fullest; milli_*: thousandths."""

    model: ModelInfo
    engine: EngineInfo
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    copy_bytes: int
    handoff_bytes: int
    rank_bytes: int
    bytes_per_second: int | None
    handoff_ns: int | None
    link_share: float | None
    milli_requests_per_second: int | None
    milli_in_flight: int | None


class PlotAnswer(_Header):
    """`kvcalc plot`: a record per model, engine and KV type that is drawn, and `refused` for those that are not."""

    exactness: str
    assumptions: list[str]
    warnings: list[str]
    results: list[Curve | LedgerBar]
    refused: list[RefusedEngine]


class ReportRecord(TypedDict):
    """One model of a report. sessions: where a workload is given and the engine takes it."""

    name: str
    fit: FitAnswer
    sessions: SessionsAnswer | None


class ReportAnswer(_Header):
    """`kvcalc report`: the answers it is made of. command_line: makes it again."""

    command_line: str
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    compare: CompareAnswer
    results: list[ReportRecord]
    curves: list[PlotAnswer]
    refused: list[RefusedEngine]


class VariantsAnswer(_Header):
    """`kvcalc variants`: the model as shipped first."""

    model: ModelInfo
    engine: EngineInfo
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    pool_bytes: int
    results: list[VariantRecord]


class MeasureAnswer(_Header, MeasureRecord):
    """`kvcalc measure`: `cache` is plan, or transformers where that library's own classes were filled."""

    model: ModelInfo
    engine: EngineInfo
    exactness: str
    assumptions: list[str]
    warnings: list[str]
    cache: str


class LoggedEngine(TypedDict):
    name: str
    version: str | None


class ExplainLogAnswer(_Header):
    """`kvcalc explain-log`: facts with their meaning, what follows, the comparison with a model, what to change."""

    engine: LoggedEngine
    status: str
    refusals: list[dict[str, Any]]
    facts: list[dict[str, Any]]
    flags: dict[str, Any]
    derived: list[dict[str, Any]]
    comparison: list[dict[str, Any]]
    advice: list[dict[str, Any]]
    assumptions: list[str]
    warnings: list[str]


class ImportAnswer(_Header):
    """`kvcalc import`: the document as JSON and as YAML; `results` are its fields for tables."""

    exactness: str
    assumptions: list[str]
    warnings: list[str]
    document: dict[str, Any]
    yaml: str
    results: list[dict[str, str]]


class DoctorAnswer(_Header):
    """`kvcalc doctor`: what was looked at; problems: how many of it do not work."""

    problems: int
    devices: list[SeenDevice]
    results: list[Finding]


class ModelsAnswer(_Header):
    """`kvcalc models`. warnings: files of a --models-dir that do not load."""

    results: list[ModelRow]
    warnings: list[str]


class GpusAnswer(_Header):
    """`kvcalc gpus`."""

    results: list[GpuRow]


class EnginesAnswer(_Header):
    """`kvcalc engines`."""

    results: list[EngineRow]


class DtypesAnswer(_Header):
    """`kvcalc dtypes`."""

    results: list[DtypeRow]


class ValidateAnswer(_Header):
    """`kvcalc validate`."""

    results: list[FileRow]


ANSWERS: dict[str, Any] = {
    "size": SizeAnswer,
    "fit": FitAnswer,
    "explain": ExplainAnswer,
    "compare": CompareAnswer,
    "sessions": SessionsAnswer,
    "plan": PlanAnswer,
    "advise": AdviseAnswer,
    "sweep": SweepRow,
    "offload": OffloadAnswer,
    "transfer": TransferAnswer,
    "plot": PlotAnswer,
    "report": ReportAnswer,
    "variants": VariantsAnswer,
    "measure": MeasureAnswer,
    "explain-log": ExplainLogAnswer,
    "import": ImportAnswer,
    "doctor": DoctorAnswer,
    "models": ModelsAnswer,
    "gpus": GpusAnswer,
    "engines": EnginesAnswer,
    "dtypes": DtypesAnswer,
    "validate": ValidateAnswer,
}


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of `model` (a model file) or of a command's answer.

    Raises: UsageError.
    """
    if name == "model":
        from kvcalc.schema import json_schema

        return json_schema()
    if name not in ANSWERS:
        known = ["model", *ANSWERS]
        raise UsageError(
            f"no schema of {short(name)}",
            fix=did_you_mean(name, known) or f"one of: {', '.join(known)}",
            field="of",
            value=name,
        )
    from pydantic import TypeAdapter

    schema = TypeAdapter(_closed(ANSWERS[name])).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def read_answer(name: str, text: str, *, file: str) -> Any:
    """A saved JSON answer of `name`, checked against its schema.

    Raises: UsageError where it is not one.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(_closed(ANSWERS[name])).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(
            f"no saved answer of kvcalc {name}: {where}: {first['msg']}",
            fix=f"name a file that `kvcalc {name} --save FILE` wrote",
            file=file,
        ) from None


def _closed(kind: Any) -> Any:
    """The same types in the form pydantic reads on Python 3.11 (typing_extensions' TypedDict), unknown keys refused."""
    from typing_extensions import TypedDict as ReadableTypedDict

    if is_typeddict(kind):
        hints = {key: _closed(hint) for key, hint in get_type_hints(kind, include_extras=True).items()}
        make: Any = ReadableTypedDict  # called with values, which its stub does not allow
        built = make(kind.__name__, hints)
        built.__doc__ = kind.__doc__
        built.__pydantic_config__ = {"extra": "forbid"}
        return built
    if (origin := get_origin(kind)) is None or origin is Literal:
        return kind
    inner = tuple(_closed(item) for item in get_args(kind))
    if origin is NotRequired:
        return NotRequired[inner[0]]
    return reduce(or_, inner) if origin is UnionType else origin[inner]
