"""`kvcalc sweep`: every point a row, equal to what `size` and `fit` answer; whole files or parts that continue."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import jsonschema
import pytest
from calling import ROOT, Call
from sound import TINY

from kvcalc.answers.sweep import COLUMNS, MAX_POINTS
from kvcalc.core.drawn import SweepRow
from kvcalc.core.plan import Load
from kvcalc.engines import engine_names
from kvcalc.errors import KvcalcError
from kvcalc.planning.ledger import load_seen
from kvcalc.registry import load_registry
from kvcalc.targets import load_target

SMALL = ("sweep", "llama3", "gemma3-27b", "-c", "1k..16k", "-n", "1,3", "--kv-dtype", "bf16,fp8")
POOLED = (*SMALL, "--engines", "ideal,vllm,llama.cpp", "--gpu", "h100-80gb,l4", "--layouts", "auto,tp2")


def records(call: Call, *arguments: str) -> list[dict[str, Any]]:
    done = call(*arguments, "--json")
    assert (done.code, done.err) == (0, "")
    return [json.loads(line) for line in done.out.splitlines()]


def test_every_point_is_a_row_in_order(call: Call) -> None:
    """Models change slowest, sessions fastest; the product of the lists is the number of rows."""
    rows = records(call, *SMALL)
    assert len(rows) == 2 * 5 * 2 * 2
    keys = [(row["model"], row["key_dtype"], row["context_tokens"], row["sessions"]) for row in rows]
    contexts = [1024, 2048, 4096, 8192, 16384]
    assert keys == [
        (model, dtype, context, sessions)
        for model in ("llama-3-8b", "gemma-3-27b")
        for dtype in ("bfloat16", "fp8_e4m3")
        for context in contexts
        for sessions in (1, 3)
    ]


def _asked(row: dict[str, Any], *, pooled: bool) -> list[str]:
    """The options of `size` or `fit` that ask for the row's point."""
    words = [row["model"], "-c", str(row["context_tokens"]), "-n", str(row["sessions"]), "-e", row["engine"]]
    for name in ("tp", "pp", "dp", "dcp"):
        if row[name] is not None:
            words += [f"--{name}", str(row[name])]
    words += ["--kv-dtype", f"k={row['key_dtype']},v={row['value_dtype']}"]
    if row.get("gpu"):
        words += ["--gpu", row["gpu"]]
    if pooled and row["ep"]:
        words.append("--ep")
    return [*words, "--json"]


def _check(call: Call, row: dict[str, Any], *, pooled: bool) -> None:
    """The row says what the command says, be it a refusal."""
    done = call("fit" if pooled else "size", *_asked(row, pooled=pooled))
    if row["refused"]:
        assert done.error["message"].split() == row["reason"].split()
        return
    answer = done.answer
    same = ["total_bytes", "per_session_bytes", "fixed_bytes_per_session", "marginal_bytes_per_token", "exactness"]
    if pooled:
        same += [column.name for column in COLUMNS if column.pool and column.name in answer and column.name != "gpu"]
    assert {name: row[name] for name in same} == {name: answer[name] for name in same}
    assert row["rank_bytes"] == max(rank["bytes"] for rank in answer["ranks"])
    inputs = (
        "context_tokens",
        "sessions",
        "encoder_tokens",
        "state_dtype",
        "index_dtype",
        "tp",
        *(("ep",) if pooled else ()),
    )
    for name in inputs:
        assert row[name] == answer["inputs"][name]
    assert row["engine_version"] == answer["engine"]["version"]
    assert row["model_max_context"] == answer["model"]["model_max_context"]


#: A model for each way of caching, one that only some engines run, one of unknown weights.
MODELS = (
    "llama3",
    "gemma3-27b",
    "gpt-oss-20b",
    "deepseek-v3.2",
    "qwen3-next-80b",
    "mamba2",
    "whisper-large-v3",
    "dbrx",
)
EVERY = ("sweep", *MODELS, "-c", "300,8k,100k", "-n", "1,7", "--kv-dtype", "bf16,fp8,q8_0", "--engines", "all")


