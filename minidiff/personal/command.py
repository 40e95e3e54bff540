"""``minidiff personalise FOLDER``: three to five pictures in, a word (and an adapter) out, with sheets of samples on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from minidiff.errors import check_choice, require
from minidiff.measure import Reader, read
from minidiff.personal.dreambooth import dreambooth, prior_examples
from minidiff.personal.fit import Progress, pictures
from minidiff.personal.lora import EVERYWHERE, LoRA
from minidiff.personal.textual_inversion import textual_inversion
from minidiff.show import save_grid
from minidiff.silence import silence_libraries
from minidiff.world import KINDS, ImageFolder

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["METHODS", "Guess", "guess_class", "personalise"]

METHODS = ("ti", "lora", "dreambooth", "custom")


class Guess(NamedTuple):
    """What a reader takes a subject for: the word of the class, and in how many of the pictures it sees a thing of that kind."""

    word: str
    agree: int
    pictures: int


def guess_class(folder: str | Path, reader: Reader) -> Guess:
    """The kind of the world that the pictures of ``folder`` look most like; reader: a loaded one, such as "readers/final".

    Of each picture the thing that is found most surely votes, with the probabilities of its kind. A subject that the world
    has no word for gets one of these words all the same: DreamBooth needs a class to start from, near or far.
    """
    given = ImageFolder(folder, size=64, log=lambda _: None)
    found = read(given.batch(0, len(given))[0], reader)
    rows, surest = range(len(given)), found.confidence.argmax(1)
    best = int(found.probs["kind"][rows, surest].sum(0).argmax())
    agree = (found.scenes.kind[rows, surest] == best) & found.scenes.present[rows, surest]
    return Guess(KINDS[best], int(agree.sum()), len(given))


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
    require(bool(class_word.strip()), "class_word", repr(class_word), "what the subject is, in a word the model knows", "'bear'")
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
