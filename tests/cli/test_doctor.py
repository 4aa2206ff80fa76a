"""`doctor`: what it finds here, and that nothing broken around it breaks it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from calling import ROOT, Call, program

from kvcalc.answers import doctor
from kvcalc.answers.doctor import satisfies
from kvcalc.version import __version__

FAKE_TORCH = """
__version__ = "9.9.9"
class version:
    cuda, hip = "13.0", None
class _P:
    def __init__(self, name, total):
        self.name, self.total_memory = name, total
class cuda:
    is_available = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
    get_device_properties = staticmethod(lambda i: _P(f"Card {i}", 1000 + i))
class backends:
    pass
"""
SMI = '#!/bin/sh\necho "Card 0, 143771, 570.1"\necho "Card 1, 143771, 570.1"\n'


def found(answer: dict[str, Any], item: str) -> dict[str, Any]:
    """The first finding about `item`."""
    return next(row for row in answer["results"] if row["item"] == item)


def broken(tmp_path: Path, package: str, text: str) -> dict[str, str]:
    """An environment in which `import package` runs `text`."""
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(text)
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def test_what_is_here(call: Call) -> None:
    """Version, interpreter, the dependencies with their ranges, extras with how to install them, models, terminal."""
    answer = call("doctor", "--json").answer
    assert found(answer, "version")["value"] == __version__
    assert ".".join(map(str, sys.version_info[:3])) in found(answer, "python")["value"]
    assert {row["item"] for row in answer["results"] if row["area"] == "dependency"} == {
        "typer",
        "rich",
        "pydantic",
        "pyyaml",
    }
    assert found(answer, "typer")["value"].endswith("(>=0.17,<0.29)")
    extras = {row["item"]: row for row in answer["results"] if row["area"] == "extra"}
    assert {"measure", "hub"} <= set(extras)
    for name, row in extras.items():
        assert row["status"] == "ok" or row["fix"] == f"pip install 'kvcalc[{name}]'"
    models = len(call("models", "--json").answer["results"])
    assert found(answer, "models")["value"].startswith(f"{models} models")
    assert {"area": "terminal", "item": "colour", "value": "no", "status": "ok", "fix": None} in answer["results"]
    assert answer["problems"] == sum(row["status"] == "problem" for row in answer["results"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise ImportError('libcudart.so.13: cannot open shared object file')", "libcudart.so.13"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "nms"),
        ("import os; os.abort()", "exit -6"),
        ("print('hello'); raise SystemExit(0)", "JSONDecodeError"),
    ],
    ids=["import error", "any error", "crash", "no answer"],
)
def test_a_broken_torch_is_a_finding(tmp_path: Path, text: str, said: str) -> None:
    """Whatever importing torch does, doctor says so with a fix and exit 1."""
    done = program("doctor", "--json", env=broken(tmp_path, "torch", text))
    assert (done.code, done.err) == (1, "")
    row = found(done.answer, "torch")
    assert row["status"] == "problem"
    assert said in row["value"]
    assert "--force-reinstall" in row["fix"]
    assert done.answer["devices"] == []


def with_smi(tmp_path: Path, text: str = SMI) -> dict[str, str]:
    """An environment whose nvidia-smi is `text`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(text)
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_devices_with_bytes_and_driver(tmp_path: Path) -> None:
    """CUDA devices as torch counts their bytes, with the driver that nvidia-smi names."""
    env = broken(tmp_path, "torch", FAKE_TORCH) | with_smi(tmp_path)
    done = program("doctor", "--json", env=env)
    assert done.code == 0
    assert done.answer["devices"] == [
        {"device": "cuda:0", "name": "Card 0", "total_bytes": 1000, "driver": "570.1"},
        {"device": "cuda:1", "name": "Card 1", "total_bytes": 1001, "driver": "570.1"},
    ]
    assert found(done.answer, "driver GPU 1")["value"] == "Card 1, 140.40 GiB, driver 570.1"


def test_a_torch_that_does_not_see_the_driver_s_gpus(tmp_path: Path) -> None:
    """A CPU build of torch beside a working driver is a problem with a fix."""
    blind = FAKE_TORCH.replace("lambda: True", "lambda: False").replace('"13.0"', "None")
    done = program("doctor", "--json", env=broken(tmp_path, "torch", blind) | with_smi(tmp_path))
    assert done.code == 1
    problems = [row for row in done.answer["results"] if row["status"] == "problem"]
    assert [row["value"] for row in problems] == ["sees none of 2 GPUs of the driver"]


