"""Is the solution of an exercise written out elsewhere on its page? Code is compared by its syntax tree, whatever its names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

__all__ = ["cells_that_show", "shape_of"]

LEAST = 13                     # nodes: what is smaller (a mean over two axes, x + w * y) is found on any page
SHORT = 9                      # nodes of a whole function, whose arguments have to come in the same order too


class _Shape(ast.NodeVisitor):
    """A tree as text in which the names are numbered in the order in which they come; attributes and numbers stay."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.nodes = 0

    def text(self, node: ast.AST) -> str:
        self.nodes += 1
        if isinstance(node, ast.Name):
            return f"n{self.names.setdefault(node.id, len(self.names))}"
        if isinstance(node, ast.Attribute) and (chain := _chain(node)):
            return f"n{self.names.setdefault(chain, len(self.names))}"
        if isinstance(node, ast.Constant):
            return repr(node.value) if isinstance(node.value, (int, float)) else type(node.value).__name__
        inner = []
        for name, value in ast.iter_fields(node):
            if name in ("ctx", "lineno", "type_comment"):
                continue
            if isinstance(value, ast.AST):
                called = name == "func" and isinstance(value, ast.Attribute)        # a method keeps its name
                inner.append(f"{self.text(value.value)}.{value.attr}" if called else self.text(value))
            elif isinstance(value, list):
                inner.append("[" + ",".join(self.text(v) if isinstance(v, ast.AST) else str(v) for v in value) + "]")
            elif value is not None:
                inner.append(str(value))
        return f"{type(node).__name__}({','.join(inner)})"


def _chain(node: ast.AST) -> str:
    """"down.conv.weight": a value that is held somewhere stands for a value, as a name does; "" for what is no such chain."""
    if isinstance(node, ast.Name):
        return node.id
    inner = _chain(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner else ""


def shape_of(node: ast.AST) -> tuple[str, int]:
    """(the shape of a tree, how many nodes it has)."""
    shape = _Shape()
    return shape.text(node), shape.nodes


def _parts(tree: ast.AST) -> Iterator[str]:
    """Shapes of what the statements of a solution compute: only what is large enough to be an answer."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Return) and node.value is not None:
            text, size = shape_of(node.value)
            if size >= LEAST:
                yield text


def _bodies(tree: ast.AST) -> Iterator[str]:
    """Shapes of whole functions, lambdas too, without what they are called and without their docstrings: short ones as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            body = node.body if isinstance(node.body, list) else [ast.Return(node.body)]
            body = body[1:] if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) else body
            shape = _Shape()
            for argument in node.args.args:
                shape.names.setdefault(argument.arg, len(shape.names))
            text = ";".join(shape.text(statement) for statement in body)
            if shape.nodes >= SHORT:
                yield text


def _tree(source: str) -> ast.Module:
    return ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.M))


def cells_that_show(solution: str, cells: list[str], *, known: Iterable[str] = ()) -> list[int]:
    """Numbers of the cells in which the solution, or one of its computations, is written out; ``known`` do not count."""
    whole = set(_bodies(_tree(solution)))
    wanted = set(_parts(_tree(solution))) - {text for source in known for text in _parts(_tree(source))}
    found = []
    for number, source in enumerate(cells):
        for node in ast.walk(_tree(source)):
            if isinstance(node, ast.expr) and shape_of(node)[0] in wanted:
                found.append(number)
                break
        else:
            found += [number] * bool(whole & set(_bodies(_tree(source))))
    return found
