"""Asks a real llama.cpp for the exact bytes of its context memory. Run as a process of its own: the library aborts on
some option sets, and an abort must only cost one answer.

Protocol: one JSON line in per model {"gguf": path, "options": [...]}, one JSON line out per option set, flushed.
The numbers come from `llama_get_memory_breakdown` (src/llama-ext.h): per buffer type the bytes of the memory module.
No weights: `llama_model_init_from_user` shapes every tensor from metadata, and `no_alloc` keeps them off the RAM.
"""

from __future__ import annotations

import ctypes as c
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

GGML_TYPES = {
    "float32": 0, "float16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bfloat16": 30,
}  # fmt: skip
FLASH = {"auto": -1, "off": 0, "on": 1}


class GgufParams(c.Structure):
    _fields_ = [("no_alloc", c.c_bool), ("ctx", c.c_void_p)]


def build() -> int:
    """The llama.cpp build of the installed wheel, the last part of its version."""
    return int(version("xllamacpp").rpartition(".")[2])


#: Fields that builds before this one do not have.
NEW = build() >= 11549


class ModelParams(c.Structure):
    """`llama_model_params` of llama.cpp b11549 and b10566."""

    _fields_ = [
        ("devices", c.c_void_p), ("tensor_buft_overrides", c.c_void_p),
        ("n_gpu_layers", c.c_int32), ("split_mode", c.c_int32), ("load_mode", c.c_int32),
        *([("lazy_mode", c.c_int32)] if NEW else []),
        ("main_gpu", c.c_int32), ("tensor_split", c.c_void_p), ("progress_callback", c.c_void_p),
        ("progress_callback_user_data", c.c_void_p), ("kv_overrides", c.c_void_p),
        ("vocab_only", c.c_bool), ("check_tensors", c.c_bool), ("use_extra_bufts", c.c_bool), ("no_host", c.c_bool),
        ("no_alloc", c.c_bool), *([("load_mtp", c.c_bool)] if NEW else []),
    ]  # fmt: skip


class ContextParams(c.Structure):
    """`llama_context_params` of llama.cpp b11549 and b10566."""

    _fields_ = [
        ("n_ctx", c.c_uint32), ("n_batch", c.c_uint32), ("n_ubatch", c.c_uint32), ("n_seq_max", c.c_uint32),
        ("n_rs_seq", c.c_uint32), ("n_outputs_max", c.c_uint32), ("n_outputs_max_per_seq", c.c_uint32),
        ("n_threads", c.c_int32), ("n_threads_batch", c.c_int32), ("ctx_type", c.c_int32),
        ("rope_scaling_type", c.c_int32), ("pooling_type", c.c_int32), ("attention_type", c.c_int32),
        ("flash_attn_type", c.c_int32), ("rope_freq_base", c.c_float), ("rope_freq_scale", c.c_float),
        ("yarn_ext_factor", c.c_float), ("yarn_attn_factor", c.c_float), ("yarn_beta_fast", c.c_float),
        ("yarn_beta_slow", c.c_float), ("yarn_orig_ctx", c.c_uint32), ("defrag_thold", c.c_float),
        ("cb_eval", c.c_void_p), ("cb_eval_user_data", c.c_void_p), ("type_k", c.c_int32), ("type_v", c.c_int32),
        ("abort_callback", c.c_void_p), ("abort_callback_data", c.c_void_p),
        *([("moe_cache_size", c.c_uint64)] if NEW else []),
        ("embeddings", c.c_bool), ("offload_kqv", c.c_bool), ("no_perf", c.c_bool), ("op_offload", c.c_bool),
        ("swa_full", c.c_bool), ("kv_unified", c.c_bool), ("samplers", c.c_void_p), ("n_samplers", c.c_size_t),
        ("ctx_other", c.c_void_p),
    ]  # fmt: skip


SET_TENSOR = c.CFUNCTYPE(None, c.c_void_p, c.c_void_p)
LOG = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)
BREAKDOWN = "_Z26llama_get_memory_breakdownPK13llama_context"  # C++ symbol: returns a std::map by hidden pointer


def library_path() -> Path:
    """The shared library inside the installed wheel, found without importing it."""
    from importlib.util import find_spec

    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("xllamacpp is not installed")
    return next(Path(spec.origin).parent.glob("xllamacpp*.so"))


