"""Bad input from every corner: a clear error that names what came and what was expected, and nothing overwritten."""

import math
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from minidiff import load
from minidiff.cli import main
from minidiff.diffusion import Eps, ddim, ddpm, dpm2m, invert, last, linear, make_schedule, q_sample, scaled_linear, zero_terminal
from minidiff.errors import BadInput, CheckpointError, RangeWarning, check_pictures
from minidiff.files import data_folder
from minidiff.manifest import write_card
from minidiff.measure import Reader, explain, frechet, mini_lpips, read
from minidiff.nets import UNet
from minidiff.recipes import recipe
from minidiff.rng import normal
from minidiff.train import fit
from minidiff.world import ImageFolder, Scene, Scenes, Thing, WorldData, parse, render, sample_scenes

X = normal((2, 3, 16, 16), "bad")
NAN = X.clone()
NAN[0, 0, 0, 0] = float("nan")
T = torch.tensor([1, 2])
TABLE = linear(1000)
MODEL = Eps(lambda x, t, cond=None: 0.1 * x, TABLE)
READER = Reader(8)
CAT = Thing("cat", "red")

CASES = {
    "unknown kind": lambda: Thing("dragon", "red"),
    "kind with a slip of the pen": lambda: Thing("rabit", "red"),
    "unknown colour": lambda: Thing("cat", "turquoise"),
    "mood on a house": lambda: Thing("house", "red", mood="happy"),
    "glasses on a tree": lambda: Thing("tree", "green", wears="glasses"),
    "x outside the picture": lambda: Thing("cat", "red", x=1.5),
    "size is NaN": lambda: Thing("cat", "red", size=float("nan")),
    "a scene of nothing": lambda: Scene(()),
    "a scene of four things": lambda: Scene((CAT,) * 4),
    "unknown backdrop": lambda: Scene((CAT,), backdrop="desert"),
    "unknown style": lambda: Scene((CAT,), style="cubist"),
    "replace an unknown field": lambda: Scene((CAT,)).replace(weather="rain"),
    "replace a thing that is not there": lambda: Scene((CAT,)).replace_thing(3, colour="blue"),
    "an empty batch of scenes": lambda: render(Scenes.of([])),
    "an unknown word in a caption": lambda: parse("a red dragon on the grass"),
    "a caption that is no text": lambda: parse(3),
    "odd picture size": lambda: render(Scene((CAT,)), 33),
    "picture size zero": lambda: render(Scene((CAT,)), 0),
    "unknown split": lambda: sample_scenes(torch.arange(2), split="validate"),
    "unknown level": lambda: sample_scenes(torch.arange(2), level="hard"),
    "bytes instead of floats": lambda: read(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), READER),
    "one picture without batch": lambda: read(torch.zeros(3, 32, 32), READER),
    "grey pictures": lambda: explain(torch.zeros(1, 1, 32, 32), READER),
    "pictures with NaN": lambda: read(NAN, READER),
    "no pictures": lambda: read(torch.zeros(0, 3, 32, 32), READER),
    "an array instead of a tensor": lambda: read([[0.0]], READER),
    "pictures of two sizes": lambda: mini_lpips(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 16, 16), READER),
    "features of two widths": lambda: frechet(torch.zeros(9, 4), torch.zeros(9, 5)),
    "features of one picture": lambda: frechet(torch.zeros(1, 4), torch.zeros(9, 4)),
    "unknown schedule": lambda: make_schedule("linaer", 1000),
    "a linear schedule of ten steps": lambda: linear(10),
    "a schedule of no steps": lambda: make_schedule("cosine", 0),
    "noise of another shape": lambda: q_sample(X, T, X[:, :, :8], TABLE),
    "t beyond the schedule": lambda: q_sample(X, torch.tensor([1, 1000]), X, TABLE),
    "t for another batch": lambda: q_sample(X, torch.tensor([1, 2, 3]), X, TABLE),
    "more steps than the schedule has": lambda: next(ddim(MODEL, X, steps=1001)),
    "no steps": lambda: next(ddim(MODEL, X, steps=0)),
    "unknown spacing": lambda: next(ddim(MODEL, X, steps=5, spacing="leeding")),
    "negative eta": lambda: next(ddim(MODEL, X, steps=5, eta=-1.0)),
    "unknown clip rule": lambda: next(ddim(MODEL, X, steps=5, clip="x_0")),
    "unknown variance": lambda: next(ddpm(MODEL, X, variance="medium")),
    "noise with NaN": lambda: next(dpm2m(MODEL, NAN, steps=5)),
    "integers as a start": lambda: next(ddim(MODEL, X.long(), steps=5)),
    "inversion in no steps": lambda: next(invert(MODEL, X, steps=0)),
    "eps prediction at zero SNR": lambda: last(
        ddim(Eps(lambda x, t, cond=None: x, zero_terminal(scaled_linear(1000))), X, steps=4, spacing="trailing")
    ),
    "a U-Net whose levels do not fit": lambda: UNet(dim=32)(torch.zeros(1, 3, 30, 30), torch.zeros(1)),
    "a U-Net given the wrong channels": lambda: UNet(dim=32)(torch.zeros(1, 4, 32, 32), torch.zeros(1)),
    "a condition for a net without one": lambda: UNet(dim=32)(torch.zeros(1, 3, 32, 32), torch.zeros(1), torch.zeros(1, 4)),
    "unknown recipe": lambda: recipe("pixel-dpm"),
    "unknown budget": lambda: fit(recipe("pixel-ddpm"), budget="cloud"),
    "training on an unknown device": lambda: fit(recipe("pixel-ddpm"), device="tpu"),
    "training for no time": lambda: fit(recipe("pixel-ddpm"), minutes=0),
    "an unknown model": lambda: load("pixel-dpm"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_clear_error(case):
    with pytest.raises(BadInput) as caught:
        CASES[case]()
    text = str(caught.value)
    assert "expected" in text and "got" in text and len(text) < 900, text


def test_the_error_names_the_nearest_word():
    with pytest.raises(BadInput, match="rabbit"):
        Thing("rabit", "red")
    with pytest.raises(BadInput, match="(?s)dragon.*"):
        parse("a red dragon on the grass")


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A copy of the smallest shipped models that may be broken."""
    for name in ("readers/final", "readers/develop", "pixel-small-eps"):
        shutil.copytree(data_folder() / name, tmp_path / name)
    monkeypatch.setenv("MINIDIFF_DATA", str(tmp_path))
    return tmp_path


def _truncate(root: Path) -> None:
    file = root / "readers/final/model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def _foreign(root: Path) -> None:
    """Weights of another net, with a card that vouches for them."""
    file = root / "readers/final/model.safetensors"
    save_file({"something": torch.zeros(3)}, file)
    write_card(file.parent, {})


def _config(root: Path, text: str) -> None:
    """A config that the card vouches for."""
    (root / "readers/final/config.json").write_text(text)
    write_card(root / "readers/final", {})


def _flip(root: Path) -> None:
    file = root / "readers/final/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


BROKEN = {
    "truncated weights": _truncate,
    "foreign weights": _foreign,
    "one flipped bit": _flip,
    "no weights": lambda r: (r / "readers/final/model.safetensors").unlink(),
    "no card": lambda r: (r / "readers/final/card.json").unlink(),
    "a card that is no JSON": lambda r: (r / "readers/final/card.json").write_text("{"),
    "a config that is no JSON": lambda r: _config(r, "not json"),
    "a config of an unknown kind": lambda r: _config(r, '{"kind": "gan"}'),
    "a config of an unknown net": lambda r: _config(r, '{"kind": "reader", "net": {"width": "wide"}}'),
    "a config of an unknown wrapper": lambda r: _config(r, '{"kind": "pixel", "net": {}, "predicts": "y", "schedule": {}}'),
    "an empty config": lambda r: _config(r, "{}"),
    "no config": lambda r: (r / "readers/final/config.json").unlink(),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_model_is_named(case, models):
    BROKEN[case](models)
    with pytest.raises(CheckpointError, match="readers/final|final"):
        load("readers/final")
    assert load("readers/develop") is not None


def test_image_folders(tmp_path):
    from PIL import Image

    with pytest.raises(BadInput, match="path"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(BadInput):
        ImageFolder(tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "fine.png")
    (tmp_path / "corrupt.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(BadInput, match="corrupt.png"):
        ImageFolder(tmp_path).batch(0, 2)
    (tmp_path / "corrupt.png").unlink()
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "fine.png", "text": "a"}\n{"file_name": "lost.png", "text": "b"}\n')
    with pytest.raises(BadInput, match="lost.png"):
        ImageFolder(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("no json\n")
    with pytest.raises(BadInput, match="1"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ["draw", "a red dragon", "-o", "OUT/x.png"],
        ["draw", "a red cat", "-o", "OUT/x.txt"],
        ["draw", "a red cat", "-o", "OUT/x.png", "--size", "7"],
        ["draw", "a red cat", "-o", "OUT/no/x.png"],
        ["train", "pixel-dpm"],
        ["score", "99.nothing"],
        ["notebooks", "check", "OUT/none.ipynb"],
    ],
)
def test_the_command_refuses_in_one_sentence(words, tmp_path, capsys):
    kept = tmp_path / "x.png"
    kept.write_bytes(b"precious")
    assert main([w.replace("OUT", str(tmp_path)) for w in words]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("minidiff:") and "Traceback" not in printed
    assert kept.read_bytes() == b"precious" and [p.name for p in tmp_path.iterdir()] == ["x.png"]


# ---- pictures of another range ---------------------------------------------------------------------------------------


def takers():
    """Every public function that takes pictures of a person, with the call that gives it some."""
    import sweep
    import sweep_upper

    from minidiff import editing, latent, measure, morphing, personal
    pipe, reader = sweep.pipe(), measure.Reader(8).eval()
    return {
        "read": lambda x: measure.read(x, reader), "features": lambda x: measure.features(x, reader),
        "mini_lpips": lambda x: measure.mini_lpips(x, x, reader), "encode": lambda x: latent.encode(pipe.vae, x),
        "invert_image": lambda x: latent.invert_image(pipe, x, "a cat", steps=1),
        "sdedit": lambda x: editing.sdedit(pipe, "a cat", image=x, steps=1),
        "direct_inversion": lambda x: editing.direct_inversion(pipe, x, "a cat", steps=1),
        "examples": lambda x: personal.examples(pipe, x, word="cat"),
        "textual_inversion": lambda x: personal.textual_inversion(pipe, x, word=sweep_upper.new_name()),
        "slerp_morph": lambda x: morphing.slerp_morph(pipe, x, x, weights=2, steps=1),
    }


@pytest.mark.parametrize("name", ["read", "features", "mini_lpips", "encode", "invert_image", "sdedit", "direct_inversion",
                                  "examples", "textual_inversion", "slerp_morph"])
def test_pictures_of_another_range(name):
    take = takers()[name]
    good = WorldData(32).images(16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take(good)
    with pytest.raises(BadInput, match=r"expected pictures in \[-1, 1\].*/ 127.5 - 1 if they are in 0..255"):
        take((good + 1) * 127.5)
    with pytest.warns(RangeWarning, match=r"If they are in \[0, 1\], write \w+ \* 2 - 1") as seen:
        take((good + 1) / 2)
    assert {w.filename for w in seen if w.category is RangeWarning} == {__file__}, "it points to the line that was written"


def test_honest_pictures_pass_in_silence():
    good = WorldData(32).images(16)
    honest = {"dark": good.clamp(max=-0.5), "one grey": torch.zeros(2, 3, 8, 8), "one white": torch.ones(2, 3, 8, 8),
              "pale grey": 0.5 + 0.05 * good, "one dark corner": torch.cat([good.abs()[:1], good[:1]]), "decoded": 1.4 * good,
              "noised": good + torch.randn(good.shape, generator=torch.Generator().manual_seed(0))}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in honest.values():
            check_pictures("images", images)
    with pytest.warns(RangeWarning):
        check_pictures("images", good.abs())
    for wrong in (good[0], good[:, :1], good.to(torch.uint8), good[:0], good * math.nan, 20 * good):
        with pytest.raises(BadInput, match="images"):
            check_pictures("images", wrong)
