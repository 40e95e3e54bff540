"""Exercises of lesson 19: what one vector can say, and how to teach it without touching anything else."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from minidiff.course.answers import Mistake, call, expect, expect_number, fits, number
from minidiff.course.tasks import checks, exercise
from minidiff.rng import normal

__all__: list[str] = []


@exercise("19.best_vector", "The best single vector", points=2, hints=(
    "Which v makes W v come nearest to y? Set the gradient of |W v - y|^2 to zero.",
    "W^T W v = W^T y; torch.linalg.lstsq solves it, also where W is not square.",
))
def best_vector(W, y):
    """The v (D,) for which the frozen linear network W (M, D), M > D, comes nearest to the target y (M,) in
    square error."""
    ### BEGIN SOLUTION
    return torch.linalg.lstsq(W, y[:, None]).solution[:, 0]
    ### END SOLUTION


@checks(best_vector)
def _best_vector(fn: Any) -> None:
    for m, d in ((7, 3), (5, 4)):
        W, y = normal((m, d), "19 W", m).double(), normal((m,), "19 y", m).double()
        want = torch.linalg.pinv(W) @ y
        expect(call(fn, W, y, shape=(d,)), want, wrong=fits({
            "That is W^T y: the direction in which the error falls, not where it is least. Solve W^T W v = W^T y.": W.T @ y,
            "That solves the first rows exactly and ignores the rest; every row counts.": torch.linalg.solve(W[:d], y[:d]),
            "That is W^T y divided by the squared size of W; it would be right only if the columns were orthonormal.":
                W.T @ y / (W**2).sum(),
            "That is the best ridge solution: nothing here asks for a small v.":
                torch.linalg.solve(W.T @ W + torch.eye(d).double(), W.T @ y),
            "It has the right direction and length 1; the length is free too.": want / want.norm(),
            "The sign is wrong.": -want,
        }, want), otherwise="W^T (W v - y) must be zero at the best v; here it is not.")


@exercise("19.free_row", "One free row", points=2, hints=(
    "Look all the rows up as always; then choose, place by place, between what came and v.",
    "torch.where((ids == new)[..., None], v, table[ids]).",
))
def free_row(table, ids, new, v):
    """Embeddings (B, L, D) of ids (B, L) from table (V, D), with v (D,) wherever the id is ``new``.

    Gradients reach v, and the table is left as it is.
    """
    ### BEGIN SOLUTION
    return torch.where((ids == new)[..., None], v, table[ids])
    ### END SOLUTION


@checks(free_row)
def _free_row(fn: Any) -> None:
    for b, length, new, rows, d in ((2, 5, 3, 8, 3), (3, 4, 6, 9, 5)):
        table, v = normal((rows, d), "19 table", b), normal((d,), "19 v", b)
        ids = (normal((b, length), "19 ids", b).abs() * 3).long().clamp(max=7)
        ids[0, 1] = ids[0, 3] = ids[1, 0] = new
        here = (ids == new)[..., None]
        plain = table[ids]
        first = plain.clone()
        for row in range(b):
            found = (ids[row] == new).nonzero()
            if len(found):
                first[row, found[0, 0]] = v
        want = torch.where(here, v, plain).double()
        expect(call(fn, table, ids, new, v, shape=(b, length, d)), want, tol=1e-6, wrong=fits({
            "Nothing is replaced: the new token still has the row of the table.": plain.double(),
            "v stands everywhere: it belongs only where the id is new.": v.expand_as(plain).double(),
            "v is added to the old row; it takes the row's place.": torch.where(here, plain + v, plain).double(),
            "Only the first place in each row is replaced; the word may stand twice in a prompt.": first.double(),
            "It is the wrong way round: v stands where the id is not new.": torch.where(here, plain, v).double(),
        }, want), otherwise="Where the id is new, v; everywhere else the row of the table, unchanged.")
        leaf, frozen = v.clone().requires_grad_(True), table.clone().requires_grad_(True)
        with torch.enable_grad():
            out = fn(frozen, ids, new, leaf)
            grads = torch.autograd.grad(out.sum(), (leaf, frozen), allow_unused=True) if out.requires_grad else (None, None)
        if grads[0] is None or float(grads[0].abs().sum()) == 0:
            raise Mistake("No gradient reaches v: it cannot learn. Do not detach it, and do not copy its numbers into the table.")
        if not torch.allclose(grads[0], (ids == new).sum().float().expand(d)):
            raise Mistake("The gradient of v must be that of all the places where it stands, added up.")
        if grads[1] is not None and float(grads[1][new].abs().sum()) > 0:
            raise Mistake("A gradient reaches the table's own row of the new token; v stands in its place.")


@exercise("19.rungs", "Which rungs can a single vector climb?", hints=(
    "The vector goes through a frozen text encoder into a frozen U-Net. What can these draw at all?",
    "Two colours in one pattern, a robot and a panda were never drawn by them. A colour and a kind were, though not together.",
))
def rungs():
    """The rungs on which Textual Inversion draws the subject itself: a list with some of
    "inside" (a pink rabbit), "paint" (yellow fish, blue stripes), "kind" (a robot), "panda" (an emoji).
    """
    ### BEGIN SOLUTION
    return ["inside"]
    ### END SOLUTION


@checks(rungs)
def _rungs(value: Any) -> None:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise Mistake('A list of rungs, such as ["paint", "kind"].')
    given, known = {str(v) for v in value}, {"inside", "paint", "kind", "panda"}
    if given - known:
        raise Mistake(f"There is no rung {sorted(given - known)[0]!r}; the rungs are inside, paint, kind and panda.")
    if "inside" not in given:
        raise Mistake("A pink rabbit is a kind and a colour that the network draws well: a vector between two words says it.")
    for rung, why in {"panda": "No vector makes a frozen network draw black patches around eyes: it has never learnt to.",
                      "kind": "A robot is no mixture of the twelve kinds; the frozen network has nothing to draw it with.",
                      "paint": "The second colour of a pattern is always a shade of the first one in this world: "
                               "blue stripes on yellow lie outside what the network can draw."}.items():
        if rung in given:
            raise Mistake(why)


@exercise("19.decayed", "What weight decay does to a word that nobody trains", hints=(
    "AdamW multiplies every weight by (1 - lr * decay) in each step, whether it has a gradient or not.",
    "The same factor, steps times over.",
))
def decayed(norm, lr, decay, steps):
    """Length of an untouched row of the table after ``steps`` steps of AdamW, if the whole table is being
    trained.

    norm: its length before; its gradient is zero in all steps.
    """
    ### BEGIN SOLUTION
    return norm * (1 - lr * decay) ** steps
    ### END SOLUTION


@checks(decayed)
def _decayed(fn: Any) -> None:
    for norm, lr, decay, steps in ((1.3, 0.1, 0.9, 40), (0.47, 0.05, 0.1, 301), (2.0, 0.01, 0.5, 0)):
        want = norm * (1 - lr * decay) ** steps
        wrong = {
            "The learning rate is missing: the step is lr times the decay.": norm * (1 - decay) ** steps,
            "A factor in each step, not a sum of steps: (1 - lr * decay) to the power of steps.": norm * (1 - lr * decay * steps),
            "That is one step.": norm * (1 - lr * decay),
            "The learning rate without the decay.": norm * (1 - lr) ** steps,
            "Adam's decay is decoupled: the row shrinks by lr * decay in each step even with a zero gradient.": norm,
            "It shrinks; you let it grow.": norm * (1 + lr * decay) ** steps,
        }
        wrong = {k: v for k, v in wrong.items() if abs(v - want) > 1e-3 * norm}
        got = fn(norm, lr, decay, steps)
        expect_number(got, want, tol=2e-5 * norm, wrong=wrong, otherwise="norm times (1 - lr * decay), steps times over.")


@exercise("19.accumulated", "The effective step of accumulated batches", points=2, hints=(
    "Each gradient is the mean over its own few pictures. What is the mean over all pictures?",
    "A micro-batch of 4 pictures counts four times as much as one of a single picture.",
))
def accumulated(grads, sizes):
    """The gradient (D,) of the mean loss over all pictures, from those of K micro-batches.

    grads (K, D): each the gradient of the mean loss of its own micro-batch; sizes (K,): how many pictures
    each had.
    """
    ### BEGIN SOLUTION
    weights = sizes / sizes.sum()
    return (weights[:, None] * grads).sum(0)
    ### END SOLUTION


@checks(accumulated)
def _accumulated(fn: Any) -> None:
    for k, d in ((3, 4), (2, 5)):
        grads = normal((k, d), "19 grads", k).double()
        sizes = torch.tensor([4, 1, 2][:k]).double()
        want = (sizes[:, None] * grads).sum(0) / sizes.sum()
        expect(call(fn, grads, sizes, shape=(d,)), want, wrong=fits({
            "The gradients are added: K micro-batches then step K times as far as one large batch. "
            "This is how a rate that worked stops working.": grads.sum(0),
            "Each micro-batch counts alike, though they are not of one size.": grads.mean(0),
            "Added with their sizes, but not divided by the number of all pictures.": (sizes[:, None] * grads).sum(0),
            "Divided by the number of micro-batches instead of the number of pictures.": (sizes[:, None] * grads).sum(0) / k,
            "Weighted, then divided once more by K.": want / k,
            "Only the last micro-batch is left: was the gradient set to zero in between?": grads[-1],
        }, want), otherwise="The mean over all pictures: each gradient weighted by its share of the pictures.")


@exercise("19.nearest", "Words near a vector", points=2, hints=(
    "Cosine: scale v and every row of the table to length 1, then multiply.",
    "F.cosine_similarity(table, v[None]).topk(k).indices.",
))
def nearest(table, v, k):
    """Numbers (k,) of the k rows of table (V, D) whose direction is nearest to that of v (D,), the nearest
    first."""
    ### BEGIN SOLUTION
    return F.cosine_similarity(table, v[None]).topk(k).indices
    ### END SOLUTION


@checks(nearest)
def _nearest(fn: Any) -> None:
    for rows, d, k in ((9, 4, 3), (12, 3, 4)):
        table = normal((rows, d), "19 rows", rows) * torch.linspace(0.2, 3, rows)[:, None]
        v = normal((d,), "19 near", rows) * 0.7
        cosine = F.cosine_similarity(table, v[None])
        want = cosine.topk(k).indices
        got = call(fn, table, v, k, shape=(k,))
        expect(got.double(), want.double(), tol=1e-9, wrong=fits({
            "That is the dot product: long rows win. Divide by the lengths.": (table @ v).topk(k).indices,
            "Those are the farthest ones.": (-cosine).topk(k).indices,
            "Those are the smallest Euclidean distances: a short row is near to everything. Compare directions.":
                (-(table - v).norm(dim=1)).topk(k).indices,
            "The order is reversed: the nearest first.": want.flip(0),
            "The sign of the cosine counts: opposite is not near.": cosine.abs().topk(k).indices,
            "They are sorted by number; sort by nearness.": want.sort().values,
        }, want), otherwise="The k largest cosines between v and the rows, largest first.")


@exercise("19.rescaled", "The same direction, another length", hints=(
    "First the mean of the rows' lengths, one number.",
    "v / v.norm() has length 1.",
))
def rescaled(v, table, share):
    """v (D,) with its direction kept and its length set to ``share`` times the mean length of the rows of
    table (V, D)."""
    ### BEGIN SOLUTION
    return v / v.norm() * (share * table.norm(dim=1).mean())
    ### END SOLUTION


@checks(rescaled)
def _rescaled(fn: Any) -> None:
    for rows, d, share in ((6, 4, 0.6), (5, 7, 1.7)):
        v = normal((d,), "19 v", rows).double() * 2
        table = normal((rows, d), "19 lengths", rows).double() * torch.linspace(0.3, 2, rows).double()[:, None] + 0.4
        want = v / v.norm() * share * table.norm(dim=1).mean()
        expect(call(fn, v, table, number(share), shape=(d,)), want, wrong=fits({
            "The length of the mean row is not the mean length of the rows: directions cancel.":
                v / v.norm() * share * table.mean(0).norm(),
            "The old length is still in it: divide by v.norm() first.": v * share * table.norm(dim=1).mean(),
            "share is missing.": v / v.norm() * table.norm(dim=1).mean(),
            "It has length share; the mean length of the table is missing.": v / v.norm() * share,
            "That only multiplies v by share.": v * share,
            "Lengths of columns, not of rows: dim=1.": v / v.norm() * share * table.norm(dim=0).mean(),
        }, want), otherwise="Its length must be share * table.norm(dim=1).mean(), its direction that of v.")


@exercise("19.spell", "A word of several vectors", hints=(
    "diffusers calls the second vector <mine>_1, the third <mine>_2.",
    "Split the prompt into words; put the k names in the place of the word.",
))
def spell(prompt, word, k):
    """The prompt with ``word`` spelled out as its k tokens: word, word_1, ..., joined by spaces. Words stand
    between spaces.

    spell("a <mine> on the grass", "<mine>", 2) is "a <mine> <mine>_1 on the grass".
    """
    ### BEGIN SOLUTION
    names = " ".join([word, *(f"{word}_{i}" for i in range(1, k))])
    return " ".join(names if w == word else w for w in prompt.split(" "))
    ### END SOLUTION


@checks(spell)
def _spell(fn: Any) -> None:
    cases = (("a <mine> on the grass", "<mine>", 2), ("<mine>", "<mine>", 3), ("a cat", "<mine>", 2),
             ("a <x> and a <x>", "<x>", 2),
             ("a <x> left of a <xy>", "<x", 3), ("a toy near a toybox", "toy", 2), ("a <mine>", "<mine>", 1))
    for prompt, word, k in cases:
        names = [word, *(f"{word}_{i}" for i in range(1, k))]
        want = " ".join(" ".join(names) if w == word else w for w in prompt.split(" "))
        got = fn(prompt, word, k)
        if not isinstance(got, str):
            raise Mistake(f"It returns {type(got).__name__}; the prompt is a string.")
        if got == want:
            continue
        shown = f"spell({prompt!r}, {word!r}, {k}) gave {got!r}. "
        if got == prompt:
            raise Mistake(shown + "Nothing is spelled out.")
        if got.split().count(word) == 0 and word in prompt.split():
            raise Mistake(shown + "The first token keeps the name of the word itself.")
        if got == prompt.replace(word, " ".join(names), 1) and prompt.split().count(word) > 1:
            raise Mistake(shown + "The word stands twice, and both are to be spelled out.")
        if got == prompt.replace(word, " ".join(names)):
            raise Mistake(shown + "It also changed a longer word that only contains it.")
        if len(got.split()) != len(want.split()):
            raise Mistake(shown + f"{k} tokens in all: the word and {k - 1} more, numbered from 1.")
        raise Mistake(shown + f"Expected: {want!r}.")
