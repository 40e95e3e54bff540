"""The panels of lesson 08: a prompt with the map of every word, a recorded run step by step, a hole painted by hand.

Each ``render`` is a pure function of its knobs and gives pixels and a line of text; what can be computed beforehand is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.diffusion import last
from minidiff.editing.blended import Blend
from minidiff.errors import check_choice, check_images, require
from minidiff.latent.autoencoder import decode, encode
from minidiff.latent.concat import decoder_blend, inpaint_hint, paste, sample_concat
from minidiff.latent.pipeline import encode_prompt
from minidiff.latent.sample import denoise, initial_noise
from minidiff.latent.text import word_tokens
from minidiff.show.sheet import plural
from minidiff.show.tiles import lay_out, pixels, spread
from minidiff.steer import Recorder

__all__ = ["Film", "Holes", "Painter", "blended", "over"]


def over(maps: Tensor, image: Tensor) -> np.ndarray:
    """Maps (K, h, w), each scaled to its own maximum, in viridis over one picture (3, H, W): uint8 (K, H, W, 3)."""
    from matplotlib import colormaps

    big = F.interpolate(maps[:, None].float(), size=image.shape[-2:], mode="nearest")[:, 0]
    big = big / big.amax((1, 2), keepdim=True).clamp(min=1e-12)
    colours = np.asarray(colormaps["viridis"]((big * 12).round().div(12).numpy()))[..., :3] * 255
    return (0.7 * colours + 0.3 * pixels(image[None])).round().astype(np.uint8)


class Painter:
    """A picture of a prompt, how it came about, and where each word looked while it did.

    site: the attention site whose maps are shown; they are averaged over the second half of the steps and over heads.
    """

    def __init__(self, pipe: Any, *, site: str, steps: int = 25, moments: int = 5) -> None:
        self.pipe, self.site, self.steps, self.moments = pipe, site, steps, moments
        self._kept: dict[tuple[str, int, float], tuple[np.ndarray, str]] = {}

    def check(self, prompt: str, **_: float) -> str:
        """What the prompt is made of; raises BadInput for one with unknown or too many words. The other knobs do not matter."""
        encode_prompt(self.pipe, prompt)
        words = word_tokens(self.pipe.tokenizer, prompt)
        require(len(words) > 0, "prompt", repr(prompt), "at least one word", "'a red cat on the grass'")
        tokens = plural(sum(len(where) for _, where in words), "token")
        return f"{plural(len(words), 'word')}, {tokens} of {self.pipe.tokenizer.model_max_length - 2}"

    def run(self, *, prompt: str, seed: int, guidance: float) -> tuple[Tensor, Tensor, list[str]]:
        """Pictures (moments, 3, H, W), the last one finished; maps (K, h, w) of begin, words and end; their names."""
        words = word_tokens(self.pipe.tokenizer, prompt)
        words = [("begin", [0]), *words, ("end", [words[-1][1][-1] + 1])]
        z = initial_noise(self.pipe, 1, seed=seed)
        seen = Recorder(self.site)
        run = list(denoise(self.pipe, [prompt], steps=self.steps, guidance=guidance, latents=z, hooks=[seen]))
        late = list(range(len(run) // 2, len(run)))
        maps = torch.stack([seen.map(where, step=late, row=0) for _, where in words])
        shown = [*(run[i].x0 for i in spread(len(run), self.moments)[:-1]), run[-1].x]
        return decode(self.pipe.vae, torch.cat(shown)).detach().clamp(-1, 1), maps, [word for word, _ in words]

    def render(self, *, prompt: str, seed: int, guidance: float) -> tuple[np.ndarray, str]:
        """First row: the guess of the picture from early to finished. Below: each word's map over the finished picture."""
        cache_key = (prompt, seed, guidance)
        if cache_key not in self._kept:
            said = self.check(prompt)
            images, maps, words = self.run(prompt=prompt, seed=seed, guidance=guidance)
            tiles = over(maps, images[-1])
            row = self.moments
            rows = [pixels(images), *(tiles[i:i + row] for i in range(0, len(tiles), row))]
            peaks = maps.amax((1, 2)).tolist()
            after = [f"after {1 + i}" for i in spread(self.steps, self.moments)[:-1]]
            labels = [*after, "finished", *(f"{word} {peak:.2f}" for word, peak in zip(words, peaks, strict=True))]
            self._kept[cache_key] = (lay_out(rows, 2, labels=labels), f"seed {seed}, guidance {guidance:g}, {said}")
        return self._kept[cache_key]


