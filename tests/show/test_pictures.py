"""Pictures and panels: what is shown is what was given, at integer scale; knobs reach render; errors come through."""

import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff import show
from minidiff.errors import BadInput
from minidiff.show.sheet import Picture, encode
from minidiff.show.tiles import below
from minidiff.world import WorldData


def _opened(picture) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("RGB"))


def test_tile_places_every_picture_at_integer_scale():
    x = torch.linspace(-1, 1, 4)[:, None, None, None].expand(4, 3, 5, 6)
    sheet = show.tile(x, columns=2, scale=3, gap=4)
    assert sheet.shape == (2 * 15 + 4, 2 * 18 + 4, 3) and sheet.dtype == np.uint8
    for k, want in enumerate((0, 85, 170, 255)):
        row, column = divmod(k, 2)
        block = sheet[row * 19 : row * 19 + 15, column * 22 : column * 22 + 18]
        assert (block == want).all(), k


def test_grid_holds_the_pixels_and_its_alternative_text():
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    picture = show.grid(x, columns=3, scale=4, labels=["a", "b", "c"], alt="three pictures", caption="look")
    data, meta = picture._repr_mimebundle_()
    assert meta["image/png"]["alt"] == "three pictures" and data["text/plain"] == "<Picture: three pictures>"
    colours = {tuple(c) for c in show.pixels(x)[0].reshape(-1, 3).tolist()}
    assert colours <= {tuple(c) for c in _opened(picture).reshape(-1, 3).tolist()}
    with pytest.raises(BadInput, match="labels"):
        show.grid(x, labels=["a"], alt="x")
    with pytest.raises(BadInput, match="alt"):
        show.picture(np.zeros((4, 4, 3), np.uint8), alt="")


def test_strip_keeps_the_first_and_the_last_frame():
    assert show.spread(100, 5) == [0, 25, 50, 74, 99] and show.spread(3, 8) == [0, 1, 2]
    frames = [torch.full((1, 3, 8, 8), v) for v in torch.linspace(-1, 1, 20).tolist()]
    seen = _opened(show.strip(frames, count=4, scale=2, alt="film"))
    assert {(0, 0, 0), (255, 255, 255)} <= {tuple(c) for c in seen.reshape(-1, 3).tolist()}


def test_plots_need_names_and_come_without_stamps():
    xs = torch.arange(4)
    names = {"x": "t (steps)", "y": "error (nats)", "level": {"floor": 1.0}, "alt": "a parabola"}
    picture = show.curve({"one": (xs, xs**2)}, **names)
    assert b"Software" not in picture.png and picture.width <= 720
    assert (
        picture.png
        == show.curve({"one": (xs, xs**2)}, x="t (steps)", y="error (nats)", level={"floor": 1.0}, alt="a parabola").png
    )
    show.bars({"ours": (1.0, 0.8, 1.2)}, x="ratio", level={"floor": 0.5}, alt="one bar")
    show.scatter2d({"points": torch.randn(9, 2)}, alt="points")
    show.heatmap(torch.rand(2, 4, 4), over=torch.zeros(2, 3, 16, 16), alt="two maps")
    with pytest.raises(BadInput):
        show.figure("", "error")
    with pytest.raises(BadInput):
        show.scatter2d({"points": torch.randn(9, 3)}, alt="points")


def _render(*, t: int, kind: str, bright: bool, amount: float) -> tuple[np.ndarray, str]:
    value = t * 10 + (100 if bright else 0) + int(amount * 10)
    return np.full((20, 30, 3), value, np.uint8), f"{kind} {t} {bright} {amount:.1f}"


def _panel() -> show.Panel:
    return show.panel(_render, show.slider("t", 0, 9, 1, 2), show.choice("kind", ("a", "b")), show.toggle("bright"),
                      show.slider("amount", 0.0, 1.0, 0.1, 0.5, live=False), caption="move", alt="a grey box")  # fmt: skip


def test_a_panel_draws_what_its_knobs_say():
    p = _panel()
    assert p.status.value == "a 2 False 0.5"
    first = bytes(p.image.value)
    p.set(t=5, kind="b")
    assert p.status.value == "b 5 False 0.5" and bytes(p.image.value) != first and p.values["t"] == 5
    p.knobs["bright"].value = True  # as a hand would
    assert p.status.value == "b 5 True 0.5"
    assert not p.knobs["amount"].continuous_update and p.knobs["t"].continuous_update
    assert (np.asarray(Image.open(io.BytesIO(p.image.value)).convert("RGB")) == 155).all()


