"""The registry's cache: never stale, never trusted when damaged, never needed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kvcalc import registry as module
from kvcalc.errors import UsageError
from kvcalc.registry import Registry, load_registry

FIRST = """\
name: first
layers: 2
dtype: bfloat16
attention: {kind: mha, heads: 4, head_dim: 8}
"""


class Shelf:
    """A models directory and a cache directory of one test."""

    def __init__(self, root: Path) -> None:
        self.models = root / "models"
        self.cache = root / "cache"
        self.models.mkdir()
        self.write("first", FIRST)

    def write(self, stem: str, text: str) -> None:
        (self.models / f"{stem}.yaml").write_text(text)

    def load(self) -> Registry:
        return load_registry(str(self.models))

    def cached(self) -> list[Path]:
        return sorted((self.cache / "kvcalc").glob("*")) if self.cache.is_dir() else []


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Only this test's models: the shipped ones would make every rebuild slow."""
    empty = tmp_path / "shipped"
    empty.mkdir()
    made = Shelf(tmp_path)
    monkeypatch.setattr(module, "bundled_dir", lambda: str(empty))
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.cache))
    return made


def forbid_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> dict[str, object]:
        raise AssertionError("checked again")

    monkeypatch.setattr(module, "_build", build)


def test_second_load_reads_the_cache(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was checked once is not checked again, and is the same model."""
    model = shelf.load().model("first")
    assert len(shelf.cached()) == 1
    forbid_building(monkeypatch)
    assert shelf.load().model("first") == model


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed", "truncated"])
def test_any_change_is_seen(shelf: Shelf, change: str) -> None:
    """Another byte, file or name: another digest, even where size and time stay the same."""
    shelf.write("second", FIRST.replace("first", "other"))
    before = shelf.load()
    path = shelf.models / "first.yaml"
    stamp = path.stat()
    if change == "content":
        path.write_text(FIRST.replace("layers: 2", "layers: 3"))
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert path.stat().st_size == stamp.st_size
    elif change == "added":
        shelf.write("third", FIRST.replace("first", "third"))
    elif change == "removed":
        (shelf.models / "second.yaml").unlink()
    elif change == "renamed":
        path.rename(shelf.models / "fifth.yaml")
    else:
        path.write_text(FIRST.rpartition("attention")[0])
    after = shelf.load()
    assert len(shelf.cached()) == 2
    if change == "content":
        assert (len(before.model("first").layers), len(after.model("first").layers)) == (2, 3)
    elif change == "truncated":
        assert after.broken() == {"first": "attention is missing"}
    elif change == "renamed":
        assert after.model_names() == before.model_names()
    else:
        assert after.model_names() != before.model_names()


def test_another_version_checks_again(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another version of kvcalc wrote is not read."""
    shelf.load()
    monkeypatch.setattr(module, "__version__", "0.0.0+other")
    shelf.load()
    assert len(shelf.cached()) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw.replace(b"first", b"worst"),
        lambda _: b"garbage",
        lambda raw: b"\n" + raw,
        lambda _: bytes(256),
        lambda raw: raw.partition(b"\n")[2],
        lambda raw: raw + b" ",
    ],
    ids=["empty", "cut", "half", "changed", "garbage", "shifted", "zeros", "no-seal", "longer"],
)
def test_a_damaged_cache_is_ignored_and_replaced(shelf: Shelf, damage: object) -> None:
    """Whatever happened to the file: the models are checked again and the file is written anew."""
    model = shelf.load().model("first")
    (path,) = shelf.cached()
    raw = path.read_bytes()
    assert callable(damage)
    path.write_bytes(damage(raw))
    assert shelf.load().model("first") == model
    assert path.read_bytes() == raw


def test_a_directory_in_the_way_is_ignored(shelf: Shelf) -> None:
    """A directory where the cache file should be: no cache, no failure."""
    shelf.load()
    (path,) = shelf.cached()
    path.unlink()
    path.mkdir()
    assert shelf.load().model("first").name == "first"


def test_an_unwritable_cache_is_no_error(shelf: Shelf) -> None:
    """Where the cache directory cannot be made (a file is in its place), everything works without it."""
    shelf.cache.write_text("in the way")
    assert shelf.load().model("first").name == "first"
    assert shelf.load().model("first").name == "first"
    assert shelf.cache.read_text() == "in the way"


