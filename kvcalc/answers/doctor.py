"""`doctor`: what this installation is made of, what is broken in it, and what to do about each thing that is.

Every check stands alone and may meet anything: a broken package, an unreadable directory, a driver that hangs.
What a check raises is its finding, never the end of the answer.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvcalc.answers.common import header
from kvcalc.answers.doctor_devices import Found, devices
from kvcalc.errors import short
from kvcalc.registry import Registry, bundled_dir, load_registry, package_dir
from kvcalc.version import __version__

if TYPE_CHECKING:
    from kvcalc.core.advised import Finding

#: What an extra is for; one that is not here is shown without words.
EXTRAS = {
    "measure": "measure and --measure: allocate on a device",
    "hub": "hf:org/name as a target",
    "plot": "plot and report: pictures in the terminal, as PNG, SVG or HTML",
    "parquet": "sweep: Parquet files",
    "notebook": "tables in notebooks",
}
_OLDEST_PYTHON = (3, 11)
#: Packages that are imported under another name.
_MODULES = {"pyyaml": "yaml"}
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_CONDITION = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*([0-9][0-9A-Za-z.*+!-]*)")


def doctor(models_dir: str | None = None) -> dict[str, Any]:
    """The answer of `kvcalc doctor`: findings area by area, the devices, and how many problems there are."""
    seen: Found = Found([], [])

    def seeing() -> Iterator[Finding]:
        nonlocal seen
        seen = devices()
        yield from seen.findings

    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("kvcalc", _program),
        ("dependency", _dependencies),
        ("device", seeing),
        ("registry", lambda: _registry(models_dir)),
        ("cache", _cache),
        ("terminal", _terminal),
    )
    results: list[Finding] = []
    for area, check in checks:
        try:
            results += check()
        except Exception as error:  # noqa: BLE001 - whatever is broken is the finding
            results.append(finding(area, "check", _said(error), "problem", "report it with the lines above"))
    return {
        **header("doctor", {"models_dir": models_dir}),
        "problems": sum(item["status"] == "problem" for item in results),
        "devices": seen.devices,
        "results": results,
    }


def finding(area: str, item: str, value: str, status: str = "ok", fix: str | None = None) -> Finding:
    """status: ok; absent: optional and not there; note: worth knowing; problem: something does not work."""
    return {"area": area, "item": item, "value": value, "status": status, "fix": fix}


def _said(error: BaseException) -> str:
    """The kind and first line of an error."""
    return f"{type(error).__name__}: {short(str(error).partition(chr(10))[0], 120)}"


def _program() -> Iterator[Finding]:
    yield finding("kvcalc", "version", __version__)
    yield finding("kvcalc", "installed in", package_dir())
    old = sys.version_info[:2] < _OLDEST_PYTHON
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    fix = f"install Python {wanted} or later" if old else None
    version = f"{platform.python_implementation()} {platform.python_version()}"
    yield finding("kvcalc", "python", version, "problem" if old else "ok", fix)
    yield finding("kvcalc", "platform", platform.platform())
    if sys.dont_write_bytecode:
        yield finding("kvcalc", "bytecode", "not kept", "note", "unset PYTHONDONTWRITEBYTECODE: every start compiles")


def _dependencies() -> Iterator[Finding]:
    """The packages that are needed, then the extras with theirs."""
    extras: dict[str, list[str]] = {}
    for text in requirements():
        needed, _, marker = text.partition(";")
        name = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        if name is None and not marker:
            yield _package(needed)
        elif name is not None:
            extras.setdefault(name[1], []).append(needed)
    for extra, needs in extras.items():
        yield _extra(extra, needs)


def _package(needed: str) -> Finding:
    name, version = _name(needed), _installed(_name(needed))
    wants = needed.strip().removeprefix(name).strip() or "any version"
    if version is None:
        return finding("dependency", name, "not installed", "problem", f"pip install '{needed.strip()}'")
    if not satisfies(version, needed):
        return finding("dependency", name, f"{version}, needs {wants}", "problem", f"pip install '{needed.strip()}'")
    try:
        import_module(_MODULES.get(name.lower(), name.replace("-", "_")))
    except Exception as error:  # noqa: BLE001 - a half-removed package raises anything
        fix = f"pip install --force-reinstall '{needed.strip()}'"
        return finding("dependency", name, f"{version}, does not import: {_said(error)}", "problem", fix)
    return finding("dependency", name, f"{version} ({wants})")


def _extra(extra: str, needs: list[str]) -> Finding:
    gives = EXTRAS.get(extra, "optional")
    install = f"pip install 'kvcalc[{extra}]'"
    have = {_name(needed): _installed(_name(needed)) for needed in needs}
    missing = [name for name, version in have.items() if version is None]
    if missing:
        return finding("extra", extra, f"{gives}; not installed: {', '.join(missing)}", "absent", install)
    wrong = [needed.strip() for needed in needs if not satisfies(have[_name(needed)] or "", needed)]
    text = ", ".join(f"{name} {version}" for name, version in have.items())
    if wrong:
        return finding("extra", extra, f"{gives}; {text}, needs {', '.join(wrong)}", "problem", f"{install} -U")
    return finding("extra", extra, f"{gives}; {text}")


def _name(needed: str) -> str:
    found = _NAME.match(needed.strip())
    return found[0] if found else needed.strip()


def _installed(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements() -> list[str]:
    """What the installed distribution requires; in a checkout that is not installed, what its pyproject.toml says."""
    from importlib.metadata import PackageNotFoundError, requires

    path = os.path.join(os.path.dirname(package_dir()), "pyproject.toml")  # noqa: PTH118, PTH120
    if os.path.isfile(path):  # noqa: PTH113
        import tomllib

        with open(path, "rb") as stream:  # noqa: PTH123
            project = tomllib.load(stream)["project"]
        optional = project.get("optional-dependencies", {})
        return [
            *project["dependencies"],
            *(f'{needed}; extra == "{extra}"' for extra, listed in optional.items() for needed in listed),
        ]
    try:
        return requires("kvcalc") or []
    except PackageNotFoundError:
        return []


def satisfies(version: str, needed: str) -> bool:
    """Whether a version is in the range of a requirement, by release numbers.

    >>> satisfies("0.28.1", "typer>=0.17,<0.29"), satisfies("0.29", "typer>=0.17,<0.29")
    (True, False)
    """
    own = _release(version)
    for sign, text in _CONDITION.findall(needed.partition(";")[0]):
        other = _release(text)
        width = max(len(own), len(other))
        left, right = (part + (0,) * (width - len(part)) for part in (own, other))
        if sign == "~=":
            met = left >= right and own[: len(other) - 1] == other[:-1]
        else:
            met = {
                ">=": left >= right,
                "<=": left <= right,
                ">": left > right,
                "<": left < right,
                "==": left == right,
                "!=": left != right,
            }[sign]
        if not met:
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else (0,)


def _registry(models_dir: str | None) -> Iterator[Finding]:
    """What is shipped and what of the user's own does not load."""
    yield finding("registry", "shipped files", bundled_dir())
    extra = models_dir if models_dir is not None else os.environ.get("KVCALC_MODELS") or None
    try:
        registry: Registry = load_registry(models_dir)
    except Exception as error:  # noqa: BLE001 - a broken pydantic or directory: both are findings
        fix = "check --models-dir or KVCALC_MODELS" if extra else "reinstall kvcalc"
        yield finding("registry", "models", _said(error), "problem", fix)
        return
    yield finding("registry", "models", f"{len(registry.model_names())} models, {len(registry.gpu_names())} GPUs")
    yield finding("registry", "models directory", extra or "none of your own (--models-dir, KVCALC_MODELS)")
    for name, why in registry.broken().items():
        yield finding("registry", name, short(why, 160), "problem", f"kvcalc validate on {name}.yaml shows the line")


