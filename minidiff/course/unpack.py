"""``minidiff unpack``: models that a remake packed go into ``data/`` where they score better, on the same pictures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from minidiff.course.cards import (
    autoencoder_scores,
    clip_scores,
    control_scores,
    pipeline_scores,
    pixel_scores,
    reader_scores,
    small_world_scores,
    task_scores,
)
from minidiff.errors import CheckpointError, check_choice
from minidiff.files import data_folder, remove_folder, replace_folder
from minidiff.manifest import CARD, difference_of, faults, in_part, read_card, update_card
from minidiff.recipes.pack import packed, unpack_model
from minidiff.zoo.parts import settle, slim, write_whole

__all__ = ["DECIDES", "Decision", "Measure", "Verdict", "decision_of", "measured", "unpack"]

Scores = dict[str, Any]


class Decision(NamedTuple):
    """What decides about a model: how it is measured, the number taken of that, and whether higher is better."""

    measure: Callable[[str], Scores]
    what: str
    number: Callable[[Scores], float]
    higher: bool = True


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _read_right(scores: Scores) -> float:
    return _mean([v for k, v in scores["full, 64 x 64"].items() if k not in ("pictures", "things")])


def _task(scores: Scores) -> float:
    return next(v[0] for k, v in scores.items() if k.startswith("08."))


# beginning of a name -> what decides; the first that fits
DECIDES: dict[str, Decision | None] = {
    "readers/": Decision(reader_scores, "mean of what is read right on full scenes", _read_right),
    **dict.fromkeys(("pixel-guided", "ddgan", "gan-32", "vae-32"), Decision(
        small_world_scores, "share of samples that show one thing of the small world",
        lambda s: s["one thing of the small world"][0])),
    "noisy-classifier": Decision(task_scores, "share of kinds right", lambda s: s["04.noisy_classifier"][0]),
    "pixel-": Decision(pixel_scores, "FDmini of samples", lambda s: s["FDmini"][0], higher=False),
    "mini-vae": Decision(autoencoder_scores, "PSNR on full scenes", lambda s: s["PSNR in dB, full"][0]),
    "vae-": Decision(autoencoder_scores, "PSNR on full scenes", lambda s: s["PSNR in dB, full"][0]),
    "vq-": Decision(autoencoder_scores, "PSNR on full scenes", lambda s: s["PSNR in dB, full"][0]),
    "mini-clip": Decision(clip_scores, "share of captions found", lambda s: s["picture to caption"][0]),
    "mini-sd": Decision(pipeline_scores, "mean share of prompts shown",
                        lambda s: _mean([s[kind][0] for kind in ("one", "two", "held_out")])),
    "mini-inpaint": Decision(task_scores, "share painted as asked", _task),
    "mini-layout": Decision(task_scores, "IoU with the layout", _task),
    "mini-control": Decision(control_scores, "IoU with the silhouette", lambda s: s["IoU with the silhouette"][0]),
    "mini-parasol": Decision(task_scores, "style times content", lambda s: s["18.style"][0] * s["18.content"][0]),
    "parasol-tokens": Decision(task_scores, "share of retrieved styles that are right", lambda s: s["18.retrieval"][0]),
    "mini-upscale": Decision(task_scores, "dB over bicubic", _task),
}


class Verdict(NamedTuple):
    """What became of one packed model, and why."""

    name: str
    taken: bool
    why: str


def decision_of(name: str) -> Decision | None:
    """What decides about ``name``; None where nothing does."""
    return next((decision for start, decision in DECIDES.items() if name.startswith(start)), None)


Measure = Callable[[str, Path], Scores]


def measured(name: str, data: Path) -> Scores:
    """The scores of the model ``name`` as it lies in the folder ``data``, in its own process: samples are cached by name."""
    code = "import json, sys; from minidiff.course.unpack import decision_of; " \
           "print(json.dumps(decision_of(sys.argv[1]).measure(sys.argv[1])))"
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run([sys.executable, "-c", code, name], stdout=subprocess.PIPE, text=True, check=True,
                          env=os.environ | {"MINIDIFF_DATA": str(data), "PYTHONPATH": os.pathsep.join(paths)})
    return json.loads(done.stdout.splitlines()[-1])


def unpack(folder: str | Path, names: Sequence[str] = (), *, force: Sequence[str] = (), everything: bool = False,
           measure: Measure = measured, log: Callable[[str], None] = print) -> list[Verdict]:
    """Ship the models that ``minidiff remake --pack`` put into ``folder`` and that are better than those in ``data/``.

    names: only these. force: take these whatever they score; everything: take all so (after a new edition of the world the old
    models' scores say nothing). Old and new are measured on the same pictures, with the readers that are in ``data/`` by then:
    new readers are compared first. Raises CheckpointError, with ``data/`` as it was for that model, for an archive that was
    changed.
    """
    found = packed(folder)
    for name in (*names, *force):
        check_choice("NAME", name, found)
    verdicts = []
    data = data_folder()
    for name in sorted(found, key=lambda n: (not n.startswith("readers/"), _stored_in_part(found[n]), n)):
        if names and name not in names and name not in force:
            continue
        target = data / name
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.tmp")
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            unpack_model(folder, name, fresh)
            _fit(Path(folder), found, name, fresh, data)
            taken, why = (True, "asked for") if everything or name in force else _better(name, fresh, data, measure)
            if taken:
                settle(name, fresh, data)
                replace_folder(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        verdicts.append(Verdict(name, taken, why))
        log(f"{name}: {'taken' if taken else 'NOT taken'}, {why}")
    if any(v.taken for v in verdicts):
        _store_once("mini-vae", "mini-sd", data)
    return verdicts


def _stored_in_part(files: Iterable[str]) -> bool:
    return any(name.endswith(difference_of("")) for name in files)


def _fit(folder: Path, found: Iterable[str], name: str, fresh: Path, data: Path) -> None:
    """Make an unpacked model whole where it differs from another version of a model than the one in ``data``."""
    if not in_part(read_card(fresh)) or not faults(fresh, data):
        return
    with tempfile.TemporaryDirectory(dir=data, prefix=".unpack-", suffix=".tmp") as place:
        stage = Path(place)
        sources = {s["from"] for kind in ("shared", "differs") for s in read_card(fresh).get(kind, {}).values()}
        for base in found:
            if any(source.startswith(base + "/") for source in sources):
                unpack_model(folder, base, stage / base)
        if wrong := faults(fresh, stage):
            raise CheckpointError("DIR", f"{str(folder)!r}, where {name} lacks what it differs from ({wrong[0]})",
                                  "archives of both, as minidiff remake --pack wrote them")
        whole = write_whole(fresh, stage, stage / "whole")
        remove_folder(fresh)
        os.replace(whole, fresh)


def _store_once(name: str, base: str, data: Path) -> None:
    """Let ``name`` share what ``base`` has byte for byte."""
    if not all((data / one / CARD).is_file() and not faults(data / one, data) for one in (name, base)):
        return
    marks = read_card(data / name)["sha256"].values()
    if set(marks) & set(read_card(data / base)["sha256"].values()):
        fresh = data / f".{name}.tmp"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(data / name, fresh)
        slim(fresh, base, data)
        replace_folder(fresh, data / name)


def _better(name: str, fresh: Path, data: Path, measure: Measure) -> tuple[bool, str]:
    """Measure old and new; the new one's scores go onto its card."""
    decision = decision_of(name)
    if decision is None:
        return False, f"no score decides about it; --force {name} takes it"
    if not (data / name / "card.json").exists():
        return True, "there was none"
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch)
        shutil.copytree(data, stage, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.tmp"))
        shutil.rmtree(stage / name)
        shutil.copytree(fresh, stage / name)
        scores = measure(name, stage)
    before, after = decision.number(measure(name, data)), decision.number(scores)
    taken = after > before if decision.higher else after < before
    update_card(fresh, scores=scores)
    return taken, f"{decision.what} {after:.4g} against {before:.4g}, {'higher' if decision.higher else 'lower'} is better"
