"""The methods that must keep the engine's invariants (design section 6). A lesson adds one row: see ``Method``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from minidiff.diffusion import last
from minidiff.editing.attend import attend_and_excite, place_things
from minidiff.editing.blended import Blend
from minidiff.editing.composable import StructuredValues, composable, structured_text
from minidiff.editing.controlnet import control, new_controlnet
from minidiff.editing.coupled import Coupled
from minidiff.editing.diffuseit import PosteriorMean, diffuseit_energy
from minidiff.editing.drag import ShareKV, dragging
from minidiff.editing.emphasis import EmphasiseValue, IgnoreKey
from minidiff.editing.h_space import h_space
from minidiff.editing.inversion import Inversion, fit_empty
from minidiff.editing.key_losses import Features, PictureView
from minidiff.editing.noise_maps import AddNoise, with_noises
from minidiff.editing.parasol import Switch
from minidiff.editing.pix2pix_zero import pix2pix_zero
from minidiff.editing.plug_and_play import plug_and_play
from minidiff.editing.prompt_to_prompt import LocalBlend, Refine, Replace, Reweight, SelfCopy
from minidiff.editing.result import Source, run_edit
from minidiff.editing.self_guidance import self_guidance
from minidiff.editing.style_tokens import StyleTokens
from minidiff.editing.words import refine_mapper, replace_mapper, word_values
from minidiff.latent import decode, denoise, denoiser, encode_prompt, scheduler_options
from minidiff.morphing import (
    Ends,
    Impus,
    Inner,
    LerpLoRA,
    Outer,
    midpoints,
    mixed_attention,
    noise_levels,
    slerp_adain,
    twin,
    walk,
)
from minidiff.personal import LoRA
from minidiff.rng import normal
from minidiff.steer import CFG, Dual, Energy, EpsGuidance, LatentGuidance, MeanGuidance, Pin, Recorder, Trajectory, run
from tests.pipelines import CASES, shared

STEPS, GUIDANCE = 3, 2.5


@dataclass(frozen=True)
class Method:
    """``sample(pipe, z, prompts, strength, rows)`` -> branch -> final latents, in STEPS steps at GUIDANCE from the noise z.

    rows: the numbers of the rows, for noise. strength: 0 is the method with neutral knobs, 1 the method at work. edited: the
    branch that is compared with plain sampling of ``target(prompts)`` where strength is 0; source: the branch that must be plain
    sampling of ``prompts`` at every strength, or None. neutral: False for a method that has no neutral setting.
    """

    name: str
    sample: Callable
    edited: str = "source"
    source: str | None = None
    target: Callable = staticmethod(lambda prompts: prompts)
    neutral: bool = True


def plain(pipe, prompts, z, **options):
    return last(denoise(pipe, prompts, latents=z, steps=STEPS, guidance=GUIDANCE, **options)).x


def _with(hooks: Callable) -> Callable:
    return lambda pipe, z, prompts, strength, rows: {
        "source": plain(pipe, prompts, z, rows=rows, hooks=hooks(pipe, z, prompts, strength, rows))}


def _energy(pipe, z, prompts, strength, rows):
    return Energy(lambda maps, state: maps.map(2, lambda s: s == max(maps.sites.values(), key=lambda s: s.level))
                  .flatten(1).square().sum(1) + 0.01 * state.x0.square().flatten(1).mean(1),
                  sites=lambda s: s.kind == "cross" and s.place == "up")


def _blended(pipe, z, prompts, strength, rows):
    known = normal(tuple(z.shape[1:]), "known", 0)[None].expand_as(z)
    mask = torch.ones(1, 1, *z.shape[-2:])
    mask[..., : z.shape[-1] // 2] = 1 - strength
    return [Blend(known, mask, rows=rows)]


def _pinned(pipe, z, prompts, strength, rows):
    way = Trajectory.of(denoise(pipe, prompts, latents=z, steps=STEPS, guidance=GUIDANCE))
    return [Pin(Trajectory(way.latents + strength * 0.1, way.timesteps, way.eps))]


def _self_guided(pipe, z, prompts, strength, rows, keep=False):
    words = tuple("cat" if "cat" in prompt else "dog" for prompt in prompts)
    others = [tuple("grass" if "cat" in prompt else "mushroom" for prompt in prompts)] if keep else []
    made = self_guidance(pipe, prompts, move={words: (0.2 * strength, -0.1 * strength)}, resize={words: 1 + 0.3 * strength},
                         keep=others, latents=z, steps=STEPS, guidance=GUIDANCE)
    return {branch: way.clean for branch, way in made.trajectory.items()}


def _swap(prompts):
    return [p.replace("red", "green").replace("blue", "pink") for p in prompts]


def _longer(prompts):
    return [p.replace("red", "big red").replace("dog", "sad dog") for p in prompts]


def _prompt_to_prompt(target: Callable, hooks: Callable) -> Callable:
    def sample(pipe, z, prompts, strength, rows):
        begin = Source(z, prompts, target(prompts))
        pairs = list(zip(prompts, begin.targets, strict=True))
        return last(run_edit(pipe, begin, steps=STEPS, guidance=GUIDANCE, hooks=hooks(pipe.tokenizer, pairs, strength))).z
    return sample


def _replace(tokenizer, pairs, strength):
    a = torch.stack([word_values(tokenizer, p, {"the" if "the" in p else "left": 1.0}, 0.0) for p, _ in pairs])
    return [Replace(torch.stack([replace_mapper(tokenizer, *pair) for pair in pairs]), until=0.8 * strength),
            SelfCopy(until=0.4 * strength), LocalBlend({"source": a, "edit": a}, threshold=0.7 * strength, start=0.3)]


def _refine(tokenizer, pairs, strength):
    mappers, new = zip(*(refine_mapper(tokenizer, *pair) for pair in pairs), strict=True)
    c = torch.stack([word_values(tokenizer, b, {"sad" if "sad" in b else "big": 1 + 3 * strength}) for _, b in pairs])
    return [Refine(torch.stack(mappers), torch.stack(new), until=strength), Reweight(c)]


def _emphasised(pipe, z, prompts, strength, rows):
    return [EmphasiseValue(torch.stack([word_values(pipe.tokenizer, p, {"red" if "red" in p else "blue": 1 + 3 * strength})
                                        for p in prompts]))]


def _ignored(pipe, z, prompts, strength, rows):
    return [IgnoreKey(torch.stack([word_values(pipe.tokenizer, p, {"red" if "red" in p else "blue": strength}, 0.0)
                                   for p in prompts]))]


def _zero(pipe, z, prompts, strength, rows):
    direction = strength * (encode_prompt(pipe, "a dog") - encode_prompt(pipe, "a cat"))
    made = pix2pix_zero(pipe, prompts, direction, latents=z, steps=STEPS, guidance=GUIDANCE, relative=0.1 * strength)
    return {branch: way.clean for branch, way in made.trajectory.items()}


def _dragged(pipe, z, prompts, strength, rows):
    """Two steps of the drag at the first level, then both branches, the edit with the source's keys and values."""
    handles = torch.tensor([[0.3, 0.5], [0.6, 0.4]])
    t = next(iter(denoise(pipe, prompts, latents=z, steps=STEPS, guidance=1.0))).t
    moved = last(dragging(pipe, z, t, encode_prompt(pipe, prompts), handles, handles + 0.3 * strength, iterations=2, lr=0.1)).z
    texts = {"prompt": encode_prompt(pipe, prompts), "empty": encode_prompt(pipe, "")}
    return last(run(denoiser(pipe), {"source": z, "edit": moved}, {"source": texts, "edit": texts}, steps=STEPS,
                    hooks=[ShareKV()], guider=CFG(GUIDANCE), **scheduler_options(pipe))).z


