"""Claims of lesson 07, each measured by a function of the sample size."""

from __future__ import annotations

import torch
from torch import Tensor

from minidiff.course.claims import Outcome, claim
from minidiff.course.survival import decoded, held_out, survival
from minidiff.latent.autoencoder import encode
from minidiff.latent.bottleneck import kl_standard_normal
from minidiff.measure import bootstrap
from minidiff.measure.pictures import psnr
from minidiff.rng import normal
from minidiff.world import ATTRIBUTES, WorldData
from minidiff.zoo import load

__all__ = ["STUDY", "codes_in_use", "perplexity"]

STUDY = {"f = 2": "vae-f2", "f = 4": "vae-f4", "f = 8": "vae-f8", "VQ, f = 4": "vq-f4"}


def _points(counts: Tensor) -> Tensor:
    scored, before, after = counts.sum(0)
    return 100 * (after - before) / scored.clamp(min=1)


def _survival_claims() -> None:
    for attribute in ATTRIBUTES:

        def run(n: int, attribute: str = attribute) -> Outcome:
            found = bootstrap(_points, survival("mini-vae", n)[attribute])
            bad = {f"PCA of {f} x {f} patches": float(_points(survival(f"patches-{f}", n)[attribute])) for f in (4, 8)}
            return Outcome(found.value, found.low, found.high, bad, {"the picture itself": 0.0},
                           "whether the short training or the other edition of the world is to blame was not measured")

        claim(
            f"07.survives_{attribute}",
            f"{'what is worn' if attribute == 'wears' else 'the ' + attribute} survives mini-vae: what the final reader reads "
            "after the round trip, against before",
            unit="points of accuracy",
            target=">= -1",
            n=512, small=32,
            reader="final",
        )(run)


_survival_claims()


@claim(
    "07.words_or_line",
    "mini-vae keeps more of what can be read than the linear map with as many numbers a patch (paired, mean over five words)",
    unit="points of accuracy, network minus linear map",
    target=">= 1",
    n=512, small=32,
    reader="final",
)
def words_or_line(n: int) -> Outcome:
    def ahead(counts: Tensor) -> Tensor:                                         # (n, words, 3, both) -> points, one a word
        scored, _, after = counts.sum(0).unbind(1)
        return 100 * (after[:, 0] - after[:, 1]) / scored[:, 0].clamp(min=1)

    both = torch.stack([torch.stack(list(survival(name, n).values()), 1) for name in ("mini-vae", "patches-4")], 3)
    found = bootstrap(lambda counts: ahead(counts).mean(), both)
    alone = dict(zip(ATTRIBUTES, ahead(both).tolist(), strict=True))
    return Outcome(found.value, found.low, found.high, {"the linear map": 0.0}, {},
                   "decibels and words are different questions", settings={f"{word} alone": v for word, v in alone.items()})


@claim(
    "07.psnr",
    "mini-vae (f = 4, 4 channels) gives back held-out scenes of all styles",
    unit="dB PSNR",
    target=">= 32",
    n=128, small=32,
)
def fidelity(n: int) -> Outcome:
    images = held_out(n)[0]
    found = bootstrap(torch.mean, psnr(decoded("mini-vae", n), images))
    bad = {"PCA of 4 x 4 patches": float(psnr(decoded("patches-4", n), images).mean())}
    best = {"exact, up to 8-bit rounding": float(psnr((images * 127.5).round() / 127.5, images).mean())}
    return Outcome(found.value, found.low, found.high, bad, best,
                   "trained too briefly for thin and small parts; in its own edition of the world it is below the bar as well")


# The study of f ------------------------------------------------------------------------------------------------------


def _smaller_step(names: list[str], n: int, why: str) -> Outcome:
    """The PSNR lost from one autoencoder to the next, in dB: the smaller of the two steps."""
    images = held_out(n)[0]
    lost = -torch.stack([psnr(decoded(name, n), images) for name in names], 1).double().diff(dim=1)
    found = bootstrap(torch.mean, lost[:, int(lost.mean(0).argmin())])
    return Outcome(found.value, found.low, found.high, {"f without effect": 0.0}, {}, why)


