"""The reader's encoding and decoding against each other, its scores against planted errors, and the shipped readers."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from minidiff import load
from minidiff.errors import BadInput
from minidiff.measure import RawReading, Reader, decode, explain, features, mini_lpips, read, reader_loss, residual, score_reader
from minidiff.measure.reader import GRID, HEADS
from minidiff.world import BACKDROPS, STYLES, Rendered, Scenes, WorldData, render, sample_scenes

SCENES = sample_scenes(torch.arange(40), split="test", level="full")
TRUTH = render(SCENES, 64)


def perfect(scenes: Scenes, masks: torch.Tensor) -> RawReading:
    """What a reader that is never wrong would say: written from the meaning of the fields, not from the loss."""
    n = len(scenes)
    centre = torch.full((n, GRID, GRID), -20.0)
    place = torch.zeros(n, 3, GRID, GRID)
    words = {name: torch.zeros(n, values, GRID, GRID) for name, values in HEADS.items()}
    side = masks.shape[-1]
    owner = torch.zeros(n, 3, side, side)
    owner[:, 0] = torch.where(masks.sum(1) > 0.5, 20.0, -20.0)
    mine = masks.argmax(1)
    for b in range(n):
        for k in range(3):
            if not scenes.present[b, k]:
                continue
            x, y = float(scenes.x[b, k]), float(scenes.y[b, k])
            i, j = int(y * GRID), int(x * GRID)
            centre[b, i, j] = 20.0
            place[b, :, i, j] = torch.tensor([x * GRID - j, y * GRID - i, float(scenes.size[b, k])])
            for name, field in words.items():
                field[b, int(getattr(scenes, name)[b, k]), i, j] = 20.0
        for i in range(side):
            for j in range(side):
                k = int(mine[b, i, j])
                owner[b, 1, i, j] = (scenes.x[b, k] - (j + 0.5) / side) * 2
                owner[b, 2, i, j] = (scenes.y[b, k] - (i + 0.5) / side) * 2
    return RawReading(
        centre,
        place,
        words,
        20.0 * F.one_hot(scenes.backdrop, len(BACKDROPS)).float(),
        20.0 * F.one_hot(scenes.style, len(STYLES)).float(),
        scenes.vary.clone(),
        owner,
        torch.zeros(n, 64),
        [],
    )


def test_a_perfect_answer_decodes_to_the_scene_and_costs_next_to_nothing():
    clear = torch.tensor(
        [
            b
            for b in range(len(SCENES))
            if int(SCENES.present[b].sum()) < 3 and float(TRUTH.masks[b].sum((1, 2))[SCENES.present[b]].min()) > 250
        ]
    )[:12]
    scenes, masks = SCENES[clear], TRUTH.masks[clear]
    raw = perfect(scenes, masks)
    got = decode(raw, size=64)
    for name in ("kind", "colour", "pattern", "mood", "wears"):
        for b in range(len(scenes)):
            want = sorted(
                (round(float(scenes.y[b, k]), 3), int(getattr(scenes, name)[b, k])) for k in range(3) if scenes.present[b, k]
            )
            have = sorted(
                (round(float(got.scenes.y[b, k]), 3), int(getattr(got.scenes, name)[b, k]))
                for k in range(3)
                if got.scenes.present[b, k]
            )
            assert [w for _, w in want] == [h for _, h in have], name
    assert torch.equal(got.scenes.backdrop, scenes.backdrop) and torch.equal(got.scenes.style, scenes.style)
    loss = reader_loss(raw, scenes, render(scenes, 64))
    noise = raw._replace(backdrop=raw.backdrop.roll(1, 1))
    # what is left is the entropy of half-covered pixels at the edges
    assert loss.max() < 4.0 < 15.0 < reader_loss(noise, scenes, render(scenes, 64)).min()


def test_the_loss_of_a_row_does_not_depend_on_the_others():
    reader = Reader(8)
    together = reader_loss(reader(TRUTH.images), SCENES, TRUTH)
    some = torch.tensor([3, 30, 7])
    alone = reader_loss(reader(TRUTH.images[some]), SCENES[some], render(SCENES[some], 64))
    assert torch.allclose(together[some], alone, rtol=1e-3)
    assert together.shape == (40,)


class Syncs(TorchDispatchMode):
    """Raises at what makes a GPU wait for the host: a number read, a shape that depends on values, a tensor sent over."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        flags = [i for a in args if isinstance(a, (list, tuple)) for i in a if isinstance(i, torch.Tensor)]
        masked = name.startswith("index") and any(i.dtype in (torch.bool, torch.uint8) for i in flags)
        if masked or name in ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "is_nonzero", "equal"):
            raise RuntimeError(f"host synchronisation: {name}")
        return func(*args, **(kwargs or {}))


