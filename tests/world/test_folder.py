"""Image folders: order, captions, every kind of picture, exact area averages, errors that name the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from minidiff.errors import BadInput
from minidiff.world import folder as module
from minidiff.world.folder import ImageFolder
from minidiff.world.picture_file import area_square, read_image


def noise(height, width, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path):
    """Seven grey-level pictures: picture k is filled with 30 * k."""
    for k in range(7):
        where = tmp_path / ("sub/deep" if k % 2 else ".")
        where.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 16), (30 * k,) * 3).save(where / f"p{k}.png")
    return tmp_path


def level(images):
    """Which picture each row is."""
    return ((images[:, 0, 0, 0] + 1) * 127.5 / 30).round().int().tolist()


def write(folder, *entries, name="metadata.jsonl"):
    (folder / name).write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in entries))


def test_an_epoch_shows_every_picture_once_and_epochs_differ(pictures):
    data = ImageFolder(pictures, size=8)
    assert len(data) == 7
    assert data.files == ["p0.png", "p2.png", "p4.png", "p6.png", "sub/deep/p1.png", "sub/deep/p3.png", "sub/deep/p5.png"]
    epochs = [level(data.batch(e, 7)[0]) for e in range(6)]
    assert all(sorted(e) == list(range(7)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 6
    images, captions = data.batch(0, 7)
    assert captions is None and images.shape == (7, 3, 8, 8) and images.dtype == torch.float32
    assert images.min() == -1 and images.max() == pytest.approx(180 / 127.5 - 1)


def test_a_batch_is_a_pure_function_of_its_numbers(pictures):
    data = ImageFolder(pictures, size=8, seed=3)
    stream = [k for i in range(30) for k in level(data.batch(i, 1)[0])]
    fresh = ImageFolder(pictures, size=8, seed=3)
    for i, n in ((2, 10), (0, 4), (5, 5), (1, 13)):
        assert level(fresh.batch(i, n)[0]) == stream[i * n:(i + 1) * n]
    assert [k for i in range(3) for k in level(ImageFolder(pictures, size=8, seed=4).batch(i, 10)[0])] != stream
    other = ImageFolder(pictures, size=8, seed=4)
    assert level(data.batch(0, 7)[0]) == stream[:7] != level(other.batch(0, 7)[0])


def test_too_many_to_hold_are_read_again(pictures, monkeypatch):
    held = ImageFolder(pictures, size=8).batch(1, 5)[0]
    monkeypatch.setattr(module, "_KEEP_BYTES", 100)
    data = ImageFolder(pictures, size=8)
    assert data._kept is None
    assert torch.equal(data.batch(1, 5)[0], held)


def test_captions_follow_their_pictures(pictures):
    write(pictures, {"file_name": "p2.png", "text": "two"}, "", {"file_name": "sub/deep/p3.png", "caption": "three"},
          {"file_name": "p4.png", "text": None, "other": 1})
    write(pictures / "sub", {"file_name": "deep/p5.png", "text": "fünf"})
    data = ImageFolder(pictures, size=4)
    assert data.captions == ["", "two", "", "", "", "three", "fünf"]
    images, captions = data.batch(3, 5)
    said = {2: "two", 3: "three", 5: "fünf"}
    assert captions == [said.get(k, "") for k in level(images)]
    assert "7 images, 3 with captions" in repr(data)


def test_windows_text_files(pictures):
    lines = b'\xef\xbb\xbf{"file_name": "p2.png", "text": "two"}\r\n{"file_name": "p0.png", "text": "nil"}\r\n'
    (pictures / "metadata.jsonl").write_bytes(lines)
    assert ImageFolder(pictures, size=4).captions[:2] == ["nil", "two"]


def test_hidden_files_and_other_files_are_left_out(pictures):
    (pictures / "._p0.png").write_bytes(b"resource fork")
    (pictures / ".cache").mkdir()
    Image.new("RGB", (4, 4)).save(pictures / ".cache" / "x.png")
    (pictures / "notes.txt").write_text("hello")
    (pictures / "odd.png").mkdir()
    assert len(ImageFolder(pictures, size=4)) == 7


def brute_area(pixels, size):
    """The mean over each new pixel's square, by Python loops over old pixels."""
    height, width, channels = pixels.shape
    side = min(height, width)
    top, left, step = (height - side) / 2, (width - side) / 2, side / size
    out = np.zeros((channels, size, size))
    for a in range(size):
        for b in range(size):
            for y in range(height):
                for x in range(width):
                    tall = min(y + 1, top + (a + 1) * step) - max(y, top + a * step)
                    wide = min(x + 1, left + (b + 1) * step) - max(x, left + b * step)
                    if tall > 0 and wide > 0:
                        out[:, a, b] += tall * wide * pixels[y, x] / step**2
    return out


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 4), (9, 14, 4), (13, 6, 5), (3, 5, 7), (5, 5, 5), (1, 9, 2)])
def test_area_average_against_loops(height, width, size):
    pixels = noise(height, width)
    mine = area_square(torch.from_numpy(pixels).permute(2, 0, 1), size)
    assert mine.shape == (3, size, size)
    assert np.abs(mine.numpy() - brute_area(pixels, size)).max() <= 0.5 + 1e-3