def test_a_failing_nvidia_smi_is_no_gpu(tmp_path: Path) -> None:
    """Without a driver to talk to, nvidia-smi prints and fails: the same as no nvidia-smi."""
    env = with_smi(tmp_path, "#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
    assert found(program("doctor", "--json", env=env).answer, "driver")["status"] == "absent"


def test_a_broken_dependency(tmp_path: Path) -> None:
    """rich that does not import: named with its fix, and the page comes as plain text."""
    env = broken(tmp_path, "rich", "raise OSError('half removed')")
    done = program("doctor", "--format", "table", env=env)
    assert done.code == 1
    assert done.err == ""
    assert "does not import: OSError: 'half removed'" in done.out
    assert "1 problem found" in done.out


def test_an_unreadable_cache(tmp_path: Path) -> None:
    """A cache directory that is none: a problem; a cache that is off: worth knowing."""
    (tmp_path / "file").write_text("")
    done = program("doctor", "--json", env={"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert (done.code, done.err) == (1, "")
    row = next(row for row in done.answer["results"] if row["area"] == "cache")
    assert (row["status"], "NotADirectoryError" in row["value"]) == ("problem", True)
    assert "XDG_CACHE_HOME" in row["fix"]
    off = program("doctor", "--json", env={"KVCALC_NO_CACHE": "1"})
    assert off.code == 0
    assert found(off.answer, "off")["status"] == "note"


def test_broken_models_of_one_s_own(call: Call, tmp_path: Path) -> None:
    """A directory that is not there, and a file that does not load, by name."""
    missing = call("doctor", "--models-dir", str(tmp_path / "nowhere"), "--json")
    assert missing.code == 1
    assert found(missing.answer, "models")["status"] == "problem"
    (tmp_path / "mine.yaml").write_text("name: mine\nlayers: -1\n")
    bad = call("doctor", "--models-dir", str(tmp_path), "--json")
    assert bad.code == 1
    assert found(bad.answer, "mine")["status"] == "problem"


def test_versions_out_of_range(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is missing, too old or too new is a problem with the command that mends it."""
    wanted = ["no-such-package>=1", "typer<0.1", 'rich>=99; extra == "show"', 'none-such>=2; extra == "other"']
    monkeypatch.setattr(doctor, "requirements", lambda: wanted)
    done = call("doctor", "--json")
    assert done.code == 1
    assert found(done.answer, "no-such-package")["fix"] == "pip install 'no-such-package>=1'"
    assert found(done.answer, "typer")["status"] == "problem"
    assert found(done.answer, "show")["fix"] == "pip install 'kvcalc[show]' -U"
    assert found(done.answer, "other")["status"] == "absent"


def test_a_check_that_fails_is_a_finding(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody thought of costs its own area only."""

    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "requirements", fail)
    done = call("doctor", "--json")
    assert done.code == 1
    assert "ZeroDivisionError" in found(done.answer, "check")["value"]
    assert found(done.answer, "output")["status"] == "ok"


def test_an_ascii_terminal_is_worth_knowing() -> None:
    """An encoding without bars is said, with what to set."""
    done = program("doctor", "--json", env={"PYTHONIOENCODING": "ascii"})
    assert found(done.answer, "encoding")["status"] == "note"
    assert "PYTHONIOENCODING" in found(done.answer, "encoding")["fix"]


@pytest.mark.parametrize(
    ("version", "needed", "met"),
    [
        ("0.28.1", "typer>=0.17,<0.29", True),
        ("0.29", "typer>=0.17,<0.29", False),
        ("0.29.0", "typer>=0.17,<0.29", False),
        ("0.9", "typer>=0.17", False),
        ("2.13.0+cpu", "torch>=2.4", True),
        ("3.0.0rc1", "pydantic>=2.10,<3", False),
        ("1.4.2", "x~=1.4", True),
        ("2.0", "x~=1.4", False),
        ("1.0", "x==1", True),
        ("1.0", "x!=1.0.0", False),
        ("1.5", "x<=1.5", True),
        ("1.5", "x>1.5", False),
        ("7", "x", True),
    ],
)
def test_version_ranges(version: str, needed: str, met: bool) -> None:
    """By release numbers, missing ones being zero."""
    assert satisfies(version, needed) is met
