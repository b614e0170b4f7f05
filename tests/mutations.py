"""The small mistakes of `tests/mutants.py`, as changes of expressions."""

import ast
from collections.abc import Iterator
from copy import deepcopy

Change = tuple[ast.AST, ast.AST]
"""A node of the source, and what comes in its place; see `spelling`."""

COMPARED = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
CALCULATED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
SWAPPED = {
    name: other
    for pair in (
        ("min", "max"),
        ("amin", "amax"),
        ("argmin", "argmax"),
        ("any", "all"),
        ("sum", "mean"),
        ("floor", "ceil"),
        ("add_", "sub_"),
        ("zeros_like", "ones_like"),
        ("new_zeros", "new_ones"),
        ("append", "extend"),
    )
    for name, other in (pair, pair[::-1])
}
LEFT_OUT = (
    "abs",
    "masked_fill",
    "where",
    "detach",
    "clamp",
    "nan_to_num",
    "clone",
    "flip",
    "square",
)
"""Methods without which their object often has the right shape still."""
UNSEEN = ("device", "stable", "strict")
"""Keywords without which nothing differs on a CPU, which sorts stably, or where lengths agree."""
NOT_CODE = ("annotation", "returns", "decorator_list")


def changes(tree: ast.AST) -> Iterator[Change]:
    """Every change of one expression; none in types, text, messages, or our own assertions."""
    for node in _code(tree):
        for new in _of(node):
            yield node, new


def _code(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.JoinedStr | ast.Assert | ast.Raise | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING",):
        return
    if isinstance(node, ast.keyword) and node.arg in UNSEEN:
        return
    yield node
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and name not in NOT_CODE:
                yield from _code(child)


def spelling(node: ast.AST, new: ast.AST) -> str:
    """What stands in the place of a node."""
    text = ast.unparse(ast.fix_missing_locations(new))
    return text if isinstance(node, ast.stmt) else f"({text})"


def _of(node: ast.AST) -> Iterator[ast.AST]:
    for kind, change in _CHANGES.items():
        if isinstance(node, kind):
            yield from change(node)


def _but(node: ast.AST, **changed: object) -> ast.AST:
    """The node with some fields changed."""
    copy = deepcopy(node)
    for name, value in changed.items():
        setattr(copy, name, value)
    return copy


def _compare(node: ast.Compare) -> Iterator[ast.AST]:
    for i, op in enumerate(node.ops):
        for other in COMPARED[type(op)]:
            yield _but(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])


def _bool_op(node: ast.BoolOp) -> Iterator[ast.AST]:
    yield _but(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    for i in range(len(node.values)):
        rest = [*node.values[:i], *node.values[i + 1 :]]
        yield rest[0] if len(rest) == 1 else _but(node, values=rest)


def _unary(node: ast.UnaryOp) -> Iterator[ast.AST]:
    if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield node.operand


def _bin_op(node: ast.BinOp) -> Iterator[ast.AST]:
    if _is_path(node):
        return
    if type(node.op) in CALCULATED and not _is_type(node):
        yield _but(node, op=CALCULATED[type(node.op)]())
    if isinstance(node.op, ast.Mult | ast.Div | ast.BitAnd) and not _is_type(node):
        yield node.left


def _is_path(node: ast.BinOp) -> bool:
    """`folder / "name"`, which Python itself would refuse with another sign."""
    named = isinstance(node.right, ast.Constant) and isinstance(node.right.value, str)
    return isinstance(node.op, ast.Div) and (named or isinstance(node.right, ast.JoinedStr))


def _is_type(node: ast.AST) -> bool:
    """Whether it may be `int | None`, which stands in aliases and `isinstance` too."""
    names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name)]
    return isinstance(getattr(node, "op", None), ast.BitOr) and (
        any(isinstance(one, ast.Constant) and one.value is None for one in ast.walk(node))
        or any(name in ("int", "float", "str") or name[:1].isupper() for name in names)
    )


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int):
        yield ast.Constant(value + 1)
        if value > 0:
            yield ast.Constant(value - 1)
    elif isinstance(value, float):
        yield ast.Constant(value * 2 if value else 1.0)


def _call(node: ast.Call) -> Iterator[ast.AST]:
    for i, keyword in enumerate(node.keywords):
        if keyword.arg not in (None, *UNSEEN):
            yield _but(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])
    name = node.func
    if isinstance(name, ast.Name) and name.id in SWAPPED:
        yield _but(node, func=ast.Name(SWAPPED[name.id]))
    if isinstance(name, ast.Name) and name.id in ("sorted", "reversed") and not node.keywords:
        yield ast.Call(ast.Name("list"), node.args[:1], [])
    if isinstance(name, ast.Attribute):
        if name.attr in SWAPPED:
            yield _but(node, func=ast.Attribute(name.value, SWAPPED[name.attr]))
        if name.attr in LEFT_OUT and not (
            isinstance(name.value, ast.Name) and name.value.id in ("torch", "math", "np")
        ):
            yield name.value


def _if_exp(node: ast.IfExp) -> Iterator[ast.AST]:
    yield node.body
    yield node.orelse


def _augmented(node: ast.AugAssign) -> Iterator[ast.AST]:
    if type(node.op) in CALCULATED:
        yield _but(node, op=CALCULATED[type(node.op)]())
    yield ast.Pass()


def _statement(node: ast.Expr) -> Iterator[ast.AST]:
    """A call that is made for what it does."""
    if isinstance(node.value, ast.Call):
        yield ast.Pass()


def _slice(node: ast.Subscript) -> Iterator[ast.AST]:
    """`x[mask]`, `x[:n]`: all of it."""
    if isinstance(node.slice, ast.Slice) and isinstance(node.ctx, ast.Load):
        yield node.value


def _returned(node: ast.Return) -> Iterator[ast.AST]:
    """What has this type and says nothing."""
    value = node.value
    if isinstance(value, ast.Compare | ast.BoolOp):
        yield ast.Return(ast.Constant(True))
        yield ast.Return(ast.Constant(False))
    if isinstance(value, ast.ListComp):
        yield ast.Return(ast.List([]))


_CHANGES = {
    ast.Compare: _compare,
    ast.BoolOp: _bool_op,
    ast.UnaryOp: _unary,
    ast.BinOp: _bin_op,
    ast.Constant: _constant,
    ast.Call: _call,
    ast.IfExp: _if_exp,
    ast.AugAssign: _augmented,
    ast.Expr: _statement,
    ast.Subscript: _slice,
    ast.Return: _returned,
}
