"""``minidiff score``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_parsers", "score"]


def add_parsers(commands: Any) -> None:
    """Add the command to those of ``minidiff``."""
    score = commands.add_parser("score", help="measure claims of the course again; --write stores the rows")
    score.add_argument("claims", metavar="CLAIM", nargs="*",
                       help="ids such as 03.ddim_20_vs_50, or 03 for all of lesson 03; all when left out")
    score.add_argument("--stored", action="store_true", help="print the rows as they are stored; nothing is measured")
    score.add_argument("--n", type=int, help="samples a row, instead of the number each row asks for; never stored")
    score.add_argument("--write", action="store_true",
                       help="store the rows in data/scoreboard.json and redraw data/SCOREBOARD.md and the README's table")
    score.add_argument("--pages", action="store_true", help="only redraw the pages from the stored rows; nothing is measured")
    score.add_argument("--cards", action="store_true", help="measure the shipped models first, and write it onto their cards")


def score(given: argparse.Namespace) -> int:
    """Exit code 0, whatever the verdicts are: a claim that fails is a result."""
    from minidiff.errors import require
    if given.pages:
        require(not (given.claims or given.n or given.write or given.cards), "--pages", "other arguments beside it",
                "nothing else: it measures nothing", "minidiff score --pages")
        from minidiff.course.scoreboard import PAGE, write_pages
        write_pages()
        print(f"data/{PAGE} and README.md show what data/scoreboard.json holds.")
        return 0
    if given.stored:
        require(not (given.n or given.write or given.cards), "--stored", "other options beside it", "claims or lessons alone: it "
                "measures nothing", "minidiff score 06 --stored")
        from minidiff.course import stored
        from minidiff.course.claims import ids_of
        from minidiff.course.scoreboard import text_table
        kept = stored()
        print(text_table(kept[id] for id in ids_of(given.claims) if id in kept))
        return 0
    from minidiff.course import score
    require(given.n is None or given.n > 1, "--n", given.n, "at least 2 samples", "--n 1000")
    if given.cards:
        from minidiff.course.cards import update_cards
        update_cards()
    from minidiff.show import plural
    rows = score(given.claims, n=given.n, write=given.write)
    counts = {word: [row.id for row in rows if row.verdict == word] for word in ("passed", "failed", "undecided")}
    named = {word: f" ({', '.join(ids)})" if ids and word != "passed" else "" for word, ids in counts.items()}
    print(f"{plural(len(rows), 'row')}: " + "; ".join(f"{len(ids)} {word}{named[word]}" for word, ids in counts.items()))
    if given.write:
        print("Stored in data/scoreboard.json; its pages are redrawn.")
    else:
        print("Nothing was stored" + (": a sample of another size never is." if given.n else "; --write stores these rows."))
    return 0
