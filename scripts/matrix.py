"""Builds the wheel and the sdist, checks them, and tries them outside the repository on several Pythons.

    python scripts/matrix.py                          every Python from 3.11 that is on the PATH or in pyenv
    python scripts/matrix.py --python python3.14      one of them
    python scripts/matrix.py --no-suite               only install and try; seconds instead of minutes
    python scripts/matrix.py --audit                  only ask the advisory services about the requirements

Each Python gets two fresh environments: the lower bounds of pyproject.toml, and the newest versions they allow. The
suite runs from the unpacked sdist, so nothing beside it is needed. Without torch the tests that allocate are left out,
and that is said.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: What only torch can answer.
NEED_TORCH = (
    "--ignore=tests/unit/measure",
    "--ignore=tests/cli/test_measure.py",
    "--deselect=tests/cli/test_commands.py::test_examples_work[measure]",
)
#: What an installed package needs beside its modules.
DATA = (
    "kvcalc/py.typed",
    "kvcalc/gpus.yaml",
    "kvcalc/importers/class_defaults.json",
    "kvcalc/_model_configs/llama-3-8b.yaml",
)
MOMENT = "1700000000"
#: typer before 0.26 imports names of click that the newest click calls deprecated: theirs to mend, not ours.
OLD_TYPER = ("-W", "ignore:'click:DeprecationWarning")


def sh(*command: object, cwd: Path = ROOT, env: dict[str, str] | None = None, quiet: bool = True) -> str:
    """The command's output; it ends the script where it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=quiet, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"FAILED {' '.join(words)}\n{done.stdout or ''}{done.stderr or ''}"[-4000:])
    return done.stdout or ""


def environment(python: str, folder: Path) -> Path:
    """A fresh virtual environment's interpreter."""
    sh(python, "-m", "venv", folder)
    sh(folder / "bin" / "python", "-m", "pip", "install", "-q", "-U", "pip")
    return folder / "bin" / "python"


