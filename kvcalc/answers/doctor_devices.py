"""The devices of `doctor`: what nvidia-smi and torch see, each asked in a process of its own.

A broken torch can do more than raise: it can crash the interpreter or hang in the driver, so it is never imported
here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from kvcalc.units import MIB, gib

if TYPE_CHECKING:
    from kvcalc.core.advised import Finding, SeenDevice

_SECONDS = 120
_SMI = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
_TORCH = """
import json, torch
seen = []
if torch.cuda.is_available():
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        seen.append([f"cuda:{i}", p.name, p.total_memory])
mps = getattr(torch.backends, "mps", None)
if mps is not None and mps.is_available():
    seen.append(["mps", "Apple GPU", torch.mps.recommended_max_memory()])
print(json.dumps([torch.__version__, torch.version.cuda or torch.version.hip, seen]))
"""


class Found(NamedTuple):
    """What was found, and the devices among it."""

    findings: list[Finding]
    devices: list[SeenDevice]


def devices() -> Found:
    """What the driver and torch see."""
    cards = list(_driver())
    found: list[Finding] = []
    if cards:
        found += [
            _finding(f"driver GPU {i}", f"{name}, {gib(size)}, driver {driver}") for i, (name, size, driver) in cards
        ]
    else:
        found.append(_finding("driver", "no nvidia-smi, or no GPU behind it", "absent"))
    if find_spec("torch") is None:
        found.append(_finding("torch", "not installed: nothing can be measured here", "absent", _INSTALL))
        return Found(found, [])
    version, runtime, seen, trouble = _torch()
    if trouble is not None:
        fix = "pip install --force-reinstall 'kvcalc[measure]'"
        return Found([*found, _finding("torch", f"installed and does not work: {trouble}", "problem", fix)], [])
    drivers = {i: driver for i, (_, _, driver) in cards}
    listed: list[SeenDevice] = [
        {"device": place, "name": name, "total_bytes": size, "driver": drivers.get(number)}
        for number, (place, name, size) in enumerate(seen)
    ]
    found.append(_finding("torch", f"{version}, {runtime or 'CPU only'}"))
    found += [_finding(item["device"], f"{item['name']}, {item['total_bytes']:,} B") for item in listed]
    if cards and not seen:
        fix = "install a torch build for this driver (pytorch.org, get started)"
        found.append(_finding("torch", f"sees none of {len(cards)} GPUs of the driver", "problem", fix))
    if not seen:
        found.append(_finding("cpu", "kvcalc measure --device cpu allocates in this machine's memory"))
    return Found(found, listed)


_INSTALL = "pip install 'kvcalc[measure]'"


def _finding(item: str, value: str, status: str = "ok", fix: str | None = None) -> Finding:
    return {"area": "device", "item": item, "value": value, "status": status, "fix": fix}


def _driver() -> Iterator[tuple[int, tuple[str, int, str]]]:
    """(number, (name, total bytes, driver)) of each GPU, none where nvidia-smi is absent or fails."""
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return
    for number, line in enumerate(done.stdout.splitlines()):
        name, total, driver = ([part.strip() for part in line.split(",")] + ["", ""])[:3]
        yield number, (name, int(total) * MIB if total.isdigit() else 0, driver)


def _torch() -> tuple[str, str | None, list[tuple[str, str, int]], str | None]:
    """torch's version, what it was built for, the devices it sees; or what went wrong."""
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
            return "", None, [], last[:160]
        version, runtime, seen = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        return "", None, [], f"{type(error).__name__}: {error}"[:160]
    return str(version), runtime, [(place, name, int(size)) for place, name, size in seen], None
