"""Bad input ends in one line of what and one of how to fix it, the documented exit code, and an empty stdout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from calling import ROOT, Call, program
from sound import BLOCKS, TINY, document, written

from kvcalc.errors import EXIT_CODES

NUMBER = "must be a whole number from"
SIZE = "must be a size in bytes, not"
TOKENS = "context must be a positive whole number of tokens, not"

#: arguments after a sound model; exit code; what; fix.
OPTIONS: list[tuple[list[str], int, str, str]] = [
    (["-c", "0"], 2, f"{TOKENS} '0'", "write it like 8192, 32k (= 32768)"),
    (["-c", "-5"], 2, f"{TOKENS} '-5'", "write it like 8192"),
    (["--context=-5"], 2, f"{TOKENS} '-5'", "write it like 8192"),
    (["-c", "1e30"], 2, f"{TOKENS} '1e30'", "write it like 8192"),
    (["-c", "abc"], 2, f"{TOKENS} 'abc'", "write it like 8192"),
    (["-c", ""], 2, f"{TOKENS} ''", "write it like 8192"),
    (["-c", "1.5"], 2, f"{TOKENS} '1.5'", "write it like 8192"),
    (["-c", "1.3k"], 2, f"{TOKENS} '1.3k'", "write it like 8192"),
    (["-c", "nan"], 2, f"{TOKENS} 'nan'", "write it like 8192"),
    (["-c", "\u0663"], 2, f"{TOKENS} '\u0663'", "write it like 8192"),
    (
        ["-c", "9" * 50],
        2,
        "context '99999999999999999999999999999999999999999999999999' is above 1,099,511,627,776 tokens",
        "a model could hold",
    ),
    (["-c", "9" * 5000], 2, TOKENS, "write it like 8192"),
    (["-c"], 2, "Option '-c' requires an argument.", "`kvcalc size --help`"),
    (["-n", "0"], 2, f"sessions {NUMBER} 1 to 2,147,483,648, not '0'", "for example --sessions 1"),
    (["-n", "-1"], 2, f"sessions {NUMBER} 1 to 2,147,483,648, not '-1'", "for example"),
    (["-n", "1.5"], 2, f"sessions {NUMBER} 1 to 2,147,483,648, not '1.5'", "for example"),
    (["-n", "9" * 5000], 2, f"sessions {NUMBER} 1 to 2,147,483,648, not '999", "for example"),
    (["--kv-dtype", "fp7"], 2, "unknown dtype 'fp7'", "did you mean fp8?"),
    (["--kv-dtype", ""], 2, "unknown dtype ''", "one of: float32"),
    (["--kv-dtype", "k=fp8,k=fp8"], 2, "--kv-dtype has 'k=fp8'", "k=q8_0,v=q4_0"),
    (["--kv-dtype", "x=fp8"], 2, "--kv-dtype has 'x=fp8', which is neither k=TYPE nor v=TYPE", "k=q8_0,v=q4_0"),
    (["--kv-dtype", "k=fp7"], 2, "unknown dtype 'fp7'", "did you mean fp8?"),
    (["--kv-dtype", "k=fp8,"], 2, "--kv-dtype has ''", "k=q8_0,v=q4_0"),
    (["--state-dtype", "fp7"], 2, "unknown dtype 'fp7'", "did you mean fp8?"),
    (["--state-dtype", ""], 2, "unknown dtype ''", "one of: float32"),
    (["--index-dtype", "fp7"], 2, "unknown dtype 'fp7'", "did you mean fp8?"),
    (["-e", "idael"], 2, "unknown engine 'idael'", "did you mean ideal?"),
    (["-e", ""], 2, "unknown engine ''", "one of: ideal"),
    (["-e", "ideal@9"], 2, "ideal has no rules for version '9'", "versions: 1"),
    (["-e", "ideal@"], 2, "ideal has no rules for version ''", "versions: 1"),
    (["-o", "x=1"], 2, "engine ideal has no option 'x'", "ideal has no options"),
    (["-o", "x"], 2, "engine option 'x' has no value", "write -o KEY=VALUE"),
    (["--tp", "0"], 2, f"tp {NUMBER} 1 to 4,096, not '0'", "for example --tp 1"),
    (["--tp", "9999"], 2, f"tp {NUMBER} 1 to 4,096, not '9999'", "for example --tp 1"),
    (["--pp", "x"], 2, f"pp {NUMBER} 1 to 4,096, not 'x'", "for example --pp 1"),
    (["--dp", "-1"], 2, f"dp {NUMBER} 1 to 4,096, not '-1'", "for example --dp 1"),
    (["--dcp", "0"], 2, f"dcp {NUMBER} 1 to 4,096, not '0'", "for example --dcp 1"),
    (["--pp", "9"], 1, "9 pipeline stages for 4 layers", "lower --pp"),
    (["--dcp", "3", "--tp", "2"], 1, "dcp 3 does not divide tp 2", "choose a divisor of --tp"),
    (["--dcp", "2", "--tp", "2"], 1, "dcp 2 needs tp >= dcp x KV heads = 4, tp is 2", "raise --tp or lower --dcp"),
    (["--encoder-tokens", "-1"], 2, f"encoder-tokens {NUMBER} 0 to 2,147,483,648, not '-1'", "--encoder-tokens 1"),
    (["--gpu", "h101"], 2, "unknown GPU 'h101'", "did you mean h100"),
    (["--gpu", "qqqq"], 2, "unknown GPU 'qqqq'", "`kvcalc gpus` lists them"),
    (["--gpu", ""], 2, "unknown GPU ''", "`kvcalc gpus` lists them"),
    (["--gpu", "h100:0"], 2, f"gpu count {NUMBER} 1 to 4,096, not '0'", "write --gpu h100:8"),
    (["--gpu", "h100:"], 2, f"gpu count {NUMBER} 1 to 4,096, not ''", "write --gpu h100:8"),
    (["--gpu", "h100:x"], 2, f"gpu count {NUMBER} 1 to 4,096, not 'x'", "write --gpu h100:8"),
    (["--models-dir", "/nowhere"], 2, "cannot read the models directory '/nowhere': No such file", "KVCALC_MODELS"),
    (["--models-dir", ""], 2, "cannot read the models directory '': No such file", "KVCALC_MODELS"),
    (["--format", "xml"], 2, "unknown format 'xml'", "one of: table, plain, json, csv, markdown"),
    (["--format", ""], 2, "unknown format ''", "one of: table"),
    (["--json", "--format", "csv"], 2, "--json and --format csv contradict", "keep one of them"),
    (["--bogus"], 2, "No such option: --bogus", "`kvcalc size --help`"),
    (["--cont", "5"], 2, "No such option: --cont", "`kvcalc size --help`"),
    (["--json=yes"], 2, "Option '--json' does not take a value.", "`kvcalc size --help`"),
    (["extra"], 2, "Got unexpected extra argument", "`kvcalc size --help`"),
]

FIT_OPTIONS: list[tuple[list[str], int, str, str]] = [
    ([], 2, "neither a GPU nor a pool is given", "add --gpu NAME or --pool BYTES"),
    (["--gpu", "h100:3", "--pp", "2"], 2, "3 GPUs are not tp 1 x pp 2 x dp 1", "give --gpu NAME:2"),
    (["--gpu", "h100:8", "--tp", "4"], 2, "8 GPUs are not tp 4 x pp 1 x dp 1", "give --gpu NAME:4"),
    (["--gpu", "h100", "--weight-dtype", "fp7"], 2, "unknown dtype 'fp7'", "did you mean fp8?"),
    (["--gpu", "h100", "--weight-dtype", ""], 2, "unknown dtype ''", "one of: float32"),
    (["--pool", "x"], 2, f"pool {SIZE} 'x'", "24GiB (binary), 80GB (decimal)"),
    (["--pool", "-1"], 2, f"pool {SIZE} '-1'", "24GiB"),
    (["--pool", "1e9"], 2, f"pool {SIZE} '1e9'", "24GiB"),
    (["--pool", "10XB"], 2, f"pool {SIZE} '10XB'", "24GiB"),
    (["--pool", ""], 2, f"pool {SIZE} ''", "24GiB"),
    (["--pool", "1.5"], 2, f"pool {SIZE} '1.5'", "24GiB"),
    (["--pool", "99999999TiB"], 2, "pool '99999999TiB' is more than any machine holds", "check the unit"),
    (["--gpu", "h100", "--overhead", "x"], 2, f"overhead {SIZE} 'x'", "24GiB"),
    (["--gpu", "h100", "--overhead", "-3GiB"], 2, f"overhead {SIZE} '-3GiB'", "24GiB"),
    (["--pool", "1GiB", "--overhead", "1GiB"], 2, "--overhead changes nothing beside --pool", "drop --overhead"),
    (["--pool", "1GiB", "--weight-dtype", "fp8"], 2, "--weight-dtype changes nothing beside --pool", "drop --weight-"),
]

VARIANTS_OPTIONS: list[tuple[list[str], int, str, str]] = [
    (["--latent-dim", "0"], 2, f"latent-dim {NUMBER} 1 to 1,048,576, not '0'", "for example --latent-dim 1"),
    (["--rope-dim", "x"], 2, f"rope-dim {NUMBER} 1 to 1,048,576, not 'x'", "for example"),
    (["--window", "0"], 2, f"window {NUMBER} 1 to 1,099,511,627,776, not '0'", "for example"),
    (["--hybrid-window", "-1"], 2, f"hybrid-window {NUMBER} 1 to 1,099,511,627,776, not '-1'", "for example"),
    (["--hybrid-local", "101"], 2, f"hybrid-local {NUMBER} 1 to 100, not '101'", "for example"),
]

ON_A_MODEL = [
    (command, *case)
    for command, cases in (("size", OPTIONS), ("fit", FIT_OPTIONS), ("variants", VARIANTS_OPTIONS))
    for case in cases
]


@pytest.mark.parametrize(
    ("command", "options", "code", "says", "fix"), ON_A_MODEL, ids=[f"{c[0]} {' '.join(c[1])[:40]}" for c in ON_A_MODEL]
)
def test_option(
    *, call: Call, tmp_path: Path, command: str, options: list[str], code: int, says: str, fix: str
) -> None:
    """A wrong option: its exit code, what is wrong, how to put it right; as JSON the same on one line."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    done = call(command, str(path), *options)
    assert (done.code, done.out) == (code, "")
    if "--json" in options:
        assert done.error["message"] == says
        assert fix in done.error["fix"]
        return
    first, second = done.err.splitlines()
    assert first.startswith(f"kvcalc: {says}")
    assert second.startswith("  ")
    assert fix in second
    if "--format" not in options and options[-1:] != ["-c"]:
        again = call(command, str(path), *options, "--json")
        assert (again.code, again.out) == (code, "")
        assert again.error["message"].startswith(says)
        assert fix in again.error["fix"]
        assert again.error["exit_code"] == code


