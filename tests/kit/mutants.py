"""Small mistakes made by machine: every solution of an exercise, wrong in one place, as a learner might have it."""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["Mutant", "mutants"]


class Mutant(NamedTuple):
    """One wrong version: ``line`` is the line that differs ("no: ..." for one that is gone), ``source`` the whole text."""

    line: str
    source: str


BINARY = {ast.Add: (ast.Sub, ast.Mult), ast.Sub: (ast.Add,), ast.Mult: (ast.Div, ast.Add), ast.Div: (ast.Mult,),
          ast.Pow: (ast.Mult,), ast.FloorDiv: (ast.Div, ast.Mult), ast.Mod: (ast.FloorDiv,), ast.BitAnd: (ast.BitOr,),
          ast.BitOr: (ast.BitAnd,), ast.MatMult: (ast.Mult,)}
COMPARE = {ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
           ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,)}
NAMES = {"sum": ("mean",), "mean": ("sum",), "min": ("max",), "max": ("min",), "argmin": ("argmax",), "argmax": ("argmin",),
         "sin": ("cos",), "cos": ("sin",), "exp": ("log", "sqrt"), "log": ("exp", "log10"), "log10": ("log",),
         "sqrt": ("square",), "abs": ("square", "neg"), "round": ("floor", "ceil"), "floor": ("ceil",), "std": ("var",),
         "var": ("std",), "zeros": ("ones",), "new_zeros": ("new_ones",), "ones": ("zeros",), "relu": ("abs", "sigmoid"),
         "softmax": ("log_softmax",), "logit": ("sigmoid",), "height": ("width",), "width": ("height",)}
COMMUTES = (ast.Add, ast.Mult, ast.BitAnd, ast.BitOr)
SYMMETRIC = {"transpose", "swapaxes", "minimum", "maximum", "min", "max", "dist"}      # f(a, b) = f(b, a)
REDUCE = {"sum", "mean", "amax", "amin", "std", "var"}                                  # the order of their axes means nothing


def _called(node: ast.AST) -> str:
    """The name of what a call calls; empty for anything else."""
    func = node.func if isinstance(node, ast.Call) else None
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _even(parent: ast.AST) -> bool:
    """Does the parent make -x of x what it makes of x?"""
    return (isinstance(parent, ast.BinOp) and isinstance(parent.op, ast.Pow) and getattr(parent.right, "value", 0) == 2
            or isinstance(parent, ast.Attribute) and parent.attr in ("abs", "square"))


def _scaled_before_or_after(node: ast.AST) -> Iterator[ast.AST]:
    """f(x * c) for f(x) * c and the other way round, f a call with what is taken of its result: decode(z / c).sample."""
    def inner(chain: ast.AST) -> ast.Call | None:
        while isinstance(chain, ast.Attribute | ast.Subscript):
            chain = chain.value
        return chain if isinstance(chain, ast.Call) and chain.args else None

    if isinstance(node, ast.BinOp):
        outer = copy.deepcopy(node.left)
        if call := inner(outer):
            call.args[0] = ast.BinOp(call.args[0], node.op, node.right)
            yield outer
    outer = copy.deepcopy(node)
    call = inner(outer) if isinstance(node, ast.Attribute | ast.Call) else None
    if call and isinstance(call.args[0], ast.BinOp):
        moved = call.args[0]
        call.args[0] = moved.left
        yield ast.BinOp(outer, moved.op, moved.right)