def _cache() -> Iterator[Finding]:
    """The directory of checked model files: whether it can be read and written, and what lies there."""
    from tempfile import TemporaryFile

    from kvcalc.registry import _cache_dir

    directory = _cache_dir()
    if directory is None:
        yield finding("cache", "off", "KVCALC_NO_CACHE is set", "note", "unset it: a start costs half a second more")
        return
    fix = f"make {directory} a writable directory, or set XDG_CACHE_HOME: a start costs half a second more"
    try:
        os.makedirs(directory, exist_ok=True)  # noqa: PTH103
        kept = sorted(entry.name for entry in os.scandir(directory) if entry.name.startswith("registry-"))
        size = sum(os.path.getsize(f"{directory}/{name}") for name in kept)  # noqa: PTH202
        for name in kept:
            with open(f"{directory}/{name}", "rb") as stream:  # noqa: PTH123
                stream.read(1)
        with TemporaryFile(dir=directory):
            pass
    except OSError as error:
        yield finding("cache", directory, _said(error), "problem", fix)
        return
    yield finding("cache", directory, f"writable, {len(kept)} of its files, {size:,} B")


def _terminal() -> Iterator[Finding]:
    from shutil import get_terminal_size

    tty = sys.stdout.isatty()
    width = get_terminal_size().columns
    yield finding("terminal", "output", f"{'a terminal' if tty else 'a pipe or file'}, {width} columns")
    without = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not tty
    yield finding("terminal", "colour", "no" if without else "yes")
    encoding = sys.stdout.encoding or "unknown"
    try:
        "█▏".encode(encoding)
    except (LookupError, UnicodeEncodeError):
        yield finding("terminal", "encoding", encoding, "note", "PYTHONIOENCODING=utf-8: bars are ? until then")
    else:
        yield finding("terminal", "encoding", encoding)
