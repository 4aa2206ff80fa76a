"""The Python API: the command line's answers as objects. `import kvcalc; kvcalc.load("llama3").cache("128k").bytes`.

Every question is a method or function of the command's name and gives the dict of its JSON, typed; its keyword
arguments are the long flags with underscores (`kvcalc.options`). `Cache`, `max_context` and `max_sessions` are for
sweeps: a loaded model keeps its prepared planners, so that each engine and layout is paid for once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from kvcalc.answers.common import Prepared, header, prepare
from kvcalc.asking import Answer, Asked, ask, read_values
from kvcalc.core.capacity import max_context, max_sessions
from kvcalc.core.model import Model
from kvcalc.core.plan import CachePlan, Load
from kvcalc.errors import UsageError, short
from kvcalc.registry import Registry
from kvcalc.targets import Target, load_target
from kvcalc.units import MAX_SESSIONS, MAX_TOKENS, parse_bytes, parse_tokens

if TYPE_CHECKING:
    from typing import Unpack

    from kvcalc import options as options_of
    from kvcalc.answers import schemas
    from kvcalc.core.result import CacheRecord, ComponentBytes


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache of one load: the plan every number comes from, and the record the command line prints."""

    prepared: Prepared
    load: Load
    plan: CachePlan

    @property
    def bytes(self) -> int:
        """All ranks together."""
        return self.plan.total_bytes

    @property
    def rank_bytes(self) -> int:
        """The fullest rank."""
        return self.plan.max_rank_bytes

    @property
    def components(self) -> list[ComponentBytes]:
        """One row per array of one block, over all layers, sessions and ranks."""
        from kvcalc.answers.size import components

        return components(self.plan)

    def record(self) -> CacheRecord:
        """What `kvcalc size --json` answers, without its header."""
        from kvcalc.answers.size import cache_record

        return cache_record(self.prepared._replace(load=self.load))

    def _repr_html_(self) -> str:
        """A notebook shows the components."""
        inputs = {**self.prepared.inputs, **self.load._asdict()}
        return Answer({**header("size", inputs), **self.record()})._repr_html_()

    def __repr__(self) -> str:
        name = self.prepared.target.model.name
        return f"<Cache {name}: {self.load.context_tokens:,} tokens x {self.load.sessions:,} = {self.bytes:,} B>"


