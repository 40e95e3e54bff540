"""Where each feature of denoising-diffusion-pytorch (lucidrains, v2.3) lives in minidiff, or why it does not.

Data for the tour in the notebooks: ``rows("unet")``, ``markdown("trainer")``. A test imports every ``where`` and builds
every ``use`` that is a call of UNet, so the table cannot promise what is not there.
"""

from __future__ import annotations

from typing import NamedTuple

from minidiff.errors import check_choice

__all__ = ["PARTS", "FEATURES", "Feature", "rows", "markdown"]

PARTS = {"unet": "U-Net", "adm": "U-Net of ADM", "diffusion": "GaussianDiffusion", "trainer": "Trainer", "side": "Side modules"}


class Feature(NamedTuple):
    """part: key of PARTS. name: the feature there. where: importable names here, none if it is left out.

    use: how it is written here. note: what differs; for a feature that is left out, why.
    """

    part: str
    name: str
    where: tuple[str, ...] = ()
    use: str = ""
    note: str = ""


_NET, _LUCID = "minidiff.nets.unet.UNet", "minidiff.nets.lucidrains.LucidrainsUNet"
_BLOCKS, _ATTENTION = "minidiff.nets.blocks.", "minidiff.nets.attention."
_EMBED, _DIFF, _TRAIN = "minidiff.nets.embed.", "minidiff.diffusion.", "minidiff.train."


def _f(part: str, name: str, where: str = "", use: str = "", note: str = "") -> Feature:
    return Feature(part, name, tuple(where.split()), use, note)


