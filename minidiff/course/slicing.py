"""Which cells of a notebook a check needs: the cells that make its names, followed backwards.

So a copy is graded without the minutes of pictures and training that no answer rests on. Names are followed by Python's own
tables of symbols. A cell that may change an object which an answer reads (sets a part of it, hands it to a call) counts as one
that makes it. What cannot be followed runs always: magics, star imports, cells with a syntax error.
"""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Names", "names_in", "needed"]


@dataclass(frozen=True)
class Names:
    """Of one cell: the names it reads and makes; ``data``: those made by assignment; ``touched``: objects it may change."""

    reads: frozenset[str] = frozenset()
    makes: frozenset[str] = frozenset()
    data: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    always: bool = False


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _scopes(child)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the cell runs: the bodies of its functions and classes do not."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield child
            yield from _outside_functions(child)


def _base(node: ast.AST) -> str | None:
    """The name at the root of a.b[c].d; None where there is none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def names_in(source: str) -> Names:
    """What a code cell reads and makes; magics and what is no Python are cells that always run."""
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        code = TransformerManager().transform_cell(source)
        tree, table = ast.parse(code), symtable.symtable(code, "cell", "exec")
    except (SyntaxError, ValueError):
        return Names(always=True)
    imports = [alias for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    always = "get_ipython()" in code or any(alias.name == "*" for alias in imports)
    reads: set[str] = set()
    makes: set[str] = set()
    for scope in _scopes(table):
        top = scope.get_type() == "module"
        for symbol in scope.get_symbols():
            name = symbol.get_name()
            if symbol.is_referenced() and (top or symbol.is_global()):
                reads.add(name)
            if (symbol.is_assigned() or symbol.is_imported()) if top else (symbol.is_declared_global() and symbol.is_assigned()):
                makes.add(name)
    touched: set[str | None] = set()
    code_of_functions = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    imported = {(alias.asname or alias.name).split(".")[0] for alias in imports}
    for node in _outside_functions(tree):
        if isinstance(node, ast.AugAssign):
            touched.add(_base(node.target))
        elif isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            touched.add(_base(node))
        elif isinstance(node, ast.Call):
            handed = [*node.args, *(k.value for k in node.keywords)]
            touched |= {_base(one) for one in handed}
            if isinstance(node.func, ast.Attribute):
                touched.add(_base(node.func))
    touched.discard(None)
    return Names(frozenset(reads), frozenset(makes), frozenset(makes - code_of_functions - imported), frozenset(touched), always)


def needed(sources: Sequence[str], targets: Iterable[int]) -> list[int]:
    """The cells to run, in order, so that the cells ``targets`` find what they read. sources: of all code cells."""
    cells = [names_in(source) for source in sources]
    chosen = set(targets) | {i for i, cell in enumerate(cells) if cell.always}
    todo, end = sorted(chosen), max(chosen, default=0)
    while todo:
        i = todo.pop()
        for name in cells[i].reads | cells[i].touched:
            makers = {j for j in range(i) if name in cells[j].makes}
            if not makers:                                # a function may be written before what it calls
                makers = {j for j in range(i, end) if name in cells[j].makes and j != i}
            if any(name in cells[j].data for j in makers):
                makers |= {j for j in range(i) if name in cells[j].touched}
            todo += makers - chosen
            chosen |= makers
    return sorted(chosen)