def build(work: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, twice: equal to the byte, the wheel of the sdist equal to the wheel of the tree."""
    tools = environment(sys.executable, work / "tools")
    sh(tools, "-m", "pip", "install", "-q", "build", "twine")
    env = {**os.environ, "SOURCE_DATE_EPOCH": MOMENT}
    made = []
    for name, how in (("one", ()), ("two", ()), ("tree", ("--wheel",))):
        sh(tools, "-m", "build", *how, "--outdir", work / name, ROOT, env=env)
        made.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (work / name).iterdir()})
    first, second, tree = made
    if first != second or not tree.items() <= first.items():
        raise SystemExit(f"the builds differ: {made}")
    sh(tools, "-m", "twine", "check", "--strict", *(work / "one").iterdir())
    (wheel,), (sdist,) = (work / "one").glob("*.whl"), (work / "one").glob("*.tar.gz")
    return wheel, sdist


def check_contents(wheel: Path, sdist: Path) -> None:
    """Nothing but the package, all of it, with its data and its licence."""
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = {name for name in sh("git", "ls-files", "kvcalc", "model_configs").splitlines() if "/" in name}
    wanted = {re.sub(r"^model_configs/", "kvcalc/_model_configs/", name) for name in tracked}
    inside = {name for name in names if not name.split("/")[0].endswith((".dist-info", ".data"))}
    if inside != wanted:
        raise SystemExit(f"the wheel has {sorted(inside - wanted)} too many and lacks {sorted(wanted - inside)}")
    if missing := [name for name in DATA if name not in names]:
        raise SystemExit(f"the wheel lacks {missing}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        raise SystemExit("the wheel lacks its licence")
    with tarfile.open(sdist) as tar:
        held = {member.name.partition("/")[2] for member in tar.getmembers()}
    tracked = {name for name in sh("git", "ls-files").splitlines() if not name.startswith(".ci/") or name == ".ci/run"}
    if held - {"PKG-INFO"} != tracked:
        raise SystemExit(f"the sdist has {sorted(held - tracked)} too many and lacks {sorted(tracked - held)}")
    print(f"{wheel.name}: {len(names)} files; {sdist.name}: {len(held)} files; built alike twice, from tree and sdist")


def lower_bounds() -> list[str]:
    """`name==least` of every requirement."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [re.sub(r"^([a-z]+)>=([0-9.]+).*$", r"\1==\2", need) for need in needs]


def try_out(python: Path, work: Path) -> None:
    """The installed package answers wherever and however it is started."""
    away = work / "elsewhere"
    away.mkdir(exist_ok=True)
    closed = work / "no-folder"
    closed.write_text("a file where a folder is wanted")
    question = ("compare", "llama3", "deepseek-v2", "--json")
    plain = {"PATH": os.environ["PATH"]}  # no HOME, no locale
    ways: dict[str, dict[str, str]] = {
        "no home": plain,
        "no cache": {**plain, "XDG_CACHE_HOME": str(closed)},
        "ASCII locale": {**plain, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        "optimised": {**plain, "PYTHONOPTIMIZE": "2"},
        "warnings": {**plain, "PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"},
    }
    answers = {name: sh(python, "-m", "kvcalc", *question, cwd=away, env=env) for name, env in ways.items()}
    answers["program"] = sh(python.parent / "kvcalc", *question, cwd=away)
    if len(set(answers.values())) != 1 or len(json.loads(answers["program"])["results"]) != 2:
        raise SystemExit(f"not the same everywhere: { {name: len(text) for name, text in answers.items()} }")
    for form in ("table", "plain", "csv", "markdown"):
        for env in ways.values():
            sh(python, "-m", "kvcalc", "fit", "llama3", "--gpu", "l4", "--format", form, cwd=away, env=env)
    code = "import kvcalc; print(kvcalc.load('llama3').fit(pool='16GiB', context='8k')['max_sessions'])"
    if sh(python, "-I", "-c", code, cwd=away).strip() != "16":
        raise SystemExit("the Python API answers something else")
    print("  installed: answers without home, cache, UTF-8 and warnings, from another folder")


def suite(python: Path, sdist: Path, pins: list[str], work: Path) -> None:
    """The tests of the unpacked sdist."""
    with tarfile.open(sdist) as tar:
        tar.extractall(work, filter="data")
    (tree,) = work.glob("kvcalc-*/")
    sh(python, "-m", "pip", "install", "-q", "-r", tree / "requirements-dev.txt")
    if pins:  # after the test tools, some of which ask for newer ones
        sh(python, "-m", "pip", "install", "-q", "--no-deps", *pins, *core_pin(pins))
    sh(python, "-m", "pip", "uninstall", "-q", "-y", "kvcalc")  # the tree itself is tested
    has_torch = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    left_out = () if has_torch else NEED_TORCH
    if left_out:
        print("  no torch here: the tests that allocate are left out")
    sh(
        python,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *left_out,
        *(OLD_TYPER if pins else ()),
        cwd=tree,
        quiet=False,
    )


def core_pin(pins: list[str]) -> list[str]:
    """pydantic names its compiled half exactly."""
    (version,) = [pin.partition("==")[2] for pin in pins if pin.startswith("pydantic==")]
    with tempfile.TemporaryDirectory() as folder:
        sh(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, f"pydantic=={version}")
        (wheel,) = Path(folder).iterdir()
        with zipfile.ZipFile(wheel) as held:
            metadata = next(name for name in held.namelist() if name.endswith("METADATA"))
            return re.findall(r"^Requires-Dist: (pydantic-core==\S+)", held.read(metadata).decode(), re.MULTILINE)


def interpreters() -> list[str]:
    """Every Python from 3.11: one of each minor version."""
    found: dict[str, str] = {}
    for minor in range(11, 30):
        name = f"python3.{minor}"
        versions = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
        for path in (*map(str, reversed(versions)), shutil.which(name)):
            if path and subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
                found.setdefault(name, path)
    return list(found.values())


def audit() -> None:
    """pip-audit of what kvcalc and its tests install. Exit 1 where an advisory names one, or none can be asked."""
    with tempfile.TemporaryDirectory() as folder:
        python = environment(sys.executable, Path(folder) / "venv")
        sh(python, "-m", "pip", "install", "-q", "pip-audit")
        sh(python, "-m", "pip", "install", "-q", ROOT, "-r", ROOT / "requirements-dev.txt")
        frozen = sh(python, "-m", "pip", "freeze", "--exclude", "kvcalc")
        listed = Path(folder) / "all.txt"
        listed.write_text("".join(line + "\n" for line in frozen.splitlines() if "==" in line))
        for service in ("osv", "pypi"):
            words = [python, "-m", "pip_audit", "-s", service, "--strict", "--no-deps", "--disable-pip", "-r", listed]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            print(f"{service}: exit {done.returncode}: {(done.stdout + done.stderr).strip().splitlines()[-1]}")
            if done.returncode == 0:
                return
    raise SystemExit("no advisory service gave a clean answer")


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("--python", action="append", help="an interpreter (may be repeated)")
    reader.add_argument("--no-suite", action="store_true", help="install and try only")
    reader.add_argument("--audit", action="store_true", help="ask the advisory services only")
    given = reader.parse_args()
    if given.audit:
        audit()
        return
    with tempfile.TemporaryDirectory(prefix="kvcalc-matrix-") as folder:
        work = Path(folder)
        wheel, sdist = build(work)
        check_contents(wheel, sdist)
        for python in given.python or interpreters():
            for name, pins in (("minimum", lower_bounds()), ("newest", [])):
                place = Path(tempfile.mkdtemp(dir=work))
                print(f"{sh(python, '-V').strip()}, {name} versions", flush=True)
                installed = environment(python, place / "venv")
                only = ["--only-binary", ":all:"] if pins else []
                words = [installed, "-m", "pip", "install", "-q", *only, wheel, *pins]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode and pins:  # older than this Python
                    print(f"  the lower bounds have no wheels here: {done.stderr.strip().splitlines()[-1]}")
                    continue
                if done.returncode:
                    raise SystemExit(done.stderr)
                try_out(installed, place)
                if not given.no_suite:
                    suite(installed, sdist, pins, place)


if __name__ == "__main__":
    main()
