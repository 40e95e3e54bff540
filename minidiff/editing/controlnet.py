"""ControlNet (Zhang, Rao and Agrawala 2023): a trained copy of the U-Net's encoder tells the frozen U-Net where things go.

The copy sees the latent plus an encoded hint, a picture; what each of its blocks puts out passes a convolution that begins at
zero and is added to the U-Net's skip connections (section 3.1, eq. 2: y = F(x) + Z(F_copy(x + Z(c)))). Here the hint is the
silhouette of the things, the class is diffusers' own ``ControlNetModel``, and a network of ``StableDiffusionControlNetPipeline``
runs in our loop, with every hook.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from minidiff.diffusion import Eps, Schedule, last, simple_loss
from minidiff.editing.result import decode_images
from minidiff.errors import require
from minidiff.latent.pipeline import TextUNet, check_prompts, denoiser, encode_prompt, scheduler_options
from minidiff.latent.sample import prepare_latents
from minidiff.latent.stable import snr_weight
from minidiff.silence import silence_libraries
from minidiff.steer import CFG, Hook, State, StepContext, run

if TYPE_CHECKING:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionPipeline, UNet2DConditionModel

__all__ = ["WIDTHS", "ControlledUNet", "add_control", "control", "control_images", "control_loss", "new_controlnet",
           "silhouettes"]

WIDTHS = {4: (16, 32, 32), 8: (16, 32, 96, 256)}          # of the hint's encoder, by how much the autoencoder shrinks pictures


def silhouettes(masks: Tensor) -> Tensor:
    """The hint (B, 3, H, W) in {0, 1} of scenes: white where any thing is. masks (B, K, H, W) in [0, 1], those of ``render``."""
    require(masks.ndim == 4, "masks", f"shape {tuple(masks.shape)}", "shape (B, K, H, W): one for each thing",
            "silhouettes(render(scenes).masks)")
    return (masks > 0.5).any(1, keepdim=True).float().expand(-1, 3, -1, -1)


def new_controlnet(unet: UNet2DConditionModel, *, shrink: int = 4, widths: Sequence[int] | None = None) -> ControlNetModel:
    """A fresh ``ControlNetModel`` of this U-Net: the weights of its encoder, an encoder of hints, and zeros where they join.

    shrink: how many pixels one place of the latent is wide (``pipe.vae_scale_factor``): the hint's encoder halves the picture
    log2(shrink) times. widths: its channels, one more than that; None: those of WIDTHS. It changes nothing before it is trained.
    """
    from diffusers import ControlNetModel

    require(shrink in WIDTHS or widths is not None, "shrink", shrink, f"one of {', '.join(map(str, WIDTHS))}, or widths",
            "new_controlnet(pipe.unet, shrink=pipe.vae_scale_factor)")
    widths = tuple(WIDTHS[shrink] if widths is None else widths)
    require(2 ** (len(widths) - 1) == shrink, "widths", widths, f"channels that halve the picture until it is 1/{shrink} as wide",
            f"widths={WIDTHS.get(shrink, (16, 32, 32))}")
    with silence_libraries():
        made = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=widths)
    return nn.Module.to(made, unet.device, unet.dtype).eval()      # diffusers' own cast warns about nothing


class ControlledUNet(TextUNet):
    """``net(z, t, (context, hint, scale))``: the U-Net with ``scale`` times what a ControlNet adds to its skips and its middle.

    hint (B, 3, H, W) in [0, 1]; scale a tensor that multiplies (B, C, h, w). The U-Net stays reachable, so hooks work as ever;
    the ControlNet's own attention is not theirs.
    """

    def __init__(self, unet: nn.Module, controlnet: nn.Module) -> None:
        super().__init__(unet)
        self.controlnet = controlnet

    def forward(self, z: Tensor, t: Tensor, cond: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        context, hint, scale = cond
        skips, middle = self.controlnet(z, t, encoder_hidden_states=context, controlnet_cond=hint, return_dict=False)
        return self.unet(z, t, encoder_hidden_states=context, down_block_additional_residuals=[scale * skip for skip in skips],
                         mid_block_additional_residual=scale * middle).sample


def control_loss(controlnet: nn.Module, unet: nn.Module, schedule: Schedule, z: Tensor, t: Tensor, noise: Tensor,
                 context: Tensor, hint: Tensor) -> Tensor:
    """The loss (B,) that trains a ControlNet (eq. 5), with the weights over t of mini-sd's own training (``snr_weight``).

    z, noise (B, C, h, w) scaled latents; t (B,); context (B, L, D); hint (B, 3, H, W). Only the ControlNet should be free.
    """
    net = ControlledUNet(unet, controlnet)
    one = z.new_ones(1, 1, 1, 1)
    loss = simple_loss(Eps(lambda x, t, cond=None: net(x, t, (cond, hint, one)), schedule), z, t, noise, cond=context)
    abar = schedule.at(t)
    return loss * snr_weight(abar / (1 - abar)).to(loss)


def _check_hint(pipe: Any, controlnet: nn.Module, hint: Any, n: int, grid: tuple[int, int]) -> None:
    f, channels = pipe.vae_scale_factor, controlnet.config.conditioning_channels
    wanted = (n, channels, f * grid[0], f * grid[1])
    good = isinstance(hint, Tensor) and hint.ndim == 4 and (len(hint) == 1 or len(hint) == n) and hint.shape[1:] == wanted[1:]
    require(good, "hint", f"shape {tuple(getattr(hint, 'shape', ()))}", f"shape {wanted}: a picture for each prompt, or one",
            "silhouettes(render(scenes).masks)")
    require(bool((hint >= 0).all() and (hint <= 1).all()), "hint", "values outside [0, 1]",
            "0 for black to 1 for white, unlike the pictures themselves", "(images + 1) / 2")


def control(pipe: StableDiffusionControlNetPipeline | StableDiffusionPipeline, prompts: str | Sequence[str], hint: Tensor, *,
            controlnet: nn.Module | None = None, scale: float = 1.0, until: float = 1.0, steps: int | Sequence[int] = 25,
            guidance: float = 4.0, seed: int = 0, latents: Tensor | None = None, negative: str = "",
            hooks: Sequence[Hook] = (), rows: Sequence[int] | None = None) -> Iterator[State]:
    """The denoising loop under a ControlNet: ``denoise`` with a hint (B or 1, 3, H, W) in [0, 1] beside the prompts.

    The same numbers as ``StableDiffusionControlNetPipeline(prompts, image=hint, latents=..., controlnet_conditioning_scale=scale,
    control_guidance_end=until)`` with its DDIMScheduler. controlnet: None for that of the pipeline. scale: how strongly it acts,
    0 not at all; until: the share of the steps in which it does. Prompt and empty prompt both see the hint, so guidance
    strengthens the words, not the hint.
    """
    prompts = check_prompts(prompts)
    prompts = prompts * len(hint) if len(prompts) == 1 and isinstance(hint, Tensor) and hint.ndim == 4 else prompts
    net = getattr(pipe, "controlnet", None) if controlnet is None else controlnet
    require(isinstance(net, nn.Module) and hasattr(net, "controlnet_cond_embedding"), "controlnet", type(net).__name__,
            "a ControlNetModel, or a pipeline that has one", "load('mini-control')")
    for name, value in (("scale", scale), ("until", until)):
        good = isinstance(value, (int, float)) and 0 <= value < (float("inf") if name == "scale" else 1 + 1e-9)
        require(good, name, repr(value), "a number >= 0" if name == "scale" else "a share of the steps in [0, 1]", f"{name}=1.0")
    z = prepare_latents(pipe, latents, len(prompts), seed, None)
    _check_hint(pipe, net, hint, len(prompts), tuple(z.shape[-2:]))
    seen = hint.to(z).expand(len(z), -1, -1, -1)
    texts = {"prompt": encode_prompt(pipe, prompts)} | ({"empty": encode_prompt(pipe, negative)} if guidance != 1.0 else {})

    def with_hint(context: Tensor) -> Any:
        context = context.expand(len(z), -1, -1)

        def condition(ctx: StepContext) -> tuple[Tensor, Tensor, Tensor]:
            acts = scale if ctx.index + 1 <= until * ctx.steps + 1e-9 else 0.0
            return context, seen, z.new_full((len(z), 1, 1, 1), acts)
        return condition

    model = denoiser(pipe)
    controlled = type(model)(ControlledUNet(pipe.unet, net), model.schedule)
    return run(controlled, z, {text: with_hint(context) for text, context in texts.items()}, steps=steps, guider=CFG(guidance),
               hooks=hooks, seed=seed, rows=rows, **scheduler_options(pipe))


@torch.no_grad()
def control_images(pipe: Any, prompts: Sequence[str], hint: Tensor, *, chunk: int = 16, latents: Tensor | None = None,
                   seed: int = 0, **options: Any) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1]: :func:`control` to the end, ``chunk`` rows at once. Arguments as there."""
    prompts = check_prompts(prompts)
    z = prepare_latents(pipe, latents, len(prompts), seed, None)
    parts = [slice(i, i + chunk) for i in range(0, len(prompts), chunk)]
    hint = hint.expand(len(prompts), -1, -1, -1) if len(hint) == 1 else hint
    return torch.cat([decode_images(pipe, last(control(pipe, prompts[p], hint[p], latents=z[p], **options)).x) for p in parts])


def add_control(pipe: StableDiffusionPipeline, controlnet: nn.Module) -> StableDiffusionControlNetPipeline:
    """diffusers' own ``StableDiffusionControlNetPipeline`` of a pipeline's parts and a ControlNet; nothing is copied."""
    with silence_libraries():
        from diffusers import StableDiffusionControlNetPipeline

    made = StableDiffusionControlNetPipeline(
        vae=pipe.vae, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, unet=pipe.unet, controlnet=controlnet,
        scheduler=pipe.scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made
