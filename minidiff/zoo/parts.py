"""Models that are stored by what differs from another: the file that both have once, weights of a fine-tuned network as steps.

A network that was tuned from another has weights near the other's. Their differences are kept in 8 bits with one step for each
output channel, which is nearer to the weights than bfloat16 is; where it is not, the file stays whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from minidiff.errors import CheckpointError, require
from minidiff.files import replace_folder, sha256
from minidiff.manifest import CARD, difference_of, faults, files_below, models_in, read_card, write_card

__all__ = ["COARSEST", "apply_difference", "check_files", "difference", "export", "settle", "slim", "write_whole"]

COARSEST = 2.0**-9          # root mean square error over that of the weights; rounding to bfloat16 makes about 0.0017
_STEP = ".step"
_DTYPES = {"float16": torch.float16, "float32": torch.float32}


def difference(new: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is stored of ``new``: for a weight that ``base`` has in the same shape, round((new - base) / step) as int8 and step
    (rows,) = max |new - base| / 127 of each row; any other tensor, and vectors, as they are. A tensor that is base's own is left
    out where ``new`` has all that ``base`` has: a network of which only a part was tuned.
    """
    out: dict[str, Tensor] = {}
    whole = base.keys() <= new.keys()
    for name, x in new.items():
        if whole and name in base and base[name].dtype == x.dtype and torch.equal(base[name], x):
            continue
        if name not in base or base[name].shape != x.shape or x.ndim < 2 or not x.is_floating_point():
            out[name] = x
            continue
        rows = (x.float() - base[name].float()).flatten(1)
        step = (rows.abs().amax(1) / 127).clamp(min=1e-12)
        out[name] = (rows / step[:, None]).round().to(torch.int8).reshape(x.shape)
        out[name + _STEP] = step
    return out


def apply_difference(stored: Mapping[str, Tensor], base: Mapping[str, Tensor], dtype: torch.dtype, *,
                     rest: bool = False) -> dict[str, Tensor]:
    """The weights again: base + step * difference, rounded to ``dtype``. rest: what is not stored is base's."""
    out = {name: x for name, x in base.items() if name not in stored} if rest else {}
    for name, x in stored.items():
        if name + _STEP in stored:
            step = stored[name + _STEP].reshape(-1, *[1] * (x.ndim - 1))
            out[name] = (base[name].float() + step * x.float()).to(dtype)
        elif not name.endswith(_STEP):
            out[name] = x
    return out


def _error(new: Mapping[str, Tensor], again: Mapping[str, Tensor]) -> float:
    off, size = 0.0, 0.0
    for name, x in new.items():
        off += float((again[name].double() - x.double()).square().sum())
        size += float(x.double().square().sum())
    return (off / max(size, 1e-300)) ** 0.5


def _origin(base: Path, name: str) -> str:
    """The file of the folder ``base`` that the file ``name`` began as: its namesake; of a ControlNet that of the U-Net, whose
    encoder it is a copy of."""
    copied = name.replace("controlnet/", "unet/", 1) if name.startswith("controlnet/") else name
    return name if (base / name).is_file() else copied


def slim(folder: Path, base: str, root: Path) -> None:
    """Rewrite the whole model in ``folder`` as what differs from the model ``base`` of ``root``. folder: not yet in use."""
    card = read_card(folder)
    theirs = {mark: name for name, mark in read_card(root / base)["sha256"].items()}
    shared, differs = {}, {}
    for name, mark in card["sha256"].items():
        path, origin = folder / name, _origin(root / base, name)
        there = root / base / origin
        if mark in theirs:
            shared[name] = {"from": f"{base}/{theirs[mark]}", "sha256": mark}
            path.unlink()
        elif path.suffix == ".safetensors" and there.is_file():
            new, old = load_file(path), load_file(there)
            dtypes = {x.dtype for x in new.values() if x.is_floating_point()}
            if len(dtypes) == 1 and (dtype := dtypes.pop()) in _DTYPES.values():
                stored, rest = difference(new, old), old.keys() <= new.keys()
                if stored and _error(new, apply_difference(stored, old, dtype, rest=rest)) < COARSEST:
                    facts = {"dtype": str(dtype).removeprefix("torch.")} | ({"rest": "base"} if rest else {})
                    save_file(stored, folder / difference_of(name), facts)
                    differs[name] = {"from": f"{base}/{origin}", "sha256": sha256(there)}
                    path.unlink()
    for place in sorted({path.parent for path in map(folder.joinpath, shared)}, reverse=True):
        if place != folder and not any(place.iterdir()):
            place.rmdir()
    write_card(folder, card | {"shared": shared, "differs": differs})


