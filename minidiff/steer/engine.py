"""What ``run`` and ``invert`` share: arguments checked once, rows to a batch and back, and hooks called in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from minidiff.diffusion.call import check_model
from minidiff.diffusion.predict import Prediction, check_state
from minidiff.errors import check_choice, require
from minidiff.steer.guiders import Guider
from minidiff.steer.hooks import Hook, Latents, Row, StepContext, check_branches, check_hooks
from minidiff.steer.tap import Tap

__all__ = ["Engine", "network_of"]

Text = Tensor | tuple[Tensor, ...] | None | Callable[[StepContext], Any]


def network_of(model: Any) -> nn.Module | None:
    """The network inside a denoiser that hooks can reach: ``model.net.unet``, else ``model.net``."""
    net = getattr(model, "net", None)
    net = getattr(net, "unet", net)
    return net if isinstance(net, nn.Module) else None


class Engine:
    """One run's latents, texts, models, guider and hooks."""

    def __init__(self, models: Any, z: Any, texts: Any, guider: Guider, hooks: Any) -> None:
        self.hooks = check_hooks(hooks)
        require(isinstance(guider, Guider), "guider", getattr(guider, "__name__", repr(guider)), "a guider", "guider=CFG(4.0)")
        self.guider = guider
        single = not isinstance(z, Mapping)
        self.z: dict[str, Tensor] = {"source": z} if single else dict(z)
        require(len(self.z) > 0, "z", "no branch", "latents of at least one branch", 'z={"source": noise}')
        for branch, value in self.z.items():
            check_state("z" if single else f"z[{branch!r}]", value)
        shapes = {tuple(value.shape) for value in self.z.values()}
        require(len(shapes) == 1, "z", f"shapes {sorted(shapes)}", "branches of one shape")
        if texts is None:
            texts = {branch: dict.fromkeys(guider.texts) for branch in self.z}
        require(
            isinstance(texts, Mapping),
            "texts",
            type(texts).__name__,
            "a table of texts",
            'texts={"prompt": context, "empty": empty}',
        )
        self.texts = {"source": dict(texts)} if single and "source" not in texts else {b: dict(t) for b, t in texts.items()}
        self.n = len(next(iter(self.z.values())))
        for branch in self.z:
            require(branch in self.texts, "texts", f"nothing for branch {branch!r}", "texts for each branch of z")
            for text in guider.texts:
                require(
                    text in self.texts[branch],
                    "texts",
                    f"{', '.join(map(repr, self.texts[branch]))} for {branch!r}",
                    f"{', '.join(map(repr, guider.texts))}: what {type(guider).__name__} combines",
                )
                self._check_text(branch, text)
        extra = [b for b in self.texts if b not in self.z]
        require(not extra, "texts", f"a branch {extra[:1]} without latents", f"branches of z: {', '.join(map(repr, self.z))}")
        self.models = dict(models) if isinstance(models, Mapping) else dict.fromkeys(guider.texts, models)
        for text in guider.texts:
            require(text in self.models, "models", f"none for {text!r}", "one denoiser, or one for each text")
            check_model(self.models[text])
        check_branches(self.hooks, self.z, self.models)
        self.schedule = self.models[guider.texts[0]].schedule
        for text in guider.texts[1:]:
            require(
                torch.equal(self.models[text].schedule.abar, self.schedule.abar),
                "models",
                f"another schedule for {text!r}",
                "denoisers of one schedule",
            )
        self.taps: dict[int, Tap] = {}
        for model in self.models.values():
            net = network_of(model)
            if net is not None and id(net) not in self.taps and any(self._reaches_in(h) for h in self.hooks):
                self.taps[id(net)] = Tap(net, *self.hooks)
        lost = [h for h in self.hooks if h.modules and not self.taps]
        require(
            not lost,
            "hooks",
            f"{type(lost[0]).__name__} for modules" if lost else "",
            "a denoiser whose ``net`` is a torch module",
        )

    @staticmethod
    def _reaches_in(hook: Hook) -> bool:
        return bool(hook.modules) or type(hook).selects is not Hook.selects

    def _check_text(self, branch: str, text: str) -> None:
        value = self.texts[branch][text]
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Tensor):
                require(len(part) in (1, self.n), "texts", f"{len(part)} rows for ({branch!r}, {text!r})", f"1 or {self.n} rows")

    def _conditions(self, rows: Sequence[Row], ctx: StepContext) -> Any:
        """The conditions of all rows joined, or None."""
        values = []
        for row in rows:
            value = self.texts[row.branch][row.text]
            values.append(value(ctx) if callable(value) else value)
        if values[0] is None:
            return None
        parts = [value if isinstance(value, tuple) else (value,) for value in values]
        joined = tuple(torch.cat([p.expand(self.n, *p.shape[1:]) for p in column]) for column in zip(*parts, strict=True))
        return joined if isinstance(values[0], tuple) else joined[0]

    def call(self, z: Latents, ctx: StepContext, texts: Sequence[str]) -> dict[str, dict[str, Prediction]]:
        """branch -> text -> Prediction: one call of each network that these texts have."""
        out: dict[str, dict[str, Prediction]] = {branch: {} for branch in z}
        for model in dict.fromkeys(self.models[text] for text in texts):
            rows = tuple(Row(branch, text) for text in texts if self.models[text] is model for branch in z)
            here = replace(ctx, rows=rows)
            x = torch.cat([z[row.branch] for row in rows])
            t = torch.full((len(x),), ctx.t, device=x.device, dtype=torch.long)
            cond = self._conditions(rows, here)
            with ExitStack() as stack:
                tap = self.taps.get(id(network_of(model)))
                if tap:
                    stack.enter_context(tap.within(here))
                x0, eps = model(x, t) if cond is None else model(x, t, cond)
            for row in rows:
                mine = here.of(*row)
                out[row.branch][row.text] = Prediction(x0[mine], eps[mine])
        return out

    def predict(self, z: Latents, ctx: StepContext, text: str | None = None) -> dict[str, Prediction]:
        """branch -> Prediction after the guider, or of one text alone."""
        unknown = [branch for branch in z if branch not in self.z]
        require(not unknown, "z", f"branch {unknown[:1]}", f"branches of this run: {', '.join(map(repr, self.z))}")
        if text is not None:
            check_choice("text", text, self.models)
            return {branch: table[text] for branch, table in self.call(z, ctx, (text,)).items()}
        found = self.call(z, ctx, self.guider.needs(ctx))
        return {branch: self.guider(table, ctx) for branch, table in found.items()}

    def change(self, z: dict[str, Tensor], method: str, *args: Any) -> dict[str, Tensor]:
        """Hand the latents to ``method`` of each active hook in turn."""
        ctx = args[0]
        for hook in self.hooks:
            if hook.active(ctx):
                changed = getattr(hook, method)(z, *args)
                if changed is not None:
                    for branch, value in changed.items():
                        require(
                            branch in z and value.shape == z[branch].shape,
                            f"{type(hook).__name__}.{method}",
                            f"{branch!r} of shape {tuple(value.shape)}",
                            f"branches and shapes of z, {tuple(z[next(iter(z))].shape)}",
                        )
                    z = {**z, **{branch: value.detach() for branch, value in changed.items()}}
        return z

    def step(self, z: dict[str, Tensor], ctx: StepContext) -> tuple[dict[str, Tensor], dict[str, Prediction]]:
        """The latents as the network saw them, and what is predicted of them after all hooks."""
        with torch.enable_grad():
            z = self.change(z, "before_step", ctx, lambda z, text=None: self.predict(z, ctx, text))
        awake = [h for h in self.hooks if h.active(ctx)]
        with torch.set_grad_enabled(any(h.gradients for h in awake)):
            leaves = {b: x.detach().requires_grad_() for b, x in z.items()} if torch.is_grad_enabled() else z
            pred = self.predict(leaves, ctx)
            for hook in awake:
                changed = hook.on_predict(pred, leaves, ctx)
                pred = pred if changed is None else {**pred, **changed}
        return z, {b: Prediction(p.x0.detach(), p.eps.detach()) for b, p in pred.items()}
