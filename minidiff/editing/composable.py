"""Two ways to say several things without gradients: the predictions of several prompts added up (Composable Diffusion, Liu et
al. 2022), and values of each phrase encoded by itself (Structured Diffusion, Feng et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minidiff.editing.result import EditResult
from minidiff.errors import require
from minidiff.latent.pipeline import check_prompts, denoiser, encode_prompt, scheduler_options
from minidiff.latent.sample import prepare_latents
from minidiff.latent.text import token_indices
from minidiff.steer import Composable, Hook, Site, StepContext, run

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["StructuredValues", "composable", "structured_text"]


def composable(pipe: StableDiffusionPipeline, parts: Sequence[str] | Sequence[Sequence[str]],
               weights: float | Sequence[float] = 4.0, *, seed: int = 0, latents: Tensor | None = None, steps: int = 20
               ) -> EditResult:
    """Draw several prompts as one picture: eps = u + sum_i w_i (c_i - u) at each step (Liu et al. 2022, eq. 11).

    parts: the prompts of one picture, or a list of them for each picture, equally many; weights: w_i, one for all or one for
    each part; a negative one asks for what the part does not show. One part is classifier-free guidance at its weight. The
    picture is the branch "edit". K + 1 rows of the network a picture.
    """
    rows = [list(parts)] if isinstance(parts[0], str) else [list(row) for row in parts]
    k = len(rows[0])
    require(k > 0 and all(len(row) == k for row in rows), "parts", f"{[len(row) for row in rows]} parts",
            "equally many prompts for each picture")
    each = [float(weights)] * k if isinstance(weights, (int, float)) else [float(w) for w in weights]
    require(len(each) == k, "weights", f"{len(each)} weights", f"one, or {k}: one for each part")
    texts = {f"part {i}": encode_prompt(pipe, check_prompts([row[i] for row in rows])) for i in range(k)}
    guider = Composable(dict(zip(texts, each, strict=True)))
    z = prepare_latents(pipe, latents, len(rows), seed, None)
    states = run(denoiser(pipe), {"edit": z}, {"edit": {"empty": encode_prompt(pipe, ""), **texts}}, guider=guider, steps=steps,
                 **scheduler_options(pipe))
    return EditResult.of(pipe, "Composable Diffusion", states, {"edit": [" + ".join(row) for row in rows]},
                         details={"weights": each})


def structured_text(pipe: StableDiffusionPipeline, prompts: str | Sequence[str], things: Sequence[Sequence[str]]) -> Tensor:
    """(B, L, D): the mean of one encoding for each thing, the prompt's own with that thing's tokens from its own phrase alone.

    things: for each prompt words of it, such as ("red cat", "blue dog"). The mean over encodings W_i stands for the mean over
    values, because values are linear in the encoding: mean_i softmax(Q K^T) V(W_i) = softmax(Q K^T) V(mean_i W_i) (Feng et al.
    2023, eq. 4 and 6).
    """
    prompts = check_prompts(prompts)
    require(len(things) == len(prompts), "things", f"{len(things)} rows", f"{len(prompts)}: a tuple of words for each prompt")
    whole = encode_prompt(pipe, prompts)
    out = []
    for row, prompt, said in zip(whole, prompts, things, strict=True):
        versions = []
        for words in said:
            there, alone = (token_indices(pipe.tokenizer, text, words)[0] for text in (prompt, words))
            version = row.clone()
            version[there] = encode_prompt(pipe, [words])[0][alone]
            versions.append(version)
        out.append(torch.stack(versions).mean(0) if versions else row)
    return torch.stack(out)


class StructuredValues(Hook):
    """Cross-attention looks with the prompt's keys and fetches the values of ``text`` (B, L, D), of :func:`structured_text`.

    No gradient and no further row; the text of the prompt itself changes nothing.
    """

    def __init__(self, pipe: StableDiffusionPipeline, text: Tensor, *, branch: str = "source") -> None:
        require(isinstance(text, Tensor) and text.ndim == 3, "text", getattr(text, "shape", type(text).__name__),
                "encodings (B, L, D)", "structured_text(pipe, prompts, things)")
        self.unet, self.text, self.branch = pipe.unet, text, branch

    def selects(self, site: Site) -> bool:
        return site.kind == "cross"

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, ctx: StepContext,
               attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor | None:
        if not ctx.has(self.branch, "prompt"):
            return None
        mine, values = ctx.of(self.branch, "prompt"), v.clone()
        flat = self.unet.get_submodule(site.name).to_v(self.text.to(v))                     # (B, L, heads * d)
        values[mine] = flat.unflatten(-1, (v.shape[1], v.shape[3])).transpose(1, 2)
        return attention(q, k, values)