class LoadedModel:
    """One model, ready for any question. Build it with `load`.

    Every question raises KvcalcError (UsageError, EngineRefusal, ModelFileError, CannotMeasure) where the command
    line would print one. A load that does not fit is no error: `fit(...)["fits"]` is False.
    """

    def __init__(self, target: Target, registry: Registry) -> None:
        self.target = target
        self.registry = registry
        self._prepared: dict[tuple[object, ...], Prepared] = {}

    @cached_property
    def model(self) -> Model:
        """Layers, blocks, weights and where the numbers were read."""
        return self.target.model

    def ask(self, command: str, **options: object) -> Answer:
        """Any command about one model, its options untyped.

        >>> load("llama3").ask("size", context=1)["total_bytes"]
        131072
        """
        return ask(command, self.target.origin, loaded=(self.target,), known=self.registry, **options)

    def prepare(self, **options: Unpack[options_of.Allocation]) -> Prepared:
        """The planner for these options, made once.

        Raises: UsageError, EngineRefusal.
        """
        values = read_values("size", options, self.target.origin)
        key = tuple(tuple(value) if isinstance(value, list) else value for value in values.values())
        found = self._prepared.get(key)
        if found is None:
            asked = Asked(values)
            asked.loaded = (self.target,)
            common = asked.ask()
            gpu = asked.gpu(common, self.registry)
            found = self._prepared[key] = prepare(asked.target(self.registry), common, gpu=gpu)
        return found

    def cache(self, context: int | str = 8192, sessions: int = 1, **options: Unpack[options_of.Allocation]) -> Cache:
        """The cache of `sessions` sessions of `context` tokens (an integer, or text like "128k").

        Raises: UsageError, EngineRefusal.

        >>> load("llama3").cache("128k").bytes
        17179869184
        """
        prepared = self.prepare(**options)
        load = Load(_tokens(context), _sessions(sessions), prepared.load.encoder_tokens)
        return Cache(prepared, load, prepared.planner.plan(load))

    def max_context(self, pool: int | str, sessions: int = 1, **options: Unpack[options_of.Allocation]) -> int | None:
        """Longest context that `sessions` sessions can have in `pool` (bytes, or text like "24GiB") per GPU.

        None: the cache does not grow with the context.

        >>> load("llama3").max_context("16GiB")
        131072
        """
        prepared = self.prepare(**options)
        tokens = prepared.load.encoder_tokens
        return max_context(prepared.planner, _bytes(pool), sessions=_sessions(sessions), encoder_tokens=tokens)

    def max_sessions(
        self, pool: int | str, context: int | str = 8192, **options: Unpack[options_of.Allocation]
    ) -> int | None:
        """Most sessions of `context` tokens that `pool` per GPU holds.

        >>> load("llama3").max_sessions("16GiB", "8k")
        16
        """
        prepared = self.prepare(**options)
        tokens = prepared.load.encoder_tokens
        return max_sessions(prepared.planner, _bytes(pool), context_tokens=_tokens(context), encoder_tokens=tokens)

    def size(self, **options: Unpack[options_of.SizeOptions]) -> schemas.SizeAnswer:
        """Bytes of a context x sessions, component by component.

        >>> load("deepseek-v2").size(context=1)["marginal_bytes_per_token"]
        69120
        """
        return cast("schemas.SizeAnswer", self.ask("size", **options))

    def fit(self, **options: Unpack[options_of.FitOptions]) -> schemas.FitAnswer:
        """The GPU's memory line by line, the pool, the longest context and the most sessions it holds.

        >>> answer = load("llama3").fit(pool="16GiB", context="8k", sessions=17)
        >>> answer["fits"], answer["max_sessions"], answer["max_context_tokens"]
        (False, 16, 7710)
        """
        return cast("schemas.FitAnswer", self.ask("fit", **options))

    def explain(self, **options: Unpack[options_of.ExplainOptions]) -> schemas.ExplainAnswer:
        """The formula with this model's integers in it, term by term, and where each rule was read.

        >>> load("llama3").explain(context=1)["terms"][0]["formula"]
        'layers 32 x sessions 1 x slots 1 x elements 8 x 128 x 2 B = 65,536 B'
        """
        return cast("schemas.ExplainAnswer", self.ask("explain", **options))

    def variants(self, **options: Unpack[options_of.VariantsOptions]) -> schemas.VariantsAnswer:
        """The same model as MHA, GQA, MQA, MLA, windowed and hybrid, at equal budget.

        >>> [row["mha_ratio"] for row in load("llama3").variants(pool="16GiB")["results"][:2]]
        [0.25, 1.0]
        """
        return cast("schemas.VariantsAnswer", self.ask("variants", **options))

    def sessions(self, **options: Unpack[options_of.SessionsOptions]) -> schemas.SessionsAnswer:
        """How many sessions of real lengths a pool holds before requests wait, and what binds.

        workload: a file, a mapping of its content, or pairs of (prompt tokens, output tokens); else input and output.
        """
        return cast("schemas.SessionsAnswer", self.ask("sessions", **options))

    def plan(self, **options: Unpack[options_of.PlanOptions]) -> schemas.PlanAnswer:
        """The cheapest sets of GPUs that hold `users` sessions at once; no row where nothing holds them."""
        return cast("schemas.PlanAnswer", self.ask("plan", **options))

    def advise(self, **options: Unpack[options_of.AdviseOptions]) -> schemas.AdviseAnswer:
        """Whether the load fits, what binds, and in numbers what would change that."""
        return cast("schemas.AdviseAnswer", self.ask("advise", **options))

    def offload(self, **options: Unpack[options_of.OffloadOptions]) -> schemas.OffloadAnswer:
        """Idle sessions in host memory and on disk: their bytes, how many fit, how long they take to come back.

        >>> load("llama3").offload(context="8k", chunk=0, host="64GiB")["results"][0]["sessions"]
        64
        """
        return cast("schemas.OffloadAnswer", self.ask("offload", **options))

    def transfer(self, **options: Unpack[options_of.TransferOptions]) -> schemas.TransferAnswer:
        """Hand-offs from prefill to decode: bytes, bandwidth for a rate of requests, time on a link.

        >>> load("llama3").transfer(context="8k", link="1GiB/s")["handoff_ns"]
        1000000000
        """
        return cast("schemas.TransferAnswer", self.ask("transfer", **options))

    def measure(self, **options: Unpack[options_of.MeasureOptions]) -> schemas.MeasureAnswer:
        """Allocate the cache on a device with torch and compare to the byte; needs `pip install 'kvcalc[measure]'`.

        Raises: CannotMeasure.
        """
        return cast("schemas.MeasureAnswer", self.ask("measure", **options))

    def _repr_html_(self) -> str:
        """A notebook shows the row of `kvcalc models`."""
        from kvcalc.answers.listings import model_row

        return Answer(
            {**header("models", {"match": self.model.name}), "results": [model_row(self.model)]}
        )._repr_html_()

    def __repr__(self) -> str:
        kinds = " + ".join(f"{count} {kind}" for kind, count in self.model.kinds_summary().items())
        return f"<LoadedModel {self.model.name}: {kinds}>"


def load(
    target: str | os.PathLike[str],
    *,
    models_dir: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
) -> LoadedModel:
    """The model of a TARGET: a shipped name, a YAML, a config.json or its folder, a GGUF, or hf:org/name.

    Raises: UsageError, ModelFileError.

    >>> load("deepseek-v2")
    <LoadedModel deepseek-v2: 60 mla>
    """
    known = registry or Registry(None if models_dir is None else os.fspath(models_dir))
    return LoadedModel(load_target(os.fspath(target), known), known)