@claim(
    "07.f_psnr",
    "each doubling of f costs fidelity: networks of 50,000 to 90,000 pictures each, f = 2, 4, 8 (the smaller of the two steps; "
    "Rombach et al. 2022)",
    unit="dB PSNR",
    target=">= 1",
    n=128, small=32,
)
def study_psnr(n: int) -> Outcome:
    return _smaller_step([STUDY[f"f = {f}"] for f in (2, 4, 8)], n,
                         "trained so briefly, the larger latent is not used to the full")


@claim(
    "07.f_linear",
    "what 4 numbers a patch allow to a linear map that sees one patch at a time: f = 2, 4, 8 (the smaller step)",
    unit="dB PSNR",
    target=">= 2",
    n=128, small=32,
)
def study_linear(n: int) -> Outcome:
    return _smaller_step([f"patches-{f}" for f in (2, 4, 8)], n, "these pictures hardly need four numbers a patch")


@claim(
    "07.f_survival",
    "f = 8 loses more of what can be read than f = 4 (mean over five attributes; Rombach et al. 2022)",
    unit="points of accuracy",
    target=">= 1",
    n=128, small=32,
    reader="final",
)
def study_survival(n: int) -> Outcome:
    def lost(counts: Tensor) -> Tensor:                                          # (n, words, 3) -> points, one a word
        scored, before, after = counts.sum(0).unbind(1)
        return 100 * (before - after) / scored.clamp(min=1)

    both = torch.stack([torch.stack(list(survival(STUDY[f], n).values()), 1) for f in ("f = 8", "f = 4")], 1)
    found = bootstrap(lambda c: (lost(c[:, 0]) - lost(c[:, 1])).mean(), both)
    words = (lost(both[:, 0]) - lost(both[:, 1])).tolist()
    return Outcome(found.value, found.low, found.high, {"f = 4 against f = 4": 0.0}, {},
                   "the reader forgives what eight times coarser codes do to these simple pictures",
                   settings={f"{word} alone": value for word, value in zip(ATTRIBUTES, words, strict=True)})


@claim(
    "07.vq_against_kl",
    "at f = 4 a codebook of 256, trained on 88,512 pictures, gives back pictures about as well as four real numbers a place, "
    "trained on 50,624 (latent-diffusion's README, f = 4: VQ 27.43, KL 27.53 dB)",
    unit="dB PSNR, VQ minus KL",
    target=">= -1",
    n=128, small=32,
)
def codebook(n: int) -> Outcome:
    images = held_out(n)[0]
    found = bootstrap(torch.mean, psnr(decoded("vq-f4", n), images) - psnr(decoded("vae-f4", n), images))
    other = float((psnr(decoded("vae-f8", n), images) - psnr(decoded("vae-f4", n), images)).mean())
    return Outcome(found.value, found.low, found.high, {"KL, f = 8": other}, {},
                   "8 bits a place; the published codebook has 13, and far more training")


@claim(
    "07.f_network",
    "a trained network gives back more than the linear map with the same latent (the least gain of f = 2, 4, 8)",
    unit="dB PSNR, network minus linear map",
    target=">= 0",
    n=128, small=32,
)
def network_or_line(n: int) -> Outcome:
    images = held_out(n)[0]
    gains = {f: (psnr(decoded(STUDY[f"f = {f}"], n), images) - psnr(decoded(f"patches-{f}", n), images)).double()
             for f in (2, 4, 8)}
    least = min(gains, key=lambda f: float(gains[f].mean()))
    found = bootstrap(torch.mean, gains[least])
    return Outcome(found.value, found.low, found.high, {"the linear map": 0.0}, {},
                   f"f = {least}: a line that keeps 4 of 12 numbers is hard to beat, and a network has to learn even to copy",
                   settings={f"f = {f}": float(gain.mean()) for f, gain in gains.items() if f != least})


