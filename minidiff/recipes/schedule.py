"""What `minidiff remake` trains: which models a recipe loads, and how many of nine minutes on one GPU it takes."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["PLAN", "Job"]


class Job(NamedTuple):
    """needs: shipped models that the recipe loads. minutes: of nine. lane: jobs of one lane run one after another;
    None: beside all others.
    """

    minutes: float
    needs: tuple[str, ...] = ()
    lane: int | None = 0


# Alone on an H100 (tools/gpu_probe.py, 2026-11-26, a step as one CUDA graph) mini-sd takes 8,000 pictures a second in batches of
# 128, mini-vae 4,200 in batches of 64, pixel-ddpm 27,600; beside three others a third of it. What counts is steps: 6,800 steps of
# 128 made a worse mini-sd than 29,600 steps of 16 on two cores, so its batch is 32 now. Where the pixel models are good already,
# give the chain the card alone: minidiff remake mini-vae mini-sd mini-inpaint mini-upscale-x2 mini-upscale-x4 mini-layout
#
# The first lane is the longest chain (the reader's features, the autoencoder's latents, mini-sd); it ends as early as it can, so
# that what starts from mini-sd has time left. The others fill the GPU beside it.
PLAN: dict[str, Job] = {
    "readers/guide": Job(0.7),
    "mini-vae": Job(2.2, ("readers/guide",)),
    "mini-sd": Job(4.4, ("mini-vae",)),
    "mini-inpaint": Job(1.2, ("mini-sd", "mini-vae"), lane=None),
    "mini-upscale-x2": Job(1.2, ("mini-sd", "mini-vae"), lane=None),
    "mini-upscale-x4": Job(1.2, ("mini-sd", "mini-vae"), lane=None),
    "mini-layout": Job(1.2, ("mini-sd", "mini-vae"), lane=None),
    "mini-control": Job(1.2, ("mini-sd",), lane=None),
    "parasol-tokens": Job(0.4, ("mini-sd", "readers/guide"), lane=None),
    "mini-parasol": Job(1.2, ("mini-sd", "parasol-tokens", "readers/guide"), lane=None),
    "readers/final": Job(0.9, lane=1),
    "pixel-ddpm": Job(2.8, lane=1),
    "ddgan": Job(2.2, lane=1),
    "mini-clip": Job(1.0, lane=1),
    "readers/develop": Job(0.9, lane=2),
    "pixel-guided": Job(1.3, lane=2),
    "pixel-eps": Job(1.5, lane=2),
    "gan-32": Job(0.8, lane=2),
    "vae-32": Job(0.3, lane=2),
    "vq-f4": Job(0.8, ("readers/guide",), lane=2),
    "vae-f2": Job(0.8, ("readers/guide",), lane=2),
    "noisy-classifier": Job(0.4, lane=3),
    "pixel-small-eps": Job(0.5, lane=3),
    "pixel-small-x0": Job(0.5, lane=3),
    "pixel-small-v": Job(0.5, lane=3),
    "pixel-small-learned": Job(0.5, lane=3),
    "pixel-small-cosine": Job(0.5, lane=3),
    "vae-f4": Job(0.6, ("readers/guide",), lane=3),
    "vae-f8": Job(0.6, ("readers/guide",), lane=3),
}