def test_sweep_visits_both_ends_and_comes_back():
    p = _panel()
    seen = list(show.sweep(p))
    assert {v["t"] for v in seen} == set(range(10)) and {v["kind"] for v in seen} == {"a", "b"}
    assert {0.0, 1.0} <= {round(v["amount"], 6) for v in seen}
    assert p.values == {
        "t": 2,
        "kind": "a",
        "bright": False,
        "amount": 0.5,
    }


def test_errors_in_render_are_shown_and_raised():
    def fails(*, t: int) -> np.ndarray:
        if t > 1:
            raise RuntimeError("too far")
        return np.zeros((4, 4, 3), np.uint8)

    p = show.panel(fails, show.slider("t", 0, 3, 1, 0), alt="x")
    with pytest.raises(RuntimeError, match="too far"):
        p.set(t=2)
    assert "too far" in p.text
    p.set(t=1)
    assert p.text == ""
    for bad in ({"u": 1}, {"t": 9}):
        with pytest.raises(BadInput):
            p.set(**bad)
    with pytest.raises(BadInput, match="render"):
        show.panel(lambda *, t: "text", show.slider("t", 0, 3, 1, 0), alt="x")


def test_nothing_heavy_is_loaded_before_it_is_used():
    code = (
        "import sys, minidiff.show as s; s.grid; s.slider; "
        "print([m for m in ('matplotlib', 'ipywidgets', 'diffusers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def _linear(name: str) -> np.ndarray:
    c = np.array(show.rgb(name)) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _lab(c: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ c / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


SIGHT = {  # Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
    "all cones": np.eye(3),
    "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "no green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "no blue": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}


@pytest.mark.parametrize("sight", SIGHT)
def test_colours_can_be_told_apart(sight):
    seen = {name: _lab(np.clip(SIGHT[sight] @ _linear(name), 0, 1)) for name in show.PALETTE}
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) >= 20, (a, b)


def test_colours_stand_out_from_the_paper():
    def light(name: str) -> float:
        return float(_linear(name) @ [0.2126, 0.7152, 0.0722]) + 0.05

    assert all(light(show.PAPER) / light(name) >= 3 for name in show.PALETTE)
    assert light(show.PAPER) / light(show.SOFT) >= 4.5 and light(show.PAPER) / light(show.INK) >= 12          # running text


def test_a_picture_of_noise_fits_a_notebook_and_its_smooth_parts_stay_exact():
    smooth = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    noise = torch.randn(9, 3, 64, 64, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    picture = show.grid(torch.cat([smooth, noise]), columns=5, scale=1, alt="one ramp, nine noises")
    assert len(picture.png) * 4 / 3 < 145_000
    want, got = show.pixels(smooth)[0], picture.array[24 : 24 + 128 : 2, 24 : 24 + 128 : 2]
    assert (got[:, :44] == want[:, :44]).all()                                          # away from the noise on its right
    assert np.abs(picture.array.astype(int)[24:152, 160:288:2] - np.repeat(show.pixels(noise)[0], 2, 0)).max() <= 26


def test_a_board_of_pictures_gets_a_palette_of_its_own_and_keeps_its_skies():
    """At most half the bytes of the exact pixels; as few bytes by rounding every channel alike move the values far more."""
    exact = show.tile(WorldData(64, "test", "full").images(24), columns=6, scale=2)
    board = Picture.of(exact, alt="24 scenes")
    moved = np.abs(board.array.astype(int) - exact)
    alike = np.round(exact / 17).astype(np.uint8) * 17
    assert len(board.png) < 0.5 * len(encode(exact)) and len(board.png) < 1.2 * len(encode(alike))
    assert moved.mean() < 0.6 * np.abs(alike.astype(int) - exact).mean() and np.percentile(moved, 99) <= 20
    few = exact[:130, :130]
    assert (Picture.of(few, alt="four scenes").array == few).all()


def test_parts_stand_one_below_the_other_in_the_middle():
    small, large = np.full((3, 2, 3), 9, np.uint8), np.full((2, 6, 3), 7, np.uint8)
    sheet = below(small, large, small)
    gap = (sheet.shape[0] - 8) // 2
    assert sheet.shape == (8 + 2 * gap, 6, 3) and gap > 0
    want = np.full(sheet.shape, -1)
    want[:3, 2:4], want[3 + gap : 5 + gap], want[5 + 2 * gap :, 2:4] = 9, 7, 9
    assert (sheet[want == 9] == 9).all() and (sheet[want == 7] == 7).all() and (sheet[want < 0] > 200).all()
    with pytest.raises(BadInput, match="at least one picture"):
        below()


def test_saving_replaces_whole_files_only(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert show.save_grid(path, x, columns=2, gap=0) == path
    kept, want = path.read_bytes(), show.pixels(x)
    assert (np.asarray(Image.open(path))[8:, :8] == want[2]).all()
    for bad in (tmp_path / "none" / "grid.png", tmp_path / "grid.jpg", tmp_path):
        with pytest.raises(BadInput, match="path"):
            show.save_grid(bad, x)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(BadInput, match="No space left"):
        show.save_grid(path, -x)
    assert path.read_bytes() == kept and [p.name for p in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(3, 8, 8), "shape"),
        (torch.zeros(2, 4, 8, 8), "channels"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "dtype"),
        (torch.full((1, 3, 8, 8), float("nan")), "NaN"),
        (torch.zeros(0, 3, 8, 8), "empty"),
        ([torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 4, 4)], "sizes"),
        (np.zeros((1, 3, 8, 8)), "tensor"),
    ],
)
def test_what_is_no_batch_of_pictures_is_refused(images, words):
    with pytest.raises(BadInput, match=words):
        show.grid(images)