def _controlled(pipe, z, prompts, strength, rows):
    base = next(p for p in map(shared, CASES) if p.unet.config.in_channels == pipe.unet.config.in_channels)
    net = torch.nn.Module.to(new_controlnet(base.unet, shrink=pipe.vae_scale_factor), z.dtype)
    for k, (name, p) in enumerate(sorted(net.named_parameters())):
        if name.startswith(("controlnet_down", "controlnet_mid")):
            p.data = 0.3 * normal(tuple(p.shape), "control", k).to(p)
    hint = torch.ones(1, 3, *(pipe.vae_scale_factor * side for side in z.shape[-2:]))
    hint[..., : hint.shape[-1] // 2] = 0
    return {"source": last(control(pipe, prompts, hint, controlnet=net, scale=strength, latents=z, steps=STEPS, guidance=GUIDANCE,
                                   rows=rows)).x}


def _plugged(pipe, z, prompts, strength, rows):
    made = plug_and_play(pipe, prompts, _swap(prompts), latents=z, feature_share=0.8 * strength, attention_share=0.5 * strength,
                         steps=STEPS, guidance=GUIDANCE)
    return {branch: way.clean for branch, way in made.trajectory.items()}


def _shifted(pipe, z, prompts, strength, rows):
    delta = normal((pipe.unet.mid_block.resnets[-1].out_channels, 1, 1), "h", 0).to(z)
    made = h_space(pipe, prompts, delta, strength=strength, latents=z, steps=STEPS, guidance=GUIDANCE)
    return {branch: way.clean for branch, way in made.trajectory.items()}


def _looked_at(x):
    """Features without a network: 4 x 4 averages of places and the whole picture's."""
    small = torch.nn.functional.adaptive_avg_pool2d(x, 4)
    return Features(small.flatten(2).mT, small.flatten(1))


def _diffuseit(push: type) -> Callable:
    def hooks(pipe, z, prompts, strength, rows):
        side = [n * pipe.vae_scale_factor for n in z.shape[-2:]]
        pictures = torch.nn.functional.interpolate(normal((1, 3, 3, 3), "pictures", 0).to(z), size=side).clamp(-1, 1)
        seen = _looked_at(pictures)
        energy = diffuseit_energy(PictureView(_looked_at, lambda x: decode(pipe.vae, x)), seen, {
            "structure": 1.0, "contrast": 0.1, "style": 1.0, "divergence": 0.3, "range": 1.0}, like=-seen.pooled)
        return [push(energy, relative=0.1 * strength)]
    return _with(hooks)


def _inverted(inversion: Callable) -> Callable:
    """The edit from the way of plain sampling at w = 1: what an inversion without error would find."""
    def sample(pipe, z, prompts, strength, rows):
        way = Trajectory.of(denoise(pipe, prompts, latents=z, steps=STEPS, guidance=1.0))
        begin = Source(z, prompts, _swap(prompts), inversion(pipe, way, prompts, strength))
        return last(run_edit(pipe, begin, guidance=GUIDANCE)).z
    return sample


def _null_text(pipe, way, prompts, strength):
    fit = fit_empty(pipe, way, prompts, guidance=GUIDANCE, inner=round(3 * strength), lr=0.1)
    return Inversion("null-text", way, empty=torch.stack(fit.found))


def _excited(loss: str) -> Callable:
    def sample(pipe, z, prompts, strength, rows):
        made = attend_and_excite(pipe, prompts, loss=loss, latents=z, steps=STEPS, guidance=GUIDANCE, relative=0.1 * strength,
                                 until=1.0)
        return {branch: way.clean for branch, way in made.trajectory.items()}
    return sample


def _put(pipe, z, prompts, strength, rows):
    words = tuple("cat" if "cat" in p else "dog" for p in prompts)
    made = place_things(pipe, prompts, {words: (0.2, 0.3)}, latents=z, steps=STEPS, guidance=GUIDANCE, relative=0.3 * strength)
    return {branch: way.clean for branch, way in made.trajectory.items()}


def _composed(pipe, z, prompts, strength, rows):
    parts = [(p, "a pink house")[:1 + round(strength)] for p in prompts]
    return {"edit": composable(pipe, parts, GUIDANCE, latents=z, steps=STEPS).trajectory["edit"].clean}


def _structured(pipe, z, prompts, strength, rows):
    words = [("red cat",) if "cat" in p else ("blue mushroom", "dog") for p in prompts]
    return [StructuredValues(pipe, structured_text(pipe, prompts, words) if strength else encode_prompt(pipe, prompts))]


def _negative_prompt(pipe, way, prompts, strength):
    return Inversion("negative-prompt", way, empty=encode_prompt(pipe, prompts if strength else ""))


def _edit_friendly(pipe, way, prompts, strength):
    noisy = with_noises(pipe, way, prompts, guidance=1.0, eta=strength)
    return Inversion("edit-friendly", noisy, (AddNoise(noisy, eta=strength),))


def _morphed(hooks: Callable) -> Callable:
    """A frame between plain sampling of the prompts and of other ones; strength 0 is the frame at weight 0, the first end."""
    def sample(pipe, z, prompts, strength, rows):
        texts = (prompts, _swap(prompts))
        both = Ends((z, z.roll(1, -1)), texts, tuple(encode_prompt(pipe, t) for t in texts))
        w = {"edit": 0.4 * strength}
        return last(walk(pipe, both, w, steps=STEPS, guidance=GUIDANCE, hooks=hooks(w))).z
    return sample


def _adapters(pipe, numbers, size):
    """Detached adapters of random weights, each a function of its number."""
    loras = [LoRA(pipe.unet, rank=2, seed=k).detach().requires_grad_(False) for k in numbers]
    for k, lora in zip(numbers, loras, strict=True):
        for path, b in lora.B.items():
            b.copy_(size * normal(tuple(b.shape), "B", k, path).to(b))
    return loras


def _diffmorphed(pipe, z, prompts, strength, rows):
    texts, w = (prompts, _swap(prompts)), {"edit": 0.4 * strength}
    both = Ends((z, z.roll(1, -1)), texts, tuple(encode_prompt(pipe, t) for t in texts))
    hooks = [LerpLoRA(*_adapters(pipe, range(2), 0.2 * strength), w), mixed_attention(w)]
    return last(walk(pipe, both, w, steps=STEPS, guidance=GUIDANCE, hooks=hooks, mix=slerp_adain)).z


def _impused(pipe, z, prompts, strength, rows):
    texts, sides = (prompts, _swap(prompts)), (twin(pipe), twin(pipe))
    loras = tuple(_adapters(side, rows, 0.2 * strength) for side in sides)
    fit = Impus((z, z.roll(1, -1)), tuple(encode_prompt(pipe, t) for t in texts), *sides, loras)
    at = [0.4 * strength] * len(prompts)
    return {"edit": fit.latents(range(len(prompts)), at, guidance=(GUIDANCE, GUIDANCE), steps=STEPS)}


def _midpoint(pipe, z, prompts, strength, rows):
    route = noise_levels(pipe, STEPS, [1.0])[0]
    return {"edit": midpoints(pipe, z, z.roll(1, -1), encode_prompt(pipe, prompts), route, guidance=GUIDANCE, rows=rows)}


def _styled(guider: Callable) -> Callable:
    """The run of PARASOL: contents as texts, a style by random tokens."""
    def sample(pipe, z, prompts, strength, rows):
        with torch.random.fork_rng():
            torch.manual_seed(5)
            tokens = StyleTokens(width=pipe.unet.config.cross_attention_dim, length=pipe.tokenizer.model_max_length, positions=14)
        content, style = encode_prompt(pipe, prompts), 3 * tokens.requires_grad_(False).context(torch.ones(1, 64))
        texts = {"prompt": content, "content": content, "style": style, "empty": encode_prompt(pipe, "")}
        return {"edit": last(run(denoiser(pipe), {"edit": z}, {"edit": texts}, steps=STEPS, guider=guider(strength), rows=rows,
                                 **scheduler_options(pipe))).x}
    return sample


METHODS = [
    Method("plain, recorded", _with(lambda *a: [Recorder(lambda site: True, modules=["mid_block"])])),
    Method("blended", _with(_blended)),
    Method("pinned", _with(_pinned)),
    Method("prompt-to-prompt, replace", _prompt_to_prompt(_swap, _replace), "edit", "source", _swap),
    Method("prompt-to-prompt, refine", _prompt_to_prompt(_longer, _refine), "edit", "source", _longer),
    Method("latent guidance", _with(lambda *a: [LatentGuidance(_energy(*a), relative=0.2 * a[3])])),
    Method("eps guidance", _with(lambda *a: [EpsGuidance(_energy(*a), relative=0.2 * a[3])])),
    Method("mean guidance", _with(lambda *a: [MeanGuidance(_energy(*a), relative=0.2 * a[3])])),
    Method("self-guidance", _self_guided, edited="edit", source="source"),
    Method("self-guidance, keep", functools.partial(_self_guided, keep=True), edited="edit", source="source"),
    Method("louder value", _with(_emphasised)),
    Method("ignored key", _with(_ignored)),
    Method("null-text", _inverted(_null_text), "edit", target=_swap),
    Method("attend-and-excite", _excited("presence"), edited="edit", source="source"),
    Method("attend-and-excite, published", _excited("published"), edited="edit", source="source"),
    Method("syngen", _excited("syngen"), edited="edit", source="source"),
    Method("things at places", _put, edited="edit", source="source"),
    Method("composable", _composed, edited="edit"),
    Method("structured values", _with(_structured)),
    Method("negative-prompt", _inverted(_negative_prompt), "edit", target=_swap),
    Method("edit-friendly", _inverted(_edit_friendly), "edit", target=_swap),
    Method("edict", _inverted(lambda pipe, way, *a: Inversion("edict", way, (Coupled(),))), "edit", target=_swap, neutral=False),
    Method("pix2pix-zero", _zero, edited="edit", source="source"),
    Method("drag", _dragged, edited="edit", source="source"),
    Method("controlnet", _controlled),
    Method("plug-and-play", _plugged, "edit", "source", _swap),
    Method("h-space", _shifted, edited="edit", source="source"),
    Method("diffuseit, eps", _diffuseit(EpsGuidance)),
    Method("diffuseit, mean", _diffuseit(PosteriorMean)),
    Method("parasol", _styled(lambda s: Dual(3.0 * s, GUIDANCE)), "edit"),
    Method("parasol, switched", _styled(lambda s: Switch(CFG(GUIDANCE), Dual(3.0, GUIDANCE), at=STEPS if s == 0 else 1)), "edit"),
    Method("slerp", _morphed(lambda w: []), "edit", "first"),
    Method("aid, inner", _morphed(lambda w: [Inner(w, until=1.0)]), "edit", "first"),
    Method("aid, outer", _morphed(lambda w: [Outer(w, fused=False, until=1.0)]), "edit", "first"),
    Method("diffmorpher", _diffmorphed, "edit", "first"),
    Method("impus", _impused, "edit"),
    Method("wang and golland", _midpoint, "edit", neutral=False),
]
