"""Bottlenecks, discriminator, autoencoders against independent oracles: torch.distributions, brute force, diffusers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from minidiff.errors import BadInput
from minidiff.latent.autoencoder import AutoencoderLoss, as_vq_model, decode, edges, encode, latent_scale, make_autoencoder
from minidiff.latent.bottleneck import Codebook, kl_standard_normal, reparametrise
from minidiff.latent.discriminator import PatchDiscriminator, adaptive_weight, frozen, hinge_d_loss, hinge_g_loss
from minidiff.measure import Reader, mini_lpips
from minidiff.rng import generator, normal

SMALL = (8, 8, 16)


def pictures(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    return normal((n, 3, size, size), "test autoencoder", seed).tanh()


@pytest.fixture(scope="module")
def vae() -> nn.Module:
    torch.manual_seed(0)
    return make_autoencoder(4, widths=SMALL).eval()


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(1)
    return Reader(8).eval()


# Bottlenecks ---------------------------------------------------------------------------------------------------------


def test_kl_is_that_of_torch_distributions():
    mu, logvar = 3 * normal((2, 5, 4, 3, 2), "kl", 0, dtype=torch.float64)
    one = torch.ones_like(mu)
    posterior, prior = torch.distributions.Normal(mu, (logvar / 2).exp()), torch.distributions.Normal(0 * one, one)
    want = torch.distributions.kl_divergence(posterior, prior)
    assert torch.allclose(kl_standard_normal(mu, logvar), want.flatten(1).sum(1), rtol=1e-12)
    assert kl_standard_normal(0 * mu, 0 * mu).eq(0).all() and kl_standard_normal(mu, logvar).shape == (5,)


def test_reparametrised_draws_have_the_posteriors_mean_and_spread():
    moments = torch.tensor([0.7, -1.2, 1.0, -2.0], dtype=torch.float64).view(1, 4, 1, 1).expand(1, 4, 200, 200)
    z, mu, logvar = reparametrise(moments, normal((1, 2, 200, 200), "draws", 0, dtype=torch.float64))
    assert mu[0, :, 0, 0].tolist() == [0.7, -1.2] and logvar[0, :, 0, 0].tolist() == [1.0, -2.0]
    assert torch.allclose(z.mean((2, 3))[0], mu[0, :, 0, 0], atol=5 * 1.7 / 200)
    assert torch.allclose(z.std((2, 3))[0], (logvar[0, :, 0, 0] / 2).exp(), rtol=5 / 200)


def test_the_log_variance_is_clamped_and_gradients_reach_both_halves():
    moments = torch.tensor([0.0, 50.0, 0.0, -80.0]).view(2, 2, 1, 1).requires_grad_()
    z, _, logvar = reparametrise(moments, torch.ones(2, 1, 1, 1))
    assert logvar.flatten().tolist() == [20.0, -30.0] and torch.isfinite(z).all()
    inner = torch.tensor([0.3, -0.4]).view(1, 2, 1, 1).requires_grad_()
    reparametrise(inner, torch.full((1, 1, 1, 1), 2.0))[0].sum().backward()
    assert torch.allclose(inner.grad.flatten(), torch.tensor([1.0, 0.5 * 2.0 * torch.tensor(-0.2).exp()]))


@pytest.fixture
def book() -> Codebook:
    made = Codebook(16, 3).double()
    made.embedding.weight.data = normal((16, 3), "codes", 0, dtype=torch.float64)
    return made


def test_codebook_takes_the_nearest_code_of_all(book):
    h = normal((2, 3, 4, 5), "vq", 0, dtype=torch.float64)
    q = book(h)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                far = [float(((h[b, :, i, j] - code) ** 2).sum()) for code in book.embedding.weight.detach()]
                assert int(q.index[b, i, j]) == far.index(min(far))
    assert torch.allclose(q.z, book.embedding.weight[q.index].permute(0, 3, 1, 2)) and q.index.shape == (2, 4, 5)


def test_codebook_is_diffusers_quantiser_with_beta_on_the_right_term(book):
    from diffusers.models.autoencoders.vae import VectorQuantizer

    h, aim = normal((2, 2, 3, 4, 5), "vq against diffusers", 0, dtype=torch.float64)
    h = h.requires_grad_()
    theirs = VectorQuantizer(16, 3, beta=0.25, legacy=False).double()
    theirs.embedding.weight.data = book.embedding.weight.data.clone()
    z, loss, (_, _, index) = theirs(h)
    q = book(h)
    assert torch.allclose(q.z, z) and torch.equal(q.index.flatten(), index.flatten()) and torch.allclose(q.loss.mean(), loss)
    ours = torch.autograd.grad(((q.z - aim) ** 2).sum() + q.loss.mean(), [h, book.embedding.weight])
    want = torch.autograd.grad(((z - aim) ** 2).sum() + loss, [h, theirs.embedding.weight])
    assert all(torch.allclose(a, b) for a, b in zip(ours, want, strict=True))


def test_straight_through_hands_the_gradient_on_unchanged(book):
    h, weight = normal((2, 2, 3, 4, 4), "straight", 0, dtype=torch.float64)
    h = h.requires_grad_()
    to_h, to_codes = torch.autograd.grad((book(h).z * weight).sum(), [h, book.embedding.weight], allow_unused=True)
    assert torch.allclose(to_h, weight) and to_codes is None


def test_codebook_losses_do_not_depend_on_the_rest_of_the_batch(book):
    h = normal((3, 3, 4, 4), "rows", 0, dtype=torch.float64)
    assert torch.allclose(book(h).loss[1], book(h[1:2]).loss[0])


# Discriminator -------------------------------------------------------------------------------------------------------


def test_a_logit_sees_38_pixels_through_the_convolutions():
    torch.manual_seed(0)
    net = nn.Sequential(*[m for m in PatchDiscriminator().net if isinstance(m, nn.Conv2d)])     # the norms see the whole picture
    x = normal((1, 3, 96, 96), "field", 0).requires_grad_()
    seen = torch.autograd.grad(net(x)[0, 0, 6, 6], x)[0][0].abs().sum(0) > 0
    assert int(seen.any(0).sum()) == int(seen.any(1).sum()) == 38
    assert PatchDiscriminator()(pictures(2, 64)).shape == (2, 1, 8, 8)
    assert PatchDiscriminator(layers=2)(pictures(1, 64)).shape == (1, 1, 16, 16)


def test_a_pictures_score_does_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    discriminator, x = PatchDiscriminator(), pictures(4)
    assert torch.allclose(discriminator(x)[2:3], discriminator(x[2:3]), atol=1e-5)


def test_frozen_has_the_discriminators_value_and_spares_its_weights():
    torch.manual_seed(0)
    discriminator, x = PatchDiscriminator(), pictures(2).requires_grad_()
    out = frozen(discriminator, x)
    assert torch.equal(out, discriminator(x))
    found = torch.autograd.grad(out.sum(), [x, *discriminator.parameters()], allow_unused=True)
    assert float(found[0].abs().max()) > 0 and all(g is None for g in found[1:])
    assert all(p.requires_grad for p in discriminator.parameters())


def test_hinge_losses_by_hand():
    real = torch.tensor([[2.0, 0.5], [-1.0, 1.0]]).view(2, 1, 1, 2)
    fake = torch.tensor([[-2.0, 0.5], [1.0, -1.0]]).view(2, 1, 1, 2)
    assert hinge_d_loss(real, fake).tolist() == [0.5 * (0.5 + 1.5) / 2, 0.5 * (2 + 2) / 2]
    assert hinge_g_loss(fake).tolist() == [0.75, 0.0]


def _both_pulls(scale: float):
    last = normal((3, 3, 3, 3), "last", 0, dtype=torch.float64).requires_grad_()
    y = F.conv2d(normal((2, 3, 6, 6), "pull", 0, dtype=torch.float64), last, padding=1).tanh()
    return y.abs().mean((1, 2, 3)), scale * (y**3).mean((1, 2, 3)), last


def test_adaptive_weight_makes_both_pulls_equal():
    rec, adv, last = _both_pulls(30.0)
    weight = adaptive_weight(rec, adv, last)
    a, b = (torch.autograd.grad(part.sum(), last, retain_graph=True)[0].norm() for part in (rec, weight * adv))
    assert float(b / a) == pytest.approx(1, abs=1e-4) and not weight.requires_grad and weight.ndim == 0
    assert float(adaptive_weight(rec, 10 * adv, last)) == pytest.approx(float(weight) / 10, rel=1e-4)


def test_adaptive_weight_is_bounded_where_the_discriminator_has_no_gradient():
    rec, adv, last = _both_pulls(0.0)
    assert float(adaptive_weight(1e3 * rec, adv, last)) == 1e4 and float(adaptive_weight(1e3 * rec, adv, last, most=7.0)) == 7
    assert float(adaptive_weight(0 * rec, adv, last)) == 0


# Autoencoder ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [2, 4, 8])
def test_autoencoders_shrink_by_f(f):
    net = make_autoencoder(f)
    z = encode(net, pictures(1, 32))
    assert z.shape == (1, 4, 32 // f, 32 // f) and decode(net, z).shape == (1, 3, 32, 32)
    assert net.config.sample_size == 64 and 2 ** (len(net.config.block_out_channels) - 1) == f
    assert make_autoencoder(f, channels=3).config.latent_channels == 3


def test_edges_are_finite_differences():
    x = pictures(2, 5)
    found = edges(x)
    assert found.shape == (2, 6, 4, 4)
    assert torch.equal(found[1, 2, 3, 1], x[1, 2, 4, 2] - x[1, 2, 4, 1])
    assert torch.equal(found[1, 5, 3, 1], x[1, 2, 4, 2] - x[1, 2, 3, 2])


def _loss(net: AutoencoderLoss, x: torch.Tensor, seen: int) -> torch.Tensor:
    torch.manual_seed(5)
    return net(x, torch.full((len(x),), seen))


def test_the_loss_is_the_sum_that_its_docstring_states(vae, reader):
    net, x = AutoencoderLoss(vae, reader, kl=0.3, edge=0.7, perceptual=0.4, adversarial=0.5, start=10), pictures(2)
    torch.manual_seed(5)
    d = vae.encode(x).latent_dist
    y = vae.decode(d.mean + d.std * torch.randn_like(d.mean)).sample
    ex, ey = (torch.stack([v[..., 1:, 1:] - v[..., 1:, :-1], v[..., 1:, 1:] - v[..., :-1, 1:]]) for v in (x, y))
    rec = (x - y).abs().mean((1, 2, 3)) + 0.7 * (ex - ey).abs().mean((0, 2, 3, 4)) + 0.4 * mini_lpips(x, y, reader)
    quiet = rec + 0.3 * d.kl() / (3 * 32 * 32)
    assert torch.allclose(_loss(net, x, 9), quiet, atol=1e-5)
    adv = -net.discriminator(y).mean((1, 2, 3))
    last = vae.decoder.conv_out.weight
    a, b = (torch.autograd.grad(part.sum(), last, retain_graph=True)[0].norm() for part in (rec, adv))
    own = 0.5 * (F.relu(1 - net.discriminator(x)) + F.relu(1 + net.discriminator(y))).mean((1, 2, 3))
    assert torch.allclose(_loss(net, x, 10), quiet + 0.5 * a / (b + 1e-4) * adv + own, rtol=1e-4, atol=1e-4)


def test_before_its_start_the_discriminator_changes_nothing(vae, reader):
    x = pictures(2)
    late, none = (AutoencoderLoss(vae, reader, adversarial=a, start=100) for a in (0.1, 0.0))
    assert torch.equal(_loss(late, x, 99), _loss(none, x, 99)) and torch.equal(_loss(none, x, 99), _loss(none, x, 100))
    assert not torch.allclose(_loss(late, x, 100), _loss(none, x, 100), atol=1e-3)
    weights = list(vae.parameters())
    with_discriminator, without = (torch.autograd.grad(_loss(net, x, 99).sum(), weights) for net in (late, none))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(with_discriminator, without, strict=True))


def test_each_part_is_trained_by_its_own_loss(vae, reader):
    net, x = AutoencoderLoss(vae, reader, adversarial=1.0), pictures(2)
    names, weights = zip(*net.named_parameters(), strict=True)
    assert not any("reader" in name or "_eyes" in name for name in names), "the reader must not be trained"
    found = dict(zip(names, torch.autograd.grad(_loss(net, x, 0).sum(), weights, allow_unused=True), strict=True))
    torch.manual_seed(5)
    with torch.no_grad():
        y = vae.decoder(vae.post_quant_conv(net.bottleneck(x)[0]))
    discriminator = [p for n, p in net.named_parameters() if n.startswith("discriminator")]
    want = torch.autograd.grad(hinge_d_loss(net.discriminator(x), net.discriminator(y)).sum(), discriminator)
    got = [found[n] for n in names if n.startswith("discriminator")]
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(got, want, strict=True))
    assert float(found["vae.encoder.conv_in.weight"].abs().max()) > 0


def test_a_trained_codebook_model_is_the_same_as_a_vq_model(reader):
    torch.manual_seed(3)
    net = AutoencoderLoss(make_autoencoder(4, widths=SMALL), reader, codebook_size=32, perceptual=0.0, adversarial=0.0).eval()
    nn.init.normal_(net.codebook.embedding.weight, std=0.5)
    nn.init.normal_(net.vae.quant_conv.bias, std=0.5)
    x, made = pictures(3), as_vq_model(net).eval()
    with torch.no_grad():
        z, _ = net.bottleneck(x)
        want = net.vae.decoder(net.vae.post_quant_conv(z))
        assert torch.allclose(made(x).sample, want, atol=1e-5)
        assert torch.allclose(decode(made, encode(made, x)), want, atol=1e-5)
        means = net.vae.quant_conv(net.vae.encoder(x))[:, :4]
    assert torch.allclose(encode(made, x), means, atol=1e-5), "latents are the vectors before rounding"
    assert made.config.scaling_factor == 1.0 and len(net.codebook(means).index.unique()) > 1


def test_encode_scales_and_decode_undoes_it(vae):
    x = pictures(3)
    vae.register_to_config(scaling_factor=0.5)
    with torch.no_grad():
        d = vae.encode(x).latent_dist
        assert torch.allclose(encode(vae, x), 0.5 * d.mean, atol=1e-6)
        assert torch.allclose(decode(vae, encode(vae, x)), vae.decode(d.mean).sample, atol=1e-5)
        assert torch.allclose(encode(vae, x, chunk=1), encode(vae, x), atol=1e-5)
        assert torch.allclose(decode(vae, encode(vae, x), chunk=2), decode(vae, encode(vae, x)), atol=1e-5)
    try:
        vae.register_to_config(shift_factor=0.2)
        assert torch.allclose(encode(vae, x), 0.5 * (d.mean - 0.2), atol=1e-6)
        assert torch.allclose(decode(vae, encode(vae, x)), vae.decode(d.mean).sample, atol=1e-5)
    finally:
        vae.register_to_config(shift_factor=None)


def test_encode_draws_from_the_posterior_with_a_generator(vae):
    x = pictures(3)
    with torch.no_grad():
        d = vae.encode(x).latent_dist
    noise = torch.randn(d.mean.shape, generator=generator("posterior", 0))
    got = encode(vae, x, generator=generator("posterior", 0))
    assert torch.allclose(got, (d.mean + d.std * noise) * vae.config.scaling_factor, atol=1e-5)


def test_decode_hands_gradients_to_the_latent_and_encode_gives_none(vae):
    z = encode(vae, pictures(1)).requires_grad_()
    assert float(torch.autograd.grad(decode(vae, z).sum(), z)[0].abs().max()) > 0 and not encode(vae, pictures(1)).requires_grad


def test_pictures_that_are_not_square(vae):
    x = torch.cat([pictures(1, 32), pictures(1, 32, seed=1)], 3)
    assert encode(vae, x).shape == (1, 4, 8, 16) and decode(vae, encode(vae, x)).shape == x.shape


class Known(nn.Module):
    """An encoder whose posterior is known: mean 3 + 2 u of the red channel, standard deviation 1.5."""

    def encode(self, x: torch.Tensor):
        from types import SimpleNamespace

        mean = 3 + 2 * x[:, :1]
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.full_like(mean, 1.5)))


def test_latent_scale_is_one_over_the_standard_deviation_of_draws():
    x = normal((2048, 3, 4, 4), "scale", 0)
    assert latent_scale(Known(), x) == pytest.approx((2.0**2 + 1.5**2) ** -0.5, rel=0.02)


def test_scaled_latents_have_unit_spread_on_other_pictures(vae):
    x = pictures(2048, 8)
    vae.register_to_config(scaling_factor=latent_scale(vae, x, chunk=512))
    z = encode(vae, pictures(1024, 8, seed=1), generator=generator("unit", 0), chunk=512)
    assert float(z.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("act", "argument"), [
    (lambda v: make_autoencoder(3), "f"),
    (lambda v: make_autoencoder(4, widths=(8, 16)), "widths"),
    (lambda v: make_autoencoder(4, widths=(8, 12, 16)), "widths"),
    (lambda v: Codebook(1), "codebook_size"),
    (lambda v: Codebook(8, 4)(torch.zeros(1, 3, 4, 4)), "h"),
    (lambda v: PatchDiscriminator(layers=0), "layers"),
    (lambda v: encode(v, torch.zeros(1, 1, 32, 32)), "images"),
    (lambda v: encode(v, torch.zeros(3, 32, 32)), "images"),
    (lambda v: encode(v, torch.full((1, 3, 32, 32), torch.nan)), "images"),
    (lambda v: decode(v, torch.zeros(1, 3, 8, 8)), "latents"),
    (lambda v: latent_scale(v, torch.zeros(10, 3, 32, 32)), "images"),
    (lambda v: latent_scale(v, torch.zeros(2000, 1, 8, 8)), "images"),
    (lambda v: latent_scale(nn.Identity(), torch.zeros(2000, 3, 8, 8)), "vae"),
    (lambda v: as_vq_model(AutoencoderLoss(v, Reader(8))), "net"),
])
def test_bad_input_is_refused_by_name(vae, act, argument):
    with pytest.raises(BadInput, match=f"^{argument}:"):
        act(vae)
