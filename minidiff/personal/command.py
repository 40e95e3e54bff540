"""``minidiff personalise FOLDER``: three to five pictures in, a word (and an adapter) out, with sheets of samples on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from minidiff.errors import check_choice, require
from minidiff.personal.dreambooth import dreambooth, prior_examples
from minidiff.personal.fit import Progress, pictures
from minidiff.personal.lora import EVERYWHERE, LoRA
from minidiff.personal.textual_inversion import textual_inversion
from minidiff.show import save_grid
from minidiff.silence import silence_libraries
from minidiff.world import ImageFolder

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["METHODS", "personalise"]

METHODS = ("ti", "lora", "dreambooth", "custom")


def personalise(pipe: StableDiffusionPipeline, folder: str | Path, *, word: str, class_word: str, out: str | Path,
                method: str = "lora", iterations: int = 80, rank: int = 8, prior: int = 0, every: int = 40,
                prompt: str = "", steps: int = 12, seed: int = 0) -> Iterator[Progress]:
    """Learn ``word`` from the pictures of ``folder``; yields after each step, and leaves all files in ``out`` at the end.

    class_word: a word of one token that the model knows ("bear"). method: "ti" one vector; "lora" a low-rank adapter and the
    word; "dreambooth" all weights; "custom" keys and values of cross-attention. prior: pictures of the class for the prior
    loss, 0 for none. every: steps between two sheets ``samples-00040.png`` of ``prompt`` (a template with {}). Captions come
    from the folder's metadata.jsonl, in which the word has to stand, else from templates.

    Writes ``learned_embeds.safetensors``, for "lora" ``pytorch_lora_weights.safetensors``, for the other two the pipeline.
    """
    check_choice("method", method, METHODS)
    require(every >= 1, "every", every, "1 or more", "every=40")
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    given = ImageFolder(folder, size=side, seed=seed)
    require(len(given) <= 100, "folder", f"{len(given)} pictures", "a few of one subject; three to five are usual")
    images, captions = given.batch(0, len(given))
    captions = None if captions is None or not any(captions) else [text.replace(word, "{}") for text in captions]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    lora = None
    if method == "ti":
        rows, loop = textual_inversion(pipe, images, word=word, start=class_word, captions=captions, iterations=iterations,
                                       seed=seed)
        said = word
    else:
        keep = prior_examples(pipe, class_word, n=prior, steps=steps) if prior else None
        lora = LoRA(pipe.unet, rank=rank, targets=EVERYWHERE, seed=seed) if method == "lora" else None
        rows, loop = dreambooth(pipe, images, word=word, class_word=class_word, prior=keep, lora=lora, captions=captions,
                                free="cross_kv" if method == "custom" else "unet", iterations=iterations, seed=seed)
        said = f"{word} {class_word}"
    texts = [(prompt or "a {}").format(said)] * 3 + [f"a {class_word}"]
    for step in loop:
        if step.iteration % every == 0 or step.iteration == iterations:
            made = pictures(pipe, texts, seed=seed, steps=steps)
            save_grid(out / f"samples-{step.iteration:05d}.png", made, columns=4, scale=2)
        yield step
    rows.save(out)
    if lora is not None:
        lora.save(out)
    elif method != "ti":
        with silence_libraries():
            pipe.save_pretrained(out / "pipeline")