class Engine:
    """The C API of llama.cpp, as far as asking for memory goes."""

    def __init__(self) -> None:
        self.lib = lib = c.CDLL(str(library_path()))
        lib.gguf_init_from_file.restype = c.c_void_p
        lib.gguf_init_from_file.argtypes = [c.c_char_p, GgufParams]
        lib.gguf_free.argtypes = lib.llama_free.argtypes = lib.llama_model_free.argtypes = [c.c_void_p]
        lib.llama_model_default_params.restype = ModelParams
        lib.llama_context_default_params.restype = ContextParams
        lib.llama_model_init_from_user.restype = c.c_void_p
        lib.llama_model_init_from_user.argtypes = [c.c_void_p, SET_TENSOR, c.c_void_p, ModelParams]
        lib.llama_init_from_model.restype = c.c_void_p
        lib.llama_init_from_model.argtypes = [c.c_void_p, ContextParams]
        for name in ("llama_n_ctx", "llama_n_ctx_seq", "llama_n_batch", "llama_n_ubatch", "llama_n_seq_max"):
            getattr(lib, name).argtypes = [c.c_void_p]
            getattr(lib, name).restype = c.c_uint32
        self.breakdown = getattr(lib, BREAKDOWN)
        self.breakdown.restype = None
        self.breakdown.argtypes = [c.c_void_p, c.c_void_p]
        self.log: list[str] = []
        self._keep = (LOG(self._logged), SET_TENSOR(lambda _tensor, _user: None))
        lib.llama_log_set.argtypes = [LOG, c.c_void_p]
        lib.llama_log_set(self._keep[0], None)
        lib.llama_backend_init()
        self._check_layout()

    def _logged(self, level: int, text: bytes, _user: int) -> None:
        if level == 4:  # GGML_LOG_LEVEL_ERROR
            self.log.append(text.decode(errors="replace").strip())

    def _check_layout(self) -> None:
        """A wheel of another build may have another struct: say so before any number is believed."""
        params = self.lib.llama_context_default_params()
        seen = (params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max, params.flash_attn_type,
                params.type_k, params.type_v, params.defrag_thold, params.embeddings, params.offload_kqv,
                params.no_perf, params.op_offload, params.swa_full, params.kv_unified)  # fmt: skip
        if seen != (512, 2048, 512, 1, -1, 1, 1, -1.0, False, True, True, True, True, False):
            raise SystemExit(f"llama_context_params has another layout than b11549: {seen}")

    def context_bytes(self, context: int) -> int:
        """Sum of `.context` over the nodes of std::map<buffer type, {model, context, compute}>."""
        header = (c.c_uint64 * 6)()
        self.breakdown(c.addressof(header), context)
        total, stack = 0, [header[2]]
        while stack:
            node = stack.pop()
            if node:
                total += _word(node + 48)
                stack += [_word(node + 16), _word(node + 24)]
        return total

    def load(self, path: str) -> int | None:
        params = self.lib.llama_model_default_params()
        params.no_alloc = True
        if NEW:
            params.load_mtp = True
        params.n_gpu_layers = 0
        header = self.lib.gguf_init_from_file(path.encode(), GgufParams(True, None))
        return self.lib.llama_model_init_from_user(header, self._keep[1], None, params) if header else None

    def ask(self, model: int, options: dict[str, object]) -> dict[str, object]:
        """One context: its bytes and sizes, or the engine's own refusal."""
        params = self.lib.llama_context_default_params()
        words = {"type_k": GGML_TYPES, "type_v": GGML_TYPES, "flash_attn_type": FLASH}
        for name, value in options.items():
            setattr(params, name, words[name][str(value)] if name in words else value)
        self.log.clear()
        context = self.lib.llama_init_from_model(model, params)
        if not context:
            return {"refused": self.log[-1] if self.log else "no reason given"}
        names = ("n_ctx", "n_ctx_seq", "n_batch", "n_ubatch", "n_seq_max")
        answer = {name: getattr(self.lib, f"llama_{name}")(context) for name in names}
        answer["context_bytes"] = self.context_bytes(context)
        self.lib.llama_free(context)
        return answer


def _word(address: int) -> int:
    return c.c_uint64.from_address(address).value


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # the library writes to stdout when it aborts: answers go to a copy
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    engine = Engine()
    for line in sys.stdin:
        job = json.loads(line)
        engine.log.clear()
        model = engine.load(job["gguf"])
        if not model:
            for _ in job["options"]:
                print(json.dumps({"unloadable": engine.log[-2:]}), file=answers, flush=True)
            continue
        for options in job["options"]:
            print(json.dumps(engine.ask(model, options)), file=answers, flush=True)
        engine.lib.llama_model_free(model)


if __name__ == "__main__":
    main()