def test_a_picture_of_the_right_size_is_left_as_it_is(tmp_path):
    pixels = noise(16, 16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png", size=16).permute(1, 2, 0).numpy(), pixels)
    images, _ = ImageFolder(tmp_path, size=16).batch(0, 1)
    assert torch.equal(((images[0] + 1) * 127.5).round().byte().permute(1, 2, 0), torch.from_numpy(pixels))


def test_exif_orientation(tmp_path):
    """A file that says "turn me by a quarter" is turned: the red left half comes out on top."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    turned = read_image(tmp_path / "a.png", size=16)
    assert turned[0, :8].eq(255).all() and turned[0, 8:].eq(0).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_is_white(tmp_path, mode):
    if mode == "P":
        picture = Image.new("P", (8, 8), 1)
        picture.putpalette([10, 20, 30, 200, 0, 0])
        picture.paste(0, (0, 0, 4, 8))
        picture.save(tmp_path / "a.png", transparency=0)
        right = (200, 0, 0)
    else:
        pixels = np.zeros((8, 8, len(mode) if mode == "RGBA" else 2), np.uint8)
        pixels[..., -1] = 255
        pixels[:, :4, -1] = 0
        Image.fromarray(pixels).save(tmp_path / "a.png")
        right = (0, 0, 0)
    out = read_image(tmp_path / "a.png", size=8)
    assert out[:, :, :4].eq(255).all()
    assert out[:, 0, 7].tolist() == list(right)


def test_half_transparent_is_half_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", size=4).unique().tolist() == [127]


@pytest.mark.parametrize(("name", "make"), [
    ("grey.png", lambda: Image.fromarray(np.full((6, 6), 100, np.uint8))),
    ("grey16.png", lambda: Image.fromarray(np.full((6, 6), 100 * 257, np.uint16))),
    ("grey32.tif", lambda: Image.fromarray(np.full((6, 6), 100 * 257, np.int32))),
    ("float.tif", lambda: Image.fromarray(np.full((6, 6), 100 / 255, np.float32))),
    ("palette.gif", lambda: Image.new("RGB", (6, 6), (100,) * 3).quantize()),
    ("colour.webp", lambda: Image.new("RGB", (6, 6), (100,) * 3)),
    ("UPPER.BMP", lambda: Image.new("RGB", (6, 6), (100,) * 3)),
])
def test_every_kind_of_grey_comes_out_the_same(tmp_path, name, make):
    make().save(tmp_path / name)
    for channels in (3, 1):
        images, _ = ImageFolder(tmp_path, size=6, channels=channels).batch(0, 2)
        assert images.shape == (2, channels, 6, 6)
        assert torch.allclose(images, torch.tensor(100 / 127.5 - 1), atol=1.01 / 127.5)


def test_black_and_white_and_cmyk(tmp_path):
    Image.new("1", (6, 6), 1).save(tmp_path / "a.png")
    Image.new("CMYK", (6, 6), (0, 0, 0, 0)).save(tmp_path / "b.jpg")
    assert ImageFolder(tmp_path, size=6).batch(0, 2)[0].min() > 0.98


def refused(words, *arguments, **options):
    with pytest.raises(BadInput) as error:
        ImageFolder(*arguments, **options)
    for word in words:
        assert word in str(error.value), (word, str(error.value))


def test_folders_that_are_refused(tmp_path):
    refused(["path", "does not exist", "nowhere"], tmp_path / "nowhere")
    refused(["path", "no image", "0 files"], tmp_path)
    (tmp_path / "a.txt").write_text("x")
    refused(["path", "which is a file"], tmp_path / "a.txt")
    refused(["1 files but no image", ".png"], tmp_path)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    refused(["size", "'8'"], tmp_path, size="8")
    refused(["size", "0"], tmp_path, size=0)
    refused(["channels", "2"], tmp_path, channels=2)
    refused(["seed", "None"], tmp_path, seed=None)
    refused(["path", "NoneType"], None)
    data = ImageFolder(tmp_path)
    for i, n, word in ((-1, 4, "i"), (0, 0, "n"), (0.5, 4, "i")):
        with pytest.raises(BadInput, match=f"^{word}: "):
            data.batch(i, n)


@pytest.mark.parametrize("content", [b"", b"not a picture at all", "truncated"])
def test_broken_pictures_are_named(pictures, content):
    if content == "truncated":
        Image.fromarray(noise(64, 64)).save(pictures / "whole.jpg", quality=95)
        content = (pictures / "whole.jpg").read_bytes()[:-2000]
        (pictures / "whole.jpg").unlink()
    (pictures / "sub" / "broken.jpg").write_bytes(content)
    refused(["broken.jpg", "cannot be read"], pictures)
    (pictures / "sub" / "worse.jpg").write_bytes(b"")
    refused(["broken.jpg", "1 more"], pictures)


@pytest.mark.parametrize(("lines", "words"), [
    (['{"file_name": "p0.png", "text": "x"}', "{oops"], ["line 2", "oops"]),
    (["", "", '["p0.png"]'], ["line 3", "JSON list"]),
    (['{"text": "x"}'], ["no file_name", "line 1"]),
    (['{"file_name": "gone.png", "text": "x"}'], ["'gone.png'", "line 1", "not among"]),
    (['{"file_name": "../secret.png", "text": "x"}'], ["'../secret.png'", "not among"]),
    (['{"file_name": "p0.png", "text": 3}'], ["int", "line 1"]),
    (['{"file_name": "p0.png"}', '{"file_name": "p0.png"}'], ["second time", "line 2"]),
])
def test_metadata_that_is_refused(pictures, lines, words):
    write(pictures, *lines)
    refused(["metadata.jsonl", *words], pictures)


def test_metadata_that_is_not_text(pictures):
    (pictures / "metadata.jsonl").write_bytes(b"\xff\xfe\x00{")
    refused(["metadata.jsonl", "UTF-8"], pictures)


# ---- what is left out is said -----------------------------------------------------------------------------------------


def test_what_is_left_out_is_said(pictures):
    for name in ("a.heic", "b.avif", "c.HEIC", "notes.md", "without"):
        (pictures / name).write_bytes(b"x")
    elsewhere = pictures.parent / (pictures.name + "-more")
    elsewhere.mkdir()
    Image.new("RGB", (4, 4)).save(elsewhere / "x.png")
    (pictures / "linked").symlink_to(elsewhere)
    Image.new("RGB", (4, 4)).save(pictures / "d.jfif", "JPEG")
    said = []
    data = ImageFolder(pictures, size=4, log=said.append)
    assert len(data) == 8 and "d.jfif" in data.files
    assert "left out 1 .avif, 2 .heic, 1 .md, 1 without a suffix" in said[0] and "linked, which is a link" in said[1]


def test_columns_that_are_no_captions_are_named(pictures):
    write(pictures, {"file_name": "p0.png", "prompt": "zero", "label": "a"}, {"file_name": "p2.png", "prompt": "two"})
    said = []
    assert ImageFolder(pictures, size=4, log=said.append).captions == [""] * 7
    assert "it has 'prompt', 'label'" in said[0] and "--caption-column" in said[0]
    assert ImageFolder(pictures, size=4, caption_column="prompt").captions[:2] == ["zero", "two"]
    with pytest.raises(BadInput, match="'promt'.*'prompt', 'label'"):
        ImageFolder(pictures, size=4, caption_column="promt")


def test_captions_of_a_csv_file_and_of_texts_beside_the_pictures(pictures):
    for name, text in (("p0.txt", "  zero\nand more "), ("sub/deep/p3.txt", "three")):
        (pictures / name).write_text(text)
    assert ImageFolder(pictures, size=4).captions == ["zero and more", "", "", "", "", "three", ""]
    (pictures / "metadata.csv").write_text('file_name,text\np0.png,"zero, or none"\np2.png,two\n')
    assert ImageFolder(pictures, size=4).captions == ["zero, or none", "two", "", "", "", "", ""]
    for wrong in ("file_name,text\np0.png,a,b\n", "file_name,text\np0.png\n", 'file_name,text\n"p0.png,a\n'):
        (pictures / "metadata.csv").write_text(wrong)
        with pytest.raises(BadInput, match="metadata.csv"):
            ImageFolder(pictures, size=4)


def test_names_are_compared_in_one_unicode_form(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "cafe\u0301.png")
    write(tmp_path, {"file_name": "caf\u00e9.png", "text": "coffee"})
    assert ImageFolder(tmp_path, size=4).captions == ["coffee"]


def test_a_folder_has_what_the_world_has(pictures):
    """images(n, start), splits that do not overlap, and an identity that changes with every picture, caption and option."""
    from minidiff.world import WorldData
    data = ImageFolder(pictures, size=8)
    assert torch.equal(data.images(9, start=3), torch.cat([data.batch(k, 1)[0] for k in range(3, 12)]))
    public = {name for name in dir(WorldData) if not name.startswith("_")} - {"scenes", "level"}
    assert public <= set(dir(data)) | set(vars(data))
    parts = [set(ImageFolder(pictures, size=8, split=s).files) for s in ("train", "valid", "test") if s in _splits(data.files)]
    assert set().union(*parts) == set(data.files) and sum(map(len, parts)) == 7
    identities = [data.identity] + [ImageFolder(pictures, **{"size": 8, **change}).identity
                                    for change in ({"size": 4}, {"seed": 1}, {"channels": 1}, {"split": "train"})]
    Image.new("RGB", (20, 16), (1, 2, 3)).save(pictures / "p0.png")
    identities.append(ImageFolder(pictures, size=8).identity)
    write(pictures, {"file_name": "p0.png", "text": "zero"})
    identities.append(ImageFolder(pictures, size=8).identity)
    assert len({json.dumps(i, sort_keys=True) for i in identities}) == 7


def _splits(files):
    return {module._split(name) for name in files}


def test_a_pipe_in_place_of_captions_does_not_hang(pictures):
    import os
    os.mkfifo(pictures / "metadata.jsonl")
    with pytest.raises(BadInput, match="not a plain file"):
        ImageFolder(pictures, size=4)
