"""The panels of lesson 12: where a bank puts its direction, how much guidance against how much noise, and a code made white.

Each ``render`` is a pure function of its knobs; everything is drawn beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minidiff.editing import NoiseRegularizer, pix2pix_zero, sdedit
from minidiff.errors import check_choice, require
from minidiff.latent import encode_prompt, invert_image, text_to_image, token_indices
from minidiff.lessons.l10_prompt_to_prompt.panels import keeping_hooks, side_by_side
from minidiff.lessons.l12_pix2pix_zero.claims import shifted
from minidiff.lessons.l12_pix2pix_zero.data import BANKS, bank_direction, directions, neighbours, token_norms
from minidiff.measure import EditPairs, edit_score
from minidiff.measure.pictures import psnr
from minidiff.show import curve
from minidiff.show.tiles import below, lay_out, pixels
from minidiff.steer import Trajectory

__all__ = ["Amounts", "Banks", "Regularised", "spectrum"]


class Banks:
    """One edit of a kind by three directions: how long each is at every token, and what prompt + direction draws."""

    def __init__(self, pipe: Any, prompt: str, word: str, other: str, latents: Tensor, *, steps: int = 12) -> None:
        said, goal = encode_prompt(pipe, [prompt, prompt.replace(word, other)]).split(1)
        found = {how: bank_direction(pipe, how, prompt, word, other) for how in BANKS} | {"the target prompt": goal - said}
        n = len(pipe.tokenizer(prompt).input_ids)
        self.noun = token_indices(pipe.tokenizer, prompt, word)[0][0]
        self.tokens = ["begin", *prompt.split(), "end"] if n == len(prompt.split()) + 2 else [str(k) for k in range(n)]
        self.norms = {how: token_norms(d)[0, :n] for how, d in found.items()}
        drawn = shifted(pipe, torch.cat([said, *(said + d for d in found.values())]), latents.expand(1 + len(found), -1, -1, -1),
                        steps=steps)
        self.images = dict(zip(["the prompt", *found], drawn, strict=True))

    def render(self, *, bank: str) -> tuple[np.ndarray, str]:
        """The prompt's picture, that of prompt + direction, and the direction's length by token beside the true one."""
        check_choice("bank", bank, list(self.norms))
        goal = "the target prompt"
        row = torch.stack([self.images["the prompt"], self.images[bank], self.images[goal]])
        top = lay_out([pixels(row)], 2, labels=["the prompt", f"+ {bank}", goal])
        places = range(len(self.tokens))
        lines = {f"{name}": (places, self.norms[name]) for name in dict.fromkeys((goal, bank))}
        graph = curve(lines, x="token (" + ", ".join(f"{k} {w}" for k, w in enumerate(self.tokens)) + ")", y="length", height=2.2,
                      alt="length by token")
        k = self.noun
        return below(top, graph.array), f"{bank}: at the noun's token {k}, length {float(self.norms[bank][k]):.1f}; the target " \
            f"prompt's {float(self.norms[goal][k]):.1f}"


class Amounts:
    """The same edits by Pix2Pix-Zero at several amounts and by SDEdit at several strengths: success against what is kept.

    Beside them, as point("copied", 0.8): the same direction with the source's attention copied as Prompt-to-Prompt does.
    """

    def __init__(self, pipe: Any, reader: Any, pairs: EditPairs, latents: Tensor, *, amounts: Sequence[float] = (0.0, 0.03, 0.1),
                 strengths: Sequence[float] = (0.3, 0.5, 0.7), steps: int = 12, guidance: float = 5.0) -> None:
        where, self.images = directions(pipe, pairs.prompts, pairs.targets), {}
        common = {"steps": steps, "guidance": guidance}
        for amount in amounts:
            if amount == 0:
                said = encode_prompt(pipe, pairs.prompts)
                self.images["amount", amount] = shifted(pipe, said + where, latents, **common)
                continue
            made = pix2pix_zero(pipe, pairs.prompts, where, latents=latents, relative=amount, **common)
            self.images["amount", amount], self.source = made.edit, made.images["source"]
        for strength in strengths:
            self.images["strength", strength] = sdedit(pipe, pairs.targets, image=self.source, strength=strength, **common).edit
        said = encode_prompt(pipe, pairs.prompts)
        copied = keeping_hooks(pipe, [(p, p) for p in pairs.prompts], "copied", cross=0.8, self_attention=0.4)
        self.images["copied", 0.8] = side_by_side(pipe, latents, {"source": said, "copied": said + where}, copied,
                                                  **common)["copied"]
        truth = pairs.truth(reader, self.source)
        self.scores = {key: edit_score(x, truth) for key, x in self.images.items()}
        self.amounts, self.strengths, self.rows = tuple(amounts), tuple(strengths), int(truth.valid.sum())

    def point(self, knob: str, value: float) -> tuple[float, float]:
        """(success, IoU) at one setting."""
        mine = self.scores[knob, value]
        return float(mine.of("target").mean()), float(mine.of("iou").mean())

    def render(self, *, amount: float, strength: float) -> tuple[np.ndarray, str]:
        """Rows: sources, Pix2Pix-Zero at the amount, SDEdit at the strength."""
        for name, value, known in (("amount", amount, self.amounts), ("strength", strength, self.strengths)):
            require(value in known, name, value, f"one of {', '.join(map(str, known))}")
        rows = [pixels(x) for x in (self.source, self.images["amount", amount], self.images["strength", strength])]
        here = [self.point("amount", amount), self.point("strength", strength)]
        words = [f"{name}: success {s:.2f}, IoU {k:.2f}" for name, (s, k) in zip(("Pix2Pix-Zero", "SDEdit"), here, strict=True)]
        return lay_out(rows, 2, row_labels=["source", "Pix2Pix-Zero", "SDEdit"]), f"{'; '.join(words)} ({self.rows} pictures)"


def spectrum(code: Tensor) -> Tensor:
    """(h, w): power of a code (C, h, w) by frequency, mean over channels, frequency 0 in the middle; of white noise 1."""
    power = torch.fft.fft2(code.double(), norm="ortho").abs().square().mean(0)
    return torch.fft.fftshift(power)


class Regularised:
    """Pictures inverted with the noise regularised in 0 to 5 rounds: code, spectrum, and what comes back at w = 1."""

    def __init__(self, pipe: Any, images: Tensor, prompts: Sequence[str], *, rounds: Sequence[int] = (0, 1, 5),
                 compat: str | None = None, steps: int = 20) -> None:
        self.rounds, self.pictures, self.codes, self.back = tuple(rounds), images, {}, {}
        for k in rounds:
            hooks = [NoiseRegularizer(rounds=k, compat=compat)] if k else []
            self.codes[k] = Trajectory.of(invert_image(pipe, images, prompts, steps=steps, hooks=hooks)).noise
            self.back[k] = text_to_image(pipe, list(prompts), latents=self.codes[k], steps=steps, guidance=1.0)
        self.psnr = {k: psnr(x, images) for k, x in self.back.items()}
        self.white = {k: neighbours(x) for k, x in self.codes.items()}

    def render(self, *, rounds: int, picture: int) -> tuple[np.ndarray, str]:
        """The picture, its code's first three channels, the code's spectrum, and what comes back."""
        check_choice("rounds", rounds, self.rounds)
        require(0 <= picture < len(self.pictures), "picture", picture, f"0 to {len(self.pictures) - 1}")
        code, size = self.codes[rounds][picture], self.pictures.shape[-2:]
        power = (spectrum(code).clamp(min=1e-6).log10() / 2).clamp(-1, 1).float()
        cells = [F.interpolate(x, size=size) for x in (code[None, :3] / 3, power[None, None].expand(-1, 3, -1, -1))]
        row = torch.cat([self.pictures[picture][None], *cells, self.back[rounds][picture][None]])
        std, near = self.white[rounds][picture].tolist()
        return lay_out([pixels(row)], 2, labels=["picture", "code", "its spectrum", "back, w = 1"]), \
            f"{rounds} rounds: deviation {std:.2f}, neighbours {near:.2f}, back with {float(self.psnr[rounds][picture]):.1f} dB"
