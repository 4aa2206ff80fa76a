"""A long table written line by line, so that an interruption costs nothing: `FILE.part` grows beside its state
(`FILE.part.json`: whose rows these are) and becomes FILE when it is whole. A Parquet file is made from a CSV part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from kvcalc.errors import UsageError
from kvcalc.render.rowtext import header_line
from kvcalc.version import __version__

_BLOCK = 2**20
#: Rows of one Parquet row group, and bytes that pyarrow reads of the CSV at a time. With these it held 160 to 180 MiB
#: for 0.5 to 2 million rows; with four and eight times as much, 280 to 530 MiB.
_GROUP, _READ = 2**15, 2**20
FORMATS = ("csv", "jsonl", "parquet")


class Table(NamedTuple):
    """What is written. kinds: column -> int, str or bool; digest: equal only for equal rows."""

    path: Path
    form: str
    kinds: dict[str, type]
    rows: int
    digest: str

    @property
    def line_form(self) -> str:
        """The form of the part's lines."""
        return "csv" if self.form == "parquet" else self.form

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def state(self) -> Path:
        return self.path.with_name(self.path.name + ".part.json")

    @property
    def header(self) -> bytes:
        return header_line(tuple(self.kinds), self.line_form).encode()


class Part(NamedTuple):
    """The open part and how many whole rows it has."""

    stream: BinaryIO
    done: int


@contextmanager
def open_part(table: Table, *, resume: bool, force: bool) -> Iterator[Part]:
    """The part of `table`, new or continued; FILE is not there before `finish`.

    Raises: UsageError where something stands in the way, or the part is another table's.
    """
    if table.path.exists() and not force:
        raise UsageError(f"{table.path} is there already", fix="add --force to replace it", field="output")
    try:
        stream, done = _continued(table) if resume and table.part.exists() else (_begun(table, force=force), 0)
    except OSError as error:
        raise cannot_write(table, error) from None
    try:
        _only_one(stream, table)
        yield Part(stream, done)
    finally:
        with suppress(OSError):  # what could not be written was said already; `finish` has flushed a whole part
            stream.close()


def _begun(table: Table, *, force: bool) -> BinaryIO:
    """A new part with its state, which is there first."""
    if table.part.exists() and not force:
        raise UsageError(
            f"{table.part} is there: this or another sweep was interrupted",
            fix="add --resume to go on, or --force to begin again",
            field="output",
        )
    state = {"kvcalc_version": __version__, "format": table.line_form, "rows": table.rows, "digest": table.digest}
    table.state.write_text(json.dumps(state) + "\n", encoding="utf-8")
    stream = table.part.open("wb")
    stream.write(table.header)
    return stream


def _continued(table: Table) -> tuple[BinaryIO, int]:
    """The part without a torn last line, and its number of rows.

    Raises: UsageError where the state does not say that these rows are this table's.
    """
    try:
        state = json.loads(table.state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = None
    if not isinstance(state, dict):
        raise _foreign(table, f"{table.state} is missing or broken")
    if state.get("kvcalc_version") != __version__:
        raise _foreign(table, f"it was begun with kvcalc {state.get('kvcalc_version')}, this is {__version__}")
    if state.get("digest") != table.digest or state.get("format") != table.line_form:
        raise _foreign(table, "it was begun with other models, lists or options")
    stream = table.part.open("r+b")
    lines, end = _whole_lines(stream)
    stream.truncate(end)
    stream.seek(0)
    if lines == 0:
        stream.write(table.header)
        return stream, 0
    done = lines - 1 if table.header else lines
    if stream.read(len(table.header)) != table.header or done > table.rows:
        stream.close()
        raise _foreign(table, "its lines are not this sweep's")
    stream.seek(0, os.SEEK_END)
    return stream, done


def _whole_lines(stream: BinaryIO) -> tuple[int, int]:
    """Number of complete lines and the byte after the last of them."""
    lines = position = end = 0
    while block := stream.read(_BLOCK):
        lines += block.count(b"\n")
        last = block.rfind(b"\n")
        if last >= 0:
            end = position + last + 1
        position += len(block)
    return lines, end


def _only_one(stream: BinaryIO, table: Table) -> None:
    """Two processes must not write one part (where the system can lock files)."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UsageError(f"{table.part} is being written by another process", fix="wait for it", field="output") from (
            None
        )


def _foreign(table: Table, why: str) -> UsageError:
    return UsageError(
        f"cannot go on with {table.part}: {why}", fix="begin again with --force, or name another file", field="resume"
    )


def cannot_write(table: Table, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write {table.path}: {error.strerror}",
        fix="check the directory and the space left; --resume goes on",
        field="output",
    )


def finish(table: Table, part: Part) -> None:
    """The whole part becomes FILE: on disk first, then under its name, so that FILE is never half there.

    Raises: UsageError.
    """
    try:
        part.stream.flush()
        os.fsync(part.stream.fileno())
        if table.form == "parquet":
            whole = table.path.with_name(table.path.name + ".part.parquet")
            _write_parquet(table, whole)
            whole.replace(table.path)
            table.part.unlink()
        else:
            table.part.replace(table.path)
        table.state.unlink()
    except OSError as error:
        raise cannot_write(table, error) from None


def need_pyarrow() -> None:
    """Raises: UsageError where it is not installed."""
    try:
        import pyarrow as pa  # noqa: F401
    except ImportError:
        raise UsageError(
            "Parquet needs pyarrow", fix="pip install 'kvcalc[parquet]', or write .csv or .jsonl", field="output"
        ) from None


def _write_parquet(table: Table, path: Path) -> None:
    """The CSV part in row groups, never all of it in memory."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    types = {int: pa.int64(), str: pa.string(), bool: pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in table.kinds.items()])
    convert = pa.csv.ConvertOptions(column_types=schema, strings_can_be_null=True)
    rows: list[pa.RecordBatch] = []
    try:
        with (
            pa.csv.open_csv(
                table.part, read_options=pa.csv.ReadOptions(block_size=_READ), convert_options=convert
            ) as batches,
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
        ):
            for batch in batches:
                rows.append(batch)
                if sum(part.num_rows for part in rows) >= _GROUP:
                    writer.write_table(pa.Table.from_batches(rows))
                    rows.clear()
            if rows:
                writer.write_table(pa.Table.from_batches(rows))
    except pa.ArrowInvalid as error:
        with suppress(OSError):
            path.unlink()
        raise UsageError(
            f"Parquet cannot hold these numbers (its integers have 64 bits): {error}",
            fix=f"write .csv or .jsonl; {table.part} has every row as CSV",
            field="output",
        ) from None