class Film:
    """One guided run, kept whole: pictures and the maps of every cross-attention site at every step.

    sites: names for the choice, in running order, such as "up 8x8, 1st"; words: those of the prompt.
    """

    def __init__(self, pipe: Any, prompt: str, *, steps: int = 25, guidance: float = 4.0, seed: int = 0) -> None:
        z = initial_noise(pipe, 1, seed=seed)
        seen = Recorder()
        run = list(denoise(pipe, [prompt], steps=steps, guidance=guidance, latents=z, hooks=[seen]))
        self.ts = [step.t for step in run]
        self.guess = decode(pipe.vae, torch.cat([step.x0 for step in run])).detach().clamp(-1, 1)
        self.noisy = decode(pipe.vae, torch.cat([step.x for step in run])).detach().clamp(-1, 1)
        found = word_tokens(pipe.tokenizer, prompt)
        self.words = list(dict.fromkeys(word for word, _ in found))
        first = {word: where for word, where in reversed(found)}
        self.maps: dict[tuple[str, str], Tensor] = {}                # (site, word) -> (steps, h, w)
        self.sites: dict[str, str] = {}                              # what it is called here -> its name in the U-Net
        for name, site in seen.at(0).sites.items():
            stacks = {word: torch.stack([seen.map(where, step=i, site=name, row=0) for i in range(len(run))])
                      for word, where in first.items()}
            h, w = next(iter(stacks.values())).shape[1:]
            number = 1 + sum(label.startswith(f"{site.place} {h}x{w}") for label in self.sites)
            label = f"{site.place} {h}x{w}, no. {number}"
            self.sites[label] = name
            self.maps |= {(label, word): stack for word, stack in stacks.items()}

    def render(self, *, step: int, word: str, site: str) -> tuple[np.ndarray, str]:
        """The latent decoded, the guess, the word's map at this step, and its mean over the steps so far."""
        require(0 <= step < len(self.ts), "step", step, f"a whole number from 0 to {len(self.ts) - 1}")
        check_choice("word", word, self.words)
        check_choice("site", site, self.sites)
        maps = self.maps[site, word]
        two = torch.stack([maps[step], maps[:step + 1].mean(0)])
        pictures = torch.stack([self.noisy[step], self.guess[step]])
        row = np.concatenate([pixels(pictures), over(two, self.guess[step])])
        share = float(maps[step].sum() / torch.stack([self.maps[site, w][step] for w in self.words]).sum())
        array = lay_out([row], 2, labels=["the latent, decoded", "the guess", f"{word!r}, this step", f"{word!r}, mean so far"])
        return array, f"step {step + 1} of {len(self.ts)}, t = {self.ts[step]}; {word!r} gets {share:.0%} of what the words get"


