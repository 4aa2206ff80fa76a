"""The Python API answers what the command line answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from calling import ROOT, Call

import kvcalc
from kvcalc import options
from kvcalc.asking import python_name, read_values
from kvcalc.cli import quick
from kvcalc.cli.spec import COMMANDS
from kvcalc.render.htmlout import page_html
from kvcalc.render.sheet import Cell, Column, Page, Sheet

HOSTILE = "<script>alert('&')</script>"


def test_cache_equals_the_command(call: Call) -> None:
    """A cache's record is the JSON of `kvcalc size` without its header."""
    said = call("size", "gemma3-27b", "-c", "128k", "-n", "4", "--kv-dtype", "fp8", "--tp", "2", "--json").answer
    model = kvcalc.load("gemma3-27b")
    record = model.cache("128k", 4, kv_dtype="fp8", tp=2).record()
    assert record.items() <= said.items()
    assert said == model.size(context="128k", sessions=4, kv_dtype="fp8", tp=2)


def test_published_bytes() -> None:
    """Llama-3-8B keeps 128 KiB a token in bf16 (32 layers x 2 x 8 heads x 128 x 2 B)."""
    model = kvcalc.load("llama3")
    assert model.cache(1).bytes == 131072
    assert model.cache("128k", 4).bytes == 4 * 16 * 2**30
    assert model.max_context("16GiB") == 131072
    assert model.max_sessions("16GiB", "8k") == 16
    assert kvcalc.load("mamba2").max_context("1GiB") is None
    fit = model.fit(pool=16 * 2**30, context=8192)
    assert (fit["max_context_tokens"], fit["max_sessions"]) == (131072, 16)


