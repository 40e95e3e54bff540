"""What ``minidiff bench peers`` has done by several: pictures from prompts and steps of training; edits are in ``bench_edits``.

Each function gives a work, which does its task once each time that it is called. Who compares them: :mod:`minidiff.bench_peers`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GUIDANCE", "SEED", "STEPS", "Work", "mini_sd", "sample_diffusers", "sample_minidiff", "train_diffusers",
           "train_lucidrains", "train_minidiff", "train_smalldiffusion"]

STEPS, GUIDANCE, SEED = 20, 4.0, 0
TRAIN_STEPS, BATCH, SIDE, WIDTH, MULTS = 4, 16, 32, 32, (1, 2, 4)
Work = Callable[[], Tensor | None]       # pictures (n, 3, H, W) in [-1, 1] where there are any


# The same task for all -------------------------------------------------------------------------------------------------------


def mini_sd(n: int) -> tuple[Any, Tensor]:
    """The pipeline, and the noise of n pictures."""
    from minidiff.latent import initial_noise
    from minidiff.zoo import load
    pipe = load("mini-sd")
    pipe.set_progress_bar_config(disable=True)
    return pipe, initial_noise(pipe, n, seed=SEED)


def _batches() -> Iterator[Tensor]:
    """Pictures (BATCH, 3, SIDE, SIDE) in [-1, 1], drawn beforehand: reading data is no part of the comparison."""
    from minidiff.rng import normal
    made = [normal((BATCH, 3, SIDE, SIDE), "bench", i).clamp(-1, 1) for i in range(4)]
    while True:
        yield from made


def _network() -> nn.Module:
    from minidiff.nets import LucidrainsUNet
    return LucidrainsUNet(dim=WIDTH, mults=MULTS, size=SIDE)


def _many(step: Callable[[], object]) -> Work:
    def work() -> None:
        for _ in range(TRAIN_STEPS):
            step()
    return work


# Pictures from prompts -------------------------------------------------------------------------------------------------------


def sample_minidiff(n: int, way: str = "") -> Work:
    """text_to_image; way: "bf16" or "compiled", as its docstring has them."""
    from minidiff.latent import text_to_image
    pipe, z = mini_sd(n)
    if way == "compiled":
        pipe.unet.compile()

    def work() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way == "bf16"):
            return text_to_image(pipe, ["a red cat on the grass"] * n, steps=STEPS, guidance=GUIDANCE, latents=z)

    return work


def sample_diffusers(n: int) -> Work:
    """The pipeline called as its own documentation has it."""
    pipe, z = mini_sd(n)
    return lambda: 2 * pipe(["a red cat on the grass"] * n, latents=z, num_inference_steps=STEPS, guidance_scale=GUIDANCE,
                            output_type="pt").images - 1


# Training steps --------------------------------------------------------------------------------------------------------------


def train_minidiff(n: int) -> Work:
    """``fit`` as it stands: clipping, AdamW and the average of every step."""
    from minidiff.diffusion import Eps, linear, q_sample
    from minidiff.rng import generator
    from minidiff.train import Budget, Recipe, fit
    schedule, pictures = linear(1000), _batches()

    def draw(i: int, size: int, device: torch.device) -> dict[str, Tensor]:
        x0, rng = next(pictures).to(device), generator(SEED, "bench", i, device=device)
        return {"x0": x0, "t": torch.randint(0, 1000, (size,), generator=rng, device=device),
                "noise": torch.randn(x0.shape, generator=rng, device=device)}

    def loss(net: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        x = q_sample(batch["x0"], batch["t"], batch["noise"], schedule)
        return (Eps(net, schedule).output(x, batch["t"]) - batch["noise"]).square().flatten(1).mean(1)

    recipe = Recipe(name="bench", seed=SEED, build=_network, draw=draw, loss=loss, batch=BATCH, lr=1e-4,
                    budgets={"laptop": Budget(10**9, 60)}, identity={"bench": True})
    states = fit(recipe, device="cpu", log=lambda _: None)
    return _many(lambda: next(states))


def train_diffusers(n: int) -> Work:
    """The step of diffusers' example for unconditional pictures, with its own scheduler, average and optimiser's settings."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup
    from diffusers.training_utils import EMAModel
    net, scheduler, pictures = _network().train(), DDPMScheduler(), _batches()
    accelerator = Accelerator(cpu=True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6)
    rate, average = get_cosine_schedule_with_warmup(optimiser, 500, 10**6), EMAModel(net.parameters(), use_ema_warmup=True)
    net, optimiser, rate = accelerator.prepare(net, optimiser, rate)

    def step() -> None:
        x0 = next(pictures)
        noise, t = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
        loss = nn.functional.mse_loss(net(scheduler.add_noise(x0, noise, t), t), noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        rate.step()
        optimiser.zero_grad()
        average.step(net.parameters())
        loss.item()

    return _many(step)


def train_lucidrains(n: int) -> Work:
    """Its Trainer's own loop over its own network, on pictures that lie ready."""
    _stand_in_torchvision()
    from tempfile import TemporaryDirectory

    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet
    from PIL import Image
    place = TemporaryDirectory(prefix="minidiff-bench-")       # goes with the trainer, which keeps it
    folder = place.name
    for i in range(100):                             # it looks for a hundred files, and reads none of them here
        Image.new("RGB", (SIDE, SIDE)).save(os.path.join(folder, f"{i}.png"))
    trainer = Trainer(GaussianDiffusion(Unet(WIDTH, dim_mults=MULTS), image_size=SIDE), folder, train_batch_size=BATCH,
                      results_folder=os.path.join(folder, "results"), calculate_fid=False, save_and_sample_every=10**9)
    trainer.place = place
    trainer.dl = ((x + 1) / 2 for x in _batches())   # it takes [0, 1]

    def work() -> None:
        trainer.train_num_steps = trainer.step + TRAIN_STEPS
        trainer.train()

    return work


def train_smalldiffusion(n: int) -> Work:
    """Its training_loop with its DDPM schedule, over the same network as ours."""
    _stand_in_torchvision()
    from smalldiffusion import ModelMixin, ScheduleDDPM, training_loop

    class Net(nn.Module, ModelMixin):
        def __init__(self) -> None:
            super().__init__()
            self.net = _network()

        def forward(self, x: Tensor, sigma: Tensor, cond: None = None) -> Tensor:
            sigma = sigma.flatten().expand(len(x))
            return self.net(x / (1 + sigma.square()).sqrt().view(-1, 1, 1, 1), 250 * sigma.log())

    pictures = _batches()
    loader = torch.utils.data.DataLoader([next(pictures) for _ in range(4)], batch_size=None)
    states = training_loop(loader, Net(), ScheduleDDPM(), epochs=10**6)
    return _many(lambda: next(states))


def _stand_in_torchvision() -> None:
    """An empty torchvision for peers that import it to read picture files, which no work here does: there is none for every
    torch, and another torch would be another comparison."""
    class Anything(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return lambda *_, **__: None

    module = Anything("torchvision")
    module.transforms = module.utils = Anything("torchvision.parts")
    sys.modules |= {"torchvision": module, "torchvision.transforms": module.transforms, "torchvision.utils": module.utils}
