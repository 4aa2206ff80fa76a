"""What the user typed for one command, read into questions; and the answer's way out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from kvcalc.answers.common import Ask
from kvcalc.core.gpu import Gpu
from kvcalc.core.light import NamedTuple
from kvcalc.errors import EXIT_DOES_NOT_FIT, EXIT_OK, UsageError, short
from kvcalc.registry import Registry, load_registry
from kvcalc.render.output import FORMATS, write
from kvcalc.targets import Target, load_target
from kvcalc.units import parse_bytes, parse_count, parse_tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kvcalc.planning.lora import Lora
    from kvcalc.planning.startlog import StartLog

MAX_DEGREE = 4096
DEFAULT_CONTEXT = 8192
#: What `compare` and `variants` assume when no GPU is named, and say so.
DEFAULT_GPU = "h100-80gb"


class Given(NamedTuple):
    """The arguments and options of one call, as text (None: absent)."""

    values: Mapping[str, Any]

    def ask(self) -> Ask:
        """The common options, parsed.

        Raises: UsageError for a value out of range.
        """
        values = self.values
        name, count = read_gpu(values.get("gpu"))
        context = values.get("context")
        return Ask(
            context_tokens=DEFAULT_CONTEXT if context is None else parse_tokens(context),
            sessions=self.whole("sessions", most=2**31) or 1,
            kv_dtype=values.get("kv_dtype"),
            state_dtype=values.get("state_dtype"),
            index_dtype=values.get("index_dtype"),
            engine="ideal" if values.get("engine") is None else values["engine"],
            engine_options=tuple(values.get("option") or ()),
            tp=self.whole("tp"),
            pp=self.whole("pp") or 1,
            dp=self.whole("dp") or 1,
            dcp=self.whole("dcp") or 1,
            ep=bool(values.get("ep")),
            gpu=name,
            gpu_count=count,
            weight_dtype=values.get("weight_dtype"),
            lora=self._lora(),
            pool_bytes=self.amount("pool"),
            overhead_bytes=self.amount("overhead"),
            gpu_total_bytes=self.amount("gpu_total"),
            from_log=values.get("from_log"),
            log=self._log(),
            encoder_tokens=self.whole("encoder_tokens", most=2**31, least=0),
        )

    def whole(self, name: str, *, most: int = MAX_DEGREE, least: int = 1) -> int | None:
        """A whole number option, or None."""
        text = self.values.get(name)
        return None if text is None else parse_count(text, field=name.replace("_", "-"), most=most, least=least)

    def tokens(self, name: str) -> int | None:
        """A number of tokens, or None."""
        text = self.values.get(name)
        return None if text is None else parse_tokens(text, field=name.replace("_", "-"))

    def thousandths(self, name: str) -> int | None:
        """A positive decimal like 2.5, in thousandths."""
        text = self.values.get(name)
        if text is None:
            return None
        whole, _, part = text.strip().partition(".")
        if not (whole + part).isdigit() or not whole.isascii() or len(whole) > 9 or len(part) > 3:
            raise UsageError(f"{name} must be a number like 2.5, not {short(text)}", fix=f"--{name} 20", field=name)
        found = int(whole or 0) * 1000 + int((part + "000")[:3])
        if not found:
            raise UsageError(f"{name} must be above 0", fix=f"--{name} 20", field=name)
        return found

    def _log(self) -> StartLog | None:
        """What the start-up log of --from-log says.

        Raises: UsageError when it cannot be read.
        """
        path = self.values.get("from_log")
        if path is None:
            return None
        from kvcalc.planning.startlog import read_log_file

        return read_log_file(path)

    def amount(self, name: str) -> int | None:
        """A size option in bytes, or None."""
        text = self.values.get(name)
        return None if text is None else parse_bytes(text, field=name.replace("_", "-"))

    def fleet(self, registry: Registry, gpus: int | None = None) -> tuple[list[tuple[Gpu, int]], list[str]]:
        """`h100-80gb:4,l40s:4`: GPU types with their numbers, and the sentence for what was not said.

        gpus: their total, where it is asked for.

        Raises: UsageError.
        """
        text, notes = self.values.get("gpu"), []
        if text is None:
            text, notes = DEFAULT_GPU, [f"GPU {DEFAULT_GPU}: none was asked for (--gpu)"]
        found = []
        for part in text.split(","):
            name, count = read_gpu(part.strip())
            found.append((registry.gpu(name or ""), count))
        if len(found) == 1 and found[0][1] is None:
            found = [(found[0][0], gpus or 8)]
            if gpus is None:
                notes.append("8 GPUs: no number was asked for (--gpus)")
        fleet = [(gpu, count or 1) for gpu, count in found]
        if gpus is not None and sum(count for _, count in fleet) != gpus:
            raise UsageError(f"--gpu {text} and --gpus {gpus} contradict", fix="keep one of them", field="gpus")
        return fleet, notes

    def watched(self) -> bool:
        """A person looks on: progress may be shown on stderr."""
        return sys.stderr.isatty()

    def registry(self) -> Registry:
        """What is shipped; a directory of the user's is read at once, so that a wrong one is said.

        Raises: UsageError.
        """
        models_dir = self.values.get("models_dir")
        return Registry() if models_dir is None else load_registry(models_dir)

    def target(self, registry: Registry) -> Target:
        """The one TARGET."""
        return self._drafted(load_target(self.values["target"], registry))

    def targets(self, registry: Registry) -> list[Target]:
        return [self._drafted(load_target(text, registry)) for text in self.values["targets"]]

    def _drafted(self, target: Target) -> Target:
        """The target with the cache of --draft beside its own.

        Raises: UsageError.
        """
        text = self.values.get("draft")
        if text is None:
            return target
        from kvcalc.planning.additions import with_draft

        return target._replace(model=with_draft(target.model, text))

    def _lora(self) -> Lora | None:
        text = self.values.get("lora")
        if text is None:
            return None
        from kvcalc.planning.lora import read_lora

        return read_lora(text)

    def gpu(self, ask: Ask, registry: Registry) -> Gpu | None:
        return None if ask.gpu is None else registry.gpu(ask.gpu)

    def card(self, ask: Ask, registry: Registry) -> Gpu | None:
        """The GPU type that decides an engine's defaults, where a number of GPUs divides nothing by itself.

        Raises: UsageError for a number that is not the asked layout's.
        """
        ranks = (ask.tp or 1) * ask.pp * ask.dp
        if ask.gpu_count not in (None, ranks):
            raise UsageError(
                f"--gpu {self.values['gpu']} names {ask.gpu_count} GPUs for a layout of {ranks}",
                fix=f"add --tp {ask.gpu_count} (or --pp, --dp), or name the GPU without a number",
                field="gpu",
            )
        return self.gpu(ask, registry)

    def gpu_or_default(self, ask: Ask, registry: Registry) -> tuple[Gpu | None, list[str]]:
        """The GPU asked for; without one, and without a pool, the default and the sentence that says so."""
        if ask.gpu is not None or ask.pool_bytes is not None:
            return self.gpu(ask, registry), []
        return registry.gpu(DEFAULT_GPU), [f"GPU {DEFAULT_GPU}: none was asked for (--gpu)"]

    def measure(
        self,
        answer: dict[str, Any],
        records: Sequence[dict[str, Any]],
        targets: Sequence[Target],
        ask: Ask,
        gpu: Gpu | None = None,
    ) -> int:
        """Allocate what each record of the answer predicts and put the measurement there: the exit code.

        gpu: the one the records were made for.

        Raises: CannotMeasure.
        """
        from kvcalc.measure.answer import attach
        from kvcalc.measure.devices import open_device

        device = open_device(self.values["device"])
        for record, target in zip(records, targets, strict=True):
            name = f"{target.model.name}: " if record is not answer else ""
            said = attach(record, target, ask, device, gpu=gpu)
            answer["assumptions"] = [*answer["assumptions"], *(f"{name}{note}" for note in said)]
        return EXIT_OK if all(record["measured"]["equal"] for record in records) else EXIT_DOES_NOT_FIT

    def by_engine(self, targets: list[Target], ask: Ask, gpu: Gpu | None, notes: list[str]) -> dict[str, Any]:
        """`--engines`: emit one row per target and engine (a compare answer), and return it.

        Raises: UsageError.
        """
        from kvcalc.answers.engines import compare_engines, read_engines

        for name in ("engine", "measure"):
            if self.values.get(name):
                raise UsageError(f"--{name} contradicts --engines", fix=f"drop --{name}", field="engines")
        answer = compare_engines(targets, ask, gpu, read_engines(self.values["engines"]))
        answer["assumptions"] = [*notes, *answer["assumptions"]]
        self.emit(answer)
        return answer

    def emit(self, answer: Mapping[str, Any]) -> None:
        """Print the answer in the format asked for.

        Raises: UsageError for an unknown format.
        """
        write(answer, self.format())

    def file(self) -> str | None:
        """Where --output wants the answer.

        Raises: UsageError where -o, which is an engine's option, was taken for it.
        """
        for text in self.values.get("option") or ():
            if "=" not in text and "." in text:
                raise UsageError(
                    f"-o takes an engine option, not the file {short(text)}",
                    fix=f"write --output {text}",
                    field="option",
                    value=text,
                )
        path: str | None = self.values["file"]
        return path

    def format(self) -> str | None:
        """The format asked for, or None.

        Raises: UsageError for an unknown one, or two.
        """
        chosen = self.values.get("format")
        if chosen is not None and chosen not in FORMATS:
            raise UsageError(f"unknown format {short(chosen)}", fix=f"one of: {', '.join(FORMATS)}", field="format")
        as_json = bool(self.values.get("json"))
        if as_json and chosen not in (None, "json"):
            raise UsageError(f"--json and --format {chosen} contradict", fix="keep one of them", field="format")
        return "json" if as_json else chosen


def read_gpu(text: str | None) -> tuple[str | None, int | None]:
    """`h200:8`: the name and the number, None where absent.

    Raises: UsageError.
    """
    if text is None:
        return None, None
    name, colon, count = text.partition(":")
    if not colon:
        return name, None
    try:
        return name, parse_count(count, field="gpu count", most=MAX_DEGREE)
    except UsageError as error:
        error.fix, error.field = f"write --gpu {name or 'h100-80gb'}:8 for eight of them", "gpu"
        raise
