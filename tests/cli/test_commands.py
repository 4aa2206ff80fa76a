"""Every command in every format: one answer, as text for people and as data for programs."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path

import jsonschema
import pytest
from calling import Call, program
from sound import TINY

from kvcalc.cli.spec import COMMANDS, examples
from kvcalc.version import __version__

POOL = ("--pool", "64GiB")
#: A call of every command that prints an answer. The pool keeps the numbers free of any estimate.
CALLS: dict[str, list[str]] = {
    "compare": ["llama3", "deepseek-v2", "qwen3-next-80b", *POOL],
    "size": ["gemma3-27b", "-c", "128k", "-n", "3"],
    "explain": ["qwen3-next-80b", "-c", "128k", "--tp", "2"],
    "variants": ["llama3", "-c", "32k", *POOL],
    "sessions": ["llama3.1-8b", "-e", "vllm", *POOL, "--input", "p50=300,p95=900,max=4k", "--output", "uniform=9-90"],
    "plan": ["llama3.3-70b", "--users", "90", "--gpu", "h100-80gb,l4", "-c", "4k"],
    "offload": ["qwen3-8b", "-n", "3", "-c", "20000", "--host", "1TiB", "--link", "24GB/s"],
    "transfer": ["kimi-k2", "-c", "8150", "--rate", "20", "--link", "50GB/s"],
    "advise": ["llama3.1-8b", "--gpu", "h100-80gb", "-c", "128k", "-n", "50", "-e", "vllm"],
    "plot": ["llama3", "gemma3-27b", "--what", "ledger", "--gpu", "h100-80gb", "-c", "32k"],
    "report": ["llama3", "gemma3-27b", "--gpu", "h100-80gb", "-c", "32k", "-n", "2"],
    "fit": ["llama3-70b", "--gpu", "h100-80gb:8", "-c", "32k", "-n", "4"],
    "measure": ["docs/measurements/cpu/llama-3-8b-c8k-n1-bf16-tp1.json", "--check"],
    "explain-log": ["tests/data/logs/vllm-10517.log", "--model", "llama3.1-8b"],
    "import": ["model_configs/deepseek-v2.yaml"],
    "models": ["qwen3"],
    "doctor": [],
    "gpus": ["h100"],
    "engines": ["ideal"],
    "dtypes": [],
    "validate": ["model_configs/llama-3-8b.yaml", "model_configs/deepseek-v2.yaml"],
}
FORMATS = ("table", "plain", "json", "csv", "markdown")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths in CALLS start at the repository, terminals are 120 wide."""
    monkeypatch.chdir(Path(__file__).parents[2])
    monkeypatch.setenv("COLUMNS", "120")


def test_every_command_is_called_here() -> None:
    """The table of calls has every command but `schema` and `completion`, and `sweep`, which streams rows."""
    assert set(CALLS) | {"schema", "completion", "sweep"} == set(COMMANDS)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("command", CALLS)
def test_every_format(call: Call, command: str, form: str) -> None:
    """Each command answers in each format, on stdout only, without escape codes in a pipe."""
    done = call(command, *CALLS[command], "--format", form)
    assert (done.code, done.err) == (0, "")
    assert done.out.strip()
    assert done.out.endswith("\n")
    assert "\x1b" not in done.out


@pytest.mark.parametrize("command", CALLS)
def test_json_is_what_its_schema_says(call: Call, command: str) -> None:
    """`kvcalc schema COMMAND` describes the JSON of that command, and does not describe another one's."""
    schema = call("schema", command).answer
    jsonschema.Draft202012Validator.check_schema(schema)
    answer = call(command, *CALLS[command], "--json").answer
    jsonschema.validate(answer, schema, jsonschema.Draft202012Validator)
    assert answer["command"] == command
    assert answer["kvcalc_version"] == __version__
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**answer, "surprise": 1}, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("command", CALLS)
def test_json_is_short_for_format_json(call: Call, command: str) -> None:
    """`--json` and `--format json` print the same, and integers are printed as integers."""
    done = call(command, *CALLS[command], "--json")
    assert done == call(command, *CALLS[command], "--format", "json")
    for key in ("total_bytes", "per_session_bytes", "max_sessions", "pool_bytes"):
        assert type(done.answer.get(key, 0)) is int


def test_model_schema_accepts_the_shipped_models_shape(call: Call) -> None:
    """`kvcalc schema` alone is the schema of model files: it takes a sound one and refuses an unknown key."""
    import yaml

    schema = call("schema").answer
    assert schema == call("schema", "model").answer
    document = yaml.safe_load(TINY)
    jsonschema.validate(document, schema, jsonschema.Draft202012Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "surprise": 1}, schema, jsonschema.Draft202012Validator)


