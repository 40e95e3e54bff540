"""What a method is made of: rows, the context of a step, and hooks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from minidiff.diffusion.predict import Prediction
from minidiff.errors import BadInput, require
from minidiff.steer.attention import Site

__all__ = ["Hook", "Latents", "Predict", "Row", "StepContext"]

Latents = Mapping[str, Tensor]  # branch -> (n, C, h, w)
Predict = Callable[..., dict[str, Prediction]]  # predict(z, text=None) -> branch -> Prediction


class Row(NamedTuple):
    """One block of rows of the network's batch. branch: "source", "edit", ...; text: "prompt", "empty", "style", ..."""

    branch: str
    text: str = "prompt"


@dataclass(frozen=True)
class StepContext:
    """Where the loop is; complete before the network runs.

    index: of the step, from 0; steps: how many; t, t_prev: noise levels before and after the step (t_prev = -1: the picture;
    in an inversion the step goes from t_prev to t); abar, abar_prev: theirs. rows: the blocks of the batch of the call under
    way, in order, each of n rows (empty between calls). grid: (height, width) of the latent, from which maps take their shape.
    """

    index: int
    steps: int
    t: int | float
    t_prev: int | float
    abar: float
    abar_prev: float
    grid: tuple[int, int]
    n: int
    rows: tuple[Row, ...] = ()

    def of(self, branch: str, text: str = "prompt") -> slice:
        """The rows of one block in the network's batch: the only place that knows their order. Raises BadInput if not there."""
        row = Row(branch, text)
        if row not in self.rows:
            known = ", ".join(f"({r.branch!r}, {r.text!r})" for r in self.rows) or "none: no row was named"
            raise BadInput(
                "branch, text",
                f"({branch!r}, {text!r})",
                f"a block of the batch under way ({known})",
                "run(...), or Tap(unet, hook, rows=[Row('source', 'empty'), Row('source', 'prompt')])",
            )
        start = self.rows.index(row) * self.n
        return slice(start, start + self.n)

    def has(self, branch: str, text: str = "prompt") -> bool:
        """True where the call under way has this block."""
        return Row(branch, text) in self.rows

    @property
    def progress(self) -> float:
        """Share of the steps that are done, in [0, 1)."""
        return self.index / self.steps


class Hook:
    """What a method may read or change, each part optional: what a method returns replaces what came, None leaves it.

    A hook sees all branches; ``ctx.of(branch, text)`` says which rows of a tensor are whose. Hooks act in the order of the list.
    """

    modules: tuple[str, ...] = ()
    """Paths of modules whose outputs it wants, such as "mid_block"."""
    gradients: bool = False
    """True: the network runs with gradients and ``on_predict`` gets the latents as leaves."""

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches that it names, in its ``branch``, ``source`` and ``edit`` and as keys of its ``weights``: a run or a tap's
        rows that lack one are refused, since there it would do nothing."""
        named = (getattr(self, name, None) for name in ("branch", "source", "edit"))
        weights = getattr(self, "weights", None)
        return tuple(dict.fromkeys([*filter(lambda name: isinstance(name, str), named),
                                    *(weights if isinstance(weights, Mapping) else ())]))

    def active(self, ctx: StepContext) -> bool:
        """False in steps in which it sleeps: nothing of it is called then, and attention stays fused."""
        return True

    def selects(self, site: Site) -> bool:
        """True for the attention sites it wants."""
        return False

    def attend(
        self, site: Site, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext, attention: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> Tensor | None:
        """The most general: q (B, heads, N, d), k and v (B, heads, L, d) -> (B, heads, N, d). ``attention`` is what follows."""
        return None

    def on_probs(self, site: Site, probs: Tensor, ctx: StepContext) -> Tensor | None:
        """probs: (B, heads, N, L), rows sum to 1."""
        return None

    def on_module(self, path: str, out: Any, ctx: StepContext, inputs: Mapping[str, Any]) -> Any:
        """out: what the module returned, whatever it is. inputs: its arguments by name ("hidden_states", "temb", ...)."""
        return None

    def before_step(self, z: Latents, ctx: StepContext, predict: Predict) -> Latents | None:
        """z: branch -> latents at level t. Gradients are on. ``predict(z)`` runs network and guider, all hooks in place, and
        gives branch -> Prediction; ``predict(z, "prompt")`` runs the rows of one text only. z may name fewer branches."""
        return None

    def on_predict(self, pred: Mapping[str, Prediction], z: Latents, ctx: StepContext) -> Mapping[str, Prediction] | None:
        """pred: branch -> Prediction(x0, eps) after guidance: two predictions, free to differ."""
        return None

    def after_step(self, z: Latents, ctx: StepContext) -> Latents | None:
        """z: branch -> latents at level t_prev, before they are given out."""
        return None


def check_hooks(hooks: object) -> tuple[Hook, ...]:
    """The hooks as a tuple; refuses classes in place of instances and everything that is no Hook."""
    if isinstance(hooks, Hook):
        return (hooks,)
    require(isinstance(hooks, (list, tuple)), "hooks", type(hooks).__name__, "a list of hooks", "hooks=[Recorder()]")
    for hook in hooks:
        require(
            isinstance(hook, Hook),
            "hooks",
            getattr(hook, "__name__", type(hook).__name__),
            "instances of Hook",
            f"{hook.__name__}()" if isinstance(hook, type) else "a subclass of minidiff.steer.Hook",
        )
    return tuple(hooks)


def check_branches(hooks: Iterable[Hook], there: Collection[str], texts: Collection[str] | None = None) -> None:
    """Refuses a hook that names a branch, or a text, that a run does not have."""
    for hook in hooks:
        for branch in hook.branches:
            require(branch in there, "hooks", f"{type(hook).__name__} for branch {branch!r}",
                    f"branches of this run: {', '.join(map(repr, there))}", f"{type(hook).__name__}(...) with a name of these")
        text = getattr(hook, "text", None)
        if texts is not None and isinstance(text, str):
            known = ", ".join(map(repr, texts))
            require(text in texts, "hooks", f"{type(hook).__name__} for text {text!r}", f"texts of this run: {known}",
                    f"{type(hook).__name__}(..., text={next(iter(texts))!r})")
