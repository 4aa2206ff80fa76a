"""Device names, and what the machine says of its memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvcalc.errors import CannotMeasure, UsageError
from kvcalc.measure import host
from kvcalc.measure.devices import open_device
from kvcalc.measure.torch_backend import import_torch


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "cpu:0", "", "mps", "cuda:1234"])
def test_unknown_devices(name: str) -> None:
    """Other names are usage errors that list the known ones."""
    with pytest.raises(UsageError, match="unknown device"):
        open_device(name)


def test_no_card_is_said() -> None:
    """Without a card nothing falls back silently: the way out is named."""
    if import_torch().cuda.is_available():
        pytest.skip("there is a CUDA device")
    for name in (None, "cuda", "cuda:3"):
        with pytest.raises(CannotMeasure) as caught:
            open_device(name)
        assert caught.value.fix is not None
        assert "--device cpu" in caught.value.fix


def test_the_machine_says_what_is_free() -> None:
    """Free and resident bytes are plain numbers within the machine."""
    free, resident, total = host.available_bytes(), host.resident_bytes(), host.total_bytes()
    assert free is not None
    assert total is not None
    assert 0 <= free <= total
    if resident is not None:
        assert 2**20 < resident < total


def test_control_groups_lower_it(tmp_path: Path) -> None:
    """A container's limit less its use, its reclaimable page cache counted as free."""
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert host._room(tmp_path, "memory.max", "memory.current") == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert host._room(tmp_path, "memory.max", "memory.current") is None


def test_processes_share_the_memory() -> None:
    """Ranks on one machine may each take their share."""
    whole, half = open_device("cpu").free_bytes(), open_device("cpu", local_ranks=2).free_bytes()
    assert whole is not None
    assert half is not None
    assert half <= whole * 0.6