#: 32 layers x 8 heads x (128 + 128) x 2 B and 60 layers x (512 + 64) x 2 B a token; 64 GiB over these;
#: against 32 x (128 + 128) and 128 x (192 + 128) elements a layer for their own MHA forms.
COMPARE = ["compare", "llama3", "deepseek-v2", "--pool", "64GiB"]

PLAIN = """\
8,192 tokens x 1 session, KV in bfloat16
pool 64.00 GiB per GPU; engine ideal: exact
model        attention  B/token  fixed  cache @8k  relative   x MHA  GPUs  max ctx  own limit  sessions
-------------------------------------------------------------------------------------------------------
llama-3-8b   32 gqa     131,072      -   1.00 GiB  ████████    0.25     1  524,288      8,192        64
deepseek-v2  60 mla      69,120      -  540.0 MiB  ████▏     0.0141     1  994,205    163,840       121

assumed:
  - tensor-level minimum: no pages, padding or slack; a real engine takes at least this
"""

TABLE_80 = """\
8,192 tokens x 1 session, KV in bfloat16
pool 64.00 GiB per GPU; engine ideal: exact

 model        B/token  cache @8k  relative   x MHA  GPUs  max ctx  sessions
 ──────────────────────────────────────────────────────────────────────────
 llama-3-8b   131,072   1.00 GiB  ████████    0.25     1  524,288        64
 deepseek-v2   69,120  540.0 MiB  ████▏     0.0141     1  994,205       121


assumed:
  - tensor-level minimum: no pages, padding or slack; a real engine takes at
    least this
"""

TABLE_120 = """\
8,192 tokens x 1 session, KV in bfloat16
pool 64.00 GiB per GPU; engine ideal: exact

 model        attention  B/token  fixed  cache @8k  relative   x MHA  GPUs  max ctx  own limit  sessions
 ───────────────────────────────────────────────────────────────────────────────────────────────────────
 llama-3-8b   32 gqa     131,072      -   1.00 GiB  ████████    0.25     1  524,288      8,192        64
 deepseek-v2  60 mla      69,120      -  540.0 MiB  ████▏     0.0141     1  994,205    163,840       121


assumed:
  - tensor-level minimum: no pages, padding or slack; a real engine takes at least this
"""

TABLE_40 = """\
8,192 tokens x 1 session, KV in bfloat16
pool 64.00 GiB per GPU; engine ideal:
  exact
llama-3-8b
  attention: 32 gqa
  B/token: 131,072
  fixed: -
  cache @8k: 1.00 GiB
  x MHA: 0.25
  GPUs: 1
  max ctx: 524,288
  own limit: 8,192
  sessions: 64
deepseek-v2
  attention: 60 mla
  B/token: 69,120
  fixed: -
  cache @8k: 540.0 MiB
  x MHA: 0.0141
  GPUs: 1
  max ctx: 994,205
  own limit: 163,840
  sessions: 121

assumed:
  - tensor-level minimum: no pages,
    padding or slack; a real engine
    takes at least this
"""

CSV = """\
model,kinds,marginal_bytes_per_token,fixed_bytes_per_session,per_session_bytes,mha_ratio,gpus,max_context_tokens,\
model_max_context,max_sessions
llama-3-8b,32 gqa,131072,0,1073741824,0.25,1,524288,8192,64
deepseek-v2,60 mla,69120,0,566231040,0.0140625,1,994205,163840,121
"""

MARKDOWN = """\
8,192 tokens x 1 session, KV in bfloat16  \n\
pool 64.00 GiB per GPU; engine ideal: exact

| model | attention | B/token | fixed | cache @8k | relative | x MHA | GPUs | max ctx | own limit | sessions |
| --- | --- | --: | --: | --: | --- | --: | --: | --: | --: | --: |
| llama-3-8b | 32 gqa | 131,072 | - | 1.00 GiB | ████████ | 0.25 | 1 | 524,288 | 8,192 | 64 |
| deepseek-v2 | 60 mla | 69,120 | - | 540.0 MiB | ████▏ | 0.0141 | 1 | 994,205 | 163,840 | 121 |

Assumed:

- tensor-level minimum: no pages, padding or slack; a real engine takes at least this
"""


@pytest.mark.parametrize(
    ("form", "columns", "expected"),
    [
        ("plain", 40, PLAIN),
        ("table", 40, TABLE_40),
        ("table", 80, TABLE_80),
        ("table", 120, TABLE_120),
        ("csv", 40, CSV),
        ("markdown", 40, MARKDOWN),
    ],
)
def test_compare_as_people_see_it(
    *, call: Call, monkeypatch: pytest.MonkeyPatch, form: str, columns: int, expected: str
) -> None:
    """The comparison of Llama-3-8B and DeepSeek-V2, letter by letter; only tables know how wide the terminal is."""
    monkeypatch.setenv("COLUMNS", str(columns))
    done = call(*COMPARE, "--format", form)
    out = "".join(f"{line.rstrip()}\n" for line in done.out.splitlines()) if form == "table" else done.out
    assert out == expected


