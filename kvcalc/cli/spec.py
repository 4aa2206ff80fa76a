"""The command line as data: every command, its arguments and options, said once.

typer's commands (`cli.app`), the quick parser (`cli.quick`) and the documentation are all made from this table.
A command's module of the same name in this package has `run(given) -> exit code`.
"""

from __future__ import annotations

from kvcalc.core.light import NamedTuple


class Opt(NamedTuple):
    """One option. Values stay text until `Given` reads them; `switch` takes no value, `many` may be repeated."""

    name: str
    flags: tuple[str, ...]
    metavar: str
    help: str
    many: bool = False
    switch: bool = False


class Argument(NamedTuple):
    """The positional argument of a command."""

    name: str
    metavar: str
    many: bool = False
    required: bool = True


def module_of(command: str) -> str:
    """The module of a command in this package; `import` is no name Python would accept."""
    return f"kvcalc.cli.{command.replace('-', '_')}" + ("_" if command == "import" else "")


class Spec(NamedTuple):
    """One command: a line for the list, a text for its --help with an example, what it takes."""

    summary: str
    text: str
    argument: Argument | None
    options: tuple[Opt, ...]


_OUTPUT = (
    Opt("format", ("--format",), "FORMAT", "table, plain, json, csv or markdown; default: table, plain in a pipe."),
    Opt("json", ("--json",), "", "Short for --format json.", switch=True),
)
_MODELS = (Opt("models_dir", ("--models-dir",), "DIR", "More model files (or KVCALC_MODELS)."),)
_CACHE = (
    Opt("context", ("-c", "--context"), "TOKENS", "Tokens per session, like 8192 or 128k (default 8k)."),
    Opt("sessions", ("-n", "--sessions"), "N", "Sessions (default 1)."),
    Opt("kv_dtype", ("--kv-dtype",), "TYPE", "KV type: fp8, or k=q8_0,v=q4_0 (default: the model's)."),
    Opt("state_dtype", ("--state-dtype",), "TYPE", "Recurrent states (default float32)."),
    Opt("index_dtype", ("--index-dtype",), "TYPE", "Indexer keys (default: the model's)."),
    Opt("engine", ("-e", "--engine"), "NAME", "Who allocates, like ideal or NAME@VERSION (default ideal)."),
    Opt("option", ("-o", "--option"), "KEY=VALUE", "Engine option; `kvcalc engines NAME` lists them.", many=True),
    Opt("tp", ("--tp",), "N", "Tensor parallel degree."),
    Opt("pp", ("--pp",), "N", "Pipeline parallel degree."),
    Opt("dp", ("--dp",), "N", "Data parallel degree."),
    Opt("dcp", ("--dcp",), "N", "Decode context parallel degree."),
    Opt("draft", ("--draft",), "LxHxD", "A draft model's cache beside it: layers x KV heads x head dim, like 1x8x128."),
    Opt("encoder_tokens", ("--encoder-tokens",), "N", "Encoder length, for models with cross attention."),
    Opt("gpu", ("--gpu",), "NAME[:N]", "GPU, like h100-80gb or h200:8; `kvcalc gpus` lists them."),
)
_POOL = (
    Opt("ep", ("--ep",), "", "Experts divided over TP x DP (expert parallel).", switch=True),
    Opt("weight_dtype", ("--weight-dtype",), "TYPE", "Type of the weights (default: the checkpoint's)."),
    Opt("pool", ("--pool",), "SIZE", "KV memory per GPU, like 24GiB: skips the ledger."),
    Opt("lora", ("--lora",), "SLOTSxRANK", "Adapters on the GPU, like 4x16."),
    Opt("overhead", ("--overhead",), "SIZE", "Replaces every line but weights and unused share."),
    Opt("gpu_total", ("--gpu-total",), "SIZE", "The GPU's memory as the engine's log prints it."),
)
_LOG = (Opt("from_log", ("--from-log",), "FILE", "An engine's start-up log: its numbers replace the estimates."),)
_LAYOUTS = (
    Opt("gpus", ("--gpus",), "N", "GPUs to divide the model over (with --layouts)."),
    Opt("layouts", ("--layouts",), "LIST", "Layouts side by side: tp8,dp8ep8,tp2dp4 or all."),
)
_ENGINES = (Opt("engines", ("--engines",), "LIST", "One row per engine: vllm,sglang or all."),)
_OFFLOAD = (
    Opt("host", ("--host",), "SIZE", "Host memory for idle sessions, like 1TiB."),
    Opt("disk", ("--disk",), "SIZE", "Disk for idle sessions."),
    Opt("link", ("--link",), "RATE", "From host memory to the GPUs, like 24GB/s or 400Gb/s (bits)."),
    Opt("disk_link", ("--disk-link",), "RATE", "From disk to the GPUs."),
    Opt("tier_dtype", ("--tier-dtype",), "TYPE", "Type below the GPU (default: the cache's)."),
    Opt("chunk", ("--chunk",), "TOKENS", "Tokens per stored chunk, 0 for none (default 256, as in LMCache)."),
)
_TRANSFER = (
    Opt("rate", ("--rate",), "N", "Requests per second."),
    Opt("link", ("--link",), "RATE", "Between prefill and decode, like 50GB/s or 400Gb/s (bits)."),
)
_PLAN = (
    Opt("users", ("--users",), "N", "Sessions at once that must be held."),
    Opt("max_context", ("--max-context",), "TOKENS", "The longest single session that must fit."),
    Opt("price", ("--price",), "USD", "Per GPU and hour: 2.95, or h100-80gb=2.95,h200=3.50 (default: published ones)."),
    Opt("max_gpus", ("--max-gpus",), "N", "GPUs of one replica at most (default 64)."),
    Opt("rows", ("--rows",), "N", "Sets to show (default 10)."),
)
#: Advice starts from a GPU: a pool could say nothing about another one.
_ADVICE = (
    *(option for option in _POOL if option.name != "pool"),
    Opt("rows", ("--rows",), "N", "Models to show (default 10; JSON and CSV have all)."),
)
_SWEEP = (
    Opt("context", ("-c", "--context"), "LIST", "Tokens per session: 8k,32k or 1k..1m or 4k..128k/4k (default 8k)."),
    Opt("sessions", ("-n", "--sessions"), "NUMBERS", "Sessions: 1,8 or 1..64 (default 1)."),
    Opt("kv_dtype", ("--kv-dtype",), "LIST", "KV types: bf16,fp8 (default: the model's)."),
    Opt("gpu", ("--gpu",), "LIST", "GPUs: h100-80gb,h200:8; adds what fits to each row."),
    Opt("engines", ("--engines",), "LIST", "Engines: ideal,vllm or all (default ideal)."),
    Opt("divisions", ("--layouts",), "LIST", "Layouts: tp1,tp8,tp2dp4 or auto, what fit chooses (default auto)."),
    Opt("file", ("--output",), "FILE", "Write here, .csv, .jsonl or .parquet; FILE.part until it is whole."),
    Opt("resume", ("--resume",), "", "Go on with FILE.part of the same sweep.", switch=True),
    Opt("force", ("--force",), "", "Replace FILE.", switch=True),
    Opt("jobs", ("--jobs",), "N", "Processes (default: one per CPU)."),
    Opt("row_format", ("--format",), "FORMAT", "csv, jsonl or parquet (default: FILE's suffix, else csv)."),
    Opt("json", ("--json",), "", "Short for --format jsonl.", switch=True),
)
_GATE = (
    Opt("require_sessions", ("--require-sessions",), "N", "Exit 1 when fewer sessions fit."),
    Opt("require_context", ("--require-context",), "TOKENS", "Exit 1 when a shorter context fits."),
)
_DEVICE = (Opt("device", ("--device",), "NAME", "Where to allocate: cuda, cuda:1 or cpu (default: the CUDA device)."),)
_MEASURE = (
    Opt("measure", ("--measure",), "", "Allocate it for real and compare to the byte.", switch=True),
    *_DEVICE,
)
_SHAPES = (
    Opt("latent_dim", ("--latent-dim",), "N", "MLA latent width (default 512)."),
    Opt("rope_dim", ("--rope-dim",), "N", "MLA rotary key width (default 64)."),
    Opt("window", ("--window",), "N", "Window of the sliding variant (default 4096)."),
    Opt("hybrid_window", ("--hybrid-window",), "N", "Window of the hybrid's local layers (default 1024)."),
    Opt("hybrid_local", ("--hybrid-local",), "N", "Local layers per global one (default 5)."),
)
_WORKLOAD = (
    Opt("workload", ("--workload",), "FILE", "Request lengths: YAML, JSON, or CSV/JSONL of prompt and output tokens."),
    Opt("input", ("--input",), "SHAPE", "Prompt lengths, like p50=900,p95=3000 or uniform=100-700 or 512."),
    Opt("output", ("--output",), "SHAPE", "Output lengths, like p50=150,p95=800."),
    Opt("shared_prompt", ("--shared-prompt",), "TOKENS", "One system prompt before every prompt."),
    Opt("image_tokens", ("--image-tokens",), "TOKENS", "Image tokens in every prompt."),
    Opt("arrivals", ("--arrivals",), "HOW", "closed (a session asks again at once) or poisson (default closed)."),
    Opt("wait", ("--wait",), "SHARE", "Accepted share of requests that wait (default 0.01)."),
    Opt("preempt", ("--preempt",), "SHARE", "Accepted preemptions per request."),
)
_PLOT = (
    Opt("what", ("--what",), "WHAT", "context (bytes), sessions or ledger (one GPU's memory); default: context."),
    Opt("file", ("--output",), "FILE", "Write a .png, .svg or .html instead of drawing here."),
    Opt("scale", ("--scale",), "HOW", "log or linear axes (default log)."),
    Opt("first", ("--from",), "TOKENS", "Where the contexts begin (default 1k)."),
    Opt("last", ("--to",), "TOKENS", "Where they end (default: the longest that one of the models allows)."),
)
_REPORT = (
    Opt("file", ("--output",), "FILE", "Write report.html or report.md instead of printing."),
    Opt("no_plots", ("--no-plots",), "", "No pictures: needs no drawing library.", switch=True),
    *(option for option in _WORKLOAD if option.name not in ("input", "output")),
)
_SERIES = (Opt("engines", ("--engines",), "LIST", "A series per engine: vllm,sglang or all."),)
#: What every point of a sweep shares of the common options.
_SHARED = (
    *("state_dtype", "index_dtype", "option", "draft", "encoder_tokens"),
    *("weight_dtype", "pool", "lora", "overhead", "gpu_total"),
)
_ONE = Argument("target", "TARGET")
_WORD = Argument("match", "[WORD]", required=False)


