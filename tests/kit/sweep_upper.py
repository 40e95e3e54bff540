"""Good calls of the rooms above the engine, for the sweep of :mod:`sweep`: show, editing, personal, morphing, train, recipes,
course, zoo. What may be written to is a folder of its own, which must be as it was after a call that was refused."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from sweep import pipe, x
from torch import Tensor, nn

from minidiff import diffusion, editing, morphing, personal, show, train
from minidiff.course import EXERCISES, exercises
from minidiff.latent import denoiser, encode_prompt
from minidiff.latent.clip import make_clip
from minidiff.measure import Reader, edit_pairs
from minidiff.measure.path import rms
from minidiff.rng import normal

exercises("01")
_NUMBERS = itertools.count()
SCENE = "a red cat on the grass"
OTHER = "a blue cat on the grass"


@functools.cache
def place() -> Path:
    """A folder for all that is written, filled with what must not be overwritten."""
    made = Path(tempfile.mkdtemp(prefix="minidiff-sweep-"))
    (made / "old.png").write_bytes(b"old")
    return made


def clear_place() -> None:
    shutil.rmtree(place())
    adapter.cache_clear()
    place.cache_clear()


def z(n: int = 1, seed: str = "z") -> Tensor:
    return normal((n, 4, 8, 8), "sweep", seed)


def image(n: int = 1, seed: str = "x") -> Tensor:
    return x(n, 3, 16, 16, seed=seed)


def frames() -> list[np.ndarray]:
    return [np.full((4, 4, 3), k, np.uint8) for k in (0, 200)]


def words() -> dict[str, Any]:
    return {"pipe": pipe(), "source": SCENE, "target": OTHER, "seed": 0, "steps": 2, "guidance": 2.0}


def both() -> morphing.Ends:
    texts = ([SCENE], [OTHER])
    return morphing.Ends((z(), z(seed="o")), texts, tuple(encode_prompt(pipe(), t) for t in texts))


def inversion(**more: Any) -> dict[str, Any]:
    return {"pipe": pipe(), "images": image(), "prompts": SCENE, "steps": 2, **more}


def bottleneck(**more: Any) -> dict[str, Any]:
    return {"model": denoiser(pipe()), "before": z(), "after": z(seed="o"), "cond": encode_prompt(pipe(), SCENE), "seed": 0,
            **more}


@functools.cache
def truth() -> Any:
    return edit_pairs("colour", 1).truth(Reader(8).eval())


def sides(**more: Any) -> dict[str, Any]:
    return {"pipe": pipe(), "first": SCENE, "other": OTHER, "weights": [0.0, 0.5, 1.0], "steps": 2, "guidance": 2.0, "seed": 0,
            **more}


def learn(**more: Any) -> dict[str, Any]:
    return {"pipe": pipe(), "images": image(2), "word": new_name(), "iterations": 1, "batch": 1, "seed": 0, **more}


@functools.cache
def adapter() -> Path:
    made = place() / "lora"
    lora = personal.LoRA(pipe().unet, rank=2)
    lora.save(made)
    lora.detach()
    return made


def net() -> nn.Module:
    return nn.Linear(2, 2)


def recipe() -> train.Recipe:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        return model(batch["x"]).square().mean(1)

    def export(made: nn.Module, folder: Path) -> None:
        save_file(made.state_dict(), folder / "model.safetensors")

    return train.Recipe(name="sweep", seed=0, build=net, draw=lambda i, n, device: {"x": torch.ones(n, 2)}, loss=loss, batch=2,
                        identity={"data": 1}, export=export,
                        budgets={"laptop": train.Budget(4, 1.0), "gpu": train.Budget(4, 1.0)})


def page() -> Path:
    made, cell = place() / "page.ipynb", {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "id": "a"}
    made.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
        cell | {"source": 'check("01.q_sample", noise_batch)'}]}))
    return made


@functools.cache
def run() -> Path:
    made = place() / "run"
    list(train.fit(recipe(), images=4, out=made, device="cpu", precision="float32", log=lambda _: None))
    return made


def state() -> train.TrainState:
    return train.TrainState(1, 2, 4, torch.tensor(1.0), 1.0, 1.0, net(), net())


@functools.cache
def controlnet() -> nn.Module:
    return editing.new_controlnet(pipe().unet, shrink=2, widths=(8, 8))


@functools.cache
def clip() -> nn.Module:
    with torch.random.fork_rng():
        return make_clip(size=16, patch=4, width=16, layers=2, heads=2, text_layers=1).eval().requires_grad_(False)


def hint() -> Tensor:
    return torch.zeros(1, 3, 16, 16)


def spot() -> Tensor:
    made = torch.zeros(1, 1, 16, 16)
    made[..., 4:9, 4:9] = 1
    return made


def spots() -> Tensor:
    return torch.tensor([[[2.0, 3.0], [5.0, 4.0]]])


SHOW: dict[str, Callable[[], dict[str, Any]]] = {
    "set_theme": dict,
    "figure": lambda: {"x": "t", "y": "loss", "title": "a", "columns": 1, "width": 5.0, "height": 3.0, "share_y": False},
    "png": lambda: {"fig": show.figure("t", "loss")[0]},
    "colour": lambda: {"name": "blue"},
    "rgb": lambda: {"name": "blue"},
    "picture": lambda: {"source": frames()[1], "alt": "grey", "caption": "look"},
    "plural": lambda: {"count": 2, "noun": "row"},
    "paper": lambda: {"width": 20, "height": 10},
    "write_text": lambda: {"image": show.paper(40, 40), "place": (3.0, 3.0), "lines": ("a", "b"), "size": 9.0, "fill": "ink",
                           "anchor": "left", "bold": False},
    "grid": lambda: {"images": x(), "columns": 2, "labels": ["a", "b"], "row_labels": ["r"], "column_labels": ["c", "d"],
                     "scale": 2, "alt": "two", "caption": "look"},
    "strip": lambda: {"frames": x(), "labels": ["a", "b"], "count": 2, "row_labels": ["r"], "scale": 2, "alt": "two",
                      "caption": "look"},
    "tile": lambda: {"images": x(), "columns": 2, "scale": 1, "gap": 2},
    "pixels": lambda: {"images": x()},
    "spread": lambda: {"total": 9, "count": 3},
    "save_grid": lambda: {"path": place() / "old.png", "images": x(), "columns": 2, "scale": 1, "gap": 2},
    "heatmap": lambda: {"maps": x(2, 8, 8), "over": x(2, 3, 16, 16), "labels": ["a", "b"], "scale": 2, "limits": (0.0, 1.0),
                        "unit": "nats", "alt": "two", "caption": "look"},
    "animation": lambda: {"frames": frames(), "alt": "two", "caption": "look"},
    "curve": lambda: {"lines": {"a": ([1, 2], [3.0, 4.0])}, "x": "t", "y": "loss", "title": "a", "log_x": False, "log_y": False,
                      "markers": True, "level": {"floor": 1.0}, "height": 3.0, "alt": "a line", "caption": "look"},
    "bars": lambda: {"rows": {"a": (1.0, 0.5, 2.0)}, "x": "loss", "y": "method", "level": {"floor": 1.0}, "title": "a",
                     "alt": "a bar", "caption": "look"},
    "scatter2d": lambda: {"sets": {"a": normal((5, 2), "sweep")}, "x": "x", "y": "y", "limit": 3.0, "size": 4.0, "alt": "dots",
                          "caption": "look"},
    "slider": lambda: {"name": "w", "low": 0.0, "high": 1.0, "step": 0.5, "value": 0.5, "live": True},
    "play": lambda: {"name": "t", "low": 0, "high": 4, "step": 1, "value": 2, "milliseconds": 100},
    "seed": lambda: {"count": 20, "value": 3, "name": "seed"},
    "choice": lambda: {"name": "kind", "values": ["cat", "dog"], "value": "dog"},
    "toggle": lambda: {"name": "on", "value": False},
    "text": lambda: {"name": "prompt", "value": "a cat", "examples": ["a dog"]},
    "mask": lambda: {"name": "mask", "image": x(3, 8, 8), "start": show.box_mask(8, 1, 1, 3, 3)},
    "box_mask": lambda: {"side": 8, "x": 1, "y": 1, "width": 3, "height": 3},
    "panel": lambda: {"render": lambda on: show.picture(frames()[1], alt="grey"), "knobs": (show.toggle("on"),), "action": "draw",
                      "caption": "look", "alt": "grey"},
    "html_page": lambda: {"path": place() / "mine.html", "title": "Mine",
                          "parts": ("a text", show.picture(frames()[1], alt="grey"))},
    "sweep": lambda: {"panel": show.panel(lambda on: show.picture(frames()[1], alt="grey"), show.toggle("on"), alt="grey"),
                      "most": 2},
}
EDITING = {
    "align_words": lambda: {"source": ["a", "red", "cat"], "target": ["a", "blue", "cat"]},
    "anchors": lambda: {"pipe": pipe(), "truth": truth(), "targets": [OTHER], "seed": 0, "steps": 2, "guidance": 2.0},
    "causal_share": lambda: bottleneck(t=400),
    "coarse_level": lambda: {"pipe": pipe()},
    "direct_inversion": lambda: inversion(fixed_point=0, hold=True),
    "edict_inversion": lambda: inversion(guidance=2.0, mix=0.9),
    "edit_direction": lambda: {"pipe": pipe(), "source": ["a red cat"], "target": ["a red dog"]},
    "edit_friendly_inversion": lambda: inversion(guidance=2.0, skip=0.3, eta=1.0, seed=0),
    "edit_words": lambda: {"pipe": pipe(), "source": SCENE, "words": ("red", "blue"), "noun": "cat", "seed": 0, "steps": 2,
                           "guidance": 2.0, "relative": 0.04},
    "fit_delta": lambda: {"pipe": pipe(), "block": editing.DeltaBlock.of(pipe()), "before": image(2), "after": image(2, "o"),
                          "prompts": SCENE, "steps": 1, "batch": 2, "lr": 0.01, "t_edit": 0, "seed": 0},
    "h_space": lambda: {"pipe": pipe(), "prompt": SCENE, "direction": normal((16, 1, 1), "h"), "strength": 0.2, "t_edit": 0.0,
                        "t_boost": 0.0, "symmetric": False, "seed": 0, "steps": 2, "guidance": 2.0},
    "inverted": lambda: inversion(method="direct", guidance=2.0),
    "feature_layer": lambda: {"unet": pipe().unet},
    "later_sites": lambda: {"unet": pipe().unet, "layer": editing.feature_layer(pipe().unet)},
    "plug_and_play": lambda: words() | {"feature_share": 0.8, "attention_share": 1.0, "text": "prompt", "negative": "",
                                        "maps": False},
    "appearance_of": lambda: {"pipe": pipe(), "prompt": SCENE, "word": "cat", "seed": 0, "steps": 2, "guidance": 2.0},
    "mean_direction": lambda: bottleneck(timesteps=[100, 400], chunk=4),
    "negative_prompt_inversion": inversion,
    "null_text_inversion": lambda: inversion(guidance=2.0, inner=1, lr=0.1),
    "pix2pix_zero": lambda: {"pipe": pipe(), "source": SCENE, "direction": torch.zeros(1, 20, 16), "seed": 0, "steps": 2,
                             "guidance": 2.0, "relative": 0.04, "negative": ""},
    "prompt_to_prompt": lambda: words() | {"edit": "replace", "cross": 0.8, "self_attention": 0.4, "threshold": 0.3,
                                           "maps": False, "blend": "cat", "weights": {"blue": 2.0}},
    "put_word": lambda: {"text": SCENE, "word": "cat", "other": "dog"},
    "refine_mapper": lambda: {"tokenizer": pipe().tokenizer, "source": SCENE, "target": OTHER},
    "replace_mapper": lambda: {"tokenizer": pipe().tokenizer, "source": SCENE, "target": OTHER},
    "run_edit": lambda: {"pipe": pipe(), "begin": editing.Source(z(), [SCENE], [OTHER]), "hooks": [editing.SelfCopy()],
                         "steps": 2, "guidance": 2.0, "negative": ""},
    "sdedit": lambda: {"pipe": pipe(), "target": OTHER, "image": image(), "strength": 0.5, "seed": 0, "steps": 2,
                       "guidance": 2.0},
    "self_guidance": lambda: {"pipe": pipe(), "prompt": SCENE, "move": {"cat": (0.1, 0.0)}, "resize": {"cat": 1.1},
                              "keep": ("cat",), "seed": 0, "steps": 2, "guidance": 2.0, "relative": 0.1, "until": 1.0},
    "sentence_bank": lambda: {"tokenizer": pipe().tokenizer, "word": "red", "other": "blue", "n": 2, "noun": "cat"},
    "shift_strength": lambda: {"schedule": diffusion.linear(1000), "steps": 4},
    "source_of": lambda: words(),
    "swap_prompt": words,
    "word_direction": lambda: {"pipe": pipe(), "prompt": SCENE, "word": "red", "other": "blue", "noun": "cat", "n": 2},
    "word_values": lambda: {"tokenizer": pipe().tokenizer, "prompt": SCENE, "values": {"red": 2.0}, "default": 1.0},
    "add_control": lambda: {"pipe": pipe(), "controlnet": controlnet()},
    "blob": lambda: {"centres": torch.tensor([[5.0, 4.0]]), "size": 8, "width": 2.0},
    "cells": lambda: {"points": torch.tensor([[0.5, 0.5]]), "size": (8, 8)},
    "clip_features": lambda: {"clip": clip(), "layer": -1},
    "control": lambda: {"pipe": pipe(), "prompts": SCENE, "hint": hint(), "controlnet": controlnet(), "scale": 1.0, "until": 1.0,
                        "steps": 2, "guidance": 2.0, "seed": 0, "negative": ""},
    "control_images": lambda: {"pipe": pipe(), "prompts": [SCENE], "hint": hint(), "chunk": 2, "seed": 0,
                               "controlnet": controlnet(), "steps": 1},
    "cut_and_paste": lambda: {"images": image(), "mask": spot(), "shift": torch.tensor([[0.2, 0.1]]), "rim": 1},
    "diffuseit": lambda: {"pipe": pipe(), "source": SCENE, "target": OTHER, "features": editing.clip_features(clip()), "seed": 0,
                          "image": image(), "strength": 1.0, "steps": 2, "guidance": 2.0, "relative": 0.1, "sampler": "ddim",
                          "repeats": 0, "restarts": 0, "limit": 0.01, "through_network": True},
    "drag": lambda: {"pipe": pipe(), "prompt": SCENE, "image": image(), "handles": [(0.3, 0.5)], "targets": [(0.6, 0.5)],
                     "level": 0.5, "steps": 4, "share": True, "iterations": 1},
    "dragging": lambda: {"pipe": pipe(), "z": z(), "t": 500, "context": encode_prompt(pipe(), SCENE), "handles": [(0.3, 0.5)],
                         "targets": [(0.6, 0.5)], "iterations": 1, "lr": 0.01, "supervise": 0, "search": 1, "near": 1.0},
    "features_at": lambda: {"features": normal((1, 4, 8, 8), "f"), "points": spots()},
    "motion_loss": lambda: {"features": normal((1, 4, 8, 8), "f"), "points": spots(), "goals": spots() + 1, "radius": 1,
                            "near": 0.0},
    "new_controlnet": lambda: {"unet": pipe().unet, "shrink": 2, "widths": (8, 8)},
    "paste_moved": lambda: {"pipe": pipe(), "prompt": SCENE, "image": image(), "mask": spot(),
                            "shift": torch.tensor([[0.2, 0.1]]), "strength": 0.4},
    "silhouettes": lambda: {"masks": torch.zeros(1, 2, 8, 8)},
    "swept": lambda: {"handles": torch.tensor([[[0.3, 0.5]]]), "targets": torch.tensor([[[0.6, 0.5]]]), "reach": 0.1, "size": 16},
    "text_target": lambda: {"clip": clip(), "source": SCENE, "target": OTHER, "images": image()},
    "track": lambda: {"features": normal((1, 4, 8, 8), "f"), "first": normal((1, 2, 4), "first"), "points": spots(), "radius": 1},
}
PERSONAL = {
    "picture_lora": lambda: {"pipe": pipe(), "image": image(), "prompt": SCENE, "rank": 2, "iterations": 1, "batch": 1,
                             "lr": 0.001, "seed": 0},
    "dreambooth": lambda: learn(class_word="bear", free="cross_kv", train_word=True, lr=0.001, word_rate=3.0),
    "prior_examples": lambda: {"pipe": pipe(), "class_word": "bear", "n": 1, "guidance": 2.0, "steps": 1, "seed": 1,
                               "weight": 1.0},
    "unet_parameters": lambda: {"pipe": pipe(), "free": "cross_kv"},
    "denoising_loss": lambda: {"pipe": pipe(), "z": z(2), "prompts": [SCENE, OTHER], "t": torch.tensor([3, 700]),
                               "noise": z(2, "n"), "weighted": True},
    "examples": lambda: {"pipe": pipe(), "images": image(2), "word": "bear", "captions": ["a {}", "the {}"], "weight": 1.0},
    "fit": lambda: {"pipe": pipe(), "sources": [personal.examples(pipe(), image(2), word="bear")],
                    "groups": [{"params": personal.unet_parameters(pipe(), "cross_kv"), "lr": 0.0}],
                    "iterations": 1, "batch": 1, "seed": 0,
                    "weighted": True},
    "pictures": lambda: {"pipe": pipe(), "prompts": [SCENE], "seed": 0, "steps": 1, "guidance": 2.0, "chunk": 2},
    "load_lora": lambda: {"pipe": pipe(), "folder": adapter()},
    "textual_inversion": lambda: learn(start="bear", vectors=1, lr=0.01),
    "encode_words": lambda: {"pipe": pipe(), "prompts": [SCENE]},
    "load_word": lambda: {"pipe": pipe(), "path": word_file()},
    "nearest_words": lambda: {"pipe": pipe(), "v": normal((16,), "v"), "k": 2},
    "new_word": lambda: {"pipe": pipe(), "word": new_name(), "start": "bear", "vectors": 1},
}
MORPHING = {
    "aid": lambda: sides(attend="inner", fused=True, until=0.5, guide=SCENE, mix="slerp"),
    "beta_cdf": lambda: {"x": torch.tensor([0.1, 0.5]), "alpha": 3.0, "beta": 3.0},
    "beta_quantile": lambda: {"p": torch.tensor([0.1, 0.5]), "alpha": 3.0, "beta": 3.0},
    "check_weights": lambda: {"weights": [0.0, 0.5, 1.0], "inside": False},
    "cross_fade": lambda: {"first": image(), "other": image(seed="o"), "weights": [0.0, 0.5]},
    "ends_of": lambda: {"pipe": pipe(), "first": SCENE, "other": OTHER, "seed": 0, "steps": 2, "fixed_point": 1},
    "explore": lambda: {"draw": lambda w: torch.tensor(w)[:, None], "distance": lambda a, b: (a - b).abs().flatten(1).sum(1),
                        "size": 4, "prior": (3.0, 3.0)},
    "fit_beta": lambda: {"x": torch.tensor([0.0, 0.5, 1.0]), "p": torch.tensor([0.0, 0.4, 1.0])},
    "frames_of": lambda: {"pipe": pipe(), "latents": [z(), z(seed="o")]},
    "latent_lerp": lambda: {"pipe": pipe(), "first": image(), "other": image(seed="o"), "weights": [0.0, 0.5]},
    "lerp": lambda: {"a": x(), "b": x(seed="b"), "weight": 0.3},
    "slerp": lambda: {"a": x(), "b": x(seed="b"), "weight": 0.3},
    "midpoints": lambda: {"pipe": pipe(), "a": z(), "b": z(seed="o"), "text": encode_prompt(pipe(), SCENE), "route": [500, 200],
                          "guidance": 2.0, "seed": 0},
    "named": lambda: {"weights": [0.0, 0.5, 1.0]},
    "noise_levels": lambda: {"pipe": pipe(), "steps": 4, "shares": [0.5, 0.25]},
    "impus_guidance": lambda: {"w": torch.tensor([0.0, 0.3]), "ends": 1.5, "middle": 3.0},
    "lora_rank": lambda: {"diversity": 0.45, "slope": 18.0, "start": 6.0, "most": 32},
    "mixed_attention": lambda: {"weights": {"frame 1": 0.5}, "until": 0.6},
    "relative_diversity": lambda: {"frames": image(4), "distance": rms, "order": "forward"},
    "twin": lambda: {"pipe": pipe()},
    "slerp_morph": sides,
    "smoothest": lambda: {"distances": torch.rand(5, 5, generator=torch.Generator().manual_seed(0)), "count": 3},
    "walk": lambda: {"pipe": pipe(), "ends": both(), "weights": {"frame 1": 0.5}, "steps": 2, "guidance": 2.0, "mix": "slerp",
                     "with_ends": True},
    "wang_golland": lambda: {"pipe": pipe(), "first": image(), "other": image(seed="o"), "levels": 1, "shares": (0.6, 0.3),
                             "steps": 4,
                             "guidance": 2.0, "seed": 0},
}
TRAIN = {
    "describe": lambda: {"state": state()},
    "fit": lambda: {"recipe": recipe(), "budget": "laptop", "images": 4, "device": "cpu", "precision": "float32",
                    "compile": False, "extend": False, "by_clock": False, "log": lambda _: None},
    "load_ema": lambda: {"out": run(), "model": net()},
    "lr_at": lambda: {"images": 3, "peak": 1.0, "warmup": 2, "total": 10, "shape": "cosine"},
    "newest": lambda: {"out": run()},
    "newest_meta": lambda: {"out": run()},
    "read_losses": lambda: {"out": run()},
}
RECIPES = {
    "recipe": lambda: {"name": "pixel-small-eps"},
    "publish": lambda: {"which": recipe(), "out": run(), "root": place(), "as_name": "swept"},
    "pixel_recipe": lambda: {"name": "mine", "seed": 0, "net": {"channels": 3, "dim": 8}, "predicts": "eps", "schedule": "linear",
                             "learned": False, "gamma": 5.0, "t_sampling": "uniform", "batch": 4, "lr": 0.001,
                             "lr_shape": "linear", "warmup": 10, "ema": 0.99, "expect": ""},
}
COURSE = {
    "board": lambda: {"ids": ("01.closed_form",)},
    "check": lambda: {"id": "01.q_sample", "answer": None},
    "checks": lambda: {"answer": EXERCISES["01.q_sample"].answer},
    "claim": lambda: {"id": "99.sweep", "text": "a claim", "unit": "share", "target": ">= 0.5", "n": 10, "small": 2,
                      "reader": "none"},
    "claims": dict,
    "compute": lambda: {"id": "01.closed_form", "n": 4},
    "exercise": lambda: {"id": "99.sweep", "title": "an exercise", "hints": ("look",), "points": 1},
    "exercises": lambda: {"lesson": "01"},
    "find": lambda: {"id": "01.q_sample"},
    "grade": lambda: {"notebook": page(), "timeout": 20.0, "limit": 60.0, "whole": False},
    "hint": lambda: {"id": "01.q_sample"},
    "limits": lambda: {"target": ">= 0.5"},
    "rooms": dict,
    "score": lambda: {"ids": ["01.closed_form"], "n": 4, "write": False, "log": lambda _: None},
    "solution": lambda: {"id": "01.q_sample"},
    "solution_markdown": lambda: {"id": "01.q_sample"},
    "solved": lambda: {"id": "01.q_sample", "answer": None},
    "stored": dict,
    "verdict_of": lambda: {"low": 0.6, "high": 0.7, "target": ">= 0.5"},
}
ZOO = {
    "card": lambda: {"name": "mini-sd"},
    "export": lambda: {"name": "pixel-small-eps", "folder": place() / "exported"},
    "load": lambda: {"name": "pixel-small-eps", "device": "cpu", "dtype": torch.float32},
    "ship": lambda: {"name": "swept", "write": written, "facts": {"seed": 1}, "root": place(), "base": ""},
    "shipped": dict,
    "write_net": lambda: {"net": net(), "config": {"kind": "pixel"}, "folder": place()},
}
SLOW = {"course.grade": "starts a kernel: tests/course/test_grading.py"}      # whose good call is made elsewhere
VALID = {"show": SHOW, "editing": EDITING, "personal": PERSONAL, "morphing": MORPHING, "train": TRAIN, "recipes": RECIPES,
         "course": COURSE, "zoo": ZOO}


def written(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"a": 1}))


def new_name() -> str:
    """A word that no pipeline has: a call that is made once more must not be refused for the word of the one before it."""
    return f"<mine{next(_NUMBERS)}>"


def word_file() -> Path:
    name = new_name()
    save_file({name: torch.ones(16)}, made := place() / f"{name[1:-1]}.safetensors")
    return made
