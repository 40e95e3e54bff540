"""What every editing method returns, and where an edit begins: a prompt with a seed, a picture, or a trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minidiff.errors import require
from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.pipeline import check_prompts, denoiser, encode_prompt, scheduler_options
from minidiff.latent.sample import invert_image, start_noise, text_to_image
from minidiff.measure.edit_pairs import EditTruth
from minidiff.measure.edit_score import EditScores, edit_score
from minidiff.steer import CFG, Hook, Pin, Recorder, State, Trajectory, run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["EditResult", "Source", "anchors", "finished", "run_edit", "source_of"]


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
        shown = {branch: finished(pipe, way.clean) for branch, way in ways.items()}
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

        rows = range(len(next(iter(self.images.values()))))
        texts = [self.prompts.get(b, [""] * len(rows)) for b in self.images]
        labels = [(column * len(rows) if len(column) == 1 else column)[i] for i in rows for column in texts]
        return show.grid([torch.stack([x[i] for x in self.images.values()]) for i in rows], labels=labels,
                         column_labels=list(self.images), caption=caption,
                         alt=f"{self.method}: {len(rows)} rows, in each the pictures of the branches {', '.join(self.images)}.")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Any:
        return self.picture()._repr_mimebundle_(include, exclude)

    def __repr__(self) -> str:
        some = next(iter(self.images.values()))
        return f"<EditResult {self.method}: {', '.join(self.images)}; {len(some)} of {some.shape[-2]} x {some.shape[-1]}>"


@torch.no_grad()
def finished(pipe: StableDiffusionPipeline, z: Tensor) -> Tensor:
    """Latents as pictures (B, 3, H, W) in [-1, 1], float32 on the CPU."""
    return decode(pipe.vae, z).clamp(-1, 1).float().cpu()


@dataclass(frozen=True, eq=False)
class Source:
    """Where an edit begins. noise (B, C, h, w); trajectory, images: None where a prompt and a seed are the source."""

    noise: Tensor
    trajectory: Trajectory | None
    images: Tensor | None
    prompts: list[str]
    targets: list[str]


def source_of(pipe: StableDiffusionPipeline, source: str | Sequence[str], target: str | Sequence[str], *, seed: int | None = None,
              image: Tensor | None = None, trajectory: Trajectory | None = None, latents: Tensor | None = None,
              steps: int = 50, size: int | tuple[int, int] | None = None) -> Source:
    """What the methods begin with: one of a seed (the default, 0), the noise itself, pictures or a trajectory.

    latents: noise (B, C, h, w), as in ``denoise``; image: (B, 3, H, W) in [-1, 1], inverted by DDIM at w = 1 in ``steps``;
    trajectory: of ``invert_image`` in as many steps. Rows of the noise of a seed depend on (seed, row). Prompts: B, or one.
    """
    prompts, targets = check_prompts(source, argument="source"), check_prompts(target, argument="target")
    sources = {"seed": seed, "image": image, "trajectory": trajectory, "latents": latents}
    given = [name for name, value in sources.items() if value is not None]
    require(len(given) <= 1, "seed, image, trajectory, latents", " and ".join(given), "one of them", "seed=0")
    n = max(len(prompts), len(targets))
    if image is not None:
        image = image[None] if isinstance(image, Tensor) and image.ndim == 3 else image
        n = len(image) if isinstance(image, Tensor) else n
    elif trajectory is not None:
        require(isinstance(trajectory, Trajectory), "trajectory", type(trajectory).__name__, "a Trajectory",
                "Trajectory.of(invert_image(pipe, images, prompts))")
        n = trajectory.noise.shape[0]
    elif isinstance(latents, Tensor):
        n = len(latents)
    for name, texts in {"source": prompts, "target": targets}.items():
        require(len(texts) in (1, n), name, f"{len(texts)} prompts", f"1 or {n}: one for each picture")
    prompts, targets = (texts * n if len(texts) == 1 else texts for texts in (prompts, targets))
    if image is not None:
        trajectory = Trajectory.of(invert_image(pipe, image, prompts, steps=steps))
    if trajectory is None:
        return Source(start_noise(pipe, latents, n, 0 if seed is None else seed, size), None, None, prompts, targets)
    require(len(trajectory.timesteps) == steps, "steps", steps, f"{len(trajectory.timesteps)}: the steps of the trajectory",
            f"steps={len(trajectory.timesteps)}")
    return Source(trajectory.noise, trajectory, image, prompts, targets)


def run_edit(pipe: StableDiffusionPipeline, begin: Source, *, hooks: Sequence[Hook] = (), steps: int = 50, guidance: float = 4.0,
             negative: str = "", pin: bool = True) -> Iterator[State]:
    """The loop that most methods share: branches "source" and "edit" from one noise, each with its prompt and the empty one.

    pin: where the source is a picture or a trajectory, its branch is held on the way (direct inversion, Ju et al. 2024).
    """
    empty = encode_prompt(pipe, negative)
    texts = {branch: {"prompt": encode_prompt(pipe, said), **({"empty": empty} if guidance != 1.0 else {})}
             for branch, said in (("source", begin.prompts), ("edit", begin.targets))}
    held = [Pin(begin.trajectory)] if pin and begin.trajectory is not None else []
    return run(denoiser(pipe), {"source": begin.noise, "edit": begin.noise}, texts, steps=steps, guider=CFG(guidance),
               hooks=[*held, *hooks], **scheduler_options(pipe))


def anchors(pipe: StableDiffusionPipeline, truth: EditTruth, targets: Sequence[str], *, seed: int = 0, steps: int = 50,
            guidance: float = 4.0, latents: Tensor | None = None) -> dict[str, Tensor]:
    """Pictures (B, 3, H, W) of the three anchors beside which every edit score is read.

    "no edit": the source; "plain": the target prompt from the same noise (``seed`` or ``latents``), no method at all;
    "counterfactual": the right answer through the autoencoder, the best that a latent model can give.
    """
    plain = text_to_image(pipe, list(targets), seed=seed, steps=steps, guidance=guidance, latents=latents)
    with torch.no_grad():
        gold = finished(pipe, encode(pipe.vae, truth.gold.to(pipe.device, pipe.vae.dtype)))
    return {"no edit": truth.images, "plain": plain.float().cpu(), "counterfactual": gold}