def test_a_full_disk_is_no_error(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way leaves no file that would be read."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert shelf.load().model("first").name == "first"
    assert [path for path in shelf.cached() if path.name.startswith("registry-")] == []


def test_no_cache_is_respected(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """KVCALC_NO_CACHE=1: nothing is written and nothing is read."""
    monkeypatch.setenv("KVCALC_NO_CACHE", "1")
    shelf.load()
    assert shelf.cached() == []
    monkeypatch.delenv("KVCALC_NO_CACHE")
    shelf.load()
    monkeypatch.setenv("KVCALC_NO_CACHE", "1")
    forbid_building(monkeypatch)
    with pytest.raises(AssertionError, match="checked again"):
        shelf.load()


def test_the_cache_stays_small(shelf: Shelf) -> None:
    """Old files go: however often the models change, few caches stay, and no temporary file."""
    for layers in range(2, 16):
        shelf.write("first", FIRST.replace("layers: 2", f"layers: {layers}"))
        shelf.load()
    names = [path.name for path in shelf.cached()]
    assert len(names) <= 8
    assert all(name.startswith("registry-") for name in names)


def test_the_cache_is_sealed_json(shelf: Shelf) -> None:
    """The file is a line of hash, a line of JSON index and JSON documents: readable, deletable, no code in it."""
    shelf.load()
    (path,) = shelf.cached()
    seal, index, documents = path.read_bytes().split(b"\n")
    assert len(seal) == 32
    places = json.loads(index)
    assert set(places) == {"models", "aliases", "gpus", "gpu_aliases"}
    start, stop = places["models"]["first"]
    assert json.loads(documents[start:stop])["doc"]["layers"] == 2


class Settled:
    """Shipped files that have been there for a while, counted when one is opened."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.models = root / "settled"
        self.models.mkdir()
        self.write("first", FIRST)
        self.opened: list[str] = []
        monkeypatch.setattr(module, "bundled_dir", lambda: str(self.models))
        monkeypatch.setattr(module, "_SETTLED_NS", -(10**12))  # as if everything were an hour old
        read = module._files

        def counted(place: str) -> list[tuple[str, bytes]]:
            self.opened.append(place)
            return read(place)

        monkeypatch.setattr(module, "_files", counted)

    def write(self, stem: str, text: str) -> None:
        (self.models / f"{stem}.yaml").write_text(text)

    def load(self) -> list[str]:
        """Names of the models; `opened` afterwards says what was read for it."""
        self.opened.clear()
        return load_registry().model_names()


@pytest.fixture
def settled(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settled:
    return Settled(tmp_path, monkeypatch)


def test_settled_files_are_not_opened_again(settled: Settled) -> None:
    """Shipped files that did not change are recognised by their stamps alone."""
    assert settled.load() == ["first"]
    assert settled.opened
    assert settled.load() == ["first"]
    assert settled.opened == []


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed", "replaced"])
def test_a_change_of_settled_files_is_seen(settled: Settled, change: str) -> None:
    """Same size, same modification time: the change time still tells."""
    settled.write("second", FIRST.replace("first", "other"))
    before = settled.load()
    path = settled.models / "first.yaml"
    stamp = path.stat()
    changed = FIRST.replace("name: first", "name: fresh")
    if change == "content":
        path.write_text(changed)
    elif change == "added":
        settled.write("third", changed)
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(settled.models / "fifth.yaml")
    else:
        other = settled.models / "new"
        other.write_text(changed)
        other.replace(path)
    if path.exists():
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    after = settled.load()
    assert settled.opened
    assert (after == before) == (change == "renamed")


def test_young_files_are_always_read(settled: Settled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the clock's grain of a change another one would leave the same stamp: contents decide."""
    monkeypatch.setattr(module, "_SETTLED_NS", 10**12)
    for _ in range(2):
        assert settled.load() == ["first"]
        assert settled.opened


def test_only_the_users_own_cache_is_used(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without XDG_CACHE_HOME the cache is ~/.cache/kvcalc."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shelf.load()
    assert len(list((tmp_path / "home" / ".cache" / "kvcalc").glob("registry-*.json"))) == 1


def test_a_broken_file_is_reported_when_asked_for(shelf: Shelf) -> None:
    """A broken file of the user's: the others work, the fault has its file and line, from the cache too."""
    shelf.write("bad", FIRST.replace("heads: 4", "heads: 0").replace("first", "bad"))
    for _ in range(2):
        registry = shelf.load()
        assert registry.model("first").name == "first"
        assert [model.name for model in registry.models()] == ["first"]
        with pytest.raises(ValueError, match="heads is 0") as caught:
            registry.model("bad")
        assert getattr(caught.value, "line", None) == 4
        assert str(getattr(caught.value, "file", "")).endswith("bad.yaml")


def test_names_win_over_aliases(shelf: Shelf) -> None:
    """An alias never hides a model's name."""
    shelf.write("second", FIRST.replace("first", "second") + "aliases: [first, 'the second']\n")
    registry = shelf.load()
    assert registry.model("first").name == "first"
    assert registry.model("The-Second").name == "second"
    assert registry.has_model("FIRST")
    assert not registry.has_model("third")
    with pytest.raises(UsageError, match="unknown model 'frist'") as caught:
        registry.model("frist")
    assert caught.value.fix == "did you mean first?"
