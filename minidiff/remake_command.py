"""``minidiff remake``, ``minidiff unpack`` and ``minidiff export``: their arguments, and what they print."""

from __future__ import annotations

import argparse
from typing import Any

from minidiff.options import device, number, path

__all__ = ["add_parsers", "export", "remake", "unpack"]


def add_parsers(commands: Any) -> None:
    """Add these commands to those of ``minidiff``."""
    again = commands.add_parser("remake", help="train all models that ship, side by side; the same command again resumes it")
    again.add_argument("names", metavar="NAME", nargs="*", help="models to make; all of the plan when left out")
    again.add_argument("--device", type=device, help="cpu, cuda, cuda:1; the best there is when left out")
    again.add_argument("--minutes", type=number(0, above=True),
                       help="of wall clock, in all (9; with --budget laptop: until every model has "
                                                     "seen its images)")
    again.add_argument("--budget", default="gpu", choices=("laptop", "gpu"))
    again.add_argument("--out", default="runs/remake", type=path, metavar="DIR",
                       help="where models, runs and logs go (runs/remake)")
    again.add_argument("--pack", type=path, metavar="DIR",
                       help="also put the models into a few archives of at most 16 MiB each, for unpack")

    take = commands.add_parser("unpack", help="ship the models of remake --pack that score better than those in data/")
    take.add_argument("folder", type=path, metavar="DIR", help="the folder with the archives")
    take.add_argument("names", metavar="NAME", nargs="*", help="only these models; all in the archives when left out")
    take.add_argument("--force", action="append", default=[], metavar="NAME", help="take this model whatever it scores")
    take.add_argument("--all", action="store_true", dest="everything", help="take all without scoring")

    whole = commands.add_parser("export", help="write a shipped model as a folder of its own, which diffusers reads")
    whole.add_argument("name", metavar="NAME", help="mini-inpaint, mini-sd, ...")
    whole.add_argument("folder", metavar="DIR", help="the new folder")


def remake(given: argparse.Namespace) -> int:
    """Exit code 0 when every job is done, 1 when one was stopped, failed or not started."""
    from minidiff.recipes.remake import NINE, remake, table_of
    minutes = given.minutes if given.minutes is not None or given.budget == "laptop" else NINE
    rows = remake(given.names, out=given.out, minutes=minutes, device=given.device, budget=given.budget, pack=given.pack,
                  log=lambda line: print(line, flush=True))
    print(table_of(rows), flush=True)
    return int(any(row.state != "done" for row in rows))


def unpack(given: argparse.Namespace) -> int:
    """Exit code 0; what was not taken, and why, is printed."""
    from minidiff.course.unpack import unpack
    from minidiff.show import plural
    verdicts = unpack(given.folder, given.names, force=given.force, everything=given.everything)
    print(f"{plural(len(verdicts), 'model')}: {sum(v.taken for v in verdicts)} taken into data/")
    return 0


def export(given: argparse.Namespace) -> int:
    """Exit code 0; prints the folder and its size."""
    from minidiff.manifest import files_below
    from minidiff.zoo import export
    folder = export(given.name, given.folder)
    print(f"{folder}: {given.name}, {sum(path.stat().st_size for path in files_below(folder)) / 1e6:.1f} MB")
    return 0
