"""``minidiff train`` and ``minidiff sample``: their arguments, and what they print."""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from minidiff.options import device, number, path, whole

__all__ = ["add_parsers", "sample", "train"]


def add_parsers(commands: Any) -> None:
    """Add both commands to those of ``minidiff``."""
    train = commands.add_parser("train", help="train a model by its recipe; the same command again resumes it")
    train.add_argument("recipe", metavar="RECIPE", nargs="?", help="leave it out to see all recipes")
    train.add_argument("--budget", default="laptop", choices=("laptop", "gpu"))
    train.add_argument("--minutes", type=number(0, above=True), help="stop after so many minutes; the same command goes on")
    train.add_argument("--images", type=whole(1), help="stop after so many images instead")
    train.add_argument("--extend", action="store_true",
                       help="go on with a run that was planned for another number of images, as a warm restart; with --images")
    train.add_argument("--device", type=device, help="cpu, cuda, cuda:1, mps; the best there is when left out")
    train.add_argument("--yes", action="store_true", help="do not ask before a GPU's budget is trained on a CPU")
    train.add_argument("--data", type=path, metavar="FOLDER",
                       help="your own pictures in place of the world's: pixel models, autoencoders, "
                                                        "and mini-sd, which needs captions")
    train.add_argument("--caption-column", metavar="NAME", help="where metadata.jsonl or .csv has captions (text, or caption)")
    train.add_argument("--vae", type=path, metavar="MODEL",
                       help="with --data, the autoencoder of mini-sd: a name or a run (mini-vae)")
    train.add_argument("--out", type=path, metavar="DIR",
                       help="where checkpoints go (runs/RECIPE, or runs/RECIPE-FOLDER with --data)")
    train.add_argument("--ship", action="store_true", help="when trained, put the weights and a card into data/RECIPE")

    take = commands.add_parser("sample", help="draw with a trained model: minidiff sample runs/mine -n 16 -o grid.png")
    take.add_argument("model", metavar="MODEL", help="the folder of a run, or a shipped name")
    take.add_argument("-n", type=whole(1, 1024), help="how many pictures, 1 to 1024 (16; with --prompt, so many of each: 1)")
    take.add_argument("-o", "--out", required=True, type=path, metavar="FILE", help="a PNG file")
    take.add_argument("--prompt", action="append", metavar="TEXT", help="for text to image; again for another. Left out, "
                                                                        "captions of the pictures it was trained on")
    take.add_argument("--data", type=path, metavar="FOLDER", help="for an autoencoder: pictures, each shown with its round trip")
    take.add_argument("--steps", type=whole(1, 1000), default=50, help="sampling steps, 1 to 1000 (50)")
    take.add_argument("--guidance", type=number(-1000, 1000), default=4.0,
                      help="weight of classifier-free guidance, for text to image (4)")
    take.add_argument("--seed", type=whole(0), default=0)
    take.add_argument("--device", type=device, default="cpu", help="cpu, cuda, cuda:1, mps (cpu)")