def test_compare_as_programs_see_it(call: Call) -> None:
    """The same comparison as JSON: every number the tool exists for, as an integer."""
    first, second = call(*COMPARE, "--json").answer["results"]
    keys = ("marginal_bytes_per_token", "per_session_bytes", "pool_bytes", "max_context_tokens", "max_sessions")
    assert [first[key] for key in keys] == [131072, 2**30, 64 * 2**30, 524288, 64]
    assert [second[key] for key in keys] == [69120, 8192 * 69120, 64 * 2**30, 994205, 121]
    assert (first["mha_ratio"], second["mha_ratio"]) == (0.25, 0.0140625)
    assert first["fits"] is second["fits"] is True
    assert (first["binding_limit"], second["binding_limit"]) == ("model_max_context", "model_max_context")
    assert (first["usable_context_tokens"], second["usable_context_tokens"]) == (8192, 163840)


def test_a_bare_comparison_says_what_it_assumed(call: Call) -> None:
    """Without a GPU: an H100-80GB and the smallest power-of-two TP are assumed, and both are said."""
    answer = call("compare", "llama3", "deepseek-v2", "--json").answer
    assert answer["assumptions"][0] == "GPU h100-80gb: none was asked for (--gpu)"
    assert "llama-3-8b: tensor parallel 1: the smallest power of two that holds the weights" in answer["assumptions"]
    assert "deepseek-v2: tensor parallel 8: the smallest power of two that holds the weights" in answer["assumptions"]
    # 236 B parameters of 2 bytes: 472 GB on cards of 85.5 GB need more than 4, so 8.
    assert [record["gpu"]["count"] for record in answer["results"]] == [1, 8]


def test_csv_has_one_record_a_row(call: Call) -> None:
    """Every CSV is a header and as many fields in each row, integers without separators."""
    for command, arguments in CALLS.items():
        rows = list(csv.reader(io.StringIO(call(command, *arguments, "--format", "csv").out)))
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(rows[0])
    records = csv.DictReader(io.StringIO(call("size", "llama3", "--format", "csv").out))
    assert [record["bytes"] for record in records] == [str(2**29), str(2**29)]


def test_markdown_tables_are_whole(call: Call) -> None:
    """Every row of a markdown table has as many cells as its header."""
    for command, arguments in CALLS.items():
        cells = 0
        for line in call(command, *arguments, "--format", "markdown").out.replace("\\|", "").splitlines():
            if not line.startswith("|"):
                cells = 0  # a table ends
                continue
            cells = cells or line.count("|")
            assert line.count("|") == cells
            assert line.endswith(" |")


def test_version(call: Call) -> None:
    """`--version` prints name and version, nothing else."""
    assert call("--version").out == f"kvcalc {__version__}\n"


def test_no_command_is_help(call: Call) -> None:
    """`kvcalc` alone explains itself and lists every command with its line."""
    done = call()
    assert (done.code, done.err) == (0, "")
    assert done == call("--help") == call("-h")
    for name, spec in COMMANDS.items():
        assert name in done.out
        assert " ".join(spec.summary.split()) in " ".join(done.out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help(call: Call, command: str) -> None:
    """Each command's help has its text, an example that starts with it, and every option with its meaning."""
    done = call(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert done == call(command, "-h")
    text = " ".join(done.out.split())
    assert f"Example: kvcalc {command}" in text
    for option in COMMANDS[command].options:
        assert all(flag in done.out for flag in option.flags)
        assert option.help in text


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_work(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """Every example in each command's help runs as it stands."""
    (tmp_path / "my-model.yaml").write_text(TINY)
    (tmp_path / "server.log").write_text("GPU KV cache size: 31,232 tokens\n")
    monkeypatch.chdir(tmp_path)
    lines = examples(COMMANDS[command])
    assert lines
    assert COMMANDS[command].text.count("Example: ") == len(lines)
    for line in lines:
        program_name, *arguments = shlex.split(line)
        assert (program_name, arguments[0]) == ("kvcalc", command)
        assert call(*arguments).code == 0, line


def test_as_a_program_in_a_pipe() -> None:
    """A pipe gets plain text: no colour, no box, the same as --format plain."""
    done = program(*COMPARE)
    assert (done.code, done.err) == (0, "")
    assert done.out == PLAIN


def test_an_ascii_terminal_gets_no_crash() -> None:
    """Where the terminal cannot show a bar, a question mark stands in for it."""
    done = program(*COMPARE, env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, done.err) == (0, "")
    assert "????????" in done.out
    assert "131,072" in done.out
