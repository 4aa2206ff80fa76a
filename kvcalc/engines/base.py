"""What an engine is to kvcalc: rules that turn a model's components into the tensors each rank allocates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from kvcalc.core.component import Role
from kvcalc.core.light import Literal, NamedTuple, Protocol, Record
from kvcalc.core.model import Model
from kvcalc.core.plan import Layout, Planner
from kvcalc.dtypes import DTYPES
from kvcalc.errors import EngineRefusal, UsageError, did_you_mean, short
from kvcalc.units import parse_bytes, parse_count, parse_fraction, parse_ratio, parse_tokens

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class CacheDtypes(Record):
    """Element type per role: names of `kvcalc.dtypes`."""

    key: str
    value: str
    index: str
    pending: str
    conv: str
    state: str

    def of(self, role: Role) -> str:
        return str(getattr(self, role))


class Option(NamedTuple):
    """One engine option, under the engine's own name. `default` None: the engine decides."""

    name: str
    parse: Literal["tokens", "count", "bytes", "fraction", "ratio", "switch", "choice", "text"]
    help: str
    default: int | float | bool | str | None = None
    choices: tuple[str, ...] = ()

    def read(self, text: str) -> int | float | bool | str:
        """The value of `text`.

        Raises: UsageError.
        """
        if self.parse == "tokens":
            return parse_tokens(text, field=self.name)
        if self.parse == "count":
            return parse_count(text, field=self.name, least=0)
        if self.parse == "bytes":
            return parse_bytes(text, field=self.name)
        if self.parse == "fraction":
            return parse_fraction(text, field=self.name)
        if self.parse == "text":
            return text.strip()
        if self.parse == "ratio":
            return parse_ratio(text, field=self.name)
        known = self.choices or ("on", "off", "true", "false", "1", "0", "yes", "no")
        if (lowered := text.strip().lower()) not in known:
            raise UsageError(
                f"{self.name} cannot be {short(text)}", fix=f"one of: {', '.join(known)}", field=self.name, value=text
            )
        return lowered if self.parse == "choice" else lowered in ("on", "true", "1", "yes")


class Setup(NamedTuple):
    """Everything but the load: how the engine is started.

    gpu: architecture of the GPU (`sm90`, `gfx942`); gpu_bytes: its total as programs see it. asked: roles whose type
    in `dtypes` the user asked for; the others were filled in, and an engine with a rule of its own applies that.
    """

    version: str
    dtypes: CacheDtypes
    layout: Layout = Layout()
    options: Mapping[str, Any] = _NO_OPTIONS
    gpu: str | None = None
    gpu_bytes: int | None = None
    asked: frozenset[Role] = frozenset()


class Engine(Protocol):
    """One engine. `versions[0]` is the default; `verified_by` says how its numbers are proved."""

    @property
    def name(self) -> str: ...
    @property
    def versions(self) -> tuple[str, ...]: ...
    @property
    def verified_by(self) -> str: ...
    @property
    def summary(self) -> str: ...
    @property
    def options(self) -> tuple[Option, ...]: ...

    def prepare(self, model: Model, setup: Setup) -> Planner:
        """The allocation of `model`, ready for any load.

        Raises: EngineRefusal where the engine itself would not start.
        """


def need_own_type(engine: str, own: str, setup: Setup, *, fix: str) -> None:
    """An engine that keeps K and V in `own` does so whatever is asked: another width that was asked for is no answer.

    Equal widths are the same cache, and a type that nobody asked for (the file's) gives way silently.

    Raises: EngineRefusal.
    """
    for role in ("key", "value"):
        name = getattr(setup.dtypes, role)
        if role in setup.asked and DTYPES[name].row_bytes(256) != DTYPES[own].row_bytes(256):
            raise EngineRefusal(
                f"{engine} cannot keep its cache in {name}: it takes {own}", fix=fix, field="kv-dtype", value=name
            )


def read_options(engine: Engine, pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` texts as the engine's options.

    Raises: UsageError for an unknown key, a missing value or one out of range.
    """
    known = {option.name: option for option in engine.options}
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"engine option {short(pair)} has no value", fix="write -o KEY=VALUE", field="option")
        if key not in known:
            listed = f"options of {engine.name}: {', '.join(known)}" if known else f"{engine.name} has no options"
            raise UsageError(
                f"engine {engine.name} has no option {short(key)}",
                fix=did_you_mean(key, list(known)) or listed,
                field="option",
                value=pair,
            )
        values[key] = known[key].read(text)
    return values