COMMAND_LINES: list[tuple[list[str], str, str]] = [
    (["nope"], "unknown command 'nope'", "one of: compare, size"),
    (["compar", "x"], "unknown command 'compar'", "did you mean compare?"),
    (["-x"], "No such option: -x", "`kvcalc --help`"),
    (["size"], "Missing argument 'TARGET'.", "`kvcalc size --help`"),
    (["compare"], "Missing argument 'TARGET...'.", "`kvcalc compare --help`"),
    (["validate"], "Missing argument 'FILE...'.", "`kvcalc validate --help`"),
    (["size", "llama-3-8bb"], "unknown model 'llama-3-8bb'", "did you mean llama-3-8b"),
    (["size", "qqqq"], "unknown model 'qqqq'", "`kvcalc models` lists"),
    (["size", "-"], "unknown model '-'", "`kvcalc models` lists"),
    (["size", ""], "'' is no model", "name a shipped model or a file"),
    (["size", "a\0b"], "'a\\x00b' is no model", "name a shipped model or a file"),
    (["size", "x" * 5000], "'xxx", "name a shipped model or a file"),
    (["compare", "llama3", "qqqq"], "unknown model 'qqqq'", "`kvcalc models` lists"),
    (["fit", "mamba-2.8b", "--gpu", "h1000"], "unknown GPU 'h1000'", "did you mean h100"),
    (["compare", "llama3", "--gpu", "qqqq"], "unknown GPU 'qqqq'", "or give --pool"),
    (["explain", "llama3", "--gpu", "qqqq"], "unknown GPU 'qqqq'", "`kvcalc gpus`"),
    (["variants", "mamba-2.8b"], "mamba-2.8b has no attention heads to vary", "name a model with attention layers"),
    (["size", "whisper-large-v3", "--encoder-tokens", "x"], "encoder-tokens must be a whole number", "for example"),
    (["engines", "qqqq"], "unknown engine 'qqqq'", "one of: ideal"),
    (["engines", "idea"], "unknown engine 'idea'", "did you mean ideal?"),
    (["schema", "nope"], "no schema of 'nope'", "one of: model, size"),
    (["schema", "fitt"], "no schema of 'fitt'", "did you mean fit?"),
    (["dtypes", "x"], "Got unexpected extra argument", "`kvcalc dtypes --help`"),
    (["models", "a", "b"], "Got unexpected extra argument", "`kvcalc models --help`"),
]


