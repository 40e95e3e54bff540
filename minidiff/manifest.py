"""What each folder of the shipped models holds: ``card.json`` lists every file with its SHA-256, and what lies elsewhere.

On a card, beside its facts:

    "sha256"   {file: hash}: all files of the folder but the card itself
    "shared"   {file: {"from": path below data/, "sha256": hash}}: files of the model that another model's folder holds
    "differs"  {file: {"from": path below data/, "sha256": hash}}: files made of another model's file and of a difference that
               this folder holds in X.difference.safetensors for X.safetensors (see :mod:`minidiff.zoo.parts`)
    "card"     the SHA-256 of the card's own bytes, with zeros where this hash stands

Nothing here needs torch: ``minidiff doctor`` looks at the models also where torch is broken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from minidiff.files import replace, sha256, sha256_of

__all__ = ["CARD", "difference_of", "faults", "files_below", "in_part", "models_in", "read_card", "update_card", "write_card"]

CARD = "card.json"
_OWN = re.compile(rb'"card": "([0-9a-f]{64})"')
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def difference_of(name: str) -> str:
    """Where the difference that makes the file ``name`` is stored."""
    return name.removesuffix(".safetensors") + ".difference.safetensors"


def files_below(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no plain folder: files, links of any kind, hidden ones too."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from files_below(path)
        else:
            yield path


def models_in(root: Path) -> list[str]:
    """Names of the folders below ``root`` that have a card, such as "readers/final"; what is being written is left out."""
    names = [path.parent.relative_to(root) for path in root.glob(f"**/{CARD}")]
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def _own_hash(data: bytes) -> str:
    return sha256_of(_OWN.sub(lambda found: found[0].replace(found[1], b"0" * 64), data, count=1))


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Write card.json: ``facts``, and the hashes of all that is in ``folder`` now and of the card itself."""
    names = {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    names.pop(CARD, None)
    card = {k: v for k, v in facts.items() if k not in ("sha256", "card")}
    card |= {"sha256": {name: sha256(path) for name, path in names.items()}, "card": "0" * 64}
    data = (json.dumps(card, indent=1) + "\n").encode()
    replace(folder / CARD, data.replace(b'"card": "' + b"0" * 64, b'"card": "' + _own_hash(data).encode()))


def update_card(folder: Path, **facts: Any) -> None:
    """Change some facts of a card. The hashes of the files stay as they were: a file that has changed is still found."""
    card = json.loads((folder / CARD).read_text(encoding="utf-8")) | facts | {"card": "0" * 64}
    data = (json.dumps(card, indent=1) + "\n").encode()
    replace(folder / CARD, data.replace(b'"card": "' + b"0" * 64, b'"card": "' + _own_hash(data).encode()))


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a folder. Raises OSError, ValueError, KeyError or TypeError for one that does not say what a card says."""
    if (size := (folder / CARD).stat().st_size) > 2**22:
        raise ValueError(f"{size} bytes are no card")
    card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    places = [(name, mark) for name, mark in card["sha256"].items()]
    for kind in ("shared", "differs"):
        for name, source in card.get(kind, {}).items():
            places += [(name, source["sha256"]), (source["from"], source["sha256"])]
    for name, mark in places:
        if not (isinstance(mark, str) and all(map(_PART.fullmatch, name.split("/")))):
            raise ValueError(f"it names the file {name!r}")
    return card


def in_part(card: dict[str, Any]) -> bool:
    """Whether the folder of this card holds only what differs from another model."""
    return bool(card.get("shared") or card.get("differs"))


def faults(folder: Path, root: Path) -> list[str]:
    """All that is not as the card of ``folder`` says, in words; [] where every byte is. root: where other models lie."""
    try:
        card = read_card(folder)
        data = (folder / CARD).read_bytes()
    except FileNotFoundError:
        return ["no card.json says what its files should be"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [f"its card.json cannot be used ({type(error).__name__}: {error})"]
    found = [] if card.get("card") == _own_hash(data) else ["card.json has changed"]
    hashes, there = card["sha256"], {path.relative_to(folder).as_posix(): path for path in files_below(folder)}
    for name, path in there.items():
        if path.is_symlink() or not path.is_file():
            found.append(f"{name} is no plain file")
        elif name not in hashes and name != CARD:
            found.append(f"{name} is not on the card")
    found += [said for name, mark in hashes.items() if (said := _changed(folder / name, name, mark))]
    for kind, verb in (("shared", "that it shares"), ("differs", "that it differs from")):
        for source in card.get(kind, {}).values():
            if said := _changed(root / PurePosixPath(source["from"]), f"{source['from']}, {verb},", source["sha256"]):
                found.append(said)
    return found


def _changed(path: Path, name: str, wanted: str) -> str:
    if path.is_symlink():
        return ""                                             # said already
    if not path.is_file():
        return f"{name} is missing"
    if (found := sha256(path)) != wanted:
        return f"{name} has changed (sha256 {found[:12]}..., the card says {wanted[:12]}...)"
    return ""
