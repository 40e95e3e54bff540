"""Names that a cell takes from another cell of its page, and that more than one cell sets."""

from __future__ import annotations

import ast
import builtins
import re

__all__ = ["ambiguous"]

_SCOPES = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def _stored(node: ast.AST) -> set[str]:
    """Names that a scope makes its own."""
    out = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store | ast.Del):
            out.add(inner.id)
        elif isinstance(inner, ast.arg):
            out.add(inner.arg)
        elif isinstance(inner, ast.FunctionDef | ast.ClassDef):
            out.add(inner.name)
        elif isinstance(inner, ast.Import | ast.ImportFrom):
            out |= {(alias.asname or alias.name).split(".")[0] for alias in inner.names}
    return out


class _Cell(ast.NodeVisitor):
    """``takes``: names read before the cell sets them; ``sets``: what it leaves; ``imports``: those that are imported."""

    def __init__(self) -> None:
        self.takes: set[str] = set()
        self.sets: set[str] = set()
        self.imports: set[str] = set()

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, _SCOPES):
            for outside in [*getattr(node, "decorator_list", []), *getattr(getattr(node, "args", None), "defaults", [])]:
                self.visit(outside)
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
            self.takes |= names - _stored(node) - self.sets
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.sets.add(node.name)
            self.sets |= {n.target.id for n in ast.walk(node) if isinstance(n, ast.NamedExpr)}
        elif isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Store):
                self.sets.add(node.id)
            elif node.id not in self.sets:
                self.takes.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            self.sets |= made
            self.imports |= made
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            if node.value is not None:
                self.visit(node.value)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self.visit(target)
        elif isinstance(node, ast.AugAssign):
            self.visit(node.value)
            if isinstance(node.target, ast.Name):
                self.takes |= {node.target.id} - self.sets
            self.visit(node.target)
        elif isinstance(node, ast.For):
            self.visit(node.iter)
            self.visit(node.target)
            for inner in [*node.body, *node.orelse]:
                self.visit(inner)
        else:
            super().generic_visit(node)


def ambiguous(cells: list[str]) -> dict[str, list[int]]:
    """name -> the cells that set it, for names that some cell takes from another and that several cells set.

    Imports do not count: they give the same thing in every cell. A cell that changes an object in place is not seen.
    """
    seen = []
    for source in cells:
        cell = _Cell()
        cell.visit(ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.M)))
        seen.append(cell)
    taken = set().union(*(cell.takes for cell in seen)) - set(dir(builtins)) if seen else set()
    setters = {name: [i for i, cell in enumerate(seen) if name in cell.sets - cell.imports] for name in taken}
    return {name: where for name, where in sorted(setters.items()) if len(where) > 1}