@torch.no_grad()
def codes_in_use(n: int) -> Tensor:
    """(n, 256): how often each code of vq-f4 is the nearest one, for each of n held-out pictures."""
    vq = load("vq-f4")
    index = torch.cat([vq.quantize(encode(vq, x))[2][2].view(len(x), -1) for x in held_out(n)[0].split(64)])
    return torch.stack([torch.bincount(row, minlength=vq.config.num_vq_embeddings) for row in index]).double()


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of how often each code is used, counts (n, K) summed over pictures: K where all are used alike."""
    share = counts.sum(0) / counts.sum()
    return torch.special.entr(share).sum().exp()


@claim(
    "07.codes",
    "with starved codes revived in training, half of vq-f4's 256 codes carry the pictures (perplexity)",
    unit="codes (exp of the entropy of their use)",
    target=">= 128",
    n=128, small=32,
)
def codes(n: int) -> Outcome:
    counts = codes_in_use(n)
    found = bootstrap(perplexity, counts, n=200)
    return Outcome(found.value, found.low, found.high, {"one code for all": 1.0}, {"all used alike": float(counts.shape[1])},
                   "a picture is mostly backdrop, and few codes write most of it",
                   settings={"codes used at all": float((counts.sum(0) > 0).sum())})


# Identities ----------------------------------------------------------------------------------------------------------


@claim(
    "07.kl_closed_form",
    "the KL of the bottleneck is that of torch.distributions, float64",
    unit="largest relative difference",
    target="<= 1e-12",
    n=1000, small=100,
)
def closed_form(n: int) -> Outcome:
    mu, logvar = (3 * normal((2, n, 4, 4, 4), "07 kl", 0, dtype=torch.float64)).unbind()
    posterior = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
    want = torch.distributions.kl_divergence(posterior, prior).flatten(1).sum(1)
    gap = ((kl_standard_normal(mu, logvar) - want).abs() / want).max()
    z = mu + (0.5 * logvar).exp() * normal(tuple(mu.shape), "07 kl draws", 0, dtype=torch.float64)
    drawn = (posterior.log_prob(z) - prior.log_prob(z)).flatten(1).sum(1)
    bad = {"by one draw for each number": float(((drawn - want).abs() / want).median())}
    return Outcome(float(gap), 0.0, float(gap), bad, {},
                   "a term is wrong")


def _mixture(n: int) -> Tensor:
    """Held-out pictures in the shares of the training data: simple 0.2, pairs 0.3, full 0.5."""
    parts = (("simple", round(0.2 * n)), ("pairs", round(0.3 * n)), ("full", n - round(0.2 * n) - round(0.3 * n)))
    return torch.cat([WorldData(64, "test", level).images(count) for level, count in parts])


@claim(
    "07.scale",
    "the stored scaling_factor brings mini-vae's latents of held-out pictures to unit standard deviation",
    unit="standard deviation",
    target="1.0 +- 0.02",
    n=1024, small=64,
)
def scale(n: int) -> Outcome:
    vae = load("mini-vae")
    z = encode(vae, _mixture(n), generator=torch.Generator().manual_seed(7)).double().flatten(1)
    moments = torch.stack([z.mean(1), z.square().mean(1)], 1)

    def deviation(m: Tensor, factor: float = 1.0) -> Tensor:
        return factor * (m[:, 1].mean() - m[:, 0].mean() ** 2).sqrt()

    found = bootstrap(deviation, moments)
    own = vae.config.scaling_factor
    return Outcome(found.value, found.low, found.high, {"Stable Diffusion's 0.18215": float(deviation(moments, 0.18215 / own)),
                                                        "unscaled": float(deviation(moments, 1 / own))}, {},
                   "held-out pictures differ from those that it was measured on")
