"""Mistakes planted in the engine, one at a time; the suite of this folder must catch every one.

    python -m tests.steer.planted          prints one line a mistake

Each mistake changes a copy of the package; a forked child imports that copy and runs the tests. torch and diffusers are loaded
once, in the parent.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# what is wrong -> (file, what stands there, what stands there instead)
MISTAKES = {
    "the branches of a text change places": ("steer/engine.py",
                                             "for text in texts if self.models[text] is model for branch in z)",
                                             "for text in texts if self.models[text] is model for branch in reversed(list(z)))"),
    "the latents of the first branch go to all rows": ("steer/engine.py", "torch.cat([z[row.branch] for row in rows])",
                                                       "torch.cat([z[rows[0].branch] for row in rows])"),
    "the texts of the first branch go to all rows": ("steer/engine.py", "self.texts[row.branch][row.text]\n            values",
                                                     "self.texts[rows[0].branch][row.text]\n            values"),
    "guidance reads the wrong half": ("steer/guiders.py", 'u, c = predictions["empty"], predictions["prompt"]',
                                      'c, u = predictions["empty"], predictions["prompt"]'),
    "guidance in the paper's weight": ("steer/guiders.py", "u.eps + w * (c.eps - u.eps)", "c.eps + w * (c.eps - u.eps)"),
    "x0 is not guided": ("steer/guiders.py", "Prediction(u.x0 + w * (c.x0 - u.x0),", "Prediction(c.x0,"),
    "a block of rows begins one block late": ("steer/hooks.py", "start = self.rows.index(row) * self.n",
                                              "start = (self.rows.index(row) + 1) % len(self.rows) * self.n"),
    "the context is one step late": ("steer/loop.py", "ctx = StepContext(*visit, tuple",
                                     "ctx = StepContext(*way[max(visit.index - 1, 0)], tuple"),
    "t_prev is t": ("steer/loop.py", "ctx = StepContext(*visit, tuple",
                      "ctx = StepContext(*visit._replace(t_prev=visit.t), tuple"),
    "the processors are not put back": ("steer/tap.py", "self.unet.get_submodule(name).processor = processor", "pass"),
    "the module hooks are not removed": ("steer/tap.py", "            handle.remove()", "            pass"),
    "a site that does not run goes unnoticed": ("steer/tap.py", "        if missed:", "        if False:"),
    "an empty tap goes unnoticed": ("steer/tap.py", "if kind is None and self and not self.calls", "if False"),
    "a second tap takes a site over": ("steer/tap.py", "if isinstance(before, ExplicitAttnProcessor):", "if False:"),
    "probabilities are changed after the values": ("steer/attention.py", "return changed @ v", "return out"),
    "only the last hook's attend counts": ("steer/tap.py", "return level(i + 1, q, k, v) if out is None else out",
                                           "return level(i + 1, q, k, v)"),
    "the gradient is cut": ("steer/engine.py", "x.detach().requires_grad_() for b, x in z.items()}",
                            "x.detach() for b, x in z.items()}"),
    "the push goes up the energy": ("steer/energy.py", "torch.where(below.view((-1,) + (1,) * (x.ndim - 1)), x, x - push)",
                                    "torch.where(below.view((-1,) + (1,) * (x.ndim - 1)), x, x + push)"),
    "the push of eps has the other sign": ("steer/energy.py", "p.eps + push)}", "p.eps - push)}"),
    "x0 does not follow the pushed eps": ("steer/energy.py", "p.x0 - ((1 - ctx.abar) / ctx.abar) ** 0.5 * push,",
                                          "p.x0,"),
    "the mean's push is forgotten": ("steer/energy.py", 'z[self.branch] - self._pending', "z[self.branch] - 0 * self._pending"),
    "a relative push is measured over the batch": ("steer/energy.py",
                                                   "gradient.flatten(1).norm(dim=1), reference.flatten(1).norm(dim=1)",
                                                   "gradient.norm().expand(len(gradient)), "
                                                   "reference.norm().expand(len(gradient))"),
    "the map of the next token": ("steer/record.py", "p[..., tokens].mean((1, 3))",
                                  "p[..., [k + 1 for k in tokens]].mean((1, 3))"),
    "the recorder keeps the empty prompt's rows": ("steer/record.py", "rows = ctx.of(self.branch, self.text)\n        maps",
                                                   "rows = slice(0, ctx.n)\n        maps"),
    "a shorter run leaves old steps": ("steer/record.py", "            self.steps.clear()", "            pass"),
    "an inversion's trajectory is not turned round": ("steer/record.py", "        if states[0].inverted:", "        if False:"),
    "a pinned branch starts unpinned": ("steer/record.py", "return {self.branch: self.trajectory.at(ctx.t).to(z[self.branch])}",
                                        "return {}"),
    "the noise of all rows is row 0's": ("steer/loop.py", "rows=numbers,", "rows=[0] * loop.n,"),
    "a sleeping hook is called": ("steer/engine.py", "            if hook.active(ctx):", "            if True:"),
    "the guider is asked for texts it does not need": ("steer/engine.py", "self.call(z, ctx, self.guider.needs(ctx))",
                                                       "self.call(z, ctx, self.guider.texts)"),
}
SUITE = ("tests/steer/test_attention.py", "tests/steer/test_loop.py")


def plant(name: str, folder: Path) -> None:
    """A copy of the package under ``folder`` with one mistake. Raises where the line is no longer there."""
    file, old, new = MISTAKES[name]
    shutil.copytree(ROOT / "minidiff", folder / "minidiff", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "minidiff" / file
    text = path.read_text()
    if text.count(old) != 1:
        raise LookupError(f"{name}: {old!r} stands {text.count(old)} times in {file}")
    path.write_text(text.replace(old, new))


def caught(name: str | None) -> bool:
    """Does the suite fail with this mistake planted? None plants nothing."""
    import diffusers  # noqa: F401  loaded before the fork
    import peft  # noqa: F401
    import pytest
    import torch
    import transformers  # noqa: F401
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        if name is not None:
            plant(name, Path(folder))
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                for module in [m for m in sys.modules if m.split(".")[0] in ("minidiff", "tests")]:
                    del sys.modules[module]
                if name is not None:
                    sys.path.insert(0, folder)
                with open(os.devnull, "w") as nothing:
                    os.dup2(nothing.fileno(), 1)
                    os.dup2(nothing.fileno(), 2)
                    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--rootdir={ROOT}",
                                        "-o", "pythonpath=", *(str(ROOT / path) for path in SUITE)])
                os._exit(int(code))
            finally:
                os._exit(99)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, 1, 2):
        raise RuntimeError(f"{name}: the suite could not run (exit status {code})")
    return code != 0


def main() -> int:
    sys.path.insert(0, str(ROOT))
    missed = 1 if caught(None) else 0
    print("no mistake planted:", "the suite FAILS" if missed else "the suite passes", flush=True)
    for name in MISTAKES:
        found = caught(name)
        missed += not found
        print(f"{'caught' if found else 'MISSED':8s}{name}", flush=True)
    print(f"{len(MISTAKES)} mistakes, {missed} not as it should be")
    return missed


if __name__ == "__main__":
    sys.exit(main())