def test_rows_equal_size(call: Call) -> None:
    """Sampled points of every model and engine are what `kvcalc size --json` answers, refusals with their reason."""
    rows = random.Random(1).sample(records(call, *EVERY, "--layouts", "tp1,tp2,dp2"), 120)
    assert len({row["refused"] for row in rows}) == 2
    for row in rows:
        _check(call, row, pooled=False)


def test_rows_equal_fit(call: Call) -> None:
    """Sampled points with a GPU are what `kvcalc fit --json` answers."""
    layouts = ("--layouts", "tp1,tp4pp2,dp2ep2")
    rows = random.Random(2).sample(records(call, *EVERY, *layouts, "--gpu", "h100-80gb,rtx-4090"), 120)
    assert {row["verdict"] for row in rows} >= {"FITS", "DOES NOT FIT", None}
    for row in rows:
        if row["refused"] and row["total_bytes"] is None:
            # `fit` asks for the memory first, a sweep for the cache: the refusal is the cache's, as `size` has it.
            _check(call, row, pooled=False)
        else:
            _check(call, row, pooled=True)


def test_automatic_layout_is_what_fit_chooses(call: Call) -> None:
    """Without --layouts a row has the degree that `fit` takes: here as many GPUs as the weights need."""
    rows = records(
        call, "sweep", "llama3-70b", "deepseek-v3", "--engines", "vllm,llama.cpp,ideal", "--gpu", "h100-80gb"
    )
    for row in rows:
        words = [row["model"], "-e", row["engine"], "--gpu", row["gpu"], "--json"]
        answer = call("fit", *words).answer
        assert (row["tp"], row["pool_bytes"]) == (answer["layout"]["tp"], answer["pool_bytes"])
    assert {row["tp"] for row in rows} >= {1, 2, 16}


def test_what_the_ledger_sees_of_a_load(call: Call) -> None:
    """Loads that an engine's ledger sees alike have the same ledger, so that one answers for all."""
    from kvcalc.answers.common import Ask
    from kvcalc.answers.fit import pool_of
    from kvcalc.core.plan import Layout

    registry = load_registry()
    gpus = [registry.gpu(name) for name in ("h100-80gb", "l4", "v100-32gb")]
    target = load_target("llama3", registry)
    loads = [Load(1000, 8), Load(8000, 1), Load(500, 16), Load(8000, 100)]
    checked = 0
    for engine in (*engine_names(), "vllm@0.9"):
        name = engine.partition("@")[0]
        for gpu in gpus:
            found: dict[int, object] = {}
            for load in loads:
                asked = Ask(engine=engine, context_tokens=load.context_tokens, sessions=load.sessions)
                try:
                    lines = pool_of(target, asked, gpu, Layout()).lines
                except KvcalcError:
                    continue
                assert found.setdefault(load_seen(name, load), lines) == lines
                checked += 1
    assert checked > 100


def test_a_refusal_is_a_row(call: Call) -> None:
    """Engines that refuse a model, a type or a number of sessions leave a row with the reason and no numbers."""
    done = call("sweep", "whisper-large-v3", "llama3", "-n", "1,100000", "--engines", "ideal,llama.cpp")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(rows) == 8
    assert [row["refused"] for row in rows] == ["false", "false", "true", "true", "false", "false", "false", "true"]
    assert all((row["total_bytes"] == "") == (row["refused"] == "true") for row in rows)
    assert all((row["reason"] != "") == (row["refused"] == "true") for row in rows)
    assert "'whisper'" in rows[2]["reason"]


def test_bytes_stay_where_only_the_pool_is_unknown(call: Call) -> None:
    """A model of unknown weights has its cache, and the reason why nothing is said about the GPU."""
    row = records(call, "sweep", "dbrx", "--gpu", "h100-80gb", "--layouts", "tp8")[0]
    assert row["refused"]
    assert "weights are unknown" in row["reason"]
    assert row["total_bytes"] == call("size", "dbrx", "--tp", "8", "--json").answer["total_bytes"]
    assert row["pool_bytes"] is None


