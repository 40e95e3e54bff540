"""DragDiffusion (Shi et al. 2023): handles on a picture are dragged to targets by optimising one latent of its inversion.

At one noise level the latent is moved so that the features around each handle become those one step further on (motion
supervision, section 3.3, eq. 3), then the handle is found again where the features are most like the first ones (point
tracking, eq. 5): see :mod:`minidiff.editing.drag_points`. The rest of the way is drawn with the keys and values of the source
(section 3.4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.editing.drag_points import cells, features_at, motion_loss, track
from minidiff.editing.result import EditResult
from minidiff.errors import check_images, check_pictures, check_share, checks_first, require
from minidiff.latent.pipeline import check_prompts, denoiser, encode_prompt, scheduler_options, whole
from minidiff.latent.sample import invert_image
from minidiff.steer import CFG, Hook, Pin, Row, Site, StepContext, Tap, Trajectory, run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["DragState", "ShareKV", "drag", "dragging"]


class _Keep(Hook):
    """Keeps the output of one module, with its gradient."""

    def __init__(self, path: str) -> None:
        self.modules, self.out = (path,), torch.empty(0)

    def on_module(self, path: str, out: Any, ctx: StepContext, inputs: Any) -> None:
        require(isinstance(out, Tensor), "features", f"{path!r}, which returns a {type(out).__name__}",
                "a module that returns one tensor", "features='up_blocks.0'")
        self.out = out


class DragState(NamedTuple):
    """The latent z (B, C, h, w) after ``iteration`` steps of Adam (0: the start), the clean latents x0 that are predicted of it,
    the handles (B, K, 2) as tracked, the motion loss (B,), and which pictures are still on their way (B,)."""

    iteration: int
    iterations: int
    z: Tensor
    x0: Tensor
    handles: Tensor
    loss: Tensor
    going: Tensor


def _points(name: str, points: Any, n: int) -> Tensor:
    points = torch.as_tensor(points, dtype=torch.float32)
    points = points[None].expand(n, -1, -1) if points.ndim == 2 else points
    good = points.ndim == 3 and points.shape[-1] == 2 and len(points) == n and points.shape[1] > 0
    require(good, name, f"shape {tuple(points.shape)}", f"({n}, K, 2): (x, y) of K points for each picture",
            f"{name}=[(0.3, 0.5)]")
    inside = bool((points >= 0).all() and (points <= 1).all())
    require(inside, name, "points outside the picture", "x and y in shares of its sides, in [0, 1]")
    return points


@checks_first
def dragging(pipe: StableDiffusionPipeline, z: Tensor, t: int, context: Tensor, handles: Any, targets: Any, *,
             free: Tensor | None = None, iterations: int = 80, lr: float = 0.02, supervise: int = 1, search: int = 3,
             near: float = 1.0, features: str | None = None) -> Iterator[DragState]:
    """The optimisation of the latent z (B, C, h, w) at level t: yields a :class:`DragState` at the start and after each step.

    context (B, L, D): of the source prompt; handles, targets (B or no, K, 2): see above. free (B or 1, 1, H, W): 1 where the
    picture may change; the gradient elsewhere is cut to zero (the paper adds a penalty). lr: of Adam. supervise, search: the
    radii r1 and r2 in cells of the features, which are those of ``features``, a path (None: the last decoder block but one),
    enlarged to half the picture. near: a handle has arrived within so many cells; a picture whose handles all have is left as
    it is (Adam's momentum would move it on).
    """
    iterations, supervise, search = (whole(name, value, 0) for name, value in
                                     (("iterations", iterations), ("supervise", supervise), ("search", search)))
    check_images("z", z, channels=pipe.unet.config.in_channels)
    handles, targets = _points("handles", handles, len(z)).to(z), _points("targets", targets, len(z)).to(z)
    require(handles.shape == targets.shape, "targets", f"shape {tuple(targets.shape)}", f"{tuple(handles.shape)}: one a handle")
    grid = tuple(z.shape[-2:])
    size = tuple(side * pipe.vae_scale_factor // 2 for side in grid)
    mask = torch.ones(1, 1, *grid).to(z) if free is None else F.adaptive_max_pool2d(free.float(), grid).to(z)
    path = features or f"up_blocks.{max(len(pipe.unet.config.block_out_channels) - 2, 0)}"
    keep, model = _Keep(path), denoiser(pipe)
    tap = Tap(pipe.unet, keep, rows=[Row("source")])
    yield

    def seen(z: Tensor) -> tuple[Tensor, Tensor]:
        with tap:
            x0, _ = model(z, torch.full((len(z),), t, device=z.device), context)
        return F.interpolate(keep.out, size=size, mode="bilinear"), x0.detach()

    points, goals = cells(handles, size), cells(targets, size)
    z = z.detach().clone()
    z.requires_grad_()
    adam, first = torch.optim.Adam([z], lr), None
    for k in range(iterations + 1):
        with torch.enable_grad():
            now, x0 = seen(z)
            first = features_at(now, points).detach() if first is None else first
            points = track(now, first, points, radius=search) if k else points
            loss = motion_loss(now, points, goals, radius=supervise, near=near)
        going = ((goals - points).norm(dim=-1) > near).any(1)
        there = (points + 0.5) / points.new_tensor([size[1], size[0]])
        yield DragState(k, iterations, z.detach().clone(), x0, there, loss.detach(), going)
        if k == iterations or not bool(going.any()):
            return
        z.grad = torch.autograd.grad(loss.sum(), z)[0] * mask
        before = z.detach().clone()
        adam.step()
        z.data = torch.where(going[:, None, None, None], z.data, before)


class ShareKV(Hook):
    """The edit attends to the source: its queries meet the source's keys and values (MasaCtrl, Cao et al. 2023, section 3.2).

    select: which self-attention sites; None: those of the decoder on its ``levels`` finest levels. start: from this share of the
    steps on.
    """

    def __init__(self, select: Callable[[Site], bool] | None = None, *, levels: int = 1, start: float = 0.0,
                 source: str = "source", edit: str = "edit") -> None:
        check_share("start", start)
        levels = whole("levels", levels, 1)
        self.select = select or (lambda s: s.kind == "self" and s.place == "up" and s.level < levels)
        self.start, self.source, self.edit = start, source, edit

    def active(self, ctx: StepContext) -> bool:
        return ctx.progress >= self.start

    def selects(self, site: Site) -> bool:
        return self.select(site)

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext, attention: Any) -> Tensor:
        k, v = k.clone(), v.clone()
        for row in ctx.rows:
            if row.branch == self.edit:
                mine, theirs = ctx.of(*row), ctx.of(self.source, row.text)
                k[mine], v[mine] = k[theirs], v[theirs]
        return attention(q, k, v)


def drag(pipe: StableDiffusionPipeline, prompt: Any, image: Tensor, handles: Any, targets: Any, *, free: Tensor | None = None,
         level: float = 0.7, steps: int = 20, share: bool = True, **how: Any) -> EditResult:
    """Drag the handles of pictures (B, 3, H, W) in [-1, 1] to their targets; ``prompt`` says what is in them, nothing else.

    handles, targets: (K, 2) for all pictures or (B, K, 2), x and y in shares of the picture. level: the share of the noise levels
    at which the latent is optimised; the inversion has ``steps`` for all of them, and everything runs without guidance. share:
    keys and values of the source in the decoder. how: as in :func:`dragging`. An attached adapter, such as that of
    :func:`minidiff.personal.picture_lora`, serves all of it. ``details``: "film" (all states), "handles" (B, K, 2) as last
    tracked, "t".
    """
    check_pictures("image", image)
    prompts = check_prompts(prompt, argument="prompt")
    require(len(prompts) in (1, len(image)), "prompt", f"{len(prompts)} prompts", f"1 or {len(image)}: one for each picture")
    prompts = prompts * len(image) if len(prompts) == 1 else prompts
    good = isinstance(level, (int, float)) and 0 < level < 1
    require(good, "level", level, "a share of the noise levels in (0, 1)", "level=0.7")
    way = Trajectory.of(invert_image(pipe, image, prompts, steps=steps))
    T = pipe.scheduler.config.num_train_timesteps
    t = min(way.timesteps, key=lambda t: abs(t - level * T))
    z, context = way.at(t), encode_prompt(pipe, prompts)
    film = list(dragging(pipe, z, t, context, handles, targets, free=free, **how))
    texts = {branch: {"prompt": context} for branch in ("source", "edit")}
    sharing = [ShareKV(levels=max(1, len(pipe.unet.config.block_out_channels) // 2))] if share else []
    states = run(denoiser(pipe), {"source": z, "edit": film[-1].z}, texts, steps=[s for s in way.timesteps if s <= t],
                 guider=CFG(1.0), hooks=[Pin(way), *sharing], **scheduler_options(pipe))
    return EditResult.of(pipe, "DragDiffusion", states, {"source": prompts, "edit": prompts}, images=image,
                         details={"film": film, "handles": film[-1].handles.cpu(), "t": t})