def compare(
    targets: Sequence[str | os.PathLike[str] | LoadedModel], **options: Unpack[options_of.CompareOptions]
) -> schemas.CompareAnswer:
    """Models side by side on one GPU type; with `engines` or `layouts` a row for each of those too.

    >>> [row["mha_ratio"] for row in compare(["llama3", "gemma3-27b"], pool="16GiB", context=8192)["results"]]
    [0.25, 0.13306451612903225]
    """
    if isinstance(targets, str | LoadedModel):
        raise UsageError("compare takes a list of models", fix="compare([...])", field="targets")
    loaded = [target for target in targets if isinstance(target, LoadedModel)]
    known = loaded[0].registry if loaded else Registry()
    models = [target if isinstance(target, LoadedModel) else load(target, registry=known) for target in targets]
    if not models:
        raise UsageError("no model to compare", fix="name one", field="targets")
    found = ask("compare", loaded=tuple(model.target for model in models), known=known, **options)
    return cast("schemas.CompareAnswer", found)


def plan(target: str | os.PathLike[str] | LoadedModel, **options: Unpack[options_of.PlanOptions]) -> schemas.PlanAnswer:
    """The cheapest sets of GPUs that hold `users` sessions of a model; the same as `load(target).plan(...)`."""
    model = target if isinstance(target, LoadedModel) else load(target)
    return model.plan(**options)


def list_models(match: str | None = None, *, models_dir: str | os.PathLike[str] | None = None) -> schemas.ModelsAnswer:
    """The shipped models, all or those with `match` in a name.

    >>> [row["name"] for row in list_models("deepseek-v2")["results"]]
    ['deepseek-v2', 'deepseek-v2-lite']
    """
    return cast("schemas.ModelsAnswer", ask("models", match, models_dir=models_dir))


def list_gpus(match: str | None = None) -> schemas.GpusAnswer:
    """The known GPUs, in the bytes their driver reports.

    >>> list_gpus("h100-80gb")["results"][0]["total_bytes"]
    85520809984
    """
    return cast("schemas.GpusAnswer", ask("gpus", match))


def list_engines(name: str | None = None) -> schemas.EnginesAnswer:
    """The engines, or one engine's options.

    >>> list_engines("ideal")["results"][0]["name"]
    'ideal'
    """
    return cast("schemas.EnginesAnswer", ask("engines", name))


def list_dtypes() -> schemas.DtypesAnswer:
    """The element types and their true bytes."""
    return cast("schemas.DtypesAnswer", ask("dtypes"))


def validate(files: Sequence[str | os.PathLike[str]]) -> schemas.ValidateAnswer:
    """Whether model files are sound: a row per file, its `status` ok or broken."""
    return cast("schemas.ValidateAnswer", ask("validate", files))


def import_model(source: str | os.PathLike[str], *, name: str | None = None) -> schemas.ImportAnswer:
    """A config.json, GGUF or hub model as a model file: `["document"]`, and as text `["yaml"]`."""
    return cast("schemas.ImportAnswer", ask("import", source, name=name))


def read_log(
    file: str | os.PathLike[str], *, model: str | None = None, gpu: str | None = None
) -> schemas.ExplainLogAnswer:
    """What an engine's start-up log or refusal means, whether a model's arithmetic agrees, and what to change."""
    return cast("schemas.ExplainLogAnswer", ask("explain-log", file, model=model, gpu=gpu))


def json_schema(of: str = "model") -> dict[str, Any]:
    """The JSON Schema of a model file, or of the answer of a command.

    >>> json_schema("size")["properties"]["total_bytes"]
    {'title': 'Total Bytes', 'type': 'integer'}
    """
    from kvcalc.answers.schemas import schema_of

    return schema_of(of)


def _tokens(context: int | str) -> int:
    tokens = parse_tokens(context) if isinstance(context, str) else context
    if type(tokens) is not int or not 1 <= tokens <= MAX_TOKENS:
        raise UsageError(
            f"context must be 1 to {MAX_TOKENS:,} tokens, not {short(context)}",
            fix='give 131072 or "128k"',
            field="context",
        )
    return tokens


def _sessions(sessions: int) -> int:
    if type(sessions) is not int or not 1 <= sessions <= MAX_SESSIONS:
        raise UsageError(
            f"sessions must be 1 to {MAX_SESSIONS:,}, not {short(sessions)}",
            fix="give a whole number",
            field="sessions",
        )
    return sessions


def _bytes(size: int | str) -> int:
    number = parse_bytes(size, field="pool") if isinstance(size, str) else size
    if type(number) is not int or number < 0:
        raise UsageError(f"pool must be bytes, not {short(size)}", fix='give an integer or "24GiB"', field="pool")
    return number
