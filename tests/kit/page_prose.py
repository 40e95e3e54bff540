"""Numbers in the prose of a page, and the numbers that may stand there: printed by its cells, on a card, in a stored row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["agrees", "flat", "known_numbers", "spoken"]

_NUMBER = re.compile(r"(?<![\w.,/^\\{:-])(\d{1,3}(?:,\d{3})+|\d+\.\d+|\d+)(?![\w/]|\.\d|,\d{3})")
_UNIT = re.compile(r"\s*(?:%|dB|pixels|pictures|million|bits)")
_NO_PROSE = re.compile(r"<details>.*?</details>|```.*?```|\$\$.*?\$\$|\$[^$]*\$|`[^`]*`|arXiv \S+|[Ss]ections? [\d., and]+|"
                       r"equations? [\d., and]+|Stable Diffusion \d\.\d", re.S)


def spoken(text: str) -> Iterator[tuple[str, str]]:
    """(number, the words around it) of one text cell: those with a decimal point or before a unit; formulas, code, tables out."""
    plain = _NO_PROSE.sub(" ", re.sub(r"\|.*\|", " ", text))
    for found in _NUMBER.finditer(plain):
        if "." in found[1] or _UNIT.match(plain, found.end()):
            yield found[1].replace(",", ""), plain[max(0, found.start() - 30):found.end() + 20].replace("\n", " ")


def flat(value: Any) -> Iterator[float]:
    """All numbers in lists and dictionaries."""
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from flat(inner)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def agrees(said: str, known: Iterable[float]) -> bool:
    """True where ``said`` is one of ``known``, rounded as it is written; a share may be said in percent, a count in millions."""
    decimals = len(said.split(".")[1]) if "." in said else -max(0, len(said) - len(said.rstrip("0")))
    number = float(said)
    return any(abs(round(value * unit, decimals) - number) < 1e-9 for value in known for unit in (1.0, 100.0, 1e-6, 1e-3, -1.0))


def _text(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def known_numbers(book: dict[str, Any], rows: list[dict[str, Any]], cards: dict[str, Path]) -> list[float]:
    """What the page's cells print or caption, the rows that it names, the cards of the models that it names."""
    said = " ".join(_text(cell["source"]) for cell in book["cells"])
    printed = []
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            printed += re.findall(r"caption=.*?alt=", _text(cell["source"]), re.S)
            for output in cell["outputs"]:
                data = output.get("data", {})
                printed += [_text(output.get("text", "")), *(_text(v) for mime, v in data.items() if mime.startswith("text/"))]
    found = [float(n.replace(",", "")) for n in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", " ".join(printed)) if n.strip(",")]
    found += [n for row in rows if re.search(rf"\b{re.escape(row['id'])}\b", said) for n in flat(row)]
    named = [path for name, path in cards.items() if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", said)]
    return found + [n for path in named for n in flat(json.loads(path.read_text(encoding="utf-8")))]
