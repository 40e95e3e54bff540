"""``minidiff site``: the course as a static site, made from the committed outputs. Nothing is run and nothing is fetched."""

from __future__ import annotations

import argparse
import base64
import html
import re
import tempfile
from itertools import accumulate
from pathlib import Path
from typing import Any

from minidiff.options import path

__all__ = ["add_parsers", "build", "site"]

ROOT = Path(__file__).resolve().parents[1]
MARK = ".minidiff-site"
SAYS = 60               # characters of a card's text at least: shorter first sentences are followed by the next one
CSS = """
:root { color-scheme: light; --line: #ddd8cc; --ink: #22252b; --soft: #666c76; --paper: #fdfcf9; --code: #f4f1ea; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 17px/1.6 Georgia, "Times New Roman", serif; }
nav, h1, h2, h3, h4, .card, table { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }
h1, h2, h3, h4 { line-height: 1.25; }
nav { display: flex; gap: 1.5rem; font-size: 0.9rem; border-bottom: 1px solid var(--line); padding-bottom: 0.6rem; }
a { color: #16449b; } a.anchor-link { display: none; }
img { max-width: 100%; height: auto; }
pre, code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre { font-size: 13px; line-height: 1.45; overflow-x: auto; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
p code, li code, td code { font-size: 0.85em; }
.highlight { background: var(--code); padding: 0.6rem 0.7rem; border-radius: 4px; }
.highlight span.err { border: 0; }        /* the "!" of a shell command in a cell */
.jp-InputPrompt, .jp-OutputPrompt, .prompt { display: none; }
.jp-OutputArea-output, .output_area { margin: 0.5rem 0; }
.cell, .jp-Cell { margin: 0.9rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; display: block; overflow-x: auto; }
thead:not(:has(th:not(:empty))) { display: none; }
th, td { border: 1px solid var(--line); padding: 0.3rem 0.55rem; text-align: left; }
math { font-size: 1.05em; font-family: "Cambria Math", "STIX Two Math", "Latin Modern Math", math; }
.no-math-font :is(msub, msubsup) > :nth-child(2) { position: relative; top: 0.28em; }
.no-math-font msup > :nth-child(2), .no-math-font msubsup > :nth-child(3) { position: relative; top: -0.35em; }
math[display="block"] { margin: 0.8rem 0; }
main :is(p, ul, ol) { overflow-x: auto; overflow-y: hidden; padding-bottom: 0.3em; }
details { border: 1px solid var(--line); border-radius: 4px; padding: 0.4rem 0.8rem; } summary { cursor: pointer; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.2rem; padding: 0; list-style: none; }
.card { border: 1px solid var(--line); border-radius: 6px; overflow: hidden; background: #fff; }
.card a { color: inherit; text-decoration: none; display: block; }
.card img { display: block; width: 100%; height: 11rem; object-fit: cover; object-position: left top;
  border-bottom: 1px solid var(--line); }
.card p { margin: 0; padding: 0.2rem 0.8rem 0.8rem; font-size: 0.88rem; color: var(--soft); }
.card h2 { font-size: 1.02rem; margin: 0.6rem 0.8rem 0; }
"""
# A browser without a font for mathematics leaves subscripts on the line; they are put below it by the style sheet then.
SCRIPT = """addEventListener("DOMContentLoaded", () => {
  const probe = document.createElement("p");
  probe.innerHTML = "<math><msub><mi>x</mi><mi>x</mi></msub></math>";
  document.body.append(probe);
  const [base, low] = [...probe.querySelectorAll("mi")].map(e => e.getBoundingClientRect());
  if (low.bottom - base.bottom < 0.1 * base.height) document.documentElement.classList.add("no-math-font");
  probe.remove();
});"""
HEAD = """<h1>minidiff</h1>
<p>A course on diffusion models in a world where every right answer is known. The pages are the notebooks as they were last run;
to move the panels and to solve the exercises, open them in JupyterLab.</p>
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="style.css">
<script>{script}</script>
</head>
<body>
<nav>{nav}</nav>
<main>
{body}
</main>
</body>
</html>
"""


def add_parsers(commands: Any) -> None:
    """Add the command to those of ``minidiff``."""
    made = commands.add_parser("site", help="the course as a static site, from the outputs that the notebooks hold")
    made.add_argument("-o", "--out", type=path, default="build/site", metavar="DIR", help="replaced as a whole (build/site)")


def site(given: argparse.Namespace) -> int:
    """Build the site and say where it begins."""
    from minidiff.show import plural
    pages = build(given.out)
    print(f"{Path(given.out) / 'index.html'}: {plural(pages, 'lesson')}")
    return 0


