"""mini-clip: the contrastive loss against brute force, embeddings against transformers, retrieval against its definition."""

import pytest
import torch
from torch.nn import functional as F

from minidiff.errors import BadInput
from minidiff.latent.clip import Contrastive, clip_score, embed_images, embed_texts, info_nce, make_clip, retrieval
from minidiff.latent.text import make_tokenizer, token_ids
from minidiff.world import WorldData, captions


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return make_clip(width=32, layers=1, heads=2, text_layers=1).eval()


@pytest.fixture(scope="module")
def pairs():
    images, scenes = WorldData(64, level="full").batch(0, 8)
    return images, captions(scenes)


def test_info_nce_is_two_cross_entropies_spelt_out():
    a, b = (F.normalize(torch.randn(5, 7, dtype=torch.float64), dim=1) for _ in range(2))
    got = info_nce(a, b, 9.0)
    for i in range(5):
        rows = torch.stack([9 * a[i] @ b[j] for j in range(5)]).exp()
        columns = torch.stack([9 * a[j] @ b[i] for j in range(5)]).exp()
        want = -0.5 * ((rows[i] / rows.sum()).log() + (columns[i] / columns.sum()).log())
        assert torch.allclose(got[i], want, rtol=1e-12)


def test_embeddings_and_score_are_those_of_transformers(clip, pairs):
    images, texts = pairs
    with torch.no_grad():
        out = clip(input_ids=token_ids(make_tokenizer(), texts), pixel_values=images)
    assert torch.allclose(embed_images(clip, images, chunk=3), out.image_embeds, atol=1e-6)
    assert torch.allclose(embed_texts(clip, texts), out.text_embeds, atol=1e-6)
    assert torch.allclose(clip_score(clip, images, texts), (out.image_embeds * out.text_embeds).sum(1), atol=1e-6)
    losses = Contrastive(clip)(images, token_ids(make_tokenizer(), texts))
    assert losses.shape == (8,)
    assert torch.allclose(losses, info_nce(out.image_embeds, out.text_embeds, clip.logit_scale.exp()), atol=1e-5)


def test_score_has_a_gradient_to_the_picture_and_wants_one_caption_each(clip, pairs):
    images, texts = pairs
    x = F.interpolate(images, size=(32, 32)).requires_grad_(True)
    clip_score(clip, x, texts).sum().backward()
    assert x.grad.abs().max() > 0
    with pytest.raises(BadInput, match="texts"):
        clip_score(clip, images, texts[:3])


def test_retrieval_by_hand(clip, pairs):
    images, texts = pairs
    a, b = embed_images(clip, images), embed_texts(clip, texts)
    to_text, to_image = retrieval(clip, images, texts, among=4)
    for start in (0, 4):
        sims = a[start : start + 4] @ b[start : start + 4].T
        assert to_text[start : start + 4].tolist() == [int(sims[i].argmax()) == i for i in range(4)]
        assert to_image[start : start + 4].tolist() == [int(sims[:, i].argmax()) == i for i in range(4)]
    same = retrieval(clip, images, ["a red cat"] * 8, among=4)
    assert all(bool(hit.all()) for hit in same), "equal captions count as one"
    with pytest.raises(BadInput, match="among"):
        retrieval(clip, images, texts, among=9)
