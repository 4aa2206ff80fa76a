"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from kvcalc.errors import UsageError


def write_whole(path: str, content: bytes) -> None:
    """Put `content` at `path`; a reader sees the old file or the new one, never a part.

    Raises: UsageError when it cannot be written.
    """
    target = Path(path)
    try:
        with NamedTemporaryFile(dir=target.parent, prefix=".kvcalc-", delete=False) as stream:
            part = Path(stream.name)
            try:
                stream.write(content)
                stream.close()
                part.chmod(0o666 & ~_umask())
                part.replace(target)
            except OSError:
                with suppress(OSError):
                    part.unlink()
                raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = error.strerror if isinstance(error, OSError) else "no file name"
        raise UsageError(
            f"cannot write {path}: {why or error}", fix="check the folder", field="output", value=path
        ) from None


def _umask() -> int:
    """The process's mask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
