"""Every public function of the rooms with every argument wrong in turn: at least 98 % clear errors, the rest listed by name."""

from __future__ import annotations

import collections

import pytest
import sweep
import torch

# Calls that are not refused, each with the reason: a rule here is "function argument: what" -> why it stands.
ALLOWED = {
    "diffusion.log_prob_gradient x: one picture without a batch": "log_prob says which shapes it takes",
    "diffusion.score_from_eps eps: one picture without a batch": "one number for one number: any shape is right",
    "diffusion.prior_term x0: one picture without a batch": "data of any shape (B, ...)",
    "diffusion.row_noise t: negative": "t names a stream of noise, as a seed does",
    "steer.attention v: another shape": "values may be narrower than queries and keys",
}
ANY_SEED = "seed: negative"         # every whole number is a seed: the generator takes its hash


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.mark.parametrize("room", sweep.ROOMS)
def test_every_public_function_has_a_good_call(room: str) -> None:
    for name, function in sweep.functions(room).items():
        if name in sweep.VALID[room] and name not in sweep.ELSEWHERE:
            sweep.call(function, sweep.VALID[room][name]())
        else:
            assert name in sweep.ELSEWHERE, f"minidiff.{room}.{name} has no good call in tests/kit/sweep.py"


def test_wrong_arguments_are_refused_in_clear_words() -> None:
    found = collections.Counter()
    bad = []
    for room in sweep.ROOMS:
        for name, function in sweep.functions(room).items():
            if name not in sweep.VALID[room] or (name in sweep.ELSEWHERE and room != "latent"):
                continue
            for what, given in sweep.bad_calls(function, sweep.VALID[room][name]):
                said = sweep.outcome(function, given)
                found[said.partition(":")[0]] += 1
                if said != "clear":
                    bad.append(f"{room}.{name} {what}: {said}")
    lines = {line: line.removesuffix(": silent") for line in bad}
    unlisted = [line for line, call in lines.items() if call not in ALLOWED and not call.endswith(ANY_SEED)]
    total = sum(found.values())
    print(f"{total} bad calls: {dict(found)}")
    assert found["changed"] == 0
    assert found["clear"] / total >= 0.98, "\n".join([str(dict(found)), *bad])
    assert not unlisted, "\n".join([str(dict(found)), *unlisted])
