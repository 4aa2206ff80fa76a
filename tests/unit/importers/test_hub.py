"""`hf:` targets: against a hub of this machine (with huggingface_hub) and against its absence."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from test_safetensors import LLAMA, packed

from kvcalc.errors import UsageError
from kvcalc.importers.hub import read_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = packed({"w": ("BF16", [4, 8]), "v": ("F32", [2])})
INDEX = {"metadata": {}, "weight_map": {"w": "model-1.safetensors", "v": "model-2.safetensors"}}
REPOS: dict[str, dict[str, bytes]] = {
    "org/one": {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": WEIGHTS},
    "org/two": {
        "config.json": json.dumps(LLAMA).encode(),
        "model.safetensors.index.json": json.dumps(INDEX).encode(),
        "model-1.safetensors": packed({"w": ("BF16", [4, 8])}),
        "model-2.safetensors": packed({"v": ("F32", [2])}),
    },
    "org/bare": {"config.json": json.dumps(LLAMA).encode()},
    "org/no-config": {"README.md": b"hello"},
    "org/list": {"config.json": b"[1, 2]"},
    "org/broken": {"config.json": json.dumps(LLAMA).encode(), "model.safetensors": b"\xff" * 64},
}
needs_hub = pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="needs huggingface_hub (kvcalc[hub])")


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as the client asks for. `served` counts bytes of bodies."""

    served: list[tuple[str, int]] = []  # noqa: RUF012  one server per test session

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        repo = "/".join(parts[:2])
        if repo == "org/gated":
            return self._fail(403, "GatedRepo")
        if repo == "org/down":
            return self._fail(404 if "config.json" not in self.path else 418, "Teapot")
        if repo not in REPOS or len(parts) < 5:
            return self._fail(404, "RepoNotFound")
        if parts[3] not in ("main", COMMIT):
            return self._fail(404, "RevisionNotFound")
        content = REPOS[repo].get("/".join(parts[4:]))
        if content is None:
            return self._fail(404, "EntryNotFound")
        return self._send(content, body=body)

    def _send(self, content: bytes, *, body: bool) -> None:
        asked = self.headers.get("Range")
        start, stop = 0, len(content)
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last) + 1, len(content))
        part = content[start:stop]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.served.append((self.path, len(part)))
            self.wfile.write(part)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(target: str, endpoint: str, home: Path, **more: str) -> tuple[int, dict[str, Any]]:
    """`kvcalc size TARGET --json` in a process of its own: the hub client reads its environment at import."""
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()
    }
    env = inherited | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"} | more
    words = [sys.executable, "-m", "kvcalc", "fit", target, "-c", "1k", "--gpu", "h100-80gb", "--json"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads(done.stdout or done.stderr)


@needs_hub
@pytest.mark.parametrize("repo", ["org/one", "org/two"])
def test_config_and_sizes_come_from_the_hub(repo: str, endpoint: str, tmp_path: Path) -> None:
    """Weights are 32 bfloat16 and 2 float32 parameters; only the config and headers were fetched."""
    Hub.served.clear()
    code, answer = run(f"hf:{repo}", endpoint, tmp_path)
    assert code == 0, answer
    assert answer["model"]["parameters"] == 34
    assert answer["model"]["source"]["revision"] == COMMIT
    assert answer["model"]["source"]["repo"] == repo
    assert -72 in [line["bytes"] for line in answer["ledger"]]
    assert answer["total_bytes"] == 2 * 1024 * 2 * 2 * 16 * 2  # layers, tokens, K and V, KV heads, head_dim, bytes
    assert any("config.json" in path for path, _ in Hub.served)


@needs_hub
def test_a_revision_can_be_named(endpoint: str, tmp_path: Path) -> None:
    """`@revision` is a branch, tag or commit; one that does not exist is refused."""
    code, answer = run(f"hf:org/one@{COMMIT}", endpoint, tmp_path)
    assert code == 0, answer
    code, answer = run("hf:org/one@v9", endpoint, tmp_path)
    assert code == 2
    assert "no revision 'v9'" in answer["error"]["message"]


@needs_hub
def test_the_cache_is_used_offline(endpoint: str, tmp_path: Path) -> None:
    """After one download the model is read without the hub; only its weights are then unknown."""
    assert run("hf:org/one", endpoint, tmp_path)[0] == 0
    code, answer = run("hf:org/one", endpoint, tmp_path, HF_HUB_OFFLINE="1")
    assert code == 2  # fit needs the weights; the cache alone would do for size
    assert "parameters" in answer["error"]["message"]
    code, answer = run("hf:org/never", endpoint, tmp_path, HF_HUB_OFFLINE="1")
    assert code == 2
    assert "not in its cache" in answer["error"]["message"]


FAILURES = {
    "org/gated": "is gated",
    "org/none": "does not exist",
    "org/no-config": "has no config.json",
    "org/down": "HTTP 418",
}


@needs_hub
@pytest.mark.parametrize("repo", FAILURES)
def test_what_goes_wrong_is_said(repo: str, endpoint: str, tmp_path: Path) -> None:
    """One JSON object on stderr: what happened and what to do; exit code 2."""
    code, answer = run(f"hf:{repo}", endpoint, tmp_path)
    assert code == 2
    assert FAILURES[repo] in answer["error"]["message"]
    assert answer["error"]["fix"]


@needs_hub
def test_a_config_that_is_no_object_is_a_bad_file(endpoint: str, tmp_path: Path) -> None:
    assert run("hf:org/list", endpoint, tmp_path)[0] == 3


@needs_hub
@pytest.mark.parametrize("repo", ["org/bare", "org/broken"])
def test_without_headers_the_weights_are_asked_for(repo: str, endpoint: str, tmp_path: Path) -> None:
    """No number is invented for weights that cannot be read."""
    code, answer = run(f"hf:{repo}", endpoint, tmp_path)
    assert code == 2
    assert "parameters" in answer["error"]["message"]


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub is an extra."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="huggingface_hub") as error:
        read_hub("hf:org/name")
    assert "kvcalc[hub]" in (error.value.fix or "")


@pytest.mark.parametrize(
    "target",
    [
        "hf:",
        "hf:/",
        "hf:org/",
        "hf:a/b/c",
        "hf:../x",
        "hf:org/..",
        "hf:org/name@",
        "hf:org/name@-x",
        "hf:org/a b",
        "hf:o--g/x",
    ],
)
def test_malformed_targets_are_refused_without_asking(target: str) -> None:
    with pytest.raises(UsageError, match="is no hub model"):
        read_hub(target)


class FailingClient(ModuleType):
    """A client whose every call fails."""

    def __init__(self, failure: Exception) -> None:
        super().__init__("huggingface_hub")
        self.failure = failure

    def hf_hub_download(self, *_: Any, **__: Any) -> str:
        raise self.failure


class ReadTimeout(Exception):
    pass


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (ReadTimeout("x"), "the hub did not answer within 10 s"),
        (ConnectionResetError("x"), "cannot read org/name from the hub (ConnectionResetError)"),
        (RuntimeError("token hf_secret"), "cannot read org/name from the hub (RuntimeError)"),
    ],
)
def test_any_failure_of_the_client_is_an_error_of_ours(
    failure: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timeouts and unknown failures name the class, never the message: it may hold a token."""
    utils = SimpleNamespace(
        logging=SimpleNamespace(set_verbosity_error=lambda: None), disable_progress_bars=lambda: None
    )
    for name, module in {"": FailingClient(failure), ".utils": utils, ".errors": SimpleNamespace()}.items():
        monkeypatch.setitem(sys.modules, f"huggingface_hub{name}", module)
    with pytest.raises(UsageError) as error:
        read_hub("hf:org/name")
    assert str(error.value) == words
