"""Where the knobs of the course's panels stand after "run all", in the words of the pages.

One row a panel: how the alternative text of its picture begins, words of the page (of its text, of an alternative text or of a
caption) that hold while the knobs stand so or ask for a prediction from there, and where they stand, as the page shows it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

__all__ = ["SAID", "Standing", "page_words", "plain"]


class Standing(NamedTuple):
    """One panel. alt: how its alternative text begins; words: what the page says; at: label -> what a reader sees there."""

    alt: str
    words: str
    at: dict[str, str]


SAID: dict[str, list[Standing]] = {
    "14": [
        Standing("Six heat maps of 8 by 8 cells: dog and heart", "Six heat maps of 8 by 8 cells: dog and heart",
                 {"sharpness": "100"}),
        Standing("Three pictures of one prompt and the maps", "Three pictures of one prompt and the maps",
                 {"share": "0.15"}),
        Standing("A picture drawn from two composed predictions", "A picture drawn from two composed predictions",
                 {"weight": "2.0"}),
    ],
    "15": [
        Standing("Four SDEdits at a strength", "Four SDEdits at a strength",
                 {"strength": "0.6"}),
        Standing("Four edits, above lines of IoU", "Four edits, above lines of IoU",
                 {"features": "0.8", "attention": "0.0"}),
        Standing("A predicted picture, the same with handles", "A predicted picture, the same with handles",
                 {"frame": "4"}),
    ],
    "16": [
        Standing("Four rows of three predicted pictures", "Four rows of three predicted pictures", {"t": "481"}),
        Standing("Three rows of three pictures: sources, asymmetric", "Three rows of three pictures: sources, asymmetric",
                 {"c": "0.2"}),
        Standing("Two rows of three pictures: sources and edits", "Two rows of three pictures: sources and edits",
                 {"t edit": "559"}),
    ],
    "17": [
        Standing("Three pictures with a framed patch", "Three pictures with a framed patch",
                 {"row": "4", "column": "4"}),
        Standing("Three rows of three pictures, sources, edits", "Three rows of three pictures, sources, edits",
                 {"start": "1.0", "push": "0.3"}),
    ],
    "18": [
        Standing("A content picture, a style picture and the result", "A content picture, a style picture and the result",
                 {"style": "neon", "content": "blue fish"}),
        Standing("Three rows of four pictures, and a graph of content", "Three rows of four pictures, and a graph of content",
                 {"g style": "2.0", "g content": "4.0"}),
        Standing("Three rows of five pictures: contents, styles", "Three rows of five pictures: contents, styles",
                 {"keep": "4"}),
        Standing("Six pictures from flat to neon style", "Six pictures from flat to neon style",
                 {"frame": "3"}),
    ],
    "22": [
        Standing("Two strips of nine pictures", "Below them the fifth frame",
                 {"path": "all, respaced", "frame": "4"}),
        Standing("Two rows of five pictures of a purple rabbit", "Two rows of five pictures of a purple rabbit",
                 {"weight": "1.5"}),
    ],
    "23": [
        Standing("A plane with arrows towards the line", "what does the square energy do to the cloud at 20",
                 {"energy": "square", "scale": "4.0"}),
        Standing("A strip of nine pictures by the variance energy", "A strip of nine pictures by the variance energy",
                 {"energy": "variance"}),
        Standing("A list of the rows of lesson 16", "A list of the rows of lesson 16", {"lesson": "16", "verdict": "all"}),
    ],
    "00": [
        Standing("A scene builder", "A scene builder: a red cat on the grass",
                 {"kind": "cat", "colour": "red", "pattern": "plain", "wears": "nothing", "backdrop": "grass", "style": "flat"}),
        Standing("A bar from 0 to 1", "With 40 samples the interval of 90 %", {"n": "40", "percent": "90"}),
        Standing("Two pictures faded", "at which share do you stop seeing one scene", {"share": "5"}),
    ],
    "01": [
        Standing("The density of the earlier pixel", "for a step of beta 0.4", {"beta": "0.4"}),
        Standing("A noised scene beside", "at t = 400, under which schedule do you still see the thing",
                 {"t": "250", "schedule": "linear"}),
        Standing("Three bell curves", "Ten-step cosine chain, one pixel", {"x0": "0.8", "xt": "-0.3", "t": "4"}),
        Standing("Scattered points", "Up to moment 30 neither side is nearer", {"moment": "36", "steps": "40"}),
    ],
    "02": [
        Standing("Weights over t", "Predict which end of the curve moves when $\\gamma$ grows", {"gamma": "5"}),
        Standing("Six samples of the pixel model", "With 20 some things are still smeared",
                 {"seed": "0", "steps": "20", "variance": "small"}),
        Standing("Four states of the chain", "Scrub through the chain", {"step": "30"}),
    ],
    "03": [
        Standing("Six paths from noise to data at eta 1", "Six paths from noise to data at eta 1", {"eta": "1.0"}),
        Standing("Two rows of three pictures", "DDIM with 10 network calls above",
                 {"calls": "10", "eta": "0.0", "solver": "DDIM"}),
        Standing("Two rows, DDPM and DDIM", "Scrub from noise to picture", {"part": "90"}),
        Standing("Three rows: start, the middle frame", "Weight 0 is the left picture, 12 the right one", {"weight": "6"}),
    ],
    "04": [
        Standing("A narrow orange histogram", "to about 1.19, 1.40, 1.66 at scales 2, 4, 8", {"scale": "4.0"}),
        Standing("Two rows of eight pictures, many of them", "At scale 6 fifteen of sixteen are fish",
                 {"scale": "6.0", "kind": "fish"}),
    ],
    "05": [
        Standing("Three clouds of points", "At scale 1 the orange cloud is the class itself", {"scale": "1.0"}),
        Standing("Two rows of eight pictures of many kinds", "At scale 0 both bars are where chance puts them",
                 {"scale": "0.0", "kind": "heart", "colour": "blue"}),
        Standing("Eight small pictures of blue things", "With a kind scale of 0 the sum paints blue things",
                 {"s kind": "0.0", "s colour": "4.0", "form": "composable"}),
    ],
    "06": [
        Standing("Three bell curves", "at $t=3$, where it starts from noise", {"t": "3", "x": "0.0"}),
        Standing("An even cloud of orange points", "At $T=4$ the mean leaves", {"T": "4", "generator": "mean"}),
        Standing("A path that circles", "They circle and come nearer only slowly", {"gamma": "0.0"}),
        Standing("Four rows of pictures: noise", "at $t=3$ everything is open", {"step": "3", "z": "3", "noise": "1"}),
        Standing("VAE and GAN low on the left", "The two left points are cheap and poor", {"way": "DDGAN-4"}),
    ],
    "07": [
        Standing("A decoded picture, the same", "Does a move of +3 do the opposite of -3?", {"channel": "3", "amount": "3.0"}),
        Standing("A held-out picture", "In the still, the green heart has turned brown at f = 8",
                 {"picture": "5", "autoencoder": "f = 8"}),
    ],
    "08": [
        Standing("A row of five pictures", "if you exchange the two words",
                 {"prompt": "a red cat left of a blue house", "seed": "0", "guidance": "4.0"}),
        Standing("Four pictures: the decoded latent", "the map of the word cat at this step", {"step": "17", "word": "cat"}),
        Standing("A scene, the scene with a grey rectangle", "two ways in which the model fills it", {"seed": "0"}),
    ],
    "09": [
        Standing("A box with the prompt", "A box with the prompt a yellow star at night",
                 {"prompt": "a yellow star at night", "steps": "20", "guidance": "4.0"}),
        Standing("Three pictures of one moment", "after how many of the 20 steps can you say", {"step": "5"}),
        Standing("Three rows, there, back", "Place 0 is the picture, place 20 the noise", {"place": "8"}),
    ],
    "10": [
        Standing("Three rows of four pictures: sources", "where things stand where they stood in the sources",
                 {"cross": "1.0", "self attention": "0.4"}),
        Standing("A picture, the same prompt and noise", "with one noun's attention multiplied by four", {"weight": "4.0"}),
        Standing("Three rows of three pictures: the first prompts", "the first prompts, the mixtures, and the second prompts",
                 {"taken": "the noun's token"}),
    ],
    "11": [
        Standing("Two rows of three pictures: rendered pictures, and what comes back", "from their noise at guidance 7.5",
                 {"guidance": "7.5"}),
        Standing("A rendered picture, its code", "Add grain, then change the picture",
                 {"picture": "backdrop as in training", "noise": "0.0"}),
        Standing("Two rows of three pictures: rendered pictures, and edits", "at which end does the colour fail to change",
                 {"skip": "0.4"}),
    ],
    "12": [
        Standing("Three pictures, a cat's prompt", "The grammar's bank, averaged as published, leaves a red cat",
                 {"bank": "grammar"}),
        Standing("Three rows of four pictures: sources, edits by Pix2Pix-Zero",
                 "what happens to success and to IoU when each knob is turned up?", {"strength": "0.5"}),
        Standing("A rendered picture, its code", "grey is the power of white noise", {"rounds": "5", "picture": "0"}),
    ],
    "13": [
        Standing("The final picture, and the noun's map", "from which step on is the cross on the star", {"step": "1"}),
        Standing("A source picture with a ring", "at (8, 0) its right foot is redder and broader", {"dx": "8", "dy": "0"}),
    ],
    "19": [
        Standing("Four pictures drawn for the new word", "after sixty iterations", {"iteration": "60"}),
        Standing("Three pictures of a pink rabbit", "drawn with the learnt word", {"way": "1.00"}),
        Standing("Two pictures of a panda to learn from", "Two pictures of a panda to learn from", {"rung": "panda"}),
    ],
    "20": [
        Standing("Four pictures at scale 1", "Four pictures at scale 1", {"scale": "1.00"}),
    ],
    "21": [
        Standing("Four pictures at the middle", "Four pictures at the middle of four paths", {"frame": "4"}),
        Standing("Four pictures drawn from noise", "drawn from noise of 0.6 of the usual length", {"length": "0.6"}),
        Standing("Five pictures: the first end", "three midpoints from three noises", {"noise": "0.55"}),
    ],
}


def plain(text: str) -> str:
    """Text as it is compared: white space, markers of emphasis and the seams of strings in code do not count."""
    return re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", text).replace("*", ""))


def page_words(cells: list[dict[str, Any]]) -> str:
    """What a page says: its texts, and the code that holds its captions and alternative texts."""
    return plain("\n".join("".join(cell["source"]) for cell in cells))