def train(given: argparse.Namespace) -> int:
    """Exit code 0, also where the minutes were over first; 2 where the answer was no."""
    from minidiff.errors import require
    from minidiff.recipes import RECIPES, recipe
    if given.recipe is None:
        for name in RECIPES:
            one = recipe(name)
            costs = "; ".join(f"{kind} {b.images:,} images, {b.minutes:g} min" for kind, b in one.budgets.items())
            print(f"{name:24} {costs}{f'; {one.expect}' if one.expect else ''}")
        return 0
    from minidiff.train import Progress, fit
    from minidiff.train.loop import ends_on_sigterm
    first = os.environ.get("RANK", "0") == "0"                 # of several processes one speaks
    require(given.data is not None or given.caption_column is None, "--caption-column", given.caption_column, "--data beside it")
    require(given.data is not None or given.vae is None, "--vae", given.vae, "--data beside it")
    require(not given.ship or given.data is None, "--ship", "--data beside it", "one of the two: data/ is the course's own")
    mine, own = "", {}
    if given.data is not None:
        own = {"data": given.data, "caption_column": given.caption_column, "vae": given.vae, "log": print if first else _silent}
        mine = f"-{Path(given.data).resolve().name}"
    chosen = recipe(given.recipe, **own)
    if not (given.yes or given.images or given.minutes or _agreed(chosen, given)):
        return 2
    out = given.out or os.path.join("runs", chosen.name + mine)
    states = fit(chosen, budget=given.budget, images=given.images, minutes=given.minutes, device=given.device, out=out,
                 extend=given.extend)
    try:
        with ends_on_sigterm(), contextlib.closing(states):    # Ctrl-C and SIGTERM save, wherever they fall
            ends = collections.deque(Progress(states) if first else states, maxlen=1)
    except KeyboardInterrupt as stop:
        if first and type(stop) is KeyboardInterrupt:          # SIGTERM leaves little time
            _write_model(chosen, out)
        raise
    if first:
        _write_model(chosen, out)
        if ends and ends[0].images >= ends[0].total:
            expected = chosen.expect if given.data is None else ""
            print(f"{chosen.name} is trained: {out}. {expected}".strip())
            if given.ship:
                from minidiff.recipes import publish
                print(f"shipped: {publish(chosen.name, out)}")
        if chosen.export is not None:
            print(_now(chosen.name, out))
    return 0


def _agreed(chosen: Any, given: argparse.Namespace) -> bool:
    """Before a GPU's budget takes a CPU more than an hour: ask who sits at a terminal, refuse elsewhere."""
    from minidiff.errors import require
    from minidiff.train.speed import pick_device
    laptop, gpu = chosen.budgets.get("laptop"), chosen.budgets.get("gpu")
    if given.budget != "gpu" or laptop is None or gpu is None or pick_device(given.device).type != "cpu":
        return True
    hours = gpu.images * laptop.minutes / laptop.images / 60
    told = f"{gpu.images:,} pictures, about {hours:,.{0 if hours >= 10 else 1}f} hours on two CPU cores"
    if hours >= 1 and sys.stdin.isatty():
        return input(f"--budget gpu on a CPU: {told}. Train all the same? [y/N] ").strip().lower() in ("y", "yes")
    require(hours < 1, "--budget", f"gpu on a CPU: {told}", "a GPU, --minutes, --yes, or the other budget",
            f"--budget laptop, which takes {laptop.minutes:g} minutes")
    return True


def _silent(_: str) -> None:
    """Of several processes only the first speaks."""


def _write_model(chosen: Any, out: str) -> None:
    """The averaged weights as a model that ``load`` opens, in ``out/model``; nothing where nothing was saved yet."""
    if chosen.export is None:
        return
    from minidiff.recipes import publish
    if any(Path(out).glob("step-*/meta.json")):
        first = ", after its latents' scale is measured on 2,048 pictures: up to a minute on a CPU"
        print(f"Writing the averaged weights to {Path(out) / 'model'}{first if _is_autoencoder(chosen.name) else ''}", flush=True)
        publish(chosen, out, root=Path(out), as_name="model")


def _is_autoencoder(name: str) -> bool:
    return name.startswith(("mini-vae", "vae-f", "vq-"))


def _now(name: str, out: str) -> str:
    """What to do with a run: the last line of the command."""
    again = f" --data FOLDER -n 8 -o {os.path.join(out, 'grid.png')}" if _is_autoencoder(name) else (
        f" -n 16 -o {os.path.join(out, 'grid.png')}")
    if not (Path(out) / "model").is_dir():
        return f"Nothing was saved yet in {out}."
    draws = not name.startswith(("readers/", "noisy-", "mini-clip", "mini-control"))
    see = f"minidiff sample {out}{again}   or in Python: " if draws else "in Python: "
    return f"See what it has learnt: {see}minidiff.load({str(out)!r})"