def test_columns_are_the_schemas(call: Call) -> None:
    """Each row is what `kvcalc schema sweep` says; the columns of the pool come with a pool."""
    checker = jsonschema.Draft202012Validator(call("schema", "sweep").answer)
    for arguments in (SMALL, POOLED, (*SMALL, "--pool", "24GiB"), ("sweep", "dbrx", "--gpu", "l4")):
        for row in records(call, *arguments)[::25]:
            checker.validate(row)
            assert not checker.is_valid({**row, "surprise": 1})
    assert [column.name for column in COLUMNS] == list(get_type_hints(SweepRow))
    header = call(*SMALL).out.partition("\n")[0]
    assert header.split(",") == [column.name for column in COLUMNS if not column.pool]


def test_csv_is_quoted(call: Call) -> None:
    """A cell with a comma or a quote is read back as it was; a row is one line."""
    done = call("sweep", "whisper-large-v3", "qwen3-next-80b", "--engines", "all", "-n", "1,5000")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(done.out.splitlines()) == len(rows) + 1
    by_json = records(call, "sweep", "whisper-large-v3", "qwen3-next-80b", "--engines", "all", "-n", "1,5000")
    assert [row["reason"] for row in rows] == [row["reason"] or "" for row in by_json]
    assert any("," in row["reason"] for row in rows)
    assert any("'" in row["reason"] for row in rows)


