"""An accelerator as the calculator sees it: its bytes as the driver counts them, and where each number was read.

"80 GB" on a box is 80 GiB, 79.65 GiB or 74.5 GiB depending on the product, so cards are stored in bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kvcalc.core.light import Literal, Record
from kvcalc.errors import ModelFileError, did_you_mean, short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TotalIs = Literal["driver", "marketed"]

#: No accelerator comes near a pebibyte; a larger number is a typing mistake.
MAX_GPU_BYTES = 2**50
_USD = r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(?:-([0-9]{1,6}(?:\.[0-9]{1,6})?))?"
_NAME = r"[a-z0-9][a-z0-9.-]{0,62}"


class Price(Record):
    """What one GPU costs an hour. usd_per_hour: decimal text, `2.95`, or a range, `2.50-3.50`.

    >>> Price(usd_per_hour="2.50-3.50", kind="specialist cloud", source="survey", date="2026-05").micro_usd
    (2500000, 3500000)
    """

    usd_per_hour: str
    kind: str
    source: str
    date: str

    def __post_init__(self) -> None:
        for name in ("usd_per_hour", "kind", "source", "date"):
            _need_text(name, getattr(self, name))
        if re.fullmatch(_USD, self.usd_per_hour, re.ASCII) is None or self.micro_usd[0] > self.micro_usd[1]:
            raise ModelFileError(
                f"usd_per_hour must be an amount or a rising range, not {short(self.usd_per_hour)}",
                fix="write it as text: '2.95' or '2.50-3.50'",
                field="usd_per_hour",
                value=self.usd_per_hour,
            )

    @property
    def micro_usd(self) -> tuple[int, int]:
        """(low, high) in millionths of a dollar an hour; equal where one price is known."""
        low, _, high = self.usd_per_hour.partition("-")
        return _micro(low), _micro(high or low)


def _micro(amount: str) -> int:
    whole, _, part = amount.partition(".")
    return int(whole) * 10**6 + int(part.ljust(6, "0"))


class Gpu(Record):
    """One accelerator (one device as the driver lists it: a GCD of an MI250X, one die pair of a GB200).

    architecture: what kernels are compiled for: sm90, gfx942, apple-m3.
    total_bytes: all memory of the device. total_is driver: the driver's own number (nvidia-smi rounds it down
    to a MiB); marketed: from the product's size, so what is computed from it is an estimate.
    runtime_bytes: what the runtime shows a program (`torch.cuda.mem_get_info`), which engines multiply by
    their fraction: smaller than the driver's total by the driver's own reserve. From engine logs, which
    print 0.01 GiB and differ by up to 0.05 GiB between driver versions: the lowest one seen.
    unified_memory: the CPU uses the same memory. nvlink: how the GPUs of one machine are joined (None: not known).
    recalled: fields whose value has no source.
    """

    name: str
    product: str
    vendor: str
    architecture: str
    total_bytes: int
    total_is: TotalIs
    marketed_gb: int
    source: str
    date: str
    aliases: tuple[str, ...] = ()
    runtime_bytes: int | None = None
    bandwidth_bytes_per_s: int | None = None
    bandwidth_source: str | None = None
    unified_memory: bool = False
    nvlink: bool | None = None
    notes: tuple[str, ...] = ()
    prices: tuple[Price, ...] = ()
    recalled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("name", "product", "vendor", "architecture", "source", "date"):
            _need_text(name, getattr(self, name))
        for name in (self.name, *self.aliases):
            _need_name("name" if name == self.name else "aliases", name)
        _need_count("total_bytes", self.total_bytes, MAX_GPU_BYTES)
        _need_count("marketed_gb", self.marketed_gb, MAX_GPU_BYTES // 10**9)
        if self.total_is not in ("driver", "marketed"):
            raise ModelFileError(
                f"total_is must be driver or marketed, not {short(self.total_is)}",
                fix="driver only where the driver's own number was read",
                field="total_is",
                value=self.total_is,
            )
        if self.runtime_bytes is not None:
            _need_count("runtime_bytes", self.runtime_bytes, self.total_bytes)
        if self.bandwidth_bytes_per_s is not None:
            _need_count("bandwidth_bytes_per_s", self.bandwidth_bytes_per_s, MAX_GPU_BYTES)
        if (self.bandwidth_bytes_per_s is None) != (self.bandwidth_source is None):
            raise ModelFileError(
                "bandwidth_bytes_per_s and bandwidth_source come together",
                fix="name where the bandwidth was read, or leave both out",
                field="bandwidth_source",
            )
        for name, flag in (("unified_memory", self.unified_memory), ("nvlink", self.nvlink or False)):
            if type(flag) is not bool:
                raise ModelFileError(f"{name} must be true or false", fix="write true or false", field=name)

    @property
    def exactness(self) -> str:
        """The label of a result computed from `total_bytes`."""
        return "exact" if self.total_is == "driver" else "estimate"


def gpu_from_document(doc: Mapping[str, Any]) -> Gpu:
    """The accelerator that one entry of `gpus.yaml` (a plain dict) describes.

    Raises: ModelFileError naming the GPU and the field at fault.
    """
    if not isinstance(doc, Mapping):
        raise ModelFileError(f"a GPU is a mapping of fields, not {short(doc)}", fix="write - {name: ..., ...}")
    label = doc.get("name") if isinstance(doc.get("name"), str) else "gpu"
    try:
        _check_keys(doc, Gpu)
        values = dict(doc)
        for key in ("aliases", "notes", "recalled"):
            values[key] = _texts(key, doc.get(key, []))
        values["prices"] = tuple(_price(price) for price in _list("prices", doc.get("prices", [])))
        return Gpu(**values)
    except ModelFileError as error:
        error.field = f"{label}.{error.field}" if error.field else str(label)
        raise


def _price(doc: object) -> Price:
    if not isinstance(doc, Mapping):
        raise ModelFileError(f"a price is a mapping, not {short(doc)}", fix="write {usd_per_hour: ...}", field="prices")
    _check_keys(doc, Price)
    return Price(**doc)


def _check_keys(doc: Mapping[str, Any], cls: type[Gpu | Price]) -> None:
    known = list(cls.__slots__)
    if unknown := [key for key in doc if key not in known]:
        raise ModelFileError(
            f"unknown key {short(unknown[0])}",
            fix=did_you_mean(str(unknown[0]), known) or f"keys: {', '.join(known)}",
            field=str(unknown[0]),
        )
    if missing := [key for key in known if key not in cls.__defaults__ and key not in doc]:
        raise ModelFileError(f"{missing[0]} is missing", fix=f"add {missing[0]}", field=missing[0])


def _list(field: str, value: object) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ModelFileError(f"{field} must be a list, not {short(value)}", fix=f"write {field}: [...]", field=field)
    return value


def _texts(field: str, value: object) -> tuple[str, ...]:
    return tuple(_need_text(field, item) for item in _list(field, value))


def _need_text(field: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ModelFileError(
            f"{field} must be text, not {short(value)}", fix=f"quote {field}", field=field, value=value
        )
    return value


def _need_name(field: str, value: str) -> None:
    if re.fullmatch(_NAME, value, re.ASCII) is None:
        raise ModelFileError(
            f"a GPU is named in small letters, digits, dots and dashes, not {short(value)}",
            fix="write it like rtx-4090",
            field=field,
            value=value,
        )


def _need_count(field: str, value: object, most: int) -> None:
    if type(value) is not int or not 1 <= value <= most:
        raise ModelFileError(
            f"{field} must be a whole number from 1 to {most:,}, not {short(value)}",
            fix="give bytes, not GB",
            field=field,
            value=value,
        )