def examples(spec: Spec) -> list[str]:
    """The command lines of a command's help, each a paragraph of its own."""
    found = [part.partition("Example: ") for part in spec.text.split("\n\n")]
    return [line for before, word, line in found if word and not before]


COMMANDS: dict[str, Spec] = {
    "compare": Spec(
        "Models side by side: bytes per token, cache, max context, sessions.",
        "Models side by side on one GPU type: bytes per token, cache per session, ratio to their own MHA form, max "
        "context, sessions; with --layouts the same GPUs divided in several ways, with --engines one row per engine."
        "\n\nExample: kvcalc compare llama3 deepseek-v2 -c 128k --gpu h200"
        "\n\nExample: kvcalc compare deepseek-v3 --gpu h200 --gpus 8 --layouts tp8,dp8ep8,tp2dp4"
        "\n\nExample: kvcalc compare gemma3-27b --engines vllm,sglang,llama.cpp -c 32k --pool 24GiB",
        Argument("targets", "TARGET...", many=True),
        (*_CACHE, *_ENGINES, *_LAYOUTS, *_POOL, *_MODELS, *_MEASURE, *_OUTPUT),
    ),
    "size": Spec(
        "Bytes of a context x sessions, component by component.",
        "Bytes of a context x sessions, component by component.\n\n"
        "Example: kvcalc size gemma3-27b -c 128k -n 4 --kv-dtype fp8"
        "\n\nExample: kvcalc size my-model.yaml -c 32k --json"
        "\n\nExample: kvcalc size qwen3-8b -c 40k -e llama.cpp --kv-dtype k=q8_0,v=q4_0",
        _ONE,
        (*_CACHE, *_MODELS, *_MEASURE, *_OUTPUT),
    ),
    "explain": Spec(
        "The formula with this model's integers in it.",
        "The formula filled with this model's integers, term by term, and where each rule was read.\n\n"
        "Example: kvcalc explain qwen3-next-80b -c 128k"
        "\n\nExample: kvcalc explain deepseek-v3 -c 32k --tp 8",
        _ONE,
        (*_CACHE, *_MODELS, *_OUTPUT),
    ),
    "variants": Spec(
        "The same model as MHA, GQA, MQA, MLA, windowed, hybrid.",
        "The same model as MHA, GQA, MQA, MLA, windowed and hybrid, at equal budget.\n\n"
        "Example: kvcalc variants llama3 -c 32k"
        "\n\nExample: kvcalc variants llama3 -c 32k --gpu h200 --latent-dim 256",
        _ONE,
        (*_SHAPES, *_CACHE, *_POOL, *_MODELS, *_OUTPUT),
    ),
    "fit": Spec(
        "The GPU's memory, max context, sessions; exit 1 when it does not fit.",
        "The GPU's memory line by line, the longest context and the most sessions; exit 1 when the load does not fit. "
        "With request lengths (--workload, or --input and --output) also how many sessions of these lengths it holds."
        "\n\nExample: kvcalc fit llama3-70b --gpu h100-80gb --tp 4 -c 32k -n 8"
        "\n\nExample: kvcalc fit llama3.1-8b -e vllm --gpu l40s -c 32k --require-sessions 3"
        "\n\nExample: kvcalc fit qwen3-8b --pool 24GiB -c 32k --format csv",
        _ONE,
        (*_CACHE, *_ENGINES, *_POOL, *_LOG, *_GATE, *_WORKLOAD, *_MODELS, *_MEASURE, *_OUTPUT),
    ),
    "measure": Spec(
        "Allocate the cache on a device and compare to the byte.",
        "Allocates exactly the tensors of the plan with torch, reads the allocator, frees everything, and compares "
        "tensor by tensor. Exit 0 when equal, 1 when not, 4 when it cannot measure here. Under torchrun every rank "
        "measures its own plan.\n\nExample: kvcalc measure llama3 -c 1k --device cpu",
        Argument("target", "TARGET|FILE"),
        (
            *_CACHE,
            *_DEVICE,
            Opt(
                "full", ("--until-full",), "", "Find the largest context and session count by allocating.", switch=True
            ),
            Opt("limit", ("--limit",), "SIZE", "Memory that --until-full may take, like 2GiB (default: what is free)."),
            Opt("cache", ("--cache",), "NAME", "plan, or transformers: fill that library's own cache classes."),
            Opt("save", ("--save",), "FILE", "Keep the answer as JSON."),
            Opt(
                "check", ("--check",), "", "TARGET is a saved answer: compare today's prediction with it.", switch=True
            ),
            Opt("timeout", ("--timeout",), "SECONDS", "How long rank 0 waits for the other ranks (default 300)."),
            *_MODELS,
            *_OUTPUT,
        ),
    ),
    "explain-log": Spec(
        "What an engine's start-up log or refusal means, and what to change.",
        "Reads what vLLM, SGLang, llama.cpp, Ollama or TensorRT-LLM printed at start-up (FILE, or - for standard "
        "input): what each number means, whether it agrees with a model, what to change.\n\n"
        "Example: kvcalc explain-log server.log --model llama3.1-8b"
        "\n\nExample: kvcalc explain-log server.log --json",
        Argument("file", "FILE|-"),
        (
            Opt("model", ("--model",), "TARGET", "The model that was served: recompute the log's numbers."),
            Opt("gpu", ("--gpu",), "NAME", "The GPU it ran on, where the log does not say."),
            *_MODELS,
            *_OUTPUT,
        ),
    ),
    "sessions": Spec(
        "How many sessions of real lengths a pool holds, and what binds.",
        "How many sessions of real prompt and output lengths a pool holds before new requests wait; with -n, what "
        "happens at that number.\n\nExample: kvcalc sessions llama3.1-8b -e vllm --gpu h100-80gb "
        "--input p50=900,p95=3000 --output p50=150,p95=800"
        "\n\nExample: kvcalc sessions llama3.1-8b -e vllm --pool 40GiB --input 2k --output 256 -n 60",
        _ONE,
        (*_WORKLOAD, *_CACHE, *_POOL, *_LOG, *_MODELS, *_OUTPUT),
    ),
    "plan": Spec(
        "The cheapest GPUs that hold so many users.",
        "The cheapest sets of GPUs that hold so many sessions at once: GPU type, layout, replicas, headroom, "
        "flags, cost. --gpu and --kv-dtype take lists.\n\n"
        "Example: kvcalc plan llama3.3-70b --users 200 --gpu h100-80gb,h200,b200 "
        "--kv-dtype bf16,fp8 --input p50=900,p95=3000 --output p50=150,p95=800"
        "\n\nExample: kvcalc plan deepseek-v3 --users 50 -c 32k --gpu h200",
        _ONE,
        (*_PLAN, *_WORKLOAD, *_CACHE, *_POOL, *_MODELS, *_OUTPUT),
    ),
    "advise": Spec(
        "What binds, which change helps most, which models would hold it.",
        "Whether the asked load fits, what binds, and in numbers what would change that: KV type, layout, more or "
        "bigger GPUs, a shorter context, host memory, another attention, another model. Without TARGET it ranks the "
        "shipped models on the GPUs. Exit 0 whenever it has advice; `fit` is the gate.\n\n"
        "Example: kvcalc advise llama3.1-70b --gpu h100-80gb:4 -c 128k -n 50\n\n"
        "Example: kvcalc advise --gpu h100-80gb:4 -c 128k -n 50 --rows 5",
        Argument("target", "[TARGET]", required=False),
        (*_CACHE, *_ADVICE, *_MODELS, *_OUTPUT),
    ),
    "sweep": Spec(
        "Every combination of lists, one row each: CSV, JSON lines, Parquet.",
        "One row per model, engine, GPU, layout, KV type, context and number of sessions; what an engine refuses is a "
        "row with the reason. TARGET may be all or a pattern like 'qwen3*'.\n\n"
        "Example: kvcalc sweep llama3 deepseek-v2 -c 8k,32k,128k -n 1,8 --kv-dtype bf16,fp8",
        Argument("targets", "TARGET...", many=True),
        (*_SWEEP, *(option for option in (*_CACHE, *_POOL) if option.name in _SHARED), *_MODELS),
    ),
    "offload": Spec(
        "Idle sessions in host memory and on disk.",
        "Bytes of -n idle sessions of -c tokens below the GPU, how many fit in each tier, and how long they take to "
        "come back.\n\nExample: kvcalc offload qwen3-8b -n 300 -c 20000 --host 1TiB --link 24GB/s",
        _ONE,
        (*_OFFLOAD, *_CACHE, *_MODELS, *_OUTPUT),
    ),
    "transfer": Spec(
        "Hand-offs from prefill to decode.",
        "Bytes of a hand-off of -c tokens, bandwidth for a rate of requests, time on a link.\n\n"
        "Example: kvcalc transfer kimi-k2 -c 8150 --kv-dtype fp8 --rate 20 --link 50GB/s",
        _ONE,
        # One request at a time is handed over: no --sessions.
        (*_TRANSFER, *(option for option in _CACHE if option.name != "sessions"), *_MODELS, *_OUTPUT),
    ),
    "plot": Spec(
        "Cache or sessions against context, or a GPU's memory, as a picture.",
        "Draws the cache against the context, the sessions a GPU holds against the context (--what sessions), or where "
        "a GPU's memory goes (--what ledger): here, or as PNG, SVG or one HTML page that needs no network. "
        "--kv-dtype takes a list; CSV and JSON give the numbers.\n\n"
        "Example: kvcalc plot llama3.1-8b gemma3-27b deepseek-v2 --output cache.svg",
        Argument("targets", "TARGET...", many=True),
        (*_PLOT, *_CACHE, *_SERIES, *_POOL, *_LOG, *_MODELS, *_OUTPUT),
    ),
    "report": Spec(
        "One page to send: models, tables, ledger, pictures, assumptions.",
        "One page that says how much cache these models take on these GPUs, what fits, why, and how far to trust it: "
        "HTML with pictures (one file, offline, printable) or markdown. --workload adds sessions of real lengths.\n\n"
        "Example: kvcalc report llama3.1-8b gemma3-27b --gpu h200 -e vllm -c 32k -n 16 --output report.html",
        Argument("targets", "TARGET...", many=True),
        (*_REPORT, *_CACHE, *_POOL, *_LOG, *_MODELS, *_OUTPUT),
    ),
    "models": Spec(
        "The shipped models.",
        "The shipped models, all or those with WORD in a name.\n\nExample: kvcalc models qwen3"
        "\n\nExample: kvcalc models --json",
        _WORD,
        (*_MODELS, *_OUTPUT),
    ),
    "gpus": Spec(
        "The known GPUs, in the bytes their driver reports.",
        "The known GPUs, in the bytes their driver reports, all or those with WORD in a name.\n\n"
        "Example: kvcalc gpus h100"
        "\n\nExample: kvcalc gpus --format csv",
        _WORD,
        _OUTPUT,
    ),
    "engines": Spec(
        "The engines, or one engine's options.",
        "The engines, or one engine's options.\n\nExample: kvcalc engines ideal\n\nExample: kvcalc engines vllm",
        Argument("name", "[ENGINE]", required=False),
        _OUTPUT,
    ),
    "dtypes": Spec(
        "The element types and their true bytes.",
        "The element types and their true bytes.\n\nExample: kvcalc dtypes --json",
        None,
        _OUTPUT,
    ),
    "import": Spec(
        "A config.json, GGUF or hub model as a model YAML.",
        "Writes the model YAML of a Hugging Face config.json (or its folder), a GGUF header or hf:org/name, and notes "
        "in it what was derived and why.\n\nExample: kvcalc import my-model.yaml --name mine"
        "\n\nExample: kvcalc import my-model.yaml -o mine.yaml",
        Argument("source", "SRC"),
        (
            Opt("output", ("-o", "--output"), "FILE", "Write here instead of printing."),
            Opt("force", ("--force",), "", "Replace FILE.", switch=True),
            Opt("name", ("--name",), "NAME", "What the model is to be called."),
            *_MODELS,
            *_OUTPUT,
        ),
    ),
    "validate": Spec(
        "Check model files.",
        "Check model files: YAML, or a Hugging Face config.json. Exit 3 when one is broken.\n\n"
        "Example: kvcalc validate my-model.yaml",
        Argument("files", "FILE...", many=True),
        _OUTPUT,
    ),
    "schema": Spec(
        "JSON Schema of a model file, or of an answer.",
        "JSON Schema of a model file, or of the JSON that COMMAND answers with.\n\nExample: kvcalc schema fit"
        "\n\nExample: kvcalc schema model",
        Argument("of", "[model|COMMAND]", required=False),
        (),
    ),
    "doctor": Spec(
        "What this installation is made of, and what is broken in it.",
        "Versions and their ranges, extras, devices, models, cache and terminal; for each problem what to do. Exit 1 "
        "when there is one.\n\nExample: kvcalc doctor\n\nExample: kvcalc doctor --json",
        None,
        (*_MODELS, *_OUTPUT),
    ),
    "completion": Spec(
        "Tab completion for bash, zsh or fish.",
        "The script that completes commands, options, models, GPUs, engines and element types: load it in the shell's "
        "start-up file with `source <(kvcalc completion bash)`, the same with zsh (after compinit), or "
        "`kvcalc completion fish | source`.\n\nExample: kvcalc completion bash",
        Argument("shell", "bash|zsh|fish"),
        (),
    ),
}