def test_targets(call: Call) -> None:
    """`all` is every shipped model, a pattern those of that name, each model once."""
    names = load_registry().model_names()
    assert [row["model"] for row in records(call, "sweep", "all")] == names
    wanted = [name for name in names if name.startswith("qwen3-")]
    assert [row["model"] for row in records(call, "sweep", "QWEN3-*", wanted[0])] == wanted
    assert call("sweep", "nosuch*", "--json").error["exit_code"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-c", "8k,,9k"], "context"),
        (["-c", "9k..8k"], "ends below"),
        (["-n", "0"], "sessions"),
        (["--kv-dtype", "bf16,fp7"], "fp7"),
        (["--kv-dtype", "bf16,"], "dtype"),
        (["--engines", "ideal,nosuch"], "nosuch"),
        (["--gpu", "h100,nosuch"], "nosuch"),
        (["--layouts", "tp1,xy2"], "xy2"),
        (["--layouts", ""], "layout"),
        (["--jobs", "0"], "jobs"),
        (["--format", "table"], "table"),
        (["--format", "parquet"], "Parquet"),
        (["--json", "--format", "csv"], "--json"),
        (["--output", "x.txt"], "txt"),
        (["--output", "nosuch/x.csv"], "nosuch"),
        (["--resume"], "--output"),
        (["--force"], "--output"),
        (["--pool", "1GiB", "--weight-dtype", "fp9"], "fp9"),
    ],
)
def test_bad_lists_are_usage_errors(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    """What no point could use is refused before the first row, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    done = call("sweep", "llama3", *arguments)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert list(tmp_path.iterdir()) == []


def test_huge_products_are_refused(call: Call) -> None:
    """Above 10**9 points the answer is their number, at once."""
    done = call("sweep", "llama3", "-c", "1..100k/2", "-n", "1..50000/1")
    assert done.code == 2
    assert f"{51_200 * 50_000:,} points" in done.err
    assert "51,200 contexts x 50,000 sessions" in done.err
    assert f"{MAX_POINTS:,}" in done.err


LONG = ("sweep", "llama3", "gemma3-27b", "deepseek-v3", "-c", "1..1500/1", "-n", "1,2", "--engines", "ideal,vllm")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_do_not_depend_on_jobs(call: Call, tmp_path: Path, form: str) -> None:
    """One process and two write the same bytes, to a file as to stdout."""
    made = {}
    for jobs in ("1", "2"):
        path = tmp_path / f"{jobs}.{form}"
        done = call(*LONG, "--jobs", jobs, "--output", str(path))
        assert (done.code, done.out) == (0, "")
        assert done.err == f"18,000 points in {path}\n"
        made[jobs] = path.read_bytes()
    assert made["1"] == made["2"]
    assert made["1"].count(b"\n") == 18_000 + (form == "csv")
    if form == "csv":
        assert call(*LONG, "--jobs", "2").out.encode() == made["1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"1.{form}", f"2.{form}"]


def interrupted(call: Call, path: Path, size: int) -> None:
    """What a sweep of POOLED leaves when it dies after `size` bytes: the part and its state."""
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr("kvcalc.render.rowfile.finish", lambda table, part: (_ for _ in ()).throw(KeyboardInterrupt))
        done = call(*POOLED, "--output", str(path))
    assert done.code == 130
    assert "--resume" in done.err
    part = path.with_name(path.name + ".part")
    assert not path.exists()
    os.truncate(part, size)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_part_cut_anywhere_is_continued(call: Call, tmp_path: Path, form: str) -> None:
    """After a cut at any byte --resume gives the file that an uninterrupted run gives."""
    whole = tmp_path / f"whole.{form}"
    assert call(*POOLED, "--output", str(whole)).code == 0
    text = whole.read_bytes()
    header = text.index(b"\n") + 1
    cuts = {0, 1, header - 1, header, header + 1, len(text) - 1, len(text)}
    cuts |= set(random.Random(3).sample(range(len(text)), 5))
    for cut in sorted(cuts):
        path = tmp_path / f"cut{cut}.{form}"
        interrupted(call, path, cut)
        done = call(*POOLED, "--output", str(path), "--resume")
        assert (done.code, done.out) == (0, "")
        assert path.read_bytes() == text
        assert not path.with_name(path.name + ".part").exists()
        assert not path.with_name(path.name + ".part.json").exists()


def test_another_sweep_is_not_continued(call: Call, tmp_path: Path) -> None:
    """Other lists, another version, a broken state or foreign lines: --resume refuses, --force begins again."""
    path = tmp_path / "x.csv"
    part, state = tmp_path / "x.csv.part", tmp_path / "x.csv.part.json"
    interrupted(call, path, 5000)
    kept = (part.read_bytes(), state.read_text())

    def refused(*arguments: str, says: str) -> None:
        done = call(*arguments, "--output", str(path), "--resume")
        assert (done.code, done.out) == (2, "")
        assert says in done.err
        assert "--force" in done.err
        assert not path.exists()

    refused(*POOLED, "--pool", "24GiB", says="other models, lists or options")
    refused(*POOLED, "--format", "jsonl", says="other models, lists or options")
    refused(*SMALL, says="other models, lists or options")
    assert (part.read_bytes(), state.read_text()) == kept
    said = json.loads(state.read_text())
    state.write_text(json.dumps({**said, "kvcalc_version": "0.0.1"}))
    refused(*POOLED, says="kvcalc 0.0.1")
    state.write_text("{")
    refused(*POOLED, says="missing or broken")
    state.write_text(kept[1])
    part.write_bytes(b"x" + kept[0])
    refused(*POOLED, says="not this sweep's")
    done = call(*POOLED, "--output", str(path))
    assert done.code == 2
    assert "--resume" in done.err
    assert call(*POOLED, "--output", str(path), "--force").code == 0
    assert not part.exists()


def test_a_changed_model_is_another_sweep(call: Call, tmp_path: Path) -> None:
    """The digest holds every model's numbers: after a change of the file, --resume refuses."""
    model, path = tmp_path / "m.yaml", tmp_path / "x.csv"
    model.write_text(TINY)
    words = ("sweep", str(model), "-c", "1k..8k", "--output", str(path))
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr("kvcalc.render.rowfile.finish", lambda table, part: (_ for _ in ()).throw(KeyboardInterrupt))
        assert call(*words).code == 130
    model.write_text(TINY.replace("layers: 4", "layers: 5"))
    assert model.read_text() != TINY
    assert call(*words, "--resume").code == 2
    model.write_text(TINY)
    assert call(*words, "--resume").code == 0


def test_a_file_is_not_replaced_unasked(call: Call, tmp_path: Path) -> None:
    """An existing FILE stays without --force, also with --resume; --resume alone begins where there is no part."""
    path = tmp_path / "x.csv"
    assert call(*SMALL, "--output", str(path), "--resume").code == 0
    before = path.read_bytes()
    for words in ([], ["--resume"]):
        done = call(*SMALL, "-o", "a=b", "--output", str(path), *words)
        assert done.code == 2
    for words in ([], ["--resume"]):
        done = call(*SMALL, "--output", str(path), *words)
        assert done.code == 2
        assert "--force" in done.err
        assert path.read_bytes() == before
    assert call("sweep", "llama3", "--output", str(path), "--force").code == 0
    assert path.read_bytes() != before


def test_parquet(call: Call, tmp_path: Path) -> None:
    """A Parquet file has the rows of the JSON lines with integer and boolean columns, and continues like them."""
    parquet = import_module("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    interrupted(call, path, 4000)
    assert call(*POOLED, "--output", str(path), "--resume").code == 0
    assert [file.name for file in tmp_path.iterdir()] == ["x.parquet"]
    table = parquet.read_table(path)
    assert table.to_pylist() == records(call, *POOLED)
    kinds = {int: "int64", str: "string", bool: "bool"}
    assert [str(field.type) for field in table.schema] == [kinds[column.kind] for column in COLUMNS]
    done = call("sweep", "llama3", "-c", "1024m", "-n", "2147483648", "--output", str(tmp_path / "y.parquet"))
    assert done.code == 2
    assert "64 bits" in done.err


def test_parquet_without_pyarrow(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pyarrow is not installed the error says how to get it, before any work."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = call(*SMALL, "--output", str(tmp_path / "x.parquet"))
    assert done.code == 2
    assert "pip install 'kvcalc[parquet]'" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_a_part(call: Call, tmp_path: Path, how: signal.Signals) -> None:
    """Ctrl-C says how to go on and exits 130, a kill says nothing; both continue to the same file, in any process."""
    path = tmp_path / "x.csv"
    words = ("sweep", "qwen3*", "-c", "1..1500/1", "--engines", "ideal,vllm", "--output", str(path))
    command = [sys.executable, "-m", "kvcalc", *words, "--jobs", "2"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    # A job in the background ignores Ctrl-C, and so would its children; a handler here is the default there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, before)
        part = tmp_path / "x.csv.part"
        until = time.monotonic() + 50
        while not (part.exists() and part.stat().st_size > 20_000) and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(how)
        _, said = process.communicate(timeout=50)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert "--resume" in said
        assert "Traceback" not in said
    assert not path.exists()
    assert call(*words, "--resume").code == 0
    lines = path.read_bytes().splitlines()
    assert len(lines) == len(set(lines))
    assert call(*words[:-2]).out.encode() == path.read_bytes()


def test_a_terminal_sees_a_bar(tmp_path: Path) -> None:
    """On a terminal's stderr a bar counts points and is gone at the end; stdout has the rows alone."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "kvcalc", "sweep", "llama3", "-c", "1..3000/1"]
    with (tmp_path / "rows.csv").open("wb") as rows:
        done = subprocess.run(command, env=env, stdout=rows, stderr=follower, timeout=50)
    os.close(follower)
    seen = b""
    try:
        while block := os.read(leader, 2**16):
            seen += block
    except OSError:  # Linux says so at the end
        pass
    finally:
        os.close(leader)
    assert done.returncode == 0
    assert b"/3000" in seen
    assert seen.endswith(b"\x1b[2K")
    assert (tmp_path / "rows.csv").read_bytes().count(b"\n") == 3001
