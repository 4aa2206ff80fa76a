"""Broken model files and what lies about instead of one: exit 3, the line and the fix, an empty stdout."""

from __future__ import annotations

from pathlib import Path

import pytest
from calling import Call
from sound import NAMED, TINY, Text


def block(text: str) -> str:
    return f"{NAMED}attention: {{{text}}}\n"


def pattern(text: str, blocks: str = "a: {kind: none}, b: {kind: mqa, heads: 2, head_dim: 4}") -> str:
    return f"{NAMED}attention: {{{blocks}}}\npattern: {text}\n"


FILES = [
    # contradictions inside a block
    Text(
        "gqa-no-groups",
        block("kind: gqa, heads: 8, head_dim: 4"),
        "5: attention.groups: gqa needs groups",
        "add groups",
    ),
    Text(
        "mha-groups",
        block("kind: mha, heads: 8, groups: 2, head_dim: 4"),
        "5: attention.groups: mha means groups = 8, but groups is 2",
        "kind: gqa with groups: 2",
    ),
    Text(
        "mqa-groups",
        block("kind: mqa, heads: 8, groups: 2, head_dim: 4"),
        "5: attention.groups: mqa means groups = 1, but groups is 2",
        "drop groups",
    ),
    Text(
        "groups-divide",
        block("kind: gqa, heads: 8, groups: 3, head_dim: 4"),
        "5: attention.groups: heads (8) is no multiple of groups (3)",
        "groups must divide heads",
    ),
    Text(
        "groups-above-heads",
        block("kind: gqa, heads: 4, groups: 8, head_dim: 4"),
        "5: attention.groups: heads (4) is no multiple of groups (8)",
        "groups must divide heads",
    ),
    Text(
        "window-and-chunk",
        block("kind: mqa, heads: 8, head_dim: 4, window: 8, chunk: 8"),
        "5: attention.chunk: a layer has window or chunk, not both",
        "keep window",
    ),
    Text(
        "sinks-without-window",
        block("kind: mqa, heads: 8, head_dim: 4, sinks: 4"),
        "5: attention.sinks are tokens kept beside a window, and there is no window",
        "add window",
    ),
    Text(
        "tied-unequal",
        block("kind: mqa, heads: 8, head_dim: 4, v_head_dim: 2, tied_kv: true"),
        "5: attention.v_head_dim: tied_kv stores one array",
        "drop v_head_dim or tied_kv",
    ),
    Text(
        "hca-index",
        block("kind: hca, heads: 8, head_dim: 4, tokens_per_slot: 4, window: 8, index_dim: 4"),
        "5: attention.index_dim: csa needs index_dim",
        "drop it from hca",
    ),
    Text(
        "csa-no-index",
        block("kind: csa, heads: 8, head_dim: 4, tokens_per_slot: 4, window: 8"),
        "5: attention.index_dim: csa needs index_dim",
        "add index_dim",
    ),
    Text(
        "mamba2-groups",
        block("kind: mamba2, heads: 8, groups: 3, head_dim: 4, state_dim: 4, conv_kernel: 4"),
        "5: attention.groups: heads (8) is no multiple of groups (3)",
        "groups must divide heads",
    ),
    Text(
        "gdn-heads",
        block("kind: gated_deltanet, key_heads: 3, value_heads: 4, key_dim: 4, value_dim: 4, conv_kernel: 4"),
        "5: attention.key_heads: value_heads (4) is no multiple of key_heads (3)",
        "key_heads must divide",
    ),
    Text(
        "rwkv-heads",
        block("kind: rwkv, hidden_dim: 8, head_dim: 3"),
        "5: attention.head_dim: hidden_dim (8) is no multiple of head_dim (3)",
        "head_dim must divide",
    ),
    Text(
        "cross-groups",
        block("kind: cross, heads: 8, groups: 3, head_dim: 4"),
        "5: attention.groups: heads (8) is no multiple of groups (3)",
        "groups must divide heads",
    ),
    # kinds and blocks
    Text("unknown-kind", TINY.replace("gqa", "gqqa"), "5: attention: unknown kind 'gqqa'", "did you mean gqa?"),
    Text("strange-kind", TINY.replace("gqa", "zzz"), "5: attention: unknown kind 'zzz'", "one of: mha, mqa, gqa, mla"),
    Text("kind-number", TINY.replace("gqa", "3"), "5: attention: unknown kind '3'", "one of: mha"),
    Text("no-kind", TINY.replace("kind: gqa, ", ""), "5: attention does not say its kind", "add kind: one of: mha"),
    Text("no-kind-named", pattern("[a]", "a: {heads: 8}"), "5: attention.a does not say its kind", "add kind: one of"),
    Text("attention-number", NAMED + "attention: 3\n", "5: attention must be a mapping, not 3", "kvcalc schema"),
    Text("attention-list", NAMED + "attention: [a]\n", "5: attention must be a mapping, not ['a']", "kvcalc schema"),
    Text("attention-empty", NAMED + "attention: {}\n", "5: attention is empty", "write {kind: ...}"),
    Text("attention-absent", NAMED, "1: attention is missing", "add attention: for example {kind: gqa"),
    Text(
        "block-name",
        pattern("[a b]", "a b: {kind: none}"),
        "5: attention.a b: 'a b' cannot name a block",
        "use letters",
    ),
    Text(
        "hf-key",
        TINY.replace("groups", "num_key_value_heads"),
        "5: attention.num_key_value_heads: unknown key",
        "here it is called groups",
    ),
    # patterns
    Text(
        "pattern-unknown-block",
        pattern("[a, bb]"),
        "6: pattern.1: pattern names 'bb', which is no block of attention",
        "did you mean b?",
    ),
    Text("pattern-strange-block", pattern("[a, zzzz]"), "6: pattern.1: pattern names 'zzzz'", "blocks: a, b"),
    Text("pattern-zero", pattern("[a*0, b]"), "6: pattern.0: 'a*0' repeats 0 times", "repeat 1 to 10000 times"),
    Text(
        "pattern-huge",
        pattern("[a*999999, b]"),
        "6: pattern.0: 'a*999999' repeats 999999 times",
        "repeat 1 to 10000 times",
    ),
    Text(
        "pattern-bomb",
        pattern("[a*9999, b]"),
        "6: pattern.0: pattern writes out more layers than layers: 4",
        "shorten pattern, or raise layers",
    ),
    Text(
        "pattern-long",
        pattern("[a, a, b, a, b]"),
        "6: pattern.4: pattern writes out more layers than layers: 4",
        "shorten pattern",
    ),
    Text("pattern-number", pattern("[a, 3]"), "6: pattern.1 must name a block, not 3", "write name, name*3"),
    Text(
        "pattern-nested",
        pattern("[[a, [b]]]"),
        "6: pattern.0 must name a block, not ['a', ['b']]",
        "write name, name*3",
    ),
    Text(
        "pattern-syntax",
        pattern("['a**2', b]"),
        "6: pattern.0: a pattern item is a block name, not 'a**2'",
        "write name, name*3",
    ),
    Text(
        "pattern-pair-star",
        pattern("[['a*2', b]]"),
        "6: pattern.0: a layer with several caches is a list of block names",
        "write [attn, ssm]",
    ),
    Text(
        "pattern-no-layer",
        pattern("[[], a, b]"),
        "6: pattern.0: a layer with several caches is a list of block names",
        "write [attn, ssm]",
    ),
    Text("pattern-empty", pattern("[]"), "6: pattern is empty", "name a block for each layer"),
    Text("pattern-text", pattern("ab"), "6: pattern must be a list, not 'ab'", "kvcalc schema"),
    Text(
        "pattern-leaves-block",
        pattern("[a]"),
        "5: attention.b: block 'b' is in no layer of the pattern",
        "use it in pattern",
    ),
    Text(
        "pattern-absent",
        pattern("[a]").replace("pattern: [a]\n", ""),
        "1: pattern: 2 blocks and no pattern",
        "add pattern: [a, b]",
    ),
    Text(
        "pattern-of-unnamed",
        TINY + "pattern: [a]\n",
        "6: pattern names blocks, but attention has one unnamed block",
        "name it",
    ),
    Text(
        "shared-unknown",
        pattern("[a, b]", "a: {kind: shared, of: c}, b: {kind: none}"),
        "5: attention.a.of: block 'a' shares the cache of 'c', which is no block",
        "blocks: a, b",
    ),
    Text(
        "shared-of-itself",
        pattern("[a]", "a: {kind: shared, of: a}"),
        "5: attention.a.of: block 'a' shares the cache of 'a', which has none of its own",
        "name the block that writes",
    ),
    # fields around the blocks
    Text("layers-zero", TINY.replace("layers: 4", "layers: 0"), "2: layers is 0, below 1", "config.json"),
    Text("layers-negative", TINY.replace("layers: 4", "layers: -4"), "2: layers is -4, below 1", "config.json"),
    Text("layers-huge", TINY.replace("layers: 4", "layers: 10001"), "2: layers is 10001, above 10,000", "config.json"),
    Text(
        "layers-float",
        TINY.replace("layers: 4", "layers: 4.0"),
        "2: layers must be a whole number, not 4.0",
        "as an integer",
    ),
    Text(
        "layers-text",
        TINY.replace("layers: 4", "layers: four"),
        "2: layers must be a whole number, not 'four'",
        "as an integer",
    ),
    Text(
        "layers-bool",
        TINY.replace("layers: 4", "layers: true"),
        "2: layers must be a whole number, not True",
        "as an integer",
    ),
    Text("layers-nan", TINY.replace("layers: 4", "layers: .nan"), "2: '.nan' is no finite number", "check the value"),
    Text("layers-inf", TINY.replace("layers: 4", "layers: -.inf"), "2: '-.inf' is no finite number", "check the value"),
    Text(
        "layers-overflow",
        TINY.replace("layers: 4", "layers: 1e999"),
        "2: '1e999' is no finite number",
        "check the value",
    ),
    Text("layers-empty", TINY.replace("layers: 4", "layers:"), "2: layers is empty", "write a value"),
    Text("layers-missing", TINY.replace("layers: 4\n", ""), "1: layers is missing", "add layers: the number of layers"),
    Text("digits", TINY.replace("1000000", "9" * 4000), "4: '999", "check the value"),
    Text("parameters-zero", TINY.replace("1000000", "0"), "4: parameters is 0, below 1", "config.json"),
    Text(
        "parameters-exponent",
        TINY.replace("1000000", "8e9"),
        "4: parameters must be a whole number, not 8000000000.0",
        "as an integer",
    ),
    Text("max-context", TINY + "max_context: 0\n", "6: max_context is 0, below 1", "config.json"),
    Text(
        "hidden-size", TINY + "hidden_size: true\n", "6: hidden_size must be a whole number, not True", "as an integer"
    ),
    Text("vocab-size", TINY + "vocab_size: -1\n", "6: vocab_size is -1, below 1", "config.json"),
    Text(
        "dtype-unknown",
        TINY.replace("bfloat16", "bfloat15"),
        "3: dtype: unknown dtype 'bfloat15'",
        "did you mean bfloat16",
    ),
    Text("dtype-number", TINY.replace("bfloat16", "16"), "3: dtype must be text, not 16", "in quotes"),
    Text("cache-dtype", TINY + "cache_dtype: fp7\n", "6: cache_dtype: unknown dtype 'fp7'", "did you mean fp8?"),
    Text("state-dtype", TINY + "state_dtype: fp7\n", "6: state_dtype: unknown dtype 'fp7'", "did you mean fp8?"),
    Text("index-dtype", TINY + "index_dtype: fp7\n", "6: index_dtype: unknown dtype 'fp7'", "did you mean fp8?"),
    Text("name-empty", TINY.replace("tiny", '""'), "1: name is empty", "write a value"),
    Text("name-number", TINY.replace("tiny", "3"), "1: name must be text, not 3", "in quotes"),
    Text("name-long", TINY.replace("tiny", "x" * 300), "1: name is too long: 'xxx", "shorten it"),
    Text(
        "name-escape",
        TINY.replace("tiny", r'"\e[31mred"'),
        "1: name has control characters: '\\x1b[31mred'",
        "remove them",
    ),
    Text(
        "source-escape", TINY + 'source: {note: "\\x9b31m"}\n', "6: source.note has control characters", "remove them"
    ),
    Text("aliases-text", TINY + "aliases: x\n", "6: aliases must be a list, not 'x'", "kvcalc schema"),
    Text("aliases-number", TINY + "aliases: [3]\n", "6: aliases.0 must be text, not 3", "in quotes"),
    Text("notes-text", TINY + "notes: x\n", "6: notes must be a list, not 'x'", "kvcalc schema"),
    Text("facts-list", TINY + "facts: [1]\n", "6: facts must be a mapping, not [1]", "kvcalc schema"),
    Text(
        "facts-deep",
        TINY + "facts: {a: [1]}\n",
        "6: facts.a must be a number, text, true or false, not [1]",
        "single values",
    ),
    Text(
        "mtp-block",
        TINY + "mtp: {layers: 1, block: b}\n",
        "6: mtp.block: mtp names 'b', which is no block",
        "blocks: attention",
    ),
    Text(
        "unknown-key",
        TINY.replace("parameters", "paramters"),
        "4: paramters: unknown key 'paramters'",
        "did you mean parameters",
    ),
    Text("strange-key", TINY + "zzz: 3\n", "6: zzz: unknown key 'zzz'", "known here: name, aliases"),
    Text(
        "hf-top-key",
        TINY.replace("layers", "num_hidden_layers"),
        "2: num_hidden_layers: unknown key",
        "here it is called layers",
    ),
    # the file itself
    Text("empty", "", " the file is empty", "kvcalc schema"),
    Text("comment", "# nothing\n", " the file is empty", "kvcalc schema"),
    Text("list", "- a\n- b\n", "1: a model file is a mapping of fields, not ['a', 'b']", "write name:"),
    Text("scalar", "hello\n", "1: a model file is a mapping of fields, not 'hello'", "write name:"),
    Text("syntax", TINY + "facts: {a: 1\n", "7: not valid YAML: ", "check the syntax at this line"),
    Text("indentation", "name: tiny\n  layers: 4\n", "2: not valid YAML: ", "check the syntax at this line"),
    Text("tab", "name: tiny\n\tlayers: 4\n", "2: not valid YAML: ", "check the syntax at this line"),
    Text("control", "name: ti\x01ny\n", " not valid YAML: ", "check the file"),
    Text(
        "alias-bomb",
        "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        "1: YAML anchors and aliases are not read",
        "write the value out",
    ),
    Text("tag", TINY.replace("tiny", "!!str tiny"), "1: YAML tag tag:yaml.org,2002:str is not read", "drop the tag"),
    Text(
        "python-tag",
        '!!python/object/apply:os.system ["true"]\n',
        "1: YAML tag tag:yaml.org,2002:python/object",
        "drop the tag",
    ),
    Text("two-documents", f"{TINY}---\n{TINY}", "6: more than one document in the file", "one model per file"),
    Text("duplicate", TINY + "layers: 5\n", "6: layers: 'layers' is given twice", "keep one"),
    Text(
        "duplicate-inside",
        TINY.replace("heads: 8", "heads: 8, heads: 8"),
        "5: heads: 'heads' is given twice",
        "keep one",
    ),
    Text("complex-key", TINY + "? [a]\n: 3\n", "6: a key must be a word", "write key: value"),
    Text("merge-key", TINY + "<<: {a: 3}\n", "6: <<: unknown key '<<'", "known here"),
    Text("deep", "a: " + "[" * 100 + "]" * 100, "1: nested deeper than 24 levels", "flatten it"),
    Text("deep-unclosed", "{a: " * 100_000, "1: nested deeper than 24 levels", "flatten it"),
]


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.id)
def test_model_file(call: Call, tmp_path: Path, case: Text) -> None:
    """A broken YAML file: exit 3, `file:line: field: what` and the fix on stderr, nothing on stdout."""
    path = tmp_path / "model.yaml"
    path.write_text(case.text, encoding="utf-8")
    done = call("size", str(path))
    first, second = done.err.splitlines()
    assert (done.code, done.out) == (3, "")
    assert first.startswith(f"kvcalc: {path}:{case.says}")
    assert second.startswith("  ")
    assert case.fix in second