def write_whole(folder: Path, root: Path, into: Path) -> Path:
    """Write the model in ``folder`` as the new folder ``into`` with all of its files, those of other models included."""
    card = read_card(folder)
    into.mkdir(parents=True, exist_ok=True)
    stored = set(map(difference_of, card.get("differs", {})))
    for path in files_below(folder):
        name = path.relative_to(folder).as_posix()
        if name not in stored and name != CARD:
            _put(path, into / name)
    for name, source in card.get("shared", {}).items():
        _put(root / source["from"], into / name)
    for name, source in card.get("differs", {}).items():
        file = folder / difference_of(name)
        with safe_open(file, framework="pt") as opened:
            facts = opened.metadata() or {}
        dtype, rest = _DTYPES[facts["dtype"]], facts.get("rest") == "base"
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        made = apply_difference(load_file(file), load_file(root / source["from"]), dtype, rest=rest)
        save_file(made, into / name, {"format": "pt"})
    write_card(into, {k: v for k, v in card.items() if k not in ("shared", "differs")})
    return into


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def check_files(name: str, root: Path, *, run: str = "", path: str = "") -> None:
    """Raise CheckpointError that names all that is wrong with the model ``name`` of ``root``; run: what the folder of a training
    run that it belongs to was called; path: what the model's own folder was called."""
    if wrong := faults(root / name, root):
        if path:
            raise CheckpointError("name", f"{path!r}, where {'; '.join(wrong)}", "the files that its card.json lists, as written",
                                  "minidiff export NAME DIR into a new folder; without card.json it is a folder like any other")
        if run:
            raise CheckpointError("name", f"{run!r}, where {'; '.join(f'{name}/: {one}' for one in wrong)}",
                                  "the model as the run wrote it",
                                  "the training command of this run again: it writes model/ anew from the newest checkpoint")
        raise CheckpointError("name", f"{name!r}, where {'; '.join(wrong)}", "the files as they were shipped",
                              f"git checkout -- data, git clean -f -- data, or minidiff train {name} --ship; outside a "
                              "checkout install the package again")


def export(name: str, folder: str | Path, root: Path) -> Path:
    """Write the model ``name`` of ``root`` as the folder ``folder`` with all of its files, which must not be there yet."""
    check_files(name, root)
    folder = Path(folder).expanduser()
    require(not folder.exists(), "DIR", f"{str(folder)!r}, which is there already", "the name of a new folder",
            f"minidiff export {name} {folder}-2")
    require(folder.parent.is_dir(), "DIR", f"{str(folder)!r} in a folder that is not there", f"{folder.parent} made before",
            f"mkdir -p {folder.parent}")
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        write_whole(root / name, root, fresh)
        replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def settle(name: str, fresh: Path | None, root: Path) -> None:
    """Before ``root/name`` is replaced by ``fresh`` (None: removed): models that use files of it which change are made whole."""
    kept = {} if fresh is None else read_card(fresh)["sha256"]
    for other in models_in(root):
        try:
            card = read_card(root / other)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue                                          # broken already; nothing of it can be saved here
        sources = [s for kind in ("shared", "differs") for s in card.get(kind, {}).values() if s["from"].startswith(name + "/")]
        if all(kept.get(s["from"].removeprefix(name + "/")) == s["sha256"] for s in sources):
            continue
        if faults(root / other, root):
            continue
        place = (root / other).with_name(f".{Path(other).name}.tmp")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        write_whole(root / other, root, place)
        replace_folder(place, root / other)
