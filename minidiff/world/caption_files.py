"""Captions beside pictures: metadata.jsonl and metadata.csv (the Hugging Face imagefolder layout), or a text file for each."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from minidiff.errors import BadInput, require
from minidiff.files import read_plain

__all__ = ["TABLES", "captions_of", "one_form"]

TABLES = ("metadata.jsonl", "metadata.csv")
_USUAL = ("text", "caption")


def one_form(name: str) -> str:
    """A file name in Unicode's composed form: macOS hands out "e" and an accent where other systems have one letter."""
    return unicodedata.normalize("NFC", name)


def captions_of(path: Path, files: Sequence[str], names: Sequence[str], *, column: str | None,
                log: Callable[[str], None]) -> list[str] | None:
    """One caption for each of ``files`` ("" where there is none), or None where nothing beside the pictures holds captions.

    names: all files under ``path``. column: the column of the tables that holds captions; None takes text, or caption.
    """
    tables = [name for name in names if name.rsplit("/", 1)[-1] in TABLES]
    if tables:
        return _from_tables(path, files, tables, column, log)
    require(column is None, "caption_column", repr(column), "no column: there is no metadata.jsonl and no metadata.csv")
    beside = {one_form(name.rsplit(".", 1)[0]): name for name in names if name.lower().endswith(".txt")}
    texts = [beside.get(one_form(file.rsplit(".", 1)[0])) for file in files]
    if not any(texts):
        return None
    return ["" if name is None else " ".join(_text(path / name).split()) for name in texts]


def _from_tables(path: Path, files: Sequence[str], tables: Sequence[str], column: str | None,
                 log: Callable[[str], None]) -> list[str]:
    """File names count from the folder of their table."""
    positions = {one_form(name): k for k, name in enumerate(files)}
    captions, seen, columns = [""] * len(files), set(), {}
    for table in tables:
        kind = table.rsplit("/", 1)[-1]
        for where, entry in (_lines if kind.endswith("l") else _rows)(path / table):
            name = entry.get("file_name")
            require(isinstance(name, str) and name != "", kind, f"no file_name in {where}", "file_name and text",
                    '{"file_name": "cat.png", "text": "a cat"}')
            columns |= dict.fromkeys(key for key in entry if key != "file_name")
            text = entry.get(column) if column is not None else entry.get("text", entry.get("caption"))
            text = "" if text is None else text
            require(isinstance(text, str), kind, f"a text of type {type(text).__name__} in {where}", "a string")
            full = one_form((Path(table).parent / name).as_posix())
            require(full in positions, kind, f"{name!r} in {where}, which is not among the images",
                    f"one of the {len(files)} images under {path}", "the right name, or take the line out")
            require(full not in seen, kind, f"{name!r} a second time in {where}", "one line for each image")
            seen.add(full)
            captions[positions[full]] = text
    found = ", ".join(map(repr, columns)) or "file_name alone"
    require(column is None or column in columns, "caption_column", repr(column), f"one of the columns of {tables[0]}: {found}")
    if column is None and columns and not any(name in columns for name in _USUAL):
        log(f"{tables[0]} has no column 'text' or 'caption', so there are no captions; it has {found}: name one with "
            "caption_column=, or --caption-column.")
    return captions


def _text(path: Path) -> str:
    try:
        return read_plain(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(path.name, f"{path}: {error}", "a text file in UTF-8") from None


def _rows(path: Path) -> Iterator[tuple[str, dict]]:
    """(where, entry) of each row of a CSV file with a head."""
    rows = csv.DictReader(io.StringIO(_text(path)), restkey="", strict=True)
    try:
        for entry in rows:
            where = f"line {rows.line_num} of {path}"
            fits = "" not in entry and None not in entry.values()
            require(fits, path.name, where, f"{len(rows.fieldnames or ())} fields, as in its first line",
                    '"quotes" around a text with a comma')
            yield where, entry
    except csv.Error as error:
        raise BadInput(path.name, f"line {rows.line_num} of {path} ({error})", "comma-separated values in UTF-8") from None


def _lines(path: Path) -> Iterator[tuple[str, dict]]:
    """(where, entry) of each line that is not empty."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                entry = str(error)
            kind = entry if isinstance(entry, str) else f"a JSON {type(entry).__name__}"
            require(isinstance(entry, dict), "metadata.jsonl", f"line {number} of {path}: {line.strip()[:60]!r} ({kind})",
                    "one JSON object a line", '{"file_name": "cat.png", "text": "a cat"}')
            yield f"line {number} of {path}", entry
