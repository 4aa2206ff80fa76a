"""The machine's memory: how much may be taken without being killed, how much this process holds."""

from __future__ import annotations

import os
from pathlib import Path

from kvcalc.units import MIB

#: Left to the rest of the machine, and to what torch itself needs beside the tensors.
MARGIN_BYTES = 512 * MIB
_NO_LIMIT = 2**60  # control groups write a number near 2**63 for "no limit"


def available_bytes() -> int | None:
    """Bytes that can be taken now: the kernel's estimate, lowered by the control groups' limits; None if unknown."""
    found = [value for value in (_meminfo(), *_cgroup_rooms()) if value is not None]
    if found:
        return max(min(found), 0)
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def resident_bytes() -> int | None:
    """Physical memory of this process; None where the system does not say."""
    text = _read(Path("/proc/self/statm"))
    return None if text is None else int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def total_bytes() -> int | None:
    """Physical memory of the machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


def _meminfo() -> int | None:
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _cgroup_rooms() -> list[int]:
    """Limit less use of every memory control group that this process is in, up to the root."""
    rooms = []
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: one tree for all controllers
            root, names = Path("/sys/fs/cgroup"), ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            root, names = Path("/sys/fs/cgroup/memory"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            room = _room(folder, *names)
            if room is not None:
                rooms.append(room)
            if folder == root:
                break
    return rooms


def _room(folder: Path, limit_name: str, used_name: str) -> int | None:
    limit, used = (_read(folder / limit_name) or "").strip(), (_read(folder / used_name) or "").strip()
    if not limit.isdigit() or not used.isdigit() or int(limit) >= _NO_LIMIT:
        return None
    # Used counts the page cache, which is given back on demand: the file-backed part is room too.
    cached = 0
    for line in (_read(folder / "memory.stat") or "").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            cached = max(cached, int(value))
    return int(limit) - int(used) + cached
