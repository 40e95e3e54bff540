"""Bad calls made from good ones: a good call of every public function of a room, and what can be wrong with each argument.

A row of VALID gives the keywords of one good call, made anew each time. A public function without a row fails the test.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import os
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_pipe import pipeline
from torch import Tensor, nn

from minidiff import diffusion, measure
from minidiff.errors import BadInput
from minidiff.nets import UNet
from minidiff.rng import normal
from minidiff.steer import Energy, Guider, Hook
from minidiff.world import Scene, Scenes, Thing, WorldData, render, sample_scenes

SIGNED = {"low", "x", "y", "offset", "index", "lam", "guidance", "t_prev"}  # whole numbers that may be below zero
FREE = {"prompts", "texts", "text", "word", "negative", "words", "folder", "stream"}  # words that name no choice
FREE |= {"alt", "caption", "title", "unit", "x", "y", "noun", "label", "lines", "action", "value", "source", "target", "prompt",
         "other", "first", "guide", "start", "class_word", "blend", "expect", "reader", "as_name", "base",
         "branch", "edit", "path", "modules", "sites"}
ANYTHING = {"answer"}                        # arguments that take all there is
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def x(*shape: int, seed: str = "x") -> Tensor:
    return normal(shape or (2, 3, 8, 8), "sweep", seed).clamp(-1, 1)


@functools.cache
def table() -> diffusion.Schedule:
    return diffusion.linear(1000)


def t() -> Tensor:
    return torch.tensor([3, 700])


def model() -> diffusion.Denoiser:
    return diffusion.Eps(lambda x, t, cond=None: 0.1 * x, table())


def ranged() -> diffusion.LearnedRange:
    return diffusion.LearnedRange(diffusion.Eps(lambda x, t, cond=None: torch.cat((0.1 * x, 0 * x), 1), table()))


@functools.cache
def pipe() -> Any:
    return pipeline(widths=(16, 16), length=20, size=8)


@functools.cache
def reader() -> measure.Reader:
    return measure.Reader(8).eval()


@functools.cache
def scene() -> Scene:
    return Scene((Thing("cat", "red", x=0.5, y=0.5, size=0.25),), backdrop="grass")


@functools.cache
def scenes() -> Scenes:
    return sample_scenes(torch.arange(3))


@functools.cache
def pictures() -> Tensor:
    return WorldData(32).images(3)


def features(n: int = 12, seed: str = "a") -> Tensor:
    return normal((n, 4), "sweep", seed)


def prediction(seed: str) -> diffusion.Prediction:
    return model()(x(seed=seed), t())


two = functools.partial(dict, u=0, c=0)


def guided(**more: Any) -> dict[str, Any]:
    return {"u": x(seed="u"), "c": x(seed="c"), **more}


def loop(**more: Any) -> dict[str, Any]:
    return {"model": model(), "x": x(), "steps": 3, **more}


def schedule(T: int = 1000) -> Callable[[], dict[str, Any]]:  # noqa: N803
    return lambda: {"T": T}


WORLD = {
    "caption": lambda: {"scene": scene(), "index": 1, "seed": 0},
    "captions": lambda: {"scenes": scenes(), "seed": 0},
    "parse": lambda: {"text": "a red cat on the grass"},
    "morph": lambda: {"first": scene(), "other": scene(), "t": [0.0, 0.5]},
    "render": lambda: {"scenes": scenes(), "size": 16},
    "held_out": lambda: {"kind": "cat", "colour": "red"},
    "held_out_pairs": dict,
    "sample_scenes": lambda: {"index": torch.arange(3), "split": "train", "seed": 0, "level": "simple"},
    "subjects": lambda: {"folder": "data/subjects"},
}
DIFFUSION = {
    "bits_per_dim": lambda: {"model": short(), "x0": x(1, 3, 4, 4)},
    "bound_steps": lambda: {"model": short(), "x0": x(1, 3, 4, 4), "seed": 0},
    "cfg": lambda: guided(s=2.0),
    "cfg_w": lambda: guided(w=2.0),
    "cfg_plus_plus": lambda: {"u": prediction("u"), "c": prediction("c"), "lam": 0.6},
    "composable": lambda: {"u": x(), "conditions": [x(seed="1"), x(seed="2")], "weights": [1.0, 2.0]},
    "const": schedule(),
    "cosine": schedule(),
    "jsd": schedule(),
    "linear": schedule(),
    "quad": schedule(),
    "scaled_linear": schedule(),
    "sigmoid": schedule(),
    "sigmoid_beta": schedule(),
    "warmup": schedule(),
    "ddim": lambda: loop(eta=0.5, spacing="leading", final_alpha="one", seed=0),
    "ddpm": lambda: loop(seed=0),
    "dpm2m": loop,
    "euler": loop,
    "heun": loop,
    "ddim_sigma": lambda: {"abar": 0.4, "abar_prev": 0.6, "eta": 0.5},
    "ddim_step": lambda: {"x0": x(), "eps": x(seed="e"), "abar_prev": 0.5},
    "decoder_nll": lambda: {"x0": x(), "mean": x(seed="m"), "logvar": x(seed="v"), "cdf": "erf"},
    "dpm2m_step": lambda: {"x": x(), "x0": x(seed="0"), "abar": 0.4, "abar_next": 0.6},
    "dual": lambda: {"u": x(), "style": x(seed="s"), "content": x(seed="c"), "g_style": 2.0, "g_content": 3.0},
    "edm_noise_levels": lambda: {"n": 4, "generator": torch.Generator(), "mean": -1.2, "std": 1.2},
    "edm_scalings": lambda: {"sigma": torch.tensor([0.5, 2.0]), "sigma_data": 0.5},
    "edm_weight": lambda: {"sigma": torch.tensor([0.5, 2.0]), "sigma_data": 0.5},
    "eps_from_v": lambda: {"x": x(), "v": x(seed="v"), "t": t(), "schedule": table()},
    "eps_from_x0": lambda: {"x": x(), "x0": x(seed="0"), "t": t(), "schedule": table()},
    "eps_shift": lambda: {"eps": x(), "abar": 0.5, "gradient": x(seed="g"), "scale": 1.0},
    "flow_euler": lambda: {"net": lambda x, t, cond=None: -x, "x": x(), "steps": 3, "shift": 1.0},
    "flow_loss": lambda: {"net": lambda x, t, cond=None: -x, "x0": x(), "t": torch.tensor([0.2, 0.7]), "noise": x(seed="n")},
    "flow_path": lambda: {"x0": x(), "noise": x(seed="n"), "t": torch.tensor([0.2, 0.7])},
    "flow_scale": lambda: {"schedule": table(), "t": t()},
    "flow_time": lambda: {"schedule": table(), "t": t()},
    "flow_target": lambda: {"x0": x(), "noise": x(seed="n")},
    "flow_times": lambda: {"steps": 4, "shift": 1.0, "T": 1000},
    "guided_mean": lambda: {"mean": x(), "variance": 0.5, "gradient": x(seed="g"), "scale": 1.0},
    "hybrid_loss": lambda: {"model": ranged(), "x0": x(), "t": t(), "noise": x(seed="n")},
    "instruct_pix2pix": lambda: {"u": x(), "image": x(seed="i"), "both": x(seed="b"), "s_image": 1.5, "s_text": 7.0},
    "interaction": lambda: {"u": x(), "first": x(seed="1"), "second": x(seed="2"), "both": x(seed="b")},
    "interpolate": lambda: {
        "model": model(),
        "a": x(1, 3, 8, 8),
        "b": x(1, 3, 8, 8, seed="b"),
        "weights": [0.0, 1.0],
        "steps": 3,
    },
    "interval_scale": lambda: {"s": 2.0, "level": 0.5, "low": 0.2, "high": 0.8},
    "invert": lambda: {"model": model(), "x0": x(), "steps": 3, "fixed_point": 0},
    "karras_sigmas": lambda: {"steps": 5, "rho": 7.0},
    "last": lambda: {"steps": iter([1, 2])},
    "lerp": lambda: {"a": x(), "b": x(seed="b"), "weight": 0.3},
    "log_prob_gradient": lambda: {"log_prob": lambda x: -x.square().flatten(1).sum(1), "x": x()},
    "make_schedule": lambda: {"name": "linear", "T": 1000, "zero_snr": False},
    "min_snr_weight": lambda: {"schedule": table(), "t": t(), "kind": "eps", "gamma": 5.0},
    "normal_kl": lambda: {"mean1": x(), "logvar1": x(seed="1"), "mean2": x(seed="2"), "logvar2": x(seed="3")},
    "orthogonal_cfg": lambda: guided(s=2.0, keep=0.0),
    "rescale": lambda: {"guided": x(), "c": x(seed="c"), "phi": 0.7},
    "prev_abar": lambda: {"schedule": table(), "t_prev": 3, "final_alpha": "one"},
    "prior_term": lambda: {"x0": x(), "schedule": table()},
    "q_sample": lambda: {"x0": x(), "t": t(), "noise": x(seed="n"), "schedule": table()},
    "row_noise": lambda: {"shape": (2, 3, 4, 4), "seed": 0, "t": 3},
    "score_from_eps": lambda: {"eps": x(), "abar": 0.5},
    "simple_loss": lambda: {"model": model(), "x0": x(), "t": t(), "noise": x(seed="n")},
    "slerp": lambda: {"a": x(), "b": x(seed="b"), "weight": 0.3},
    "split_parallel": lambda: {"update": x(), "along": x(seed="a")},
    "step_pairs": lambda: {"T": 1000, "steps": 5, "spacing": "leading", "offset": 0},
    "timesteps": lambda: {"T": 1000, "steps": 5, "spacing": "leading", "offset": 0},
    "v_from": lambda: {"x0": x(), "eps": x(seed="e"), "t": t(), "schedule": table()},
    "velocity_of": lambda: {"model": model()},
    "visits": lambda: {"schedule": table(), "steps": 5, "spacing": "leading", "final_alpha": "one"},
    "vlb_term": lambda: {"model": model(), "x0": x(), "t": t(), "noise": x(seed="n")},
    "x0_from_eps": lambda: {"x": x(), "eps": x(seed="e"), "t": t(), "schedule": table()},
    "x0_from_v": lambda: {"x": x(), "v": x(seed="v"), "t": t(), "schedule": table()},
    "zero_terminal": lambda: {"schedule": diffusion.scaled_linear(1000)},
}
MEASURE = {
    "attribute_tv": lambda: {"made": scenes(), "real": scenes()},
    "bad_pictures": lambda: {"scenes": scenes(), "size": 16},
    "bootstrap": lambda: {"statistic": lambda a: a.mean(), "arrays": features(), "n": 20, "seed": 0, "level": 0.9},
    "edit_pairs": lambda: {"edit": "colour", "n": 2, "split": "valid", "seed": 0},
    "explain": lambda: {"images": pictures(), "reader": reader(), "steps": 1, "lr": 0.01},
    "explain_between": lambda: {"images": pictures(), "first": scene(), "other": scene(), "steps": 1},
    "features": lambda: {"images": pictures(), "reader": reader(), "chunk": 2},
    "frechet": lambda: {"a": features(), "b": features(seed="b")},
    "frechet_between": lambda: {"a": measure.moments(features()), "b": measure.moments(features(seed="b"))},
    "frechet_interval": lambda: {"made": features(), "real": features(seed="b"), "n": 20, "seed": 0},
    "frechet_limit": lambda: {"a": features(200), "b": features(200, "b"), "points": 3, "seed": 0},
    "frechet_ratio": lambda: {"made": features(), "baseline": features(seed="c"), "real": features(seed="b"), "n": 20},
    "gain": lambda: {"images": render(scenes(), 32).images, "scenes": scenes()},
    "histogram": lambda: {"scenes": scenes(), "names": ("kind",)},
    "kid": lambda: {"a": features(), "b": features(seed="b"), "subsets": 3, "size": 6, "seed": 0},
    "masked_psnr": lambda: {"x": x(), "y": x(seed="y"), "where": torch.ones(2, 8, 8, dtype=torch.bool)},
    "memorisation": lambda: {"made": features(), "train": features(seed="b"), "held_out": features(seed="c")},
    "mini_lpips": lambda: {"x": pictures(), "y": pictures().flip(0), "reader": reader()},
    "mmd2": lambda: {"a": features(), "b": features(seed="b")},
    "moments": lambda: {"features": features()},
    "nearest": lambda: {"a": features(), "b": features(seed="b"), "k": 1},
    "prdc": lambda: {"real": features(), "made": features(seed="b"), "k": 2},
    "read": lambda: {"images": pictures(), "reader": reader(), "threshold": 0.35, "chunk": 2},
    "residual": lambda: {"images": pictures(), "rendered": pictures()},
    "silhouette_iou": lambda: {"images": pictures(), "silhouettes": torch.zeros(3, 3, 32, 32), "reader": reader()},
    "total_variation": lambda: {"p": torch.tensor([0.5, 0.5]), "q": torch.tensor([0.2, 0.8])},
    "wilson": lambda: {"successes": 3, "n": 9, "level": 0.95},
}
STEER = {
    "attention": lambda: {"q": normal((1, 2, 4, 8), "q"), "k": normal((1, 2, 5, 8), "k"), "v": normal((1, 2, 5, 8), "v")},
    "run": lambda: {"models": model(), "z": x(), "steps": 2, "eta": 0.0, "seed": 0},
    "invert": lambda: {"models": model(), "z": x(), "steps": 2, "fixed_point": 0},
    "sites": lambda: {"unet": pipe().unet},
}
LATENT = {
    "assemble": lambda: {"vae": pipe().vae, "text_encoder": pipe().text_encoder, "unet": pipe().unet},
    "decode": lambda: {"vae": pipe().vae, "latents": x(1, 4, 4, 4), "chunk": 2},
    "denoiser": lambda: {"pipe": pipe()},
    "denoise": lambda: {"pipe": pipe(), "prompts": "a red cat", "steps": 1, "guidance": 2.0, "seed": 0, "eta": 0.0},
    "encode": lambda: {"vae": pipe().vae, "images": x(1, 3, 16, 16), "chunk": 2},
    "encode_prompt": lambda: {"pipe": pipe(), "prompts": "a red cat"},
    "initial_noise": lambda: {"pipe": pipe(), "n": 2, "seed": 0},
    "invert_image": lambda: {"pipe": pipe(), "images": x(1, 3, 16, 16), "prompts": "a red cat", "steps": 1},
    "latent_scale": lambda: {"vae": _Flat(), "images": torch.zeros(2000, 3, 2, 2) + x(2000, 3, 2, 2), "chunk": 2000},
    "make_autoencoder": lambda: {"f": 4, "channels": 4, "widths": (8, 8, 16), "size": 64},
    "make_scheduler": dict,
    "make_text_encoder": lambda: {"tokenizer": pipe().tokenizer, "width": 16, "layers": 1, "heads": 2},
    "make_tokenizer": lambda: {"words": ("red", "cat"), "length": 8},
    "make_unet": lambda: {"size": 8, "channels": 4, "widths": (16, 16), "context": 16, "heads": 2},
    "schedule_from": lambda: {"scheduler": pipe().scheduler},
    "scheduler_options": lambda: {"pipe": pipe()},
    "random_pipeline": lambda: {"size": 16, "seed": 0},
    "snr_weight": lambda: {"snr": torch.tensor([0.1, 3.0]), "gamma": 5.0, "most": 100.0},
    "text_to_image": lambda: {"pipe": pipe(), "prompts": "a red cat", "steps": 1, "guidance": 2.0, "seed": 0, "chunk": 2},
    "token_ids": lambda: {"tokenizer": pipe().tokenizer, "texts": ["a red cat"]},
    "token_indices": lambda: {"tokenizer": pipe().tokenizer, "text": "a red cat", "word": "cat"},
    "word_tokens": lambda: {"tokenizer": pipe().tokenizer, "text": "a red cat"},
}
NETS = {
    "multiply_adds": lambda: {"net": UNet(dim=16, patch=2), "inputs": (x(1, 3, 8, 8), torch.zeros(1))},
    "parameters": lambda: {"net": nn.Linear(2, 2)},
}
VALID = {"world": WORLD, "diffusion": DIFFUSION, "measure": MEASURE, "steer": STEER, "latent": LATENT, "nets": NETS}

# Public functions that are not swept here, with the reason.
ELSEWHERE = {
    "editing.Asymmetric": "takes ShiftH and nothing else: tests/editing/test_h_space.py",
    "measure.calibrate": "reads hundreds of rendered pictures",
    "measure.passing": "reads hundreds of rendered pictures",
    "measure.score_reader": "reads hundreds of rendered pictures",
    "measure.reader_loss": "takes what a reader gives, never a person",
    "measure.decode": "takes what a reader gives, never a person",
    "measure.edit_score": "takes what edit_pairs gives",
    "measure.score_table": "takes what edit_score gives",
    "world.agrees": "takes what parse gives",
    "measure.agrees": "takes what parse gives",
    "course.call": "runs a learner's code and hands on what it raises",
    "course.expect": "says what is wrong in an answer, as a Mistake",
    "course.expect_number": "says what is wrong in an answer, as a Mistake",
    "course.solve": "runs source text and hands on what it raises",
}


class _Flat(nn.Module):
    """An autoencoder whose latent is the picture."""

    def encode(self, images: Tensor) -> Any:
        spread = types.SimpleNamespace(mean=images, std=torch.ones_like(images))
        return types.SimpleNamespace(latent_dist=spread)


def short() -> diffusion.Denoiser:
    return diffusion.Eps(lambda x, t, cond=None: 0.1 * x, diffusion.make_schedule("cosine", 4))


def functions(room: str) -> dict[str, Callable[..., Any]]:
    """The public functions of a room, as a reader imports them, and the constructors of its hooks, guiders and energies."""
    module = importlib.import_module(f"minidiff.{room}")
    every = {name: getattr(module, name) for name in module.__all__}
    return {name: thing for name, thing in every.items() if isinstance(thing, types.FunctionType) or
            (isinstance(thing, type) and issubclass(thing, Hook | Guider | Energy) and thing.__init__ is not object.__init__)}


def wrong_values(name: str, value: Any, given: dict[str, Any], takes_none: bool) -> Iterator[tuple[str, Any]]:
    """(what is wrong, the value) for one argument of a good call."""
    if not takes_none:
        yield "None", None
    if isinstance(value, Tensor):
        yield "text", "text"
        yield "empty", value[:0]
        yield "meta", value.to("meta")
        if value.is_floating_point():
            for word in ("nan", "inf"):
                bad = value.clone()
                bad.view(-1)[0] = float(word)
                yield word, bad
        twins = [v for k, v in given.items() if k != name and isinstance(v, Tensor) and v.shape == value.shape]
        if twins and value.ndim >= 2:
            yield "another shape", value[..., : max(1, value.shape[-1] - 3)]
        if value.ndim == 4:
            yield "one picture without a batch", value[0]
        if value.ndim == 4 and value.shape[1] == 3 and name in ("image", "images"):
            yield "0 to 255", (value + 1) * 127.5
        if value.dtype == torch.int64 and name == "t":
            yield "beyond the schedule", value + 10_000
    elif isinstance(value, Path):
        yield from (("number", 3.5), ("class", type(value)), ("no such place", Path(os.devnull, "a.png")))
    elif isinstance(value, np.ndarray):
        yield from (("text", "text"), ("empty", value[:0]), ("one line", value[0, 0]))
    elif isinstance(value, bool):
        yield "text", "text"
    elif isinstance(value, int):
        yield from (("text", "text"), ("fraction", 1.5), ("nan", float("nan")))
        if name not in SIGNED:
            yield "negative", -3
    elif isinstance(value, float):
        yield from (("text", "text"), ("nan", float("nan")), ("inf", float("inf")))
        if name == "until":
            yield from (("before the run", -0.1), ("beyond the run", 1.5))
    elif isinstance(value, str):
        yield "number", 3
        if name not in FREE:
            yield "no such choice", "no such thing"
    elif isinstance(value, (list, tuple)):
        yield from (("number", 3), ("text", "text")) if name not in FREE else (("number", 3),)
    else:
        yield from (("text", "text"), ("number", 3.5))
        if not isinstance(value, types.FunctionType):
            yield "class", type(value)


def call(function: Callable[..., Any], given: dict[str, Any]) -> Any:
    """One call; a loop is taken one step."""
    arguments = dict(given)
    more = [
        arguments.pop(p.name)
        for p in inspect.signature(function).parameters.values()
        if p.kind == p.VAR_POSITIONAL and p.name in arguments
    ]
    if more:
        first = [
            arguments.pop(p.name)
            for p in inspect.signature(function).parameters.values()
            if p.kind == p.POSITIONAL_OR_KEYWORD and p.name in arguments
        ]
        rest = more[0] if isinstance(more[0], tuple) else (more[0],)
        made = function(*first, *rest, **arguments)
    else:
        made = function(**arguments)
    return next(made) if inspect.isgenerator(made) else made


def bad_calls(function: Callable[..., Any], valid: Callable[[], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """("argument: what is wrong", keywords) for every wrong value of every argument of the good call, and an unknown keyword."""
    signature = inspect.signature(function).parameters
    options = any(p.kind == p.VAR_KEYWORD for p in signature.values())
    if not options:
        yield "an unknown keyword", {**valid(), "stpes": 3}
    for name, value in valid().items():
        if name not in signature or signature[name].kind == signature[name].VAR_POSITIONAL or name in ANYTHING:
            continue
        takes_none = signature[name].default is None or "None" in str(signature[name].annotation)
        for what, bad in wrong_values(name, value, valid(), takes_none):
            yield f"{name}: {what}", {**valid(), name: bad}


def modules(value: Any) -> list[nn.Module]:
    """The networks in an argument: itself, a pipeline's parts, what a denoiser wraps."""
    if isinstance(value, nn.Module):
        return [value]
    if isinstance(value, type):
        return []
    parts = value.components.values() if hasattr(value, "components") else [getattr(value, "net", None)]
    return [part for part in parts if isinstance(part, nn.Module)]


