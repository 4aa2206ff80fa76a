"""Accelerators: the shipped list is complete, unambiguous and sourced, and bad entries are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvcalc.core.gpu import Gpu, gpu_from_document
from kvcalc.errors import ModelFileError
from kvcalc.units import GIB, MIB

ENTRIES: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parents[2] / "kvcalc" / "gpus.yaml").read_text(encoding="utf-8")
)
GPUS = {entry["name"]: gpu_from_document(entry) for entry in ENTRIES}
H100 = next(entry for entry in ENTRIES if entry["name"] == "h100-80gb")


def normalised(name: str) -> str:
    """A GPU's name as the registry compares it: case and punctuation forgiven."""
    return re.sub("[^a-z0-9]", "", name.lower())


def test_at_least_fifty_with_most_totals_from_the_driver() -> None:
    """At least 50 accelerators are shipped, at least 40 with the driver's own total."""
    assert len(GPUS) == len(ENTRIES) >= 50
    assert sum(gpu.total_is == "driver" for gpu in GPUS.values()) >= 40


def test_names_are_unambiguous() -> None:
    """No two names or aliases are the same once case and punctuation are forgiven."""
    names = [normalised(name) for gpu in GPUS.values() for name in (gpu.name, *gpu.aliases)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    "written",
    ["h100", "H100-80GB", "h100-nvl", "h200", "a100-80gb", "a100-40gb", "b200", "b300", "gb200", "L40S", "l4", "a10g",
     "T4", "RTX_4090", "rtx3090", "rtx-5090", "mi300x", "mi325x", "mi355x", "m3-ultra-512gb", "gb10", "dgx-spark",
     "v100", "rtx-pro-6000", "a6000", "gaudi3", "tpu-v5e", "trn2"],
)  # fmt: skip
def test_names_people_write_are_known(written: str) -> None:
    """The names that people write find an entry."""
    assert any(normalised(written) == normalised(name) for gpu in GPUS.values() for name in (gpu.name, *gpu.aliases))


@pytest.mark.parametrize(
    ("name", "mib"),
    [("h100-80gb", 81559), ("h100-nvl", 95830), ("h200", 143771), ("h20", 97871), ("b200", 183359), ("b300", 275040),
     ("gb200", 189471), ("gb300", 284208), ("a100-80gb", 81920), ("l40s", 46068), ("l4", 23034), ("t4", 15360),
     ("rtx-4090", 24564), ("rtx-5090", 32607), ("rtx-3090", 24576)],
)  # fmt: skip
def test_driver_totals_are_what_nvidia_smi_prints(name: str, mib: int) -> None:
    """total_bytes is the MiB that nvidia-smi prints for the card."""
    assert GPUS[name].total_bytes == mib * MIB
    assert GPUS[name].exactness == "exact"


def test_marketed_totals_are_labelled() -> None:
    """Where no driver total is known the result is labelled an estimate."""
    assert GPUS["dgx-spark"].exactness == GPUS["mi355x"].exactness == "estimate"


def test_apple_names_the_limit_to_read() -> None:
    """Apple entries hold the whole RAM and say that the usable part is read at run time."""
    apple = [gpu for gpu in GPUS.values() if gpu.vendor == "Apple"]
    assert len(apple) >= 8
    for gpu in apple:
        assert gpu.unified_memory
        assert gpu.total_bytes == gpu.marketed_gb * GIB
        assert "recommendedMaxWorkingSetSize" in gpu.notes[0]


def test_runtime_total_is_below_the_drivers() -> None:
    """What the runtime shows is less than the driver's total, by under 4 %."""
    known = [gpu for gpu in GPUS.values() if gpu.runtime_bytes is not None]
    assert len(known) >= 10
    for gpu in known:
        assert gpu.runtime_bytes is not None
        assert 0.96 < gpu.runtime_bytes / gpu.total_bytes < 1, gpu.name


def test_prices_are_dated() -> None:
    """Every price has a kind, a source and a date with a year and month, and is above zero."""
    prices = [price for gpu in GPUS.values() for price in gpu.prices]
    assert len(prices) >= 10
    for price in prices:
        assert re.match(r"20\d\d-\d\d", price.date)
        assert 0 < price.micro_usd[0] <= price.micro_usd[1]