def sample(given: argparse.Namespace) -> int:
    """Exit code 0 when the picture is written."""
    import torch

    from minidiff.errors import require
    from minidiff.show import save_grid
    from minidiff.zoo import load
    require(Path(given.out).suffix.lower() == ".png", "-o", repr(given.out), "a file that ends in .png", "-o grid.png")
    require(Path(given.out).resolve().parent.is_dir(), "-o", repr(given.out), "a file in a folder that exists", "-o grid.png")
    model = load(given.model, device=given.device)
    with torch.no_grad():
        if hasattr(model, "unet"):
            images, columns, what = _from_text(model, given)
        else:
            for name, value in (("--prompt", given.prompt), ("--data", None if hasattr(model, "encode") else given.data)):
                require(value is None, name, repr(value), f"no {name}: {given.model} is {type(model).__name__}")
            images, columns, what = _round_trips(model, given) if hasattr(model, "encode") else _from_noise(model, given)
    side = images.shape[-1]
    file = save_grid(given.out, images.clamp(-1, 1).cpu(), columns=columns, scale=max(1, 1024 // (side * (columns or 8))))
    print(f"{file}: {what}, by {given.model}")
    return 0


def _from_noise(model: Any, given: argparse.Namespace) -> tuple[Any, int | None, str]:
    from minidiff.diffusion import ddim, last, row_noise
    from minidiff.errors import require
    from minidiff.show import plural
    config = getattr(getattr(model, "base", model), "net", None)
    config = getattr(config, "config", {})
    require(hasattr(model, "schedule") and "cond_dim" in config and not config["cond_dim"], "MODEL", repr(given.model),
            "a pixel model without condition, an autoencoder, or a text-to-image pipeline", "MODEL = pixel-ddpm")
    n, side = given.n or 16, 32
    x = row_noise((n, config["channels"], side, side), seed=given.seed, t=model.schedule.T, rows=range(n), stream="start")
    x = x.to(next(model.parameters()).device)
    return last(ddim(model, x, steps=given.steps, seed=given.seed, rows=range(n))).x, None, plural(n, "sample")


def _from_text(pipe: Any, given: argparse.Namespace) -> tuple[Any, int | None, str]:
    import json

    from minidiff.errors import require
    from minidiff.latent.sample import text_to_image
    from minidiff.show import plural
    require(given.data is None, "--data", repr(given.data), "no --data: this model draws from text")
    require(not hasattr(pipe, "controlnet"), "MODEL", f"{given.model!r}, which draws after a hint",
            "a model that draws from text alone", "minidiff.editing.control_images(pipe, prompts, hint), in Python")
    prompts, each = given.prompt, given.n or 1
    if not prompts:
        cards = [p for p in (Path(given.model) / "model" / "card.json", Path(given.model) / "card.json") if p.is_file()]
        prompts = json.loads(cards[0].read_text(encoding="utf-8")).get("captions") if cards else None
        require(bool(prompts), "--prompt", "none", "a prompt: this model keeps no captions", '--prompt "a red cat on the grass"')
        n = given.n or 16
        prompts, each = [prompts[i % len(prompts)] for i in range(n)], 1
    texts = [text for text in prompts for _ in range(each)]
    images = text_to_image(pipe, texts, steps=given.steps, guidance=given.guidance, seed=given.seed)
    print("\n".join(f"{i + 1:3} {text}" for i, text in enumerate(texts)))
    return images, each if each > 1 else None, f"{plural(len(texts), 'picture')} of {plural(len(set(texts)), 'prompt')}"


def _round_trips(vae: Any, given: argparse.Namespace) -> tuple[Any, int | None, str]:
    import torch

    from minidiff.errors import require
    from minidiff.latent.autoencoder import decode, encode
    from minidiff.measure.pictures import psnr
    from minidiff.show import plural
    from minidiff.world import ImageFolder
    require(hasattr(vae, "config") and hasattr(vae.config, "latent_channels"), "MODEL", repr(given.model),
            "a pixel model, an autoencoder, or a text-to-image pipeline")
    require(given.data is not None, "--data", "none", "pictures: an autoencoder has no samples of its own, but a round trip",
            "--data FOLDER")
    n = given.n or 8
    x = ImageFolder(given.data, size=64).images(n).to(next(vae.parameters()).device)
    y = decode(vae, encode(vae, x)).clamp(-1, 1)
    said = f"{plural(n, 'picture')} with round trips, {psnr(x, y).mean():.1f} dB"
    return torch.stack((x, y), 1).flatten(0, 1), 2 * min(4, n), said