def trace(given: dict[str, Any], folder: Path | None = None) -> list[tuple[str, Any]]:
    """What a refused call must leave as it was: (whose, how it stands), for tensors, networks, this process and the files.

    A tensor is named by its place in memory and by how often it was written to; a network by its hooks, its attention processors,
    its mode and the tensors it holds.
    """
    found: list[tuple[str, Any]] = [("gradients", torch.is_grad_enabled()), ("dtype", torch.get_default_dtype()),
                                    ("random numbers", torch.get_rng_state().tolist())]
    for name, value in given.items():
        if isinstance(value, Tensor) and not value.is_meta:
            found.append((name, (value._version, value.requires_grad, value.nan_to_num().flatten()[:64].tolist())))
        if isinstance(value, list | dict):
            found.append((name, repr(value)))
        for top in modules(value):
            for path, module in top.named_modules():
                hooks = sum(len(getattr(module, kind)) for kind in HOOKS)
                found.append((f"{name}.{path}", (hooks, module.training, id(getattr(module, "processor", None)),
                                                  "forward" in vars(module))))
            for path, p in (*top.named_parameters(), *top.named_buffers()):
                found.append((f"{name}.{path}", (id(p), p._version, p.requires_grad, p.dtype)))
        if hasattr(value, "tokenizer"):
            found.append((f"{name}.tokenizer", len(value.tokenizer)))
    for path in sorted(folder.rglob("*")) if folder else ():
        found.append((str(path), path.read_bytes() if path.is_file() else None))
    return found


def outcome(function: Callable[..., Any], given: dict[str, Any], folder: Path | None = None) -> str:
    """clear, raw: ..., silent, or changed: what was written to, overwritten or left hooked by a call that was refused."""
    before = trace(given, folder)
    try:
        call(function, given)
        said = "silent"
    except BadInput:
        said = "clear"
    except Exception as error:  # noqa: BLE001 (any other is what is looked for)
        said = f"raw: {type(error).__name__}: {str(error)[:80]}"
    after = trace(given, folder) if said != "silent" else before
    if before != after:
        odd = sorted({a[0] for a, b in itertools.zip_longest(before, after, fillvalue=("", None)) if a != b})
        return f"changed: {', '.join(odd[:3])}"
    return said