def test_nothing_shipped_is_recalled() -> None:
    """No shipped number is without a source."""
    assert not any(gpu.recalled for gpu in GPUS.values())


@pytest.mark.parametrize(
    ("change", "field"),
    [({"total_bytes": 80.0}, "total_bytes"), ({"total_bytes": True}, "total_bytes"),
     ({"total_bytes": 0}, "total_bytes"), ({"total_bytes": "80GB"}, "total_bytes"),
     ({"total_bytes": 2**60}, "total_bytes"), ({"total_is": "guess"}, "total_is"),
     ({"marketed_gb": -80}, "marketed_gb"), ({"runtime_bytes": 2**40}, "runtime_bytes"), ({"name": "H 100"}, "name"),
     ({"name": 100}, "name"), ({"aliases": "h100"}, "aliases"), ({"aliases": [100]}, "aliases"), ({"vram": 80}, "vram"),
     ({"unified_memory": "no"}, "unified_memory"), ({"bandwidth_source": None}, "bandwidth_source"),
     ({"prices": [{"usd_per_hour": 2.95, "kind": "a", "source": "b", "date": "c"}]}, "usd_per_hour"),
     ({"prices": [{"usd_per_hour": "3-2", "kind": "a", "source": "b", "date": "c"}]}, "usd_per_hour"),
     ({"aliases": ["H 100"]}, "aliases"), ({"bandwidth_bytes_per_s": 0}, "bandwidth_bytes_per_s"),
     ({"nvlink": "yes"}, "nvlink"), ({"nvlink": 1}, "nvlink"), ({"prices": "2.95"}, "prices"),
     ({"notes": [" "]}, "notes"),
     ({"marketed_gb": 2**50 // 10**9 + 1}, "marketed_gb"), ({"total_bytes": 2**50 + 1}, "total_bytes"),
     ({"prices": [{"usd_per_hour": "2.95"}]}, "kind"), ({"prices": ["2.95"]}, "prices"), ({"source": ""}, "source")],
)  # fmt: skip
def test_bad_entries_are_refused(change: dict[str, Any], field: str) -> None:
    """A wrong field is an error that names the field."""
    with pytest.raises(ModelFileError) as caught:
        gpu_from_document(H100 | change)
    assert caught.value.field is not None
    assert caught.value.field.split(".")[-1] == field


@pytest.mark.parametrize("field", ["name", "product", "vendor", "architecture", "total_bytes", "total_is", "source"])
def test_missing_fields_are_refused(field: str) -> None:
    """A missing field is an error that names it."""
    with pytest.raises(ModelFileError, match=field):
        gpu_from_document({key: value for key, value in H100.items() if key != field})


def test_an_entry_must_be_a_mapping() -> None:
    """Anything but a mapping is refused."""
    with pytest.raises(ModelFileError):
        gpu_from_document(["h100"])  # type: ignore[arg-type]


def test_unknown_key_suggests_the_near_one() -> None:
    """A misspelt key is answered with the near one."""
    with pytest.raises(ModelFileError) as caught:
        gpu_from_document(H100 | {"total_byte": 1})
    assert (caught.value.fix or "").startswith("did you mean total_bytes")


def test_a_gpu_is_frozen() -> None:
    """An accelerator cannot be changed after it is read."""
    with pytest.raises(AttributeError):
        GPUS["h100-80gb"].total_bytes = 1  # type: ignore[misc]
    assert isinstance(GPUS["h100-80gb"], Gpu)


def test_the_ends_of_the_ranges() -> None:
    """One byte and a pebibyte; runtime bytes up to the total; the label of an entry without a proper name is gpu."""
    least = gpu_from_document(H100 | {"total_bytes": 1, "marketed_gb": 1, "runtime_bytes": 1, "nvlink": None})
    assert least.total_bytes == least.runtime_bytes == 1
    most = gpu_from_document(H100 | {"total_bytes": 2**50, "marketed_gb": 1_125_899, "runtime_bytes": 2**50})
    assert (most.total_bytes, most.marketed_gb) == (2**50, 1_125_899)
    for name, label in ((5, "gpu"), ("h100", "h100")):
        with pytest.raises(ModelFileError) as caught:
            gpu_from_document(H100 | {"name": name, "vram": 1})
        assert caught.value.field == f"{label}.vram"