@pytest.mark.parametrize(("arguments", "says", "fix"), COMMAND_LINES, ids=lambda value: str(value)[:40])
def test_command_line(call: Call, arguments: list[str], says: str, fix: str) -> None:
    """A call that asks for what does not exist: exit 2, two lines on stderr, nothing on stdout."""
    done = call(*arguments)
    first, second = done.err.splitlines()
    assert (done.code, done.out) == (2, "")
    assert first.startswith(f"kvcalc: {says}")
    assert second.startswith("  ")
    assert fix in second


def test_cross_attention_needs_the_encoders_length(call: Call, tmp_path: Path) -> None:
    """A model with cross attention and no stated encoder length is a question, not a guess."""
    path = written(tmp_path / "model.yaml", document({"kind": "cross", **BLOCKS["cross"]}))
    done = call("size", path)
    assert (done.code, done.out) == (2, "")
    assert "its cache depends on the encoder's length" in done.err
    assert "add --encoder-tokens N" in done.err


def test_weights_are_asked_for_not_guessed(call: Call, tmp_path: Path) -> None:
    """A model without parameters cannot be put on a GPU, but in a pool."""
    path = tmp_path / "model.yaml"
    path.write_text(TINY.replace("parameters: 1000000\n", ""))
    done = call("fit", str(path), "--gpu", "h100")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0] == "kvcalc: tiny does not say its parameters, so its weights are unknown"
    assert call("fit", str(path), "--pool", "1GiB").code == 0