def test_the_training_step_never_waits_for_the_host():
    reader, scenes = Reader(8), SCENES[:6]
    truth = render(scenes, 64)
    with Syncs():
        reader_loss(reader(truth.images), scenes, truth).mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in reader.parameters())
    for wait in (lambda: scenes.x[scenes.present], lambda: float(scenes.x.sum()), lambda: scenes.x.nonzero(),
                 lambda: torch.tensor([0.5, 4.0]), lambda: bool(scenes.present.any())):
        with pytest.raises(RuntimeError, match="host synchronisation"), Syncs():
            wait()
    meta = reader.to("meta")                       # no values at all: whatever needs one cannot run here
    loss = reader_loss(meta(truth.images.to("meta")), scenes.to("meta"), Rendered(*(t.to("meta") for t in truth)))
    assert loss.shape == (6,) and loss.device.type == "meta"


def by_hand(raw, scenes, masks, b):
    """The loss of picture b, thing by thing in python floats, from the words of the docstring."""
    side = masks.shape[-1]
    total = float(F.cross_entropy(raw.backdrop[b], scenes.backdrop[b]) + F.cross_entropy(raw.style[b], scenes.style[b]))
    off = (raw.vary[b] - scenes.vary[b]).abs()
    total += 2 * float(torch.where(off < 0.1, off**2 / 0.2, off - 0.05).mean())
    want = torch.zeros(GRID, GRID)
    for k in range(3):
        if not scenes.present[b, k] or masks[b, k].sum() <= 0.4 * (float(scenes.size[b, k]) * side) ** 2:
            continue
        x, y = float(scenes.x[b, k]) * GRID, float(scenes.y[b, k]) * GRID
        i, j = int(y), int(x)
        want[i, j] = 1
        got = raw.place[b, :, i, j].tolist()
        total += 0.5 * abs(got[0] - (x - j)) + 0.5 * abs(got[1] - (y - i)) + 4 * abs(got[2] - float(scenes.size[b, k]))
        for name, field in raw.words.items():
            worth = 1.0 if name in ("kind", "colour") else 0.5
            total -= worth * float(field[b, :, i, j].log_softmax(0)[getattr(scenes, name)[b, k]])
    for i in range(GRID):
        for j in range(GRID):
            p = float(raw.centre[b, i, j].sigmoid())
            beside = float(want[max(i - 1, 0):i + 2, max(j - 1, 0):j + 2].max()) - float(want[i, j])
            total -= 0.5 * ((1 - p) ** 2 * math.log(p) if want[i, j] else (1 - 0.7 * beside) * p * p * math.log(1 - p))
    p = raw.owner[b, 0].sigmoid()
    solid = masks[b].sum(0).clamp(0, 1)
    total -= 8 * float((solid * p.log() + (1 - solid) * (1 - p).log()).mean())
    wrong = 0.0
    for k in range(3):
        for axis, at in ((1, scenes.x[b, k]), (2, scenes.y[b, k])):
            line = (torch.arange(side) + 0.5) / side
            line = line[None] if axis == 1 else line[:, None]
            wrong += float(((0.5 * raw.owner[b, axis] - (at - line)).abs() * masks[b, k]).sum())
    return total + 4 * wrong / (float(masks[b].sum()) + 1)


def test_the_loss_is_what_its_words_say():
    reader, scenes = Reader(8), SCENES[:12]
    scenes = scenes.replace(vary=torch.rand(12, 5, generator=torch.Generator().manual_seed(3)) * 2 - 1)
    truth = render(scenes, 64)
    with torch.no_grad():
        raw = reader(truth.images)
        loss = reader_loss(raw, scenes, truth)
    for b in range(12):
        assert float(loss[b]) == pytest.approx(by_hand(raw, scenes, truth.masks, b), rel=1e-4)