#: Python's words, and the same question on the command line.
WORKLOAD = {"prompt": {"fixed": 300}, "output": {"fixed": 100}}
SAME: dict[str, tuple[Any, list[str]]] = {
    "size": (
        lambda m: m.size(context=131072, sessions=3, kv_dtype={"k": "q8_0", "v": "q4_0"}, engine="llama.cpp"),
        ["-c", "128k", "-n", "3", "--kv-dtype", "k=q8_0,v=q4_0", "-e", "llama.cpp"],
    ),
    "draft": (lambda m: m.size(draft="1x8x128"), ["--draft", "1x8x128"]),
    "fit": (
        lambda m: m.fit(gpu="h100-80gb:2", engine="vllm", options={"gpu_memory_utilization": 0.85}, require_sessions=9),
        ["--gpu", "h100-80gb:2", "-e", "vllm", "-o", "gpu_memory_utilization=0.85", "--require-sessions", "9"],
    ),
    "explain": (lambda m: m.explain(context="32k", tp=2), ["-c", "32k", "--tp", "2"]),
    "variants": (lambda m: m.variants(pool="16GiB", window=2048), ["--pool", "16GiB", "--window", "2048"]),
    "sessions": (
        lambda m: m.sessions(gpu="l4", input={"p50": 300, "p95": 900}, output=100, wait=0.05),
        ["--gpu", "l4", "--input", "p50=300,p95=900", "--output", "100", "--wait", "0.05"],
    ),
    "plan": (
        lambda m: m.plan(users=50, gpu=["l4", "h100-80gb"], price={"l4": 0.8, "h100-80gb": 3}, context="4k"),
        ["--users", "50", "--gpu", "l4,h100-80gb", "--price", "l4=0.8,h100-80gb=3", "-c", "4k"],
    ),
    "advise": (
        lambda m: m.advise(gpu="h100-80gb:2", context="64k", sessions=30),
        ["--gpu", "h100-80gb:2", "-c", "64k", "-n", "30"],
    ),
    "offload": (
        lambda m: m.offload(context=20000, sessions=3, host="1TiB", link="24GB/s"),
        ["-c", "20000", "-n", "3", "--host", "1TiB", "--link", "24GB/s"],
    ),
    "transfer": (lambda m: m.transfer(rate=2.5, link="50GB/s"), ["--rate", "2.5", "--link", "50GB/s"]),
    "compare": (
        lambda m: kvcalc.compare([m], engines=["ideal", "vllm"], gpu="h200"),
        ["--engines", "ideal,vllm", "--gpu", "h200"],
    ),
    "layouts": (
        lambda m: kvcalc.compare([m], gpus=4, gpu="h200", layouts=["tp4", "tp2dp2"]),
        ["--gpus", "4", "--gpu", "h200", "--layouts", "tp4,tp2dp2"],
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_typed_questions_equal_the_command(call: Call, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """A method gives the JSON of its command, and prints nothing."""
    question, arguments = SAME[name]
    command = {"draft": "size", "layouts": "compare"}.get(name, name)
    said = call(command, "llama3.1-8b", *arguments, "--json")
    answer = question(kvcalc.load("llama3.1-8b"))
    assert answer == json.loads(said.out)
    assert json.loads(json.dumps(answer)) == answer
    assert capsys.readouterr() == ("", "")


def test_a_comparison_names_or_holds_its_models(call: Call) -> None:
    """Names and loaded models compare alike."""
    said = call("compare", "llama3", "deepseek-v2", "--json").answer
    assert kvcalc.compare(["llama3", "deepseek-v2"]) == said
    assert kvcalc.compare([kvcalc.load("llama3"), "deepseek-v2"]) == said
    assert kvcalc.plan("llama3", users=3, gpu="l4") == kvcalc.load("llama3").plan(users=3, gpu="l4")


def test_listings_and_files_equal_the_command(call: Call) -> None:
    """What has no model of its own is the JSON of its command too."""
    file = ROOT / "model_configs" / "deepseek-v2.yaml"
    log = ROOT / "tests" / "data" / "logs" / "vllm-10517.log"
    pairs: list[tuple[Any, list[str]]] = [
        (kvcalc.list_models("qwen3"), ["models", "qwen3"]),
        (kvcalc.list_gpus(), ["gpus"]),
        (kvcalc.list_engines(), ["engines"]),
        (kvcalc.list_dtypes(), ["dtypes"]),
        (kvcalc.validate([file]), ["validate", str(file)]),
        (kvcalc.import_model(file, name="mine"), ["import", str(file), "--name", "mine"]),
        (kvcalc.read_log(log, model="llama3.1-8b"), ["explain-log", str(log), "--model", "llama3.1-8b"]),
    ]
    for answer, arguments in pairs:
        assert answer == call(*arguments, "--json").answer
    assert kvcalc.json_schema("fit") == call("schema", "fit").answer


#: What only the command line does: it writes files, and one command of it stands for two questions.
NOT_IN_PYTHON = {"fit": {"engines"}, "measure": {"check"}}
TYPED = (
    "advise",
    "size",
    "fit",
    "explain",
    "variants",
    "sessions",
    "plan",
    "offload",
    "transfer",
    "measure",
    "compare",
)


@pytest.mark.parametrize("command", TYPED)
def test_every_option_has_its_keyword(command: str) -> None:
    """The typed keywords of a question are the long flags of its command, no more and no fewer."""
    flags = {python_name(option) for option in COMMANDS[command].options}
    flags -= {"format", "json", "models_dir", *NOT_IN_PYTHON.get(command, ())}
    if command == "plan":  # refused there: it searches over layouts and pools
        flags -= {"tp", "pp", "dp", "dcp", "pool"}
    typed = getattr(options, f"{command.capitalize()}Options")
    assert set(typed.__optional_keys__) == flags
    assert not typed.__required_keys__


def test_values_are_what_the_quick_parser_reads() -> None:
    """A keyword reaches its command as the text that would have been typed."""
    parsed = quick.parse(["fit", "llama3", "--kv-dtype", "k=q8_0", "--tp", "2", "--ep", "-o", "a=1", "-o", "b=2"])
    assert parsed is not None
    given = read_values("fit", {"kv_dtype": {"k": "q8_0"}, "tp": 2, "ep": True, "options": ["a=1", "b=2"]}, "llama3")
    assert given == parsed[1] | {"json": True}
    assert read_values("sessions", {"wait": 1e-05})["wait"] == "0.00001"
    assert read_values("size", {"context": None})["context"] is None


@pytest.mark.parametrize(
    "workload",
    [WORKLOAD, [(300, 100)], ((300, 100) for _ in range(2)), [[300, 100]]],
    ids=["mapping", "pair", "generator", "lists"],
)
def test_request_lengths_need_no_file(workload: Any, tmp_path: Path) -> None:
    """A workload may be handed over: equal lengths give equal answers, whatever they come from."""
    file = tmp_path / "w.json"
    file.write_text(json.dumps(WORKLOAD))
    model = kvcalc.load("llama3")
    wanted, found = model.sessions(pool="16GiB", workload=file), model.sessions(pool="16GiB", workload=workload)
    assert found["limits"] == wanted["limits"]
    assert found["workload"] == wanted["workload"]


@pytest.mark.parametrize(
    "workload", [7, [7], [(1, 2, 3)], [(0, 1)], [(1.5, 1)], [], {"prompt": 3}, [(True, 1)]], ids=repr
)
def test_impossible_lengths_are_refused(workload: Any) -> None:
    """What is no workload is an error that says what one is."""
    with pytest.raises(kvcalc.KvcalcError) as raised:
        kvcalc.load("llama3").sessions(pool="16GiB", workload=workload)
    assert raised.value.fix


def test_planner_is_made_once() -> None:
    """A sweep over contexts prepares each engine and layout once."""
    model = kvcalc.load("llama3")
    assert model.prepare(tp=2) is model.prepare(tp=2)
    assert model.prepare(tp=2) is not model.prepare(tp=4)
    assert model.prepare(options=["block_size=32"], engine="vllm") is model.prepare(
        options={"block_size": 32}, engine="vllm"
    )


@pytest.mark.parametrize(
    ("context", "sessions"), [(0, 1), (-1, 1), (True, 1), (1.5, 1), ("abc", 1), (1, 0), (1, 2**40)]
)
def test_impossible_loads_are_refused(context: int, sessions: int) -> None:
    """A load that cannot exist is an error, not a number: of a cache and of a question."""
    model = kvcalc.load("llama3")
    with pytest.raises(kvcalc.KvcalcError):
        model.cache(context, sessions)
    with pytest.raises(kvcalc.KvcalcError):
        model.size(context=context, sessions=sessions)


MISTAKES: dict[str, Any] = {
    "did you mean kv_dtype": lambda m: m.size(kv_dtyp="fp8"),
    "one of: ": lambda m: m.size(zzz=1),
    "fix": lambda m: m.size(context=math.nan),
    "give a number or text": lambda m: m.fit(tp=True, pool=1),
    "measure=True": lambda m: m.fit(measure="yes", pool=1),
    "options=[...]": lambda m: m.fit(options="block_size=16", pool=1),
    "pool": lambda m: m.fit(),
    "compare([...])": kvcalc.compare,
    "name one": lambda m: kvcalc.compare([]),
    "did you mean size": lambda m: m.ask("sise"),
    "one of: compare, ": lambda m: kvcalc.ask("completion", "bash"),
    "name TARGET": lambda m: kvcalc.ask("size"),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_mistakes_are_explained(said: str) -> None:
    """Every mistake is a KvcalcError with what to do, as on the command line."""
    with pytest.raises(kvcalc.KvcalcError) as raised:
        MISTAKES[said](kvcalc.load("llama3"))
    assert raised.value.fix is not None
    assert said == "fix" or said in raised.value.fix


def test_print_shows_the_page(call: Call) -> None:
    """`print(answer)` is what the command prints in a pipe; `repr` stays the dict."""
    answer = kvcalc.load("llama3").ask("size")
    assert f"{answer}\n" == call("size", "llama3").out
    assert repr(answer) == repr(dict(answer))
    answer.clear()
    assert (str(answer), answer._repr_html_()) == ("{}", "<pre>{}</pre>")


def test_notebook_shows_the_components() -> None:
    """The HTML forms name every array and its bytes, the model, and the verdict."""
    model = kvcalc.load("deepseek-v2")
    html = model.cache(1)._repr_html_()
    assert '<td class="n">latent</td>' in html
    assert "61,440" in html  # 60 layers x 512 x 2 B
    assert "deepseek-v2" in model._repr_html_()
    assert "DOES NOT FIT" in model.ask("fit", pool="1KiB")._repr_html_()


def test_notebook_escapes_what_files_say(tmp_path: Path) -> None:
    """No text of a model file or of a page becomes markup."""
    file = tmp_path / "hostile.yaml"
    file.write_text(
        f'name: "{HOSTILE}"\nlayers: 2\ndtype: bfloat16\nattention: {{kind: gqa, heads: 8, groups: 2, head_dim: 16}}\n'
    )
    model = kvcalc.load(file)
    page = Page(
        sheets=(
            Sheet(
                title=HOSTILE,
                lead=(HOSTILE,),
                columns=(Column(title=HOSTILE),),
                rows=((Cell(HOSTILE),),),
                total=(Cell(HOSTILE),),
                notes=(HOSTILE,),
            ),
        ),
        assumptions=(HOSTILE,),
        warnings=(HOSTILE,),
        verdict=HOSTILE,
        footer=(HOSTILE,),
    )
    for html in (model._repr_html_(), model.cache(1)._repr_html_(), page_html(page)):
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    assert page_html(page).count("&lt;script&gt;") == 10


def test_unknown_attribute() -> None:
    """The lazy module says what it does not have."""
    with pytest.raises(AttributeError, match="nothing"):
        _ = kvcalc.nothing