def test_grids_take_what_models_give():
    """Gradients, half precision, one channel, values beyond the range, a list of single pictures."""
    x = torch.full((2, 3, 8, 8), 1.7, requires_grad=True)
    assert (show.pixels(x) == 255).all() and (show.pixels(x.bfloat16()) == 255).all()
    assert show.pixels(torch.zeros(1, 1, 8, 8)).shape == (1, 8, 8, 3)
    assert show.tile([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)], gap=0).shape == (8, 16, 3)
    assert show.tile([torch.zeros(3, 3, 8, 8), torch.zeros(2, 3, 8, 8)], gap=0).shape == (16, 24, 3)


@pytest.mark.parametrize("count", [1, 3, 8, 12, 64])
def test_a_grid_fits_the_column(count):
    picture = show.grid(torch.zeros(count, 3, 64, 64), row_labels=None, labels=["a long label that has to break"] * count)
    assert picture.width <= 700 + 24 and picture.height <= 1400


def test_every_axis_needs_a_name():
    fig, ax = show.figure("t (steps)", "error (nats)")
    show.picture(fig, alt="empty axes")
    ax.set_xlabel("")
    with pytest.raises(BadInput, match="name and unit"):
        show.picture(fig, alt="empty axes")


def test_the_theme_can_be_set_twice():
    import matplotlib

    show.set_theme()
    first = dict(matplotlib.rcParams)
    show.set_theme()
    assert dict(matplotlib.rcParams) == first and matplotlib.rcParams["axes.facecolor"] == show.PAPER


def test_a_heat_map_puts_the_brightest_where_the_map_is_largest():
    """And its scale says what dark and bright are: another range, other numbers below, the same colours above."""
    maps = torch.zeros(2, 4, 4)
    maps[1, 0, 3] = 8.0
    picture = show.heatmap(maps, scale=30, unit="nats", alt="two maps")
    shown = picture.array[24 : 24 + 240].astype(int)                                   # two maps of 240, a gap of 8
    brightest = shown[:60, 24 + 248 + 180 : 24 + 248 + 240]
    assert (brightest == [253, 231, 37]).all() and (shown[:, 24 : 24 + 240] == [68, 1, 84]).all()       # the ends of viridis
    assert (shown[60:, 24 + 248 : 24 + 488] == [68, 1, 84]).all()
    twice = show.heatmap(2 * maps, scale=30, unit="nats", alt="two maps").array
    assert (twice[: 24 + 240] == picture.array[: 24 + 240]).all() and (twice != picture.array).any()
    with pytest.raises(BadInput, match="maps"):
        show.heatmap(maps[0], alt="one map")
    for limits in ((1.0, 0.0), (2.0, 2.0)):
        with pytest.raises(BadInput, match="limits"):
            show.heatmap(maps, limits=limits, alt="two maps")


def test_one_of_a_kind_is_said_in_the_singular():
    assert [show.plural(n, "row") for n in (0, 1, 2, 1200)] == ["0 rows", "1 row", "2 rows", "1,200 rows"]
    assert show.grid(torch.zeros(3, 3, 8, 8)).alt == "3 pictures in 1 row and 3 columns"
    assert show.strip(torch.zeros(1, 3, 8, 8)).alt == "Film strip of 1 frame, 1 row"
