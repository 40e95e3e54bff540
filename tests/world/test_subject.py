import pytest
import torch
from PIL import Image

from minidiff.errors import BadInput
from minidiff.files import data_folder
from minidiff.world import BACKDROPS, Scene, Subject, Thing, render, sample_scenes, subjects


@pytest.fixture(scope="module")
def ladder():
    return subjects(data_folder() / "subjects")


def test_a_thing_as_a_sprite_is_drawn_where_the_renderer_draws_it():
    thing = Thing("cat", "blue", size=0.3, x=0.42, y=0.55)
    empty = render(Scene((thing.replace(x=0.0, y=0.0, size=0.04),), "grass")).images
    pasted, alpha = Subject.of(thing).place(empty, torch.tensor([[0.42, 0.55, 0.3]]))
    true = render(Scene((thing,), "grass"))
    error = ((pasted - true.images)[0, :, 12:] ** 2).mean().sqrt()
    assert error < 0.06 and ((alpha[0] > 0.5) != (true.masks[0, 0] > 0.5)).float().mean() < 0.03     # the shadow is in it


def test_second_colour_is_the_one_asked_for():
    sprite = Subject.of(Thing("fish", "yellow", "striped"), second_colour=(0.15, 0.30, 0.75)).sprite
    near = ((sprite[:3] - torch.tensor([0.15, 0.30, 0.75])[:, None, None]).abs().amax(0) < 0.12) & (sprite[3] > 0.9)
    plain = Subject.of(Thing("fish", "yellow", "striped")).sprite
    none = ((plain[:3] - torch.tensor([0.15, 0.30, 0.75])[:, None, None]).abs().amax(0) < 0.12) & (plain[3] > 0.9)
    assert near.float().mean() > 0.05 and none.float().mean() == 0


def test_shots_are_a_function_of_seed_and_number(ladder):
    four, two = ladder["panda"].shots(4, seed=3), ladder["panda"].shots(2, seed=3)
    assert torch.equal(four.images[:2], two.images)
    assert not torch.equal(four.images[0], ladder["panda"].shots(1, seed=4).images[0])
    assert four.images.shape == (4, 3, 64, 64) and four.images.abs().max() <= 1 and four.backdrops == list(BACKDROPS[:4])
    reach = four.place[:, 2] * 1.1
    assert bool((four.place[:, 0] - reach > -0.01).all() and (four.place[:, 1] + reach < 1.01).all())


def test_identity_finds_the_subject_and_knows_it_from_others(ladder):
    others = render(sample_scenes(range(8), split="valid", level="simple")).images
    for name, subject in ladder.items():
        shots = subject.shots(3, seed=5)
        found = subject.identity(shots.images)
        assert found.distance.max() < 0.12, name
        if name != "teapot":                          # a flat outline: a smaller teapot inside it is nearly as good
            assert (found.place - shots.place).abs().max() < 0.02, name
        far = subject.identity(others).distance
        assert far.min() > 0.15 and far.min() > 2 * found.distance.max(), name


def test_identity_is_a_root_mean_square_inside_the_silhouette(ladder):
    shots = ladder["owl"].shots(2, seed=1)
    assert (ladder["owl"].identity(shots.images * 0.5).distance > 0.15).all()
    inside = (shots.masks > 0.99)[:, None]
    off = torch.where(inside, shots.images + 0.2, shots.images)
    moved = ladder["owl"].identity(off.clamp(-2, 2)).distance if off.abs().max() <= 1 else None
    assert moved is None or ((moved - 0.2).abs() < 0.05).all()


def test_parts_make_a_new_kind():
    disc = Subject.from_parts(lambda u, v: [((u * u + v * v).sqrt() - 0.5, (1.0, 0.0, 0.0))], word="star", name="disc")
    half = disc.sprite.shape[-1] / 2 / 1.28 * 0.5
    assert abs(float(disc.sprite[3].sum()) / (3.14159 * half**2) - 1) < 0.02
    assert torch.allclose(disc.sprite[:3][:, disc.sprite[3] > 0.9].mean(1), torch.tensor([1.0, 0, 0]), atol=2e-3)


def test_what_is_refused(tmp_path):
    solid = tmp_path / "solid.png"
    Image.new("RGB", (20, 30), (10, 20, 30)).save(solid)
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (20, 30), (10, 20, 30, 0)).save(clear)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    for make, word in [(lambda: Subject.from_png(solid, word="cat"), "transparent"),
                       (lambda: Subject.from_png(clear, word="cat"), "transparent everywhere"),
                       (lambda: Subject.from_png(tmp_path / "broken.png", word="cat"), "broken.png"),
                       (lambda: Subject.from_png(tmp_path / "none.png", word="cat"), "none.png"),
                       (lambda: Subject.from_png(data_folder() / "subjects" / "owl.png", word="owl"), "word"),
                       (lambda: Subject.of(Thing("cat", "red"), second_colour="blue"), "pattern"),
                       (lambda: Subject.of(Thing("cat", "red")).shots(0), "n"),
                       (lambda: Subject.of(Thing("cat", "red")).shots(2, backdrops=("moon",)), "backdrops")]:
        with pytest.raises(BadInput, match=word):
            make()


def test_pictures_from_outside_are_credited_and_small():
    folder = data_folder() / "subjects"
    said = (folder / "CREDITS.md").read_text()
    files = list(folder.glob("*.png"))
    assert 3 <= len(files) and all(f.name in said for f in files) and "Apache" in said
    assert sum(f.stat().st_size for f in files) <= 40_000