def test_bug_is_named_as_one(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected exits with 70, without a traceback, as text or as JSON."""
    import kvcalc.answers.listings

    def broken() -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(kvcalc.answers.listings, "list_dtypes", broken)
    done = call("dtypes")
    assert (done.code, done.out) == (70, "")
    assert done.err.splitlines()[0] == "kvcalc: bug: ZeroDivisionError: oops"
    assert "please report it" in done.err
    assert "Traceback" not in done.err
    again = call("dtypes", "--json")
    assert again.code == again.error["exit_code"] == 70
    assert again.error["kind"] == "bug"
    monkeypatch.setenv("KVCALC_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        call("dtypes")


@pytest.mark.parametrize("arguments", [["dtypes"], ["dtypes", "--format", "plain", "--"]], ids=["quick", "typer"])
def test_interrupt(call: Call, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """Ctrl-C ends with 130 and one word, whichever parser read the call."""
    import kvcalc.answers.listings

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(kvcalc.answers.listings, "list_dtypes", interrupted)
    done = call(*arguments)
    assert (done.code, done.out) == (130, "")
    assert done.err.split() == ["interrupted"]


def test_exit_codes_are_the_documented_ones() -> None:
    """0 ok, 1 does not fit, 2 usage, 3 model file, 4 cannot measure, 70 bug: scripts rely on them."""
    assert list(EXIT_CODES) == [0, 1, 2, 3, 4, 70]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["size", "qqqq"], 2, "kvcalc: unknown model 'qqqq'"),
        (["size", "none.yaml"], 3, "kvcalc: none.yaml does not exist"),
        (["fit", "llama-3-8b", "--pool", "1", "--json"], 1, ""),
        (["size", "llama3", "--bogus"], 2, "kvcalc: No such option: --bogus"),
        (["size", "llama3", "-c", "abc", "--json"], 2, '{"error": {"kind": "usage", "message": "context must be'),
    ],
    ids=lambda value: str(value)[:30],
)
def test_as_a_program(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    """The process ends with the same codes and messages, stdout empty on an error, never a traceback."""
    done = program(*arguments, cwd=tmp_path)
    assert done.code == code
    assert done.err.startswith(says)
    assert bool(done.out) == (code == 1)
    assert "Traceback" not in done.err


def test_a_reader_that_leaves_is_no_error() -> None:
    """`kvcalc models | head -0` ends quietly."""
    command = f"{sys.executable} -m kvcalc models --format csv | true"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
