"""One page of one's own: texts, pictures, tables and the source of a function in a single HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from minidiff.errors import BadInput, require
from minidiff.show.sheet import Picture

__all__ = ["html_page"]

Part = str | Picture | Mapping[str, Sequence[object] | object] | Callable

CSS = """:root { color-scheme: light; } body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 46rem;
background: #fdfcf9; color: #22252b; font: 17px/1.6 Georgia, serif; }
h1, table, figcaption { font-family: system-ui, sans-serif; }
img { max-width: 100%; height: auto; }
figure { margin: 1.4rem 0; } figcaption { color: #666c76; font-size: 0.9rem; }
pre { background: #f4f1ea; padding: 0.7rem; overflow-x: auto; font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { border: 1px solid #ddd8cc; padding: 0.3rem 0.6rem; text-align: left; }"""
MOST = 1000                    # names that are tried before it gives up


def html_page(path: str | os.PathLike[str], title: str, *parts: Part) -> Path:
    """Write a page and return where it lies; a file that is there already is never touched.

    path: where to, ending in .html, in a folder that exists. Where the name is taken, -2, -3, ... is put behind it, and the
    path that was written comes back. parts, in order: a text (a paragraph), a :class:`Picture`, a function (its source), or a
    mapping name -> value, or -> several values (a table). Everything is inside the file: no script, no link, no network.

    Raises BadInput for another ending, a folder that is not there or cannot be written to, a part of another kind, and a function
    whose source is not known.
    """
    target = Path(path)
    require(target.suffix.lower() in (".html", ".htm"), "path", repr(str(path)), "a file name that ends in .html",
            repr(str(target.with_suffix(".html"))))
    require(target.parent.is_dir(), "path", repr(str(path)), "a folder that exists", f"mkdir -p {target.parent}")
    require(isinstance(title, str) and bool(title.strip()), "title", repr(title), "the name of the page", "'My energy'")
    require(len(parts) > 0, "parts", "none", "a text, a picture, a function or a table",
            "html_page('mine.html', 'Mine', picture)")
    body = "\n".join(_part(part, k) for k, part in enumerate(parts))
    head = html.escape(title.strip())
    text = (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{head}</title>\n'
            f'<link rel="icon" href="data:,">\n<style>\n{CSS}\n</style>\n</head>\n<body>\n<h1>{head}</h1>\n{body}\n'
            f'</body>\n</html>\n')
    for k in range(1, MOST):
        free = target if k == 1 else target.with_name(f"{target.stem}-{k}{target.suffix}")
        try:
            _write_new(free, text)
            return free
        except FileExistsError:
            continue
        except OSError as problem:
            said = f"{str(free)!r} ({problem.strerror})"
            raise BadInput("path", said, "a folder that can be written to and has room") from problem
    raise BadInput("path", f"{str(path)!r}, which is taken {MOST} times over", "a name of your own")


def _write_new(path: Path, text: str) -> None:
    """Make a file; what is there already is a FileExistsError, and a file that could not be finished is taken away."""
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            path.unlink()
            raise


def _part(part: Part, k: int) -> str:
    if isinstance(part, str):
        return f"<p>{html.escape(part)}</p>"
    if isinstance(part, Picture):
        data = base64.b64encode(part.png).decode()
        return (f'<figure>\n<img src="data:image/png;base64,{data}" width="{part.width}" height="{part.height}" '
                f'alt="{html.escape(part.alt)}">\n</figure>')                      # its caption is in the picture already
    if isinstance(part, Mapping):
        return _table(part)
    if callable(part):
        try:
            return f"<pre><code>{html.escape(inspect.getsource(part).rstrip())}</code></pre>"
        except (OSError, TypeError):
            raise BadInput(f"parts[{k}]", repr(part), "a function that was written in a cell or a file") from None
    raise BadInput(f"parts[{k}]", type(part).__name__, "a text, a Picture, a function, or a mapping name -> value")


def _table(rows: Mapping[str, object]) -> str:
    lines = []
    for name, values in rows.items():
        several = list(values) if isinstance(values, (list, tuple)) else [values]
        cells = "".join(f"<td>{html.escape(_said(v))}</td>" for v in several)
        lines.append(f"<tr><th>{html.escape(str(name))}</th>{cells}</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _said(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
