"""Notebooks as they are committed: run from the top, small, without widget state, the same bytes on every machine.

``normalise`` rewrites a notebook in the committed form, ``check`` says what is wrong with one, ``run`` executes it in a
fresh kernel and then normalises it. A panel keeps its still picture; the live view, which no page can show, is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from minidiff.colab import FIRST_LINE, SETUP_CELL
from minidiff.errors import BadInput
from minidiff.files import replace
from minidiff.notebook_form import well_formed

__all__ = ["SETUP_CELL", "find", "normalise", "check", "ratio", "run", "tidy"]

COURSE = Path(__file__).resolve().parents[1] / "notebooks"
TEXT_RATIO = 1.0
MAX_OUTPUT, MAX_NOTEBOOK = 150_000, 1_000_000
MARKERS = ("# NBVAL_IGNORE_OUTPUT", "# NBVAL_CHECK_OUTPUT")
KEEP_IN_PICTURE = ("alt", "width", "height")
WIDGET = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")
LIVE = ("text/html", "application/javascript", "application/vnd.plotly.v1+json")
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
MACHINE_PATH = re.compile(r"(?<![\w.~:/-])(?:/(?:home|Users|root|tmp|work|private|mnt)/|[A-Z]:\\+)[\w.]+")
EMPTY_ALT = re.compile(r"!\[\s*\]\(|<img(?![^>]*\balt=\"[^\"]+\")[^>]*>")


def find(paths: list[str] | None = None) -> list[Path]:
    """The notebooks named, or those of every folder named; without names the course's own, in order.

    Raises BadInput for a name that is no notebook and no folder with one.
    """
    found: list[Path] = []
    for name in paths or [str(COURSE)]:
        path = Path(name)
        here = sorted(path.glob("*.ipynb")) if path.is_dir() else [path]
        if not here or not all(p.suffix == ".ipynb" and p.is_file() for p in here):
            raise BadInput("FILES", f"{name!r}", "notebooks (.ipynb), or a folder that holds some",
                           "minidiff notebooks check notebooks/00_welcome.ipynb")
        found += here
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        if notebook["nbformat"] != 4 or not isinstance(notebook["cells"], list):
            raise ValueError("no nbformat 4")
        for number, cell in enumerate(notebook["cells"], 1):
            if not well_formed(cell):
                raise ValueError(f"cell {number} is malformed")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInput("FILES", f"{str(path)!r}, which cannot be read ({error})", "a Jupyter notebook in format 4",
                       f"git checkout -- {path}") from None
    return notebook


def _dump(notebook: Any) -> str:
    return json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def _text(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def _outputs(outputs: list[Any], count: int | None) -> list[dict[str, Any]]:
    """Join what a stream printed in pieces, keep of each picture its bytes and its words, drop the live view."""
    kept: list[dict[str, Any]] = []
    for output in outputs:
        kind = output["output_type"]
        if kind == "stream":
            before = kept.pop()["text"] if kept and kept[-1].get("name") == output["name"] else []
            text = _lines("".join(before) + ANSI.sub("", _text(output["text"])))
            kept.append({"output_type": "stream", "name": output["name"], "text": text})
        elif kind == "error":
            kept.append({"output_type": "error", "ename": output["ename"], "evalue": output["evalue"],
                         "traceback": [ANSI.sub("", line) for line in output["traceback"]]})
        else:
            data = {mime: value for mime, value in output["data"].items() if mime not in WIDGET}
            bare = len(data) < len(output["data"]) and not any(mime.startswith("image/") for mime in data)
            if not data or (bare and re.match(r"\w+\(", _text(data.get("text/plain", "")))):
                continue                                   # a widget without a still: its only text is the model's repr
            words = {}
            for mime, value in data.items():
                if mime.startswith("text/"):
                    data[mime] = _lines(ANSI.sub("", _text(value)))
                elif mime.startswith("image/"):
                    data[mime] = _lines(_text(value)) if mime == "image/svg+xml" else _text(value).replace("\n", "")
                    given = output.get("metadata", {})
                    words[mime] = {k: v for k, v in {**given, **given.get(mime, {})}.items() if k in KEEP_IN_PICTURE}
            kept.append({"output_type": kind, "data": data, "metadata": {mime: said for mime, said in words.items() if said}}
                        | ({"execution_count": count} if kind == "execute_result" else {}))
    return kept


def normalise(notebook: dict[str, Any]) -> dict[str, Any]:
    """The committed form of a notebook (a parsed ``.ipynb``, nbformat 4); the argument is left as it is.

    Minimal metadata, cell ids made from the text, no empty cells, streams joined, no colour codes, no widget state;
    the cell that sets Colab up as :mod:`minidiff.colab` has it.
    Execution counts stay: 1, 2, 3, ... is the proof that the notebook ran from the top. Applied twice it changes nothing.
    """
    cells: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for cell in notebook["cells"]:
        source = _text(cell["source"]).replace("\r\n", "\n").rstrip()
        if not source:
            continue
        source = SETUP_CELL if source.startswith(FIRST_LINE) else source
        stem = hashlib.sha256(f"{cell['cell_type']}\n{source}".encode()).hexdigest()[:10]
        seen[stem] = seen.get(stem, 0) + 1
        new: dict[str, Any] = {"cell_type": cell["cell_type"], "source": _lines(source),
                               "id": stem if seen[stem] == 1 else f"{stem}-{seen[stem]}",
                               "metadata": {k: v for k, v in cell.get("metadata", {}).items() if k in ("tags", "jupyter") and v}}
        if cell["cell_type"] == "code":
            count = cell.get("execution_count")
            new |= {"execution_count": count, "outputs": _outputs(cell.get("outputs", []), count)}
        elif cell.get("attachments"):
            new["attachments"] = cell["attachments"]
        cells.append(new)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "nbformat": 4, "nbformat_minor": 5,
            "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}}}


def ratio(notebook: Any) -> float:
    """Text cells for each code cell."""
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    return kinds.count("markdown") / max(1, kinds.count("code"))


def _output_problems(output: dict[str, Any]) -> Iterator[str]:
    data = output.get("data", {})
    printed = "\n".join([_text(output.get("text", "")), *(_text(data[mime]) for mime in data if mime.startswith("text/"))])
    if (size := len(json.dumps(output))) > MAX_OUTPUT:
        yield f"an output of {size // 1000} KB (at most {MAX_OUTPUT // 1000}): tile pictures into one array, print less"
    if output["output_type"] == "error":
        yield f"it ended in {output['ename']}: {output['evalue']}"
    if output.get("name") == "stderr":
        yield f"it wrote to stderr: {printed.strip()[:80]!r}"
    if path := MACHINE_PATH.search(printed):
        yield f"a path of this machine in its output: {path.group()}"
    for mime in data:
        if mime in LIVE:
            yield f"{mime} output: GitHub shows none and Jupyter asks for trust; show a picture or plain text"
        if mime.startswith("image/") and not str(output.get("metadata", {}).get(mime, {}).get("alt", "")).strip():
            yield f"a picture ({mime}) without alternative text: show it with minidiff.show, or Image(data, alt=...)"


def _cell_problems(cell: dict[str, Any]) -> Iterator[str]:
    source = _text(cell["source"])
    if path := MACHINE_PATH.search(source):
        yield f"a path of one machine: {path.group()}"
    if cell["cell_type"] == "markdown" and EMPTY_ALT.search(source):
        yield "a picture without alternative text: write ![what it shows](...)"
    if cell["cell_type"] == "code":
        for word in [line.strip() for line in source.splitlines() if "NBVAL_" in line] + cell["metadata"].get("tags", []):
            if word.lower().startswith(("#", "nbval", "raises")) and word not in MARKERS:
                yield f"{word!r} leaves the cell untested, or is no marker that nbval knows; known: {', '.join(MARKERS)}"
        for output in cell["outputs"]:
            yield from _output_problems(output)


def check(path: Path) -> list[str]:
    """What is wrong with the notebook at ``path``, one sentence each; an empty list means that it may be committed.

    A notebook of the course itself must also begin with the set-up cell and have a text cell for each code cell.
    Raises BadInput if the file is no notebook.
    """
    notebook = normalise(_read(path))
    text = _dump(notebook)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    problems = []
    if path.read_text(encoding="utf-8") != text:
        problems.append("not in the committed form: run `minidiff notebooks normalise`")
    if (size := len(text.encode())) > MAX_NOTEBOOK:
        problems.append(f"{size // 1000} KB; at most {MAX_NOTEBOOK // 1000}")
    counts = [cell["execution_count"] for cell in code]
    if counts != list(range(1, len(code) + 1)):
        odd = next(i for i, count in enumerate(counts) if count != i + 1)
        problems.append(f"code cell {odd + 1} has execution count {counts[odd]}, so it was not run from the top: "
                        "run `minidiff notebooks run`")
    if path.resolve().parent == COURSE:
        if not code or _text(code[0]["source"]) != SETUP_CELL:
            problems.append("the first code cell is not minidiff.notebooks.SETUP_CELL, so it does not start on Colab")
        if ratio(notebook) < TEXT_RATIO:
            problems.append(f"{ratio(notebook):.2f} text cells for a code cell; at least {TEXT_RATIO}")
    return problems + [f"cell {number}: {problem}" for number, cell in enumerate(notebook["cells"], 1)
                       for problem in _cell_problems(cell)]


def tidy(path: Path, *, change: Callable[[dict[str, Any]], dict[str, Any]] = lambda notebook: notebook) -> bool:
    """Bring the notebook at ``path`` into the committed form, after ``change``; says whether anything was different."""
    text = _dump(normalise(change(_read(path))))
    changed = path.read_text(encoding="utf-8") != text
    if changed:
        replace(path, text)
    return changed


def run(path: Path, *, timeout: float = 120.0) -> None:
    """Execute every cell from the top in a fresh kernel, in the notebook's folder, and write the committed form back.

    timeout: seconds a cell may take. Raises BadInput if a cell fails, an error inside a widget's callback included;
    the file is then left as it was.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, CellExecutionError, CellTimeoutError, DeadKernelError

    def refuse(what: str) -> BadInput:
        return BadInput("FILES", f"{path.name}: {what}", "a notebook whose cells all run from the top", f"jupyter lab {path}")

    notebook = nbformat.reads(_dump(normalise(_read(path))), as_version=4)
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    search = os.pathsep.join(filter(None, [str(COURSE.parent), os.environ.get("PYTHONPATH")]))
    try:
        client.execute(env=os.environ | {"PYTHONPATH": search})
    except CellExecutionError as error:
        raise refuse(f"{error.ename}: {error.evalue}") from None
    except (CellTimeoutError, CellControlSignal, DeadKernelError) as error:
        raise refuse(str(error).splitlines()[0]) from None
    # What fails inside an Output widget (interact, interactive_output) is captured there and stops nothing.
    for model in notebook.metadata.get("widgets", {}).get(WIDGET[1], {}).get("state", {}).values():
        for output in model["state"].get("outputs", []):
            if output["output_type"] == "error":
                raise refuse(f"{output['ename']} in a widget: {output['evalue']}")
    replace(path, _dump(normalise(json.loads(json.dumps(notebook)))))