FEATURES: tuple[Feature, ...] = (
    _f("unet", "dim, dim_mults, channels, out_dim", _NET, "UNet(1, 2, dim=16, mults=(1, 2, 4))"),
    _f("unet", "init_dim", note="left out: the stem is dim wide"),
    _f("unet", "7 x 7 stem", _LUCID, "LucidrainsUNet()", "UNet: 3 x 3 on 2 x 2 patches, a quarter of the cost"),
    _f("unet", "2 blocks a level, at the width they receive", _LUCID, "LucidrainsUNet()"),
    _f("unet", "downsample: space to depth and 1 x 1; last level 3 x 3", _BLOCKS + "SpaceToDepth",
       "LucidrainsUNet()"),
    _f("unet", "middle: block, full attention, block", "minidiff.nets.unet.Stage", "UNet().middle"),
    _f("unet", "up path: skip concat, 2 blocks, nearest and 3 x 3", _BLOCKS + "Upsample", "UNet(blocks=2)",
       "one skip a block, as there; Ho has one more block a level"),
    _f("unet", "global skip from the stem, 1 x 1 out", _LUCID, "LucidrainsUNet()", "the last layer starts at zero here"),
    _f("unet", "block: conv, RMSNorm, scale and shift, SiLU, dropout", _BLOCKS + "PostBlock minidiff.nets.norm.RMSNorm",
       "LucidrainsUNet(dropout=0.1)"),
    _f("unet", "time MLP, 4 dim wide", _EMBED + "TimeEmbedding", "UNet()", "SiLU as in Ho et al., not GELU"),
    _f("unet", "sinusoidal embedding, theta 10000", _EMBED + "sinusoid", "UNet()",
       "Ho's [sin, cos] over half - 1; convention='openai' has [cos, sin] over half"),
    _f("unet", "learned or random Fourier features, dim 16, beside t", _EMBED + "Fourier", "LucidrainsUNet(time='learned')",
       "of t / 1000 with frequencies of size 16; theirs takes the raw t"),
    _f("unet", "linear attention", _ATTENTION + "LinearAttention", "LucidrainsUNet()", "without the norm after the projection"),
    _f("unet", "full attention at the innermost level, or full_attn", _ATTENTION + "Attention", "UNet(attention=(16, 8))",
       "named by the side of the map; the middle has it too, unless UNet(attention=None)"),
    _f("unet", "heads 4 x 32", _ATTENTION + "head_shape", "LucidrainsUNet(heads=4, head_dim=32)"),
    _f("unet", "4 memory keys and values", _ATTENTION + "Attention", "LucidrainsUNet(memory=4)"),
    _f("unet", "flash attention switch", _ATTENTION + "Attention", "UNet()",
       "no switch: torch's scaled_dot_product_attention picks the fastest kernel"),
    _f("unet", "self_condition", _LUCID, "LucidrainsUNet(self_condition=True)", "net(x, t, self_cond=x0); None equals zeros"),
    _f("unet", "learned_variance", _NET, "UNet(learned_variance=True)", "mean first, then variance: for LearnedRange"),
    _f("unet", "divisibility assertion (downsample_factor)", _NET, "UNet().factor", "the error says which size to use"),

    _f("adm", "AdaGN, or time added before the norm", _BLOCKS + "ResBlock " + _BLOCKS + "film", "UNet(scale_shift=True)",
       "scale_shift=False adds it"),
    _f("adm", "BigGAN up and down blocks", _BLOCKS + "ResBlock", "UNet(resblock_updown=True)"),
    _f("adm", "64 channels a head", _ATTENTION + "head_shape", "UNet(heads=None, head_dim=64)"),
    _f("adm", "attention at several resolutions", _NET, "UNet(mults=(1, 2, 2), attention=(16, 8, 4))"),
    _f("adm", "class embedding added to the time embedding", _NET, "UNet(cond_dim=21)", "any vector; zeros mean no condition"),
    _f("adm", "residuals scaled by 1 / sqrt 2", note="left out: the one change of the paper that did not help"),

    _f("diffusion", "objectives: noise, x0, v", _DIFF + "Eps " + _DIFF + "X0 " + _DIFF + "V", "V(net, schedule)",
       "a wrapper instead of a flag; nothing is the default"),
    _f("diffusion", "schedules: linear, cosine, sigmoid", _DIFF + "linear " + _DIFF + "cosine " + _DIFF + "sigmoid",
       "sigmoid(1000)", "diffusers' schedule of the same name is sigmoid_beta"),
    _f("diffusion", "fewer sampling_timesteps switch to DDIM", _DIFF + "ddim", "ddim(model, x, steps=50)",
       "the sampler is named, never switched"),
    _f("diffusion", "DDIM eta: 0 here, 1 in the guidance file", _DIFF + "ddim", "ddim(model, x, eta=0.0)", "0 everywhere"),
    _f("diffusion", "auto-normalise [0, 1] to [-1, 1]", "minidiff.errors.check_images", "",
       "left out: pictures are in [-1, 1] everywhere, and bytes are refused"),
    _f("diffusion", "offset noise", _TRAIN + "Recipe", "noise + 0.1 * normal((n, 3, 1, 1), ...)",
       "the recipe's draw makes the noise, so this is one line there"),
    _f("diffusion", "min-SNR weights, gamma 5", _DIFF + "min_snr_weight " + _DIFF + "simple_loss", "simple_loss(..., gamma=5)",
       "None weights every t alike; theirs keeps the SNR denominator when it is off"),
    _f("diffusion", "immiscible assignment (Hungarian on L2)",
       note="left out; theirs permutes the noise but not the target, a bug worth finding in an exercise"),
    _f("diffusion", "self-conditioning with probability 0.5", _LUCID, "LucidrainsUNet(self_condition=True)",
       "the net takes it; losses and samplers here do not feed it, a few lines around them do"),
    _f("diffusion", "return_all_timesteps", _DIFF + "Step", "[step.x for step in ddim(model, x)]",
       "samplers are generators: every step can be read"),
    _f("diffusion", "interpolate", _DIFF + "interpolate", "interpolate(model, a, b)",
       "starts at the step it noised to; theirs is one off"),
    _f("diffusion", "non-square pictures", _NET, "UNet()", "both sides a multiple of net.factor"),
    _f("diffusion", "float64 tables stored as float32", _DIFF + "Schedule", "schedule.at(t)", "float64 to the last step"),
    _f("diffusion", "loss_reduction='none'", _DIFF + "simple_loss", "simple_loss(...).mean()", "one loss a picture, always"),
    _f("diffusion", "times override", _DIFF + "simple_loss", "simple_loss(model, x0, t, noise)",
       "t is an argument, never drawn inside"),

    _f("trainer", "Accelerate: split batches, fp16", _TRAIN + "distributed.Workers " + _TRAIN + "speed.Speed",
       "accelerate launch ...", "bf16 where the processor has it; the batch is global whatever the processes"),
    _f("trainer", "Adam, betas (0.9, 0.99), lr 1e-4", _TRAIN + "Recipe", "Recipe(lr=..., betas=...)",
       "AdamW with warm-up and decay by images seen"),
    _f("trainer", "asserts: batch of 16, 100 pictures", _TRAIN + "Budget", "Budget(images=..., minutes=...)",
       "no floor; a recipe says what each budget reaches"),
    _f("trainer", "gradient clip 1.0", _TRAIN + "Recipe", "Recipe(clip=1.0)"),
    _f("trainer", "EMA 0.995 every 10 steps", _TRAIN + "Ema", "Recipe(ema=0.999)",
       "every step, with a warm-up that forgets the start"),
    _f("trainer", "sample grid every 1000 steps", _TRAIN + "Recipe", "Recipe(preview=...)", "every so many pictures seen"),
    _f("trainer", "resume", _TRAIN + "fit", "fit(recipe, out='runs/a')", "the same call again: bit-equal to a whole run"),
    _f("trainer", "FID with cached statistics", "minidiff.measure.frechet", "frechet(features(a, reader), features(b, reader))",
       "on our own reader's features, so never called FID"),
    _f("trainer", "best or latest saving", _TRAIN + "newest", "fit(recipe, out='runs/a')",
       "latest only: to choose the best by a measure flatters that measure"),
    _f("trainer", "random flips", note="left out: left and right mean something in the toy world's captions"),
    _f("trainer", "colour-mode conversion", "minidiff.world.folder.read_image", "ImageFolder(...)",
       "transparent pixels on white"),

    _f("side", "learned variance with hybrid bound, weight 0.001", _DIFF + "LearnedRange " + _DIFF + "hybrid_loss",
       "LearnedRange(Eps(net, schedule))"),
    _f("side", "continuous time: log-SNR, learned monotone schedule",
       note="left out: the net takes any float t, but schedules here are tables of T steps"),
    _f("side", "v-parameterised continuous time", _DIFF + "V", "V(net, schedule)", "v itself is here, on the discrete schedule"),
    _f("side", "elucidated diffusion: Heun and DPM-Solver++(2M)", _DIFF + "EDM " + _DIFF + "heun " + _DIFF + "dpm2m",
       "heun(EDM(net, schedule), x)", "without churn, which theirs has on by default"),
    _f("side", "weighted objective: learned mix of noise and x0", note="left out: v, a fixed mix of the two, is here"),
    _f("side", "simple diffusion: U-ViT, shifted log-SNR", _BLOCKS + "space_to_depth", "UNet(patch=4, attention=(4,))",
       "only the patch stem: the shift is for pictures above 64 pixels"),
    _f("side", "Karras magnitude-preserving U-Net (1D, 2D, 3D)", note="left out: one U-Net to read is enough for a course"),
    _f("side", "1D variant", note="left out: this course is about pictures"),
    _f("side", "classifier guidance", note="not in the nets: see the lesson on guidance"),
    _f("side", "classifier-free guidance: dropped condition, scale, rescale, parallel part, CFG++", _NET, "UNet(cond_dim=21)",
       "the net's part: zeros are no condition; see the lesson on guidance for the rest"),
    _f("side", "RePaint", note="not in the nets: see the lesson on inpainting"),
    _f("side", "XM best-of-k wrapper", note="left out: one step of it costs k passes"),
)


def rows(part: str | None = None) -> list[Feature]:
    """The features of one part, or all of them."""
    if part is None:
        return list(FEATURES)
    check_choice("part", part, PARTS)
    return [f for f in FEATURES if f.part == part]


def markdown(part: str | None = None) -> str:
    """The same as a table for a notebook."""
    lines = ["| there | here | note |", "|---|---|---|"]
    for f in rows(part):
        here = f"`{f.use}`" if f.use else ", ".join(f"`{w.rsplit('.', 1)[1]}`" for w in f.where) or "-"
        lines.append(f"| {f.name} | {here} | {f.note} |")
    return "\n".join(lines)
