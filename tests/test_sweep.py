"""Every public function of the rooms with every argument wrong in turn: at least 98 % clear errors, the rest listed by name.

A call that is refused leaves everything as it was: tensors, networks and their hooks, the tokenizer, files, the random numbers.
"""

from __future__ import annotations

import collections
import re

import pytest
import sweep
import sweep_hooks
import sweep_upper
import torch
from torch import nn

from minidiff.errors import BadInput, require

VALID = {room: calls | sweep_hooks.HOOKS.get(room, {}) for room, calls in (sweep.VALID | sweep_upper.VALID).items()}
ROOMS = tuple(VALID)
# Lessons are still being added: so many of a room's functions may be without a good call yet (4 where nothing is said).
BUILDING = {"editing": 12, "morphing": 12}
# Calls that are not refused, each with the reason: a pattern of "room.function argument: what" -> why it stands.
ALLOWED = {
    r"(diffusion.instruct_pix2pix|measure.residual) images?: 0 to 255": "a prediction of noise; a difference of two pictures",
    r"show.(grid|tile|pixels|save_grid) images: 0 to 255": "noised pictures and masks are shown too",
    r".* seed: negative": "every whole number is a seed: the generator takes its hash",
    r"diffusion.log_prob_gradient x: one picture without a batch": "log_prob says which shapes it takes",
    r"diffusion.score_from_eps eps: one picture without a batch": "one number for one number: any shape is right",
    r"diffusion.prior_term x0: one picture without a batch": "data of any shape (B, ...)",
    r"diffusion.row_noise t: negative": "t names a stream of noise, as a seed does",
    r"steer.attention v: another shape": "values may be narrower than queries and keys",
    r"show.(choice|toggle|text|mask) name: no such choice": "a knob may be called anything",
    r".* sites: text": "a site's name: a tap refuses one that its network has not got (tests/steer/test_attention.py)",
    r"editing.ShiftH delta: one picture without a batch": "a direction is for every row",
    r"morphing.* weights: number": "3 is a number of frames",
    r"train.(newest_meta|read_losses) out: no such place": "None, or no losses: that is what they are asked for",
    r"recipes.pixel_recipe name: no such choice": "a recipe of one's own may be called anything",
    r"course.verdict_of (low|high): (nan|inf)": "a row of NaN or of infinity has a verdict",
    r"zoo.ship name: no such choice": "a model of one's own may be called anything",
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def tidy():
    yield
    sweep_upper.clear_place()


def swept(room: str) -> list[str]:
    return [name for name in sweep.functions(room) if name in VALID[room] and f"{room}.{name}" not in sweep.ELSEWHERE]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_function_has_a_good_call(room: str, capsys: pytest.CaptureFixture[str]) -> None:
    functions = sweep.functions(room)
    for name in swept(room):
        if f"{room}.{name}" not in sweep_upper.SLOW:
            sweep.call(functions[name], VALID[room][name]())
    missing = [name for name in functions if name not in VALID[room] and f"{room}.{name}" not in sweep.ELSEWHERE]
    assert len(missing) <= BUILDING.get(room, 4), f"no good call in tests/kit/sweep*.py for minidiff.{room}: {missing}"


def test_wrong_arguments_are_refused_in_clear_words_and_leave_nothing_behind() -> None:
    found: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    bad = []
    for room in ROOMS:
        functions = sweep.functions(room)
        folder = sweep_upper.place() if room in sweep_upper.VALID else None
        for name in swept(room):
            for what, given in sweep.bad_calls(functions[name], VALID[room][name]):
                said = sweep.outcome(functions[name], given, folder)
                found[room][said.partition(":")[0]] += 1
                if said != "clear":
                    bad.append(f"{room}.{name} {what}: {said}")
    lines = {line: line.removesuffix(": silent") for line in bad}
    unlisted = [line for line, call in lines.items() if not any(re.fullmatch(pattern, call) for pattern in ALLOWED)]
    whole = sum(found.values(), collections.Counter())
    table = "\n".join(f"{room}: {sum(n.values())} bad calls, {dict(n)}" for room, n in {**found, "all": whole}.items())
    print(table)
    assert not unlisted, "\n".join([table, *unlisted])
    assert whole["clear"] / sum(whole.values()) >= 0.98, "\n".join([table, *bad])


def spoils(what: str):
    """A function that refuses its argument after it has changed something."""
    def function(net: nn.Module, n: int) -> None:
        if what == "a hook":
            net.register_forward_hook(lambda *_: None)
        elif what == "a weight":
            with torch.no_grad():
                net.weight.add_(0.0)
        elif what == "the mode":
            net.train()
        elif what == "gradients":
            net.requires_grad_(False)
        elif what == "a file":
            (sweep_upper.place() / "old.png").write_bytes(b"new")
        elif what == "a new file":
            (sweep_upper.place() / "half.tmp").write_bytes(b"")
        elif what == "random numbers":
            torch.rand(1)
        elif what == "a processor":
            net.processor = object()
        require(n > 0, "n", n, "1 or more")

    return function


@pytest.mark.parametrize("what", ["nothing", "a hook", "a weight", "the mode", "gradients", "a file", "a new file",
                                  "random numbers", "a processor"])
def test_what_a_refused_call_leaves_behind_is_seen(what: str) -> None:
    net = nn.Linear(2, 2).eval()
    net.processor = object()
    with torch.random.fork_rng():
        said = sweep.outcome(spoils(what), {"net": net, "n": -1}, sweep_upper.place())
    (sweep_upper.place() / "half.tmp").unlink(missing_ok=True)
    assert said.startswith("clear" if what == "nothing" else "changed: "), said


def test_a_new_word_is_not_left_by_a_call_that_is_refused() -> None:
    from minidiff.personal import dreambooth, textual_inversion
    pipe, images = sweep.pipe(), sweep_upper.image(2)
    before = len(pipe.tokenizer)
    for method, more in ((dreambooth, {"class_word": "bear"}), (textual_inversion, {})):
        for wrong in ({"iterations": 0}, {"batch": 0}, {"captions": ["a {}"]}, {"captions": ["a {}", "a bear"]}):
            with pytest.raises(BadInput, match=next(iter(wrong))):
                method(pipe, images, word="<left>", **more, **wrong)
    assert len(pipe.tokenizer) == before