def test_readers_of_both_editions_and_their_sizes():
    new, old = Reader(), Reader(16, edition=1)
    assert sum(p.numel() for p in new.parameters()) < 1_000_000
    x = TRUTH.images[:2]
    assert new(x).owner.shape == (2, 3, 64, 64) and old(x).owner.shape == (2, 3, 32, 32)
    assert new(x).vary.abs().max() <= 1 and old(x).vary.abs().max() == 0 and old(x).vary.shape == (2, 5)
    assert Reader(**new.config).state_dict().keys() == new.state_dict().keys()


def test_scores_count_planted_errors():
    class Wrong(Reader):
        def forward(self, x):
            return raw

    raw = perfect(SCENES, TRUTH.masks)
    raw = raw._replace(backdrop=torch.where(torch.arange(40)[:, None] < 10, raw.backdrop.roll(1, 1), raw.backdrop))
    score = score_reader(Wrong(8), TRUTH.images, SCENES, TRUTH.masks)
    assert score.backdrop == pytest.approx(0.75) and score.style == 1.0
    assert score.kind > 0.98 and score.found > 0.97 and score.iou > 0.8  # crowded cells may hide a thing
    raw = raw._replace(words=raw.words | {"colour": raw.words["colour"].roll(1, 1)})
    assert score_reader(Wrong(8), TRUTH.images, SCENES, TRUTH.masks).colour < 0.05


def test_mini_lpips_is_zero_on_itself_and_grows_with_damage():
    reader = load("readers/final")
    x = TRUTH.images[:16]
    assert mini_lpips(x, x, reader).max() == 0
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    ladder = [float(mini_lpips(x, x + s * noise, reader).mean()) for s in (0.02, 0.05, 0.1, 0.2, 0.4)]
    assert ladder == sorted(ladder) and ladder[0] > 0
    assert torch.allclose(mini_lpips(x, x + 0.2 * noise, reader), mini_lpips(x + 0.2 * noise, x, reader))


def test_residual_sees_a_speck_and_forgives_noise():
    x = TRUTH.images[:8]
    speck = x.clone()
    speck[:, :, 20:26, 20:26] += 1.0
    noise = 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    assert residual(x, x).max() == 0
    assert (residual(x + noise, x) < 0.07).all() and (residual(speck, x) > 0.3).all()


@pytest.mark.parametrize("name", ["readers/guide", "readers/develop", "readers/final"])
def test_the_shipped_readers_reach_their_bars(name):
    """Bars of the course: kind, colour >= 99 %, backdrop >= 99.5 %, mask overlap >= 0.9; 400 pictures of one thing at 32 x 32."""
    data = WorldData(32, "test", "simple")
    images, scenes = data.batch(0, 400)
    score = score_reader(load(name), images, scenes, render(scenes, 32).masks)
    assert score.found >= 0.99 and score.kind >= 0.99 and score.colour >= 0.99
    assert score.backdrop >= 0.995 and score.iou >= 0.9


def test_explaining_real_pictures_and_refusing_cross_fades():
    reader = load("readers/develop")
    images, scenes = WorldData(32, "test", "simple").batch(1, 32)
    whole = explain(images, reader)
    assert whole.valid.float().mean() > 0.93
    assert whole.residual.median() < explain(images, reader, steps=0).residual.median()
    place = (whole.scenes.x - scenes.x).abs() * whole.scenes.present
    assert place[:, 0].median() < 0.01
    faded = explain((images + images.roll(1, 0)) / 2, reader)
    assert faded.valid.float().mean() < 0.1


def test_features_have_their_width_and_bad_pictures_are_refused():
    reader = load("readers/develop")
    assert features(TRUTH.images[:5], reader).shape == (5, 64)
    for bad in (
        torch.zeros(3, 64, 64),
        torch.zeros(2, 1, 64, 64),
        torch.full((1, 3, 64, 64), float("nan")),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        None,
    ):
        with pytest.raises(BadInput):
            read(bad, reader)
