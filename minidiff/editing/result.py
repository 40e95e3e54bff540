"""What every editing method returns, and where an edit begins: a prompt with a seed, a picture, or a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.editing.coupled import edict_inversion
from minidiff.editing.inversion import Inversion, direct_inversion, negative_prompt_inversion, null_text_inversion
from minidiff.editing.noise_maps import edit_friendly_inversion
from minidiff.errors import check_choice, require
from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.pipeline import check_prompts, denoiser, encode_prompt, scheduler_options
from minidiff.latent.sample import prepare_latents, text_to_image
from minidiff.measure.edit_pairs import EditTruth
from minidiff.measure.edit_score import EditScores, edit_score
from minidiff.steer import CFG, Hook, Pin, Recorder, State, Trajectory, run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["INVERSIONS", "EditResult", "Source", "anchors", "decode_images", "inverted", "run_edit", "source_of"]


@dataclass(frozen=True, eq=False)
class EditResult:
    """One or several edits; in a notebook it shows every branch, row by row.

    images: branch ("source", "edit", ...) -> (B, 3, H, W) in [-1, 1]; prompts: branch -> B prompts; trajectory: branch ->
    :class:`~minidiff.steer.Trajectory`; maps: branch -> the :class:`~minidiff.steer.Recorder` of its cross-attention, where the
    method was asked for maps; details: what else a method has to tell, by name.
    """

    method: str
    images: dict[str, Tensor]
    prompts: dict[str, list[str]]
    trajectory: dict[str, Trajectory] = field(default_factory=dict)
    maps: dict[str, Recorder] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline, method: str, states: Iterable[State], prompts: Mapping[str, Sequence[str]], *,
           maps: Mapping[str, Recorder] | None = None, details: Mapping[str, Any] | None = None, images: Tensor | None = None
           ) -> EditResult:
        """Run a loop to its end, decode every branch. images: the source pictures, shown in place of the decoded "source"."""
        states = list(states)
        ways = {branch: Trajectory.of(states, branch) for branch in states[-1].z}
        shown = {branch: decode_images(pipe, way.clean) for branch, way in ways.items()}
        if images is not None:
            shown["source"] = images.detach().float().cpu()
        return cls(method, shown, {b: list(p) for b, p in prompts.items()}, ways, dict(maps or {}), dict(details or {}))

    @property
    def edit(self) -> Tensor:
        """The edited pictures (B, 3, H, W): the branch "edit"."""
        return self.images["edit"]

    def scores(self, truth: EditTruth, *, branch: str = "edit") -> EditScores:
        """The edit score of a branch; truth: ``edit_pairs(...).truth(reader, result.images["source"])``."""
        return edit_score(self.images[branch], truth)

    def picture(self, *, caption: str = "") -> Any:
        """Rows: the edits; columns: the branches, with their prompts below."""
        from minidiff import show
        from minidiff.show.sheet import plural

        rows = range(len(next(iter(self.images.values()))))
        texts = [self.prompts.get(b, [""] * len(rows)) for b in self.images]
        labels = [(column * len(rows) if len(column) == 1 else column)[i] for i in rows for column in texts]
        alt = f"{self.method}: {plural(len(rows), 'row')}, in each the pictures of the branches {', '.join(self.images)}."
        return show.grid([torch.stack([x[i] for x in self.images.values()]) for i in rows], labels=labels,
                         column_labels=list(self.images), caption=caption, alt=alt)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        return self.picture()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        some = next(iter(self.images.values()))
        return f"<EditResult {self.method}: {', '.join(self.images)}; {len(some)} of {some.shape[-2]} x {some.shape[-1]}>"


@torch.no_grad()
def decode_images(pipe: StableDiffusionPipeline, z: Tensor) -> Tensor:
    """Latents as pictures (B, 3, H, W) in [-1, 1], float32 on the CPU."""
    return decode(pipe.vae, z).clamp(-1, 1).float().cpu()


INVERSIONS: dict[str, Callable[..., Inversion]] = {     # (pipe, images, prompts, steps, the guidance of the edit)
    "ddim": lambda pipe, images, prompts, steps, w: direct_inversion(pipe, images, prompts, steps=steps, hold=False),
    "direct": lambda pipe, images, prompts, steps, w: direct_inversion(pipe, images, prompts, steps=steps),
    "negative-prompt": lambda pipe, images, prompts, steps, w: negative_prompt_inversion(pipe, images, prompts, steps=steps),
    "null-text": lambda pipe, images, prompts, steps, w: null_text_inversion(pipe, images, prompts, steps=steps, guidance=w),
    "edit-friendly": lambda pipe, images, prompts, steps, w: edit_friendly_inversion(pipe, images, prompts, steps=steps),
    "edict": lambda pipe, images, prompts, steps, w: edict_inversion(pipe, images, prompts, steps=steps, guidance=w),
}


def inverted(pipe: StableDiffusionPipeline, images: Tensor, prompts: str | Sequence[str], method: str = "direct", *,
             steps: int = 50, guidance: float = 4.0) -> Inversion:
    """An inversion by name, one of INVERSIONS, with its default knobs. guidance: that of the edit to come."""
    check_choice("inversion", method, INVERSIONS)
    return INVERSIONS[method](pipe, images, check_prompts(prompts), steps, guidance)


@dataclass(frozen=True, eq=False)
class Source:
    """Where an edit begins: noise (B, C, h, w), B prompts of the source and of the target, and, where the source is a picture or
    a trajectory, its inversion."""

    noise: Tensor
    prompts: list[str]
    targets: list[str]
    inversion: Inversion | None = None

    @property
    def trajectory(self) -> Trajectory | None:
        """The way of the inversion; None where a prompt and a seed are the source."""
        return None if self.inversion is None else self.inversion.trajectory

    @property
    def images(self) -> Tensor | None:
        """The pictures that were inverted, if any."""
        return None if self.inversion is None else self.inversion.images


def source_of(pipe: StableDiffusionPipeline, source: str | Sequence[str], target: str | Sequence[str], *, seed: int | None = None,
              image: Tensor | None = None, trajectory: Trajectory | None = None, latents: Tensor | None = None,
              steps: int = 50, size: int | tuple[int, int] | None = None, inversion: str | Inversion | None = None,
              guidance: float = 4.0) -> Source:
    """What the methods begin with: one of a seed (the default, 0), the noise itself, pictures, a trajectory or an inversion.

    latents: noise (B, C, h, w), as in ``denoise``; image: (B, 3, H, W) in [-1, 1], inverted in ``steps`` by ``inversion``, one of
    INVERSIONS ("direct" if None; guidance: that of the edit); trajectory: of ``invert_image`` in as many steps, held as in direct
    inversion; inversion: an :class:`~minidiff.editing.Inversion` that is there already. Rows of the noise of a seed depend on
    (seed, row). Prompts: B, or one.
    """
    prompts, targets = check_prompts(source, argument="source"), check_prompts(target, argument="target")
    ready = inversion if isinstance(inversion, Inversion) else None
    sources = {"seed": seed, "image": image, "trajectory": trajectory, "latents": latents, "inversion": ready}
    given = [name for name, value in sources.items() if value is not None]
    require(len(given) <= 1, "seed, image, trajectory, latents, inversion", " and ".join(given), "one of them", "seed=0")
    require(ready is not None or inversion is None or image is not None, "inversion", repr(inversion), "a picture to invert",
            f"image=picture, inversion={inversion!r}")
    require(steps >= 1, "steps", steps, "1 or more", "steps=50")
    n = max(len(prompts), len(targets))
    if image is not None:
        image = image[None] if isinstance(image, Tensor) and image.ndim == 3 else image
        n = len(image) if isinstance(image, Tensor) else n
    elif trajectory is not None:
        require(isinstance(trajectory, Trajectory), "trajectory", type(trajectory).__name__, "a Trajectory",
                "Trajectory.of(invert_image(pipe, images, prompts))")
        ready = Inversion("direct", trajectory, (Pin(trajectory),))
    elif isinstance(latents, Tensor):
        n = len(latents)
    if ready is not None:
        n = ready.trajectory.noise.shape[0]
    for name, texts in {"source": prompts, "target": targets}.items():
        require(len(texts) in (1, n), name, f"{len(texts)} prompts", f"1 or {n}: one for each picture")
    prompts, targets = (texts * n if len(texts) == 1 else texts for texts in (prompts, targets))
    if image is not None:
        ready = inverted(pipe, image, prompts, inversion or "direct", steps=steps, guidance=guidance)
    if ready is None:
        return Source(prepare_latents(pipe, latents, n, 0 if seed is None else seed, size), prompts, targets)
    if trajectory is not None:
        require(len(trajectory.timesteps) == steps, "steps", steps, f"{len(trajectory.timesteps)}: the steps of the trajectory",
                f"steps={len(trajectory.timesteps)}")
    return Source(ready.trajectory.noise, prompts, targets, ready)


def run_edit(pipe: StableDiffusionPipeline, begin: Source, *, hooks: Sequence[Hook] = (), steps: int = 50, guidance: float = 4.0,
             negative: str = "") -> Iterator[State]:
    """The loop that most methods share: branches "source" and "edit" from one noise, each with its prompt and the empty one.

    Where the source was inverted, the steps, the hooks and the empty prompt of its inversion are the run's.
    """
    by = begin.inversion
    empty = by.text if by is not None and by.empty is not None else encode_prompt(pipe, negative)
    texts = {branch: {"prompt": encode_prompt(pipe, said), **({"empty": empty} if guidance != 1.0 else {})}
             for branch, said in (("source", begin.prompts), ("edit", begin.targets))}
    return run(denoiser(pipe), {"source": begin.noise, "edit": begin.noise}, texts, guider=CFG(guidance),
               steps=steps if by is None else by.trajectory.timesteps, hooks=[*(by.hooks if by else ()), *hooks],
               **scheduler_options(pipe))


def anchors(pipe: StableDiffusionPipeline, truth: EditTruth, targets: Sequence[str], *, seed: int = 0, steps: int = 50,
            guidance: float = 4.0, latents: Tensor | None = None) -> dict[str, Tensor]:
    """Pictures (B, 3, H, W) of the three anchors beside which every edit score is read.

    "no edit": the source; "plain": the target prompt from the same noise (``seed`` or ``latents``), no method at all;
    "counterfactual": the right answer through the autoencoder, the best that a latent model can give.
    """
    plain = text_to_image(pipe, list(targets), seed=seed, steps=steps, guidance=guidance, latents=latents)
    with torch.no_grad():
        gold = decode_images(pipe, encode(pipe.vae, truth.gold.to(pipe.device, pipe.vae.dtype)))
    return {"no edit": truth.images, "plain": plain.float().cpu(), "counterfactual": gold}