def blended(pipe: Any, images: Tensor, mask: Tensor, prompts: list[str], *, steps: int = 25, guidance: float = 4.0, seed: int = 0,
            repeats: int = 1) -> Tensor:
    """Inpainting without training, in latent space: after each step the known part is put back, noised to the same level.

    Blended latent diffusion (Avrahami et al. 2023) without its background reconstruction; ``repeats`` > 1 goes back and
    forth over each step as RePaint does (Lugmayr et al. 2022, algorithm 1, jump length 1), at that many times the cost.
    images (B, 3, H, W); mask (B, 1, H, W), 1 where to paint -> (B, 3, H, W), the known pixels pasted back.
    """
    check_images("images", images, channels=3)
    require(mask.shape == images[:, :1].shape, "mask", f"shape {tuple(mask.shape)}", f"shape {tuple(images[:, :1].shape)}")
    require(len(prompts) == len(images), "prompts", f"{len(prompts)} prompts", f"one for each of the {len(images)} pictures")
    known = encode(pipe.vae, images)
    hole = F.adaptive_max_pool2d(mask, known.shape[-2:])             # a cell with any pixel to paint is made anew
    z = torch.cat([initial_noise(pipe, 1, seed=seed + i, size=tuple(images.shape[-2:])) for i in range(len(images))])
    blend = Blend(known, hole, repeats=repeats)
    made = last(denoise(pipe, prompts, steps=steps, guidance=guidance, latents=z, hooks=[blend])).x
    made = decode(pipe.vae, made).clamp(-1, 1)
    return torch.where(mask > 0.5, made, images)


class Holes:
    """A hole in one picture (3, H, W), painted by one of METHODS from a few seeds.

    tuned: a pipeline that sees the hole beside the latent (``load("mini-inpaint")``). The same seeds give both methods the same
    noise. "tuned, pasted": its pixels as they are inside the hole; "tuned, blended": the border mended by :func:`decoder_blend`.
    """

    METHODS = ("replacement", "tuned, pasted", "tuned, blended")

    def __init__(self, pipe: Any, tuned: Any, image: Tensor, *, count: int = 2, steps: int = 20, guidance: float = 4.0) -> None:
        self.pipe, self.tuned, self.image, self.count, self.steps, self.guidance = pipe, tuned, image, count, steps, guidance
        self._kept: dict[tuple[bytes, str, int, str], Tensor] = {}

    def check(self, mask: Tensor, prompt: str, seed: int, method: str) -> str:
        """How much is painted; raises BadInput for a prompt with unknown words, and where nothing is to be kept or made."""
        check_choice("method", method, self.METHODS)
        encode_prompt(self.pipe, prompt)
        painted = int(mask.sum())
        require(0 < painted < mask.numel(), "mask", "nothing painted" if not painted else "all of the picture painted",
                "a hole with something around it", "a stroke on the picture")
        return f"{plural(painted, 'pixel')} painted"

    def images(self, mask: Tensor, prompt: str, seed: int, method: str) -> Tensor:
        """mask (H, W) of 0 and 1 -> (count, 3, H, W), from noises that differ from seed to seed."""
        cache_key = (mask.to(torch.uint8).numpy().tobytes(), prompt, seed, method)
        if cache_key not in self._kept:
            n, how = self.count, {"steps": self.steps, "guidance": self.guidance, "seed": self.count * seed}
            images, masks = self.image.expand(n, -1, -1, -1), mask.expand(n, 1, -1, -1)
            if method == "replacement":
                made = blended(self.pipe, images, masks, [prompt] * n, **how)
            else:
                free = sample_concat(self.tuned, inpaint_hint(self.tuned.vae, images, masks), [prompt] * n, **how)
                made = (paste(images, free, masks) if method == "tuned, pasted"
                        else decoder_blend(self.tuned.vae, images, free, masks))
            self._kept[cache_key] = made
        return self._kept[cache_key]

    def render(self, mask: Tensor, prompt: str, seed: int, method: str) -> tuple[np.ndarray, str]:
        """The picture, the picture with its hole, and what was painted."""
        hole = torch.where(mask > 0.5, torch.zeros_like(self.image), self.image)
        row = pixels(torch.cat([self.image[None], hole[None], self.images(mask, prompt, seed, method)]))
        tries = [f"try {seed * self.count + i + 1}" for i in range(self.count)]
        array = lay_out([row], 2, labels=["known", "what is kept", *tries])
        return array, f"{method}: {prompt!r}, seed {seed}, {float(mask.mean()):.0%} of the picture painted anew"