def _others(node: ast.AST, parent: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    """What may stand in a node's place; what means the same by the rules of arithmetic is left out."""
    def like(**fields: Any) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    if isinstance(node, ast.BinOp):
        for op in BINARY.get(type(node.op), ()):
            yield like(op=op())
        yield node.left
        yield node.right
        if not isinstance(node.op, COMMUTES) and not (isinstance(node.op, ast.Sub) and _even(parent)):
            yield like(left=node.right, right=node.left)
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.BoolOp):
        yield like(op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        yield from node.values
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for op in COMPARE.get(type(node.ops[0]), ()):
            yield like(ops=[op()])
    elif isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, bool):
            yield ast.Constant(not value)
        elif isinstance(value, int):
            for other in {value + 1, value - 1} | ({0} if value > 1 else set()):
                yield ast.Constant(other)
        elif isinstance(value, float):
            for other in (value + 1, value - 1, value * 1.5, value * 0.999):
                yield ast.Constant(other)
        elif isinstance(value, str):
            yield ast.Constant(value + "x")
        elif value is None:
            yield ast.Constant(0)
    elif isinstance(node, ast.Call):
        plain = [a for a in node.args if not isinstance(a, ast.Starred)]
        for i in range(len(node.args) - 1 if _called(node) not in SYMMETRIC else 0):
            swapped = list(node.args)
            swapped[i], swapped[i + 1] = swapped[i + 1], swapped[i]
            yield like(args=swapped)
        for i in range(len(node.args)):
            yield like(args=node.args[:i] + node.args[i + 1:])
        for i in range(len(node.keywords)):
            yield like(keywords=node.keywords[:i] + node.keywords[i + 1:])
        if isinstance(node.func, ast.Attribute):
            yield node.func.value                                  # x.f(...) without f; a module in its place fails at once
        if plain:
            yield plain[0]                                         # f(x, ...) without f
    elif isinstance(node, ast.Attribute):
        for other in NAMES.get(node.attr, ()):
            yield like(attr=other)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield node.value
        if isinstance(node.slice, ast.Slice):
            for end in ("lower", "upper", "step"):
                if getattr(node.slice, end) is not None:
                    short = copy.copy(node.slice)
                    setattr(short, end, None)
                    yield like(slice=short)
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
        yield like(body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Load) and len(node.elts) > 1:
        for i in range(len(node.elts) - 1 if _called(parent) not in REDUCE else 0):
            swapped = list(node.elts)
            swapped[i], swapped[i + 1] = swapped[i + 1], swapped[i]
            yield like(elts=swapped)
        for i in range(len(node.elts)):
            yield like(elts=node.elts[:i] + node.elts[i + 1:])
    elif isinstance(node, ast.Tuple | ast.List) and isinstance(node.ctx, ast.Store) and len(node.elts) > 1:
        yield like(elts=node.elts[1:] + node.elts[:1])
    elif isinstance(node, ast.Set) and len(node.elts) > 1:
        for i in range(len(node.elts)):
            yield like(elts=node.elts[:i] + node.elts[i + 1:])
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        for other in NAMES.get(node.id, ()):
            yield like(id=other)
        if node.id in names:
            for other in names:
                if other != node.id:
                    yield like(id=other)
    elif isinstance(node, ast.If):
        yield like(test=ast.Constant(True))
        yield like(test=ast.Constant(False))
    elif isinstance(node, ast.Return) and node.value is not None:
        yield like(value=ast.UnaryOp(ast.USub(), node.value))
    yield from _scaled_before_or_after(node)
    if isinstance(node, ast.Assign | ast.AugAssign | ast.Expr | ast.For | ast.If):
        yield ast.Pass()                                           # the statement left out
    if isinstance(node, ast.AugAssign):
        for op in BINARY.get(type(node.op), ()):
            yield like(op=op())
        yield ast.Assign([node.target], node.value, lineno=node.lineno)


def mutants(source: str, name: str) -> list[Mutant]:
    """Every version of the function ``name`` in ``source`` that differs from it in one place; no two are the same text.

    Operators, operands, constants, comparisons, names of arguments and locals, arguments of calls (exchanged, left out, the call
    itself left out), indices, branches, signs, statements.
    """
    tree = ast.parse(source)
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    stored = {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names = list(dict.fromkeys([a.arg for a in (*function.args.args, *function.args.kwonlyargs)] + sorted(stored)))
    right = ast.unparse(tree)
    known, out = {right}, []
    places = []
    for parent in ast.walk(function):
        for field, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                places.append((parent, field, None, value))
            elif isinstance(value, list):
                places += [(parent, field, i, item) for i, item in enumerate(value) if isinstance(item, ast.AST)]
    for parent, field, index, node in places:
        for other in _others(node, parent, names):
            if index is None:
                setattr(parent, field, other)
            else:
                getattr(parent, field)[index] = other
            with contextlib.suppress(ValueError, AttributeError, TypeError, SyntaxError):
                text = ast.unparse(ast.fix_missing_locations(copy.deepcopy(tree)))
                ast.parse(text)
                if text not in known:
                    known.add(text)
                    out.append(Mutant(_difference(right, text), text))
            if index is None:
                setattr(parent, field, node)
            else:
                getattr(parent, field)[index] = node
    return out


def _difference(right: str, wrong: str) -> str:
    lines = list(difflib.ndiff(right.splitlines(), wrong.splitlines()))
    new = [line[2:].strip() for line in lines if line.startswith("+ ") and line[2:].strip() != "pass"]
    gone = [line[2:].strip() for line in lines if line.startswith("- ")]
    return " / ".join(new) if new else "no: " + " / ".join(gone)