def _title(book: Any) -> str:
    heads = (re.search(r"^# (.+)$", cell.source, re.M) for cell in book.cells if cell.cell_type == "markdown")
    return next((found[1].strip() for found in heads if found), "")


def _promise(book: Any) -> str:
    """The first plain sentences of the first text cell after its heading, as many as say something."""
    for cell in book.cells:
        for part in re.split(r"\n\s*\n", cell.source) if cell.cell_type == "markdown" else ():
            if not re.match(r"[#|>\-<!$*]|\d+\.", part.strip()) and len(part) > 40:
                plain = re.sub(r"\[([^\]]+)\]\([^)]+\)|[*`]", lambda m: m[1] or "", part)
                sentences = re.split(r"(?<=[.?!:]) (?=[A-Z\"])", re.sub(r"\s+", " ", plain).strip())
                ends = accumulate(len(sentence) + 1 for sentence in sentences)
                many = next((i for i, end in enumerate(ends, 1) if end > SAYS), len(sentences))
                return " ".join(sentences[:many])
    return ""


def _picture(book: Any) -> tuple[bytes, str]:
    """(PNG, alternative text) of the first picture on the page; (b"", "") where there is none."""
    for cell in book.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"]), output["metadata"].get("image/png", {}).get("alt", "")
    return b"", ""


def _body(book: Any) -> tuple[str, str]:
    """(HTML of the cells, the style sheet of their code)."""
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    steps = ["minidiff.show.export.AltText", "minidiff.show.export.Formulas"]
    exporter = HTMLExporter(template_name="basic", config=Config({"HTMLExporter": {"preprocessors": steps}}))
    text, resources = exporter.from_notebook_node(book)
    text = re.sub(r"<style.*?</style>|<script.*?</script>", "", text, flags=re.S)
    text = re.sub(r'href="(?:\./)?(\d\d_\w+)\.ipynb', r'href="\1.html', text)
    return text, "\n".join(css for css in resources["inlining"]["css"] if ".highlight" in css)


def build(out: str | Path, *, notebooks: Path = ROOT / "notebooks") -> int:
    """Write the site into the folder ``out`` and return the number of its lessons.

    An older site there is replaced as a whole. Raises BadInput where ``out`` holds anything else, and where there are no
    notebooks.
    """
    import nbformat

    from minidiff.errors import require
    from minidiff.files import replace_folder
    from minidiff.show.export import formulas

    out, books = Path(out), sorted(notebooks.glob("[0-9]*.ipynb"))
    require(bool(books), "notebooks", f"no notebooks in {notebooks}", "a checkout of the course")
    free = not out.exists() or (out / MARK).is_file() or (out.is_dir() and not any(out.iterdir()))
    require(free, "--out", f"{str(out)!r}, which holds something else", "a new folder, or a site made by this command",
            "-o build/site")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-", ignore_cleanup_errors=True) as name:
        fresh = Path(name) / out.name
        (fresh / "pictures").mkdir(parents=True)
        cards, style = [], ""
        for i, book_path in enumerate(books):
            book = nbformat.read(book_path, as_version=4)
            title = _title(book) or book_path.stem
            body, style = _body(book)
            links = ["<a href=\"index.html\">All lessons</a>"] + [
                f'<a href="{books[j].stem}.html">{word} {books[j].stem[:2]}</a>'
                for j, word in ((i - 1, "Before:"), (i + 1, "Next:")) if 0 <= j < len(books)]
            page = PAGE.format(title=html.escape(title), nav="\n".join(links), body=body, script=SCRIPT)
            (fresh / f"{book_path.stem}.html").write_text(page, encoding="utf-8")
            picture, alt = _picture(book)
            shown = f'<img src="pictures/{book_path.stem}.png" alt="{html.escape(alt)}">' if picture else ""
            if picture:
                (fresh / f"pictures/{book_path.stem}.png").write_bytes(picture)
            cards.append(f'<li class="card"><a href="{book_path.stem}.html">{shown}<h2>{html.escape(title)}</h2>'
                         f"<p>{formulas(html.escape(_promise(book)))}</p></a></li>")
        index = f'{HEAD}<ul class="cards">\n' + "\n".join(cards) + "\n</ul>"
        front = PAGE.format(title="minidiff", nav="<b>minidiff</b>", body=index, script="")
        (fresh / "index.html").write_text(front, encoding="utf-8")
        (fresh / "style.css").write_text(style + CSS, encoding="utf-8")
        (fresh / MARK).write_text("Made by `minidiff site`, which replaces this folder as a whole.\n", encoding="utf-8")
        replace_folder(fresh, out)
    return len(books)
