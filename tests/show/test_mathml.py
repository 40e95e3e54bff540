"""Formulas as MathML: the whole course, in XML that is well formed, which Markdown leaves alone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from traitlets.config import Config

from minidiff.errors import BadInput
from minidiff.show.export import CODE_OR_FORMULA, Formulas
from minidiff.show.mathml import mathml

ROOT = Path(__file__).resolve().parents[2]


def shape(tex: str) -> str:
    """The tree of a formula in brackets: names of its elements, texts of its leaves, without rows and spaces."""
    def walk(e: ET.Element) -> str:
        inside = [walk(child) for child in e] or [e.text or ""]
        if e.tag in ("math", "mrow", "mstyle"):
            return " ".join(filter(None, inside))
        return "" if e.tag == "mspace" else f"{e.tag[1:]}({', '.join(inside)})" if len(e) else inside[0]

    return walk(ET.fromstring(mathml(tex)))


@pytest.mark.parametrize(("tex", "want"), [
    (r"x_t^2", "subsup(x, t, 2)"), (r"x^{t-1}_{0}", "subsup(x, 0, t − 1)"), (r"\tfrac12 x_10", "frac(1, 2) sub(x, 1) 0"),
    (r"\frac{a+b}{\sqrt{1-\bar\alpha_t}}", "frac(a + b, sqrt(1 − sub(over(α, ¯), t)))"), (r"\sqrt[3]{x}", "root(x, 3)"),
    (r"\sum_{i=1}^n x_i", "underover(∑, i = 1, n) sub(x, i)"), (r"\log\,p", "log p"), (r"\min_\theta L", "under(min, θ) L"),
    (r"\underbrace{a+b}_{\text{two words}}", "under(under(a + b, ⏟), two\u00a0words)"),
    (r"f'", "sup(f, ′)"), (r"f'^2", "sup(f, ′ 2)"),
    (r"\mathcal{N}(0, I)", "𝒩 ( 0 , I )"), (r"\mathbb{E}\mathbb R\mathcal L", "𝔼 ℝ ℒ"), (r"\operatorname{sg}[x]", "sg [ x ]"),
    (r"\left(\frac ab\right.", "( frac(a, b)"), (r"\big\|x\big\|", "‖ x ‖"), (r"\{x \mid x < 1\}", "{ x ∣ x < 1 }"),
    (r"\hat x_0", "sub(over(x, ^), 0)"), (r"{}_a b", "sub(, a) b"), (r"\textstyle\sum_i a", "under(∑, i) a"),
    (r"\lVert v\rVert_2", "‖ v sub(‖, 2)"),
    (r"10^{-3}", "sup(10, − 3)"), (r"\epsilon\varphi", "ϵ φ"), (r"\boxed{a}", "a"),
])
def test_what_a_formula_becomes(tex: str, want: str) -> None:
    assert shape(tex) == want


@pytest.mark.parametrize("tex", [r"\zap x", r"\frac{a}", "{a", "a}", "x_a_b", r"\text{\zap}", r"\left( a", "a & b",
                                 r"\begin{cases}a\end{cases}"])
def test_what_it_does_not_know_is_an_error(tex: str) -> None:
    with pytest.raises(BadInput, match="formula"):
        mathml(tex)


def formulas_of_the_course() -> list[str]:
    found = []
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                found += [m["block"] or m["inline"] for m in CODE_OR_FORMULA.finditer("".join(cell["source"])) if not m["code"]]
    return found


def test_every_formula_of_the_course_is_one_that_browsers_draw() -> None:
    known = {"math", "mrow", "mi", "mo", "mn", "mtext", "mspace", "mstyle", "mfrac", "msqrt", "mroot", "msub", "msup", "msubsup",
             "munder", "mover", "munderover"}                                                     # MathML Core
    formulas = formulas_of_the_course()
    assert len(formulas) > 800
    for tex in formulas:
        tree = ET.fromstring(mathml(tex))
        assert {e.tag for e in tree.iter()} <= known and "\\" not in "".join(tree.itertext()), tex


def test_markdown_leaves_a_formula_alone_and_code_its_dollars() -> None:
    text = ("Both $a*b*c_i^*$ and $|x| < 1$, `$HOME` and \\$5.\n\n| a | $p(x \\mid y)$ |\n|---|---|\n| $|q|$ | 1 |\n\n"
            "$$\nx_{t-1}\n= [a](b)\n$$\n\n"
            "```sh\necho $PATH $HOME\n```\n\n$\\zap$ stays")
    cell = nbformat.from_dict({"cells": [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": text}], "metadata": {},
                               "nbformat": 4, "nbformat_minor": 5})
    config = Config({"HTMLExporter": {"preprocessors": [Formulas]}})
    page = BeautifulSoup(HTMLExporter(template_name="basic", config=config).from_notebook_node(cell)[0], "html.parser")
    assert ["".join(m.stripped_strings) for m in page.select("math")] == ["a∗b∗ci∗", "|x|<1", "p(x∣y)", "|q|", "xt−1=[a](b)"]
    assert not page.select("math em, math a") and len(page.select("td math, th math")) == 2
    assert "echo $PATH $HOME" in page.pre.get_text() and "$HOME" in page.get_text() and "\\zap" in page.get_text()
