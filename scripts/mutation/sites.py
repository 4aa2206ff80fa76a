"""Where a module can be changed, and how: the mutants of one file.

One mutant changes one thing. Left alone, because no answer hangs on them: annotations, decorators, docstrings, what a
`raise` says, sentences (strings with a space, f-string text), citations and help texts.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

COMPARE: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
#: `//` becomes `/`: equal in value where it divides, so only a test that looks at the type or a remainder sees it.
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Div,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitXor,
}
SWAPPED_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
#: Words for people and citations: changing them changes no number and no decision.
WORDS = frozenset({"fix", "field", "value", "help", "source", "strict", "text", "note", "example", "label", "key"})


class Site(NamedTuple):
    """One mutant. owner: the module-level name it changes, empty inside a function body; inside: the name it is in."""

    line: int
    last_line: int
    column: int
    what: str
    owner: str
    inside: str
    apply: Callable[[], None]


def sites(tree: ast.Module) -> list[Site]:
    """All mutants of a module, always in the same order."""
    return list(_Walker().statements(tree.body))


class _Walker:
    def __init__(self) -> None:
        self.owner = ""
        self.in_function = 0

    def site(self, node: ast.AST, what: str, apply: Callable[[], None]) -> Site:
        line = getattr(node, "lineno", 0)
        owner = "" if self.in_function else self.owner
        return Site(
            line, getattr(node, "end_lineno", line), getattr(node, "col_offset", 0), what, owner, self.owner, apply
        )

    def statements(self, body: list[ast.stmt]) -> Iterator[Site]:
        for index, node in enumerate(body):
            yield from self.statement(node, body, index)

    def statement(self, node: ast.stmt, body: list[ast.stmt], index: int) -> Iterator[Site]:
        new, what = self.replaced(node)
        if new is not None:
            put = functools.partial(body.__setitem__, index, ast.copy_location(new, node))
            yield self.site(node, what, put)
        if isinstance(node, ast.FunctionDef):
            yield from self.function(node)
        elif isinstance(node, ast.ClassDef):
            yield from self.klass(node)
        elif isinstance(node, ast.If) and _said(node.test) == "TYPE_CHECKING":
            yield from self.statements(node.orelse)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and not self.in_function:
            yield from self.constant(node)
        elif not isinstance(node, ast.Raise | ast.Import | ast.ImportFrom) and not _is_text(node):
            yield from self.children(node)

    @staticmethod
    def replaced(node: ast.stmt) -> tuple[ast.stmt | None, str]:
        """What stands in place of a whole statement, if anything."""
        if isinstance(node, ast.Raise):
            return ast.Pass(), "raise -> pass"
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            return ast.Pass(), "statement -> pass"
        if isinstance(node, ast.Break | ast.Continue):
            new = ast.Continue() if isinstance(node, ast.Break) else ast.Break()
            return new, f"{_said(node)} -> {_said(new)}"
        if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
            return ast.Return(ast.Constant(None)), "return -> None"
        return None, ""

    def function(self, node: ast.FunctionDef) -> Iterator[Site]:
        outer, self.owner = self.owner, self.owner or node.name
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if default is not None:
                yield from self.child(node.args, default)
        self.in_function += 1
        yield from self.statements(node.body)
        self.in_function -= 1
        self.owner = outer

    def klass(self, node: ast.ClassDef) -> Iterator[Site]:
        if any(_said(base) == "Protocol" for base in node.bases):
            return
        outer, self.owner = self.owner, self.owner or node.name
        yield from self.statements(node.body)
        self.owner = outer

    def constant(self, node: ast.Assign | ast.AnnAssign) -> Iterator[Site]:
        """A module's or a class's name; a name for a type is left alone."""
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if _is_type(node.value) or _said(target) == "__all__":
            return
        outer, self.owner = self.owner, self.owner or _said(target)
        if node.value is not None:
            yield from self.child(node, node.value)
        self.owner = outer

    def children(self, node: ast.AST) -> Iterator[Site]:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "ctx", "targets", "target"):
                continue
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield from self.statements(value)
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self.child(node, child)

    def child(self, parent: ast.AST, node: ast.AST) -> Iterator[Site]:
        """An expression and what is in it."""
        put = _replacer(parent, node)
        if isinstance(node, ast.Constant):
            for new in _constants(node.value):
                yield self.site(node, f"{node.value!r} -> {new!r}", put(ast.Constant(new)))
            return
        if isinstance(node, ast.JoinedStr):
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    yield from self.child(part, part.value)
            return
        if isinstance(node, ast.Subscript) and _said(node.value) == "Literal":
            return
        if _is_test(parent, node) and not isinstance(node, ast.Compare | ast.BoolOp | ast.Constant):
            new_test = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) else None
            yield self.site(
                node,
                f"negate {_said(node)}",
                put(new_test or ast.UnaryOp(ast.Not(), node)),  # type: ignore[arg-type]
            )
        if isinstance(parent, ast.comprehension) and node in parent.ifs:
            yield self.site(node, f"drop if {_said(node)}", put(ast.Constant(True)))
        yield from self.expression(node, put)
        if isinstance(node, ast.Call):
            yield from self.call(node)
        else:
            yield from self.children(node)

    def expression(self, node: ast.AST, put: Callable[[ast.expr], Callable[[], None]]) -> Iterator[Site]:
        if isinstance(node, ast.Compare):
            for index, op in enumerate(node.ops):
                for new in COMPARE[type(op)]:
                    what = f"{type(op).__name__} -> {new.__name__} in {_said(node)}"
                    yield self.site(node, what, lambda i=index, n=new: node.ops.__setitem__(i, n()))  # type: ignore[misc]
        elif isinstance(node, ast.BoolOp):
            for index, operand in enumerate(node.values):
                what = f"drop {_said(operand)} of {_said(node)}"
                if len(node.values) == 2:
                    yield self.site(operand, what, put(node.values[1 - index]))
                else:
                    yield self.site(operand, what, functools.partial(node.values.pop, index))
        elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
            new_op = ARITHMETIC[type(node.op)]
            what = f"{type(node.op).__name__} -> {new_op.__name__} in {_said(node)}"
            yield self.site(node, what, lambda: setattr(node, "op", new_op()))
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield self.site(node, f"drop minus of {_said(node)}", put(node.operand))

    def call(self, node: ast.Call) -> Iterator[Site]:
        name = _said(node.func)
        if name in SWAPPED_CALLS:
            new = ast.copy_location(ast.Name(SWAPPED_CALLS[name], ast.Load()), node.func)
            yield self.site(node, f"{name} -> {SWAPPED_CALLS[name]}", lambda: setattr(node, "func", new))
        yield from self.child(node, node.func)
        for argument in node.args[1:] if name in ("cast", "isinstance") else node.args:
            if name != "isinstance":
                yield from self.child(node, argument)
        if name == "isinstance":
            yield from self.child(node, node.args[0])
        for keyword in node.keywords:
            if keyword.arg in WORDS:
                continue
            if self.in_function and keyword.arg is not None:
                drop = lambda k=keyword: node.keywords.remove(k)  # noqa: E731  # one more closure of this table
                yield self.site(keyword, f"drop {keyword.arg}= of {name}()", drop)
            yield from self.child(keyword, keyword.value)


def _constants(value: object) -> list[object]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value + 1, value * 0.9]
    if isinstance(value, str) and " " not in value:
        return [value + "X"]
    return []


def _replacer(parent: ast.AST, node: ast.AST) -> Callable[[ast.expr], Callable[[], None]]:
    def put(new: ast.expr) -> Callable[[], None]:
        def apply() -> None:
            ast.copy_location(new, node)
            for field, value in ast.iter_fields(parent):
                if value is node:
                    setattr(parent, field, new)
                elif isinstance(value, list):
                    value[:] = [new if item is node else item for item in value]

        return apply

    return put


def _is_test(parent: ast.AST, node: ast.AST) -> bool:
    tested = isinstance(parent, ast.If | ast.IfExp | ast.While) and parent.test is node
    return tested or (isinstance(parent, ast.comprehension) and node in parent.ifs)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_type(node: ast.AST | None) -> bool:
    """`A | B`, Literal[...], Callable[...], ...: a name for a type."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _is_type(node.left) or (isinstance(node.left, ast.Name) and not node.left.id.isupper())
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)


def _said(node: ast.AST) -> str:
    return ast.unparse(node)
