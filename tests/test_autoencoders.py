"""Autoencoders: the worked examples, the identity trap both ways, latent sweeps, and a few steps of training."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_methods import check_resume, fit, tiny, uint8
from torch import nn

from fastssl import data, evaluate, methods
from fastssl.evaluate import plots


def mlp(seed=0):
    torch.manual_seed(seed)
    return methods.mlp_encoder(1, 8, (32, 16, 6))


MAKE = {
    "ae": lambda seed=0: methods.Autoencoder(mlp(seed)),
    "cae": lambda seed=0: methods.Autoencoder(seeded_tiny(seed), code_dim=5, image_size=8, decoder_dim=16),
    "vae": lambda seed=0: methods.VariationalAutoencoder(seeded_tiny(seed), 5, image_size=8, decoder_dim=16),
    "dae": lambda seed=0: methods.DenoisingAutoencoder(seeded_tiny(seed), strength=0.5, image_size=8, decoder_dim=16),
}


def seeded_tiny(seed):
    torch.manual_seed(seed)
    return tiny()


class Maps(nn.Module):
    """Features that are maps: halves the image, by so many channels."""

    def __init__(self, channels, in_chans=3):
        super().__init__()
        self.num_features = channels
        self.conv = nn.Conv2d(in_chans, channels, 2, 2)

    def forward(self, x):
        return self.conv(x)


class Flat(nn.Module):
    """Linear features, which leave the image where a decoder finds it."""

    num_features, in_chans = 16, 1

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 16)

    def forward(self, x):
        self.seen = x
        return self.linear(x.flatten(1))


class Decoder(nn.Module):
    def __init__(self, around=None):
        super().__init__()
        self.linear, self.around = nn.Linear(16, 64), [around]

    def forward(self, code):
        made = self.linear(code).view(-1, 1, 8, 8)
        return made if self.around[0] is None else made + self.around[0].seen


class SeesImages(Decoder):
    def forward(self, code, view):
        return super().forward(code) + view


def test_the_compression_of_the_notes():
    class Wide(nn.Module):
        num_features, in_chans = 64, 3

        def forward(self, x):
            return x.flatten(1)[:, :64]

    assert methods.Autoencoder(Wide(), image_size=224).compression == 2352
    assert methods.Autoencoder(mlp()).compression == 64 / 6


def test_denoising_is_worth_71_times_copying():
    clean, noisy, made = (
        torch.tensor(x, dtype=torch.float64)
        for x in ([0.8, 0.3, 0.9, 0.5], [0.95, 0.18, 0.72, 0.61], [0.79, 0.28, 0.88, 0.51])
    )
    to_clean, to_noisy = methods.denoising_loss(made, clean).item(), methods.denoising_loss(made, noisy).item()
    assert to_clean == pytest.approx(0.00025, abs=1e-12)
    assert to_noisy == pytest.approx(0.0178, abs=1e-12)
    assert round(to_noisy / to_clean) == 71


@pytest.mark.parametrize("wide", ["features", "code", "maps"])
def test_a_code_as_wide_as_the_image_is_refused_unless_asked_for(wide):
    torch.manual_seed(0)
    encoder, arguments, numbers = {
        "features": (methods.mlp_encoder(1, 8, (64,)), {}, 64),
        "code": (mlp(), {"code_dim": 100}, 100),
        "maps": (Maps(12), {"image_size": 8}, 192),
    }[wide]
    with pytest.raises(ValueError, match=rf"encoder: got a code of {numbers} numbers .*the identity trap.*code_dim"):
        methods.Autoencoder(encoder, **arguments)
    method = methods.Autoencoder(encoder, **arguments, allow_identity=True)
    assert method.compression <= 1
    assert methods.Autoencoder(*narrower(wide)).compression > 1


def narrower(wide):
    if wide == "maps":
        return Maps(11), None, None, 128, False, None, 8
    return (methods.mlp_encoder(1, 8, (63,)),) if wide == "features" else (mlp(), 63)


def test_only_corruption_lets_a_code_be_wide():
    with pytest.raises(ValueError, match="the identity trap"):
        methods.VariationalAutoencoder(mlp(), 64)
    wide = methods.mlp_encoder(1, 8, (100,))
    assert methods.DenoisingAutoencoder(wide).compression < 1
    with pytest.raises(ValueError, match="the identity trap"):
        methods.DenoisingAutoencoder(wide, strength=0)


@pytest.mark.parametrize("make", [methods.Autoencoder, methods.DenoisingAutoencoder])
@pytest.mark.parametrize(
    ("kind", "says"), [("left", "makes another picture of the same code"), ("given", "takes more")]
)
def test_a_connection_around_the_bottleneck_is_refused_unless_asked_for(make, kind, says):
    encoder = Flat()
    around = SeesImages() if kind == "given" else Decoder(encoder)
    with pytest.raises(ValueError, match=rf"decoder: got \w+, which {says}.*the identity trap.*allow_identity=True"):
        make(encoder, decoder=around, image_size=8, feature_dim=16)
    method = make(encoder, decoder=around, image_size=8, allow_identity=True)
    view = torch.randn(3, 1, 8, 8)
    # It has a way around the code: with a decoder that makes nothing of it, the image is still there.
    nn.init.zeros_(around.linear.weight)
    nn.init.zeros_(around.linear.bias)
    assert torch.equal(method.reconstruct(view), view)
    assert make(encoder, decoder=Decoder(), image_size=8).reconstruct(view).shape == view.shape


def test_a_decoder_that_draws_is_no_connection():
    class Draws(Decoder):
        def forward(self, code):
            return super().forward(code) + torch.randn(1)

    encoder, decoder = Flat(), Draws()
    random = torch.get_rng_state()
    methods.Autoencoder(encoder, decoder=decoder, image_size=8)
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("encoder", ["conv", "maps", "mlp"])
@pytest.mark.parametrize("size", [8, 15])
def test_images_of_any_size_come_back(encoder, size):
    torch.manual_seed(0)
    made = {
        "conv": lambda: methods.small_resnet(3, size),
        "maps": lambda: Maps(4),
        "mlp": lambda: methods.mlp_encoder(3, size, (20, 10)),
    }[encoder]()
    method = methods.Autoencoder(made, image_size=size, decoder_dim=32)
    images = uint8(4, 3, size, size)
    assert method(method.augment(images)).isfinite()
    assert method.code_shape == ((4, size // 2, size // 2) if encoder == "maps" else (made.num_features,))
    assert method.pictures(images)["reconstruction"].shape == images.shape


def test_the_loss_of_nothing_is_what_the_image_holds():
    view = torch.randn(5, 1, 8, 8)
    for name in ("ae", "cae"):
        method = MAKE[name]()
        for p in method.decoder.parameters():
            nn.init.zeros_(p)
        assert method([view]).item() == pytest.approx(view.square().mean().item(), rel=1e-6)
    method = MAKE["vae"]()
    for part in (method.decoder, method.to_code, method.to_logvar):
        for p in part.parameters():
            nn.init.zeros_(p)
    assert method([view]).item() == pytest.approx(view.square().mean().item() / 2, rel=1e-6)


def test_the_loss_of_the_variational_one_is_the_bound():
    """Against the densities of torch.distributions, in float64: ELBO, per number of the image, less a constant."""
    method = MAKE["vae"]().double().eval()
    view = torch.randn(6, 1, 8, 8, dtype=torch.float64)
    features = method.encoder(view)
    mu, std = method.to_code(features), (method.to_logvar(features) / 2).exp()
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(3))
    posterior, prior = torch.distributions.Normal(mu, std), torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(posterior, prior).sum(1)
    pixels = torch.distributions.Normal(method.decoder(mu + std * noise), 1.0)
    bound = pixels.log_prob(view).sum((1, 2, 3)) - kl
    loss = method([view], seed=3).item()
    assert loss == pytest.approx(-bound.mean().item() / 64 - math.log(2 * math.pi) / 2, abs=1e-5)
    error, found = method.terms(view, seed=3)
    torch.testing.assert_close(found.double(), kl, rtol=1e-4, atol=1e-5)
    method.beta = 4.0
    assert method([view], seed=3).item() == pytest.approx((error + 4 * found).mean().item() / 64, rel=1e-6)


@pytest.mark.parametrize("name", MAKE)
def test_the_loss_falls_and_the_pictures_fit(name):
    images = data.load("digits").images[:64]
    method = MAKE[name]()
    optimizer = torch.optim.AdamW(method.parameters(), 4e-3)
    losses = []
    for _ in range(25):
        loss = method(method.augment(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    before = copy.deepcopy(method.state_dict())
    rows = method.pictures(images[:6])
    names = ["original", *(["seen"] if name == "dae" else []), "reconstruction"]
    assert [row for row in rows if not row.startswith("code")] == [*names, *(["sample"] if name == "vae" else [])]
    assert sum(row.startswith("code") for row in rows) == 3
    assert all(row.shape == (6, 1, 8, 8) and row.min() >= 0 and row.max() <= 1 for row in rows.values())
    torch.testing.assert_close(rows["original"], images[:6] / 255, atol=1e-6, rtol=0)
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
    assert list(method.pictures(images[:1])) == [row for row in rows if not row.startswith("code")]


def test_a_sweep_moves_one_number_and_holds_the_others():
    method = MAKE["ae"]()
    images = uint8(20, 1, 8, 8)
    codes = method.latents(images)
    seen = []
    decoder = method.decoder
    method.decoder = nn.Sequential(decoder)
    method.decoder.register_forward_pre_hook(lambda module, x: seen.append(x[0]))
    sweep = method.latent_sweep(images, [4, 1], steps=5, span=3.0)
    assert sweep.shape == (2, 5, 1, 8, 8)
    moved = seen[0].view(2, 5, -1)
    for row, dim in zip(moved, (4, 1), strict=True):
        held = [i for i in range(6) if i != dim]
        assert (row[:, held] == codes[0, held]).all()
        torch.testing.assert_close(row[:, dim], codes[0, dim] + torch.linspace(-3, 3, 5) * codes[:, dim].std())
    torch.testing.assert_close(sweep[0, 2], sweep[1, 2])  # where neither has moved
    widest = codes.std(0).topk(3).indices.tolist()
    torch.testing.assert_close(method.latent_sweep(images), method.latent_sweep(images, widest))


def test_a_run_resumes_bit_for_bit_and_leaves_its_codes(tmp_path):
    check_resume(MAKE["vae"], fit, tmp_path, step=7, images=320)
    assert (tmp_path / "unbroken" / "latent.png").stat().st_size > 0
    assert methods.load_encoder(tmp_path / "unbroken")(torch.zeros(2, 1, 8, 8)).shape == (2, 8)


def test_a_fully_connected_encoder_is_rebuilt_with_other_weights(tmp_path):
    encoder = mlp().eval()
    methods.export_encoder(encoder, tmp_path, image_size=8, in_chans=1)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(methods.load_encoder(tmp_path)(x), encoder(x))
    fresh = methods.rebuild(encoder._fastssl_recipe).eval()
    assert not torch.equal(fresh(x), encoder(x))
    assert fresh.widths == (32, 16, 6)
    assert evaluate.features(encoder, "digits").x.shape[1] == 6


def test_plots_of_codes(tmp_path):
    method = MAKE["vae"]()
    digits = data.load("digits").take(range(100))
    codes = evaluate.Features(method.latents(digits.batch(range(100))[0]), digits.labels, digits.classes)
    assert codes.x.shape == (100, 5)
    for name, draw in {
        "components": lambda path: plots.latent_scatter(codes, path),
        "two": lambda path: plots.latent_scatter(codes, path, "codes", dims=(3, 0)),
        "sweep": lambda path: plots.latent_sweep(
            method.latent_sweep(digits.batch(range(9))[0], [1, 2]), path, dims=[1, 2]
        ),
    }.items():
        assert draw(tmp_path / f"{name}.png").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"dims: got \(0, 5\) for 100 codes of 5 numbers"):
        plots.latent_scatter(codes, tmp_path / "no.png", dims=(0, 5))


def test_autocast():
    for name, make in MAKE.items():
        method = make()
        views = method.augment(uint8(16, 1, 8, 8))
        plain = method(views, **({} if name in ("ae", "cae") else {"seed": 1}))
        with torch.autocast("cpu", torch.bfloat16):
            half = method(views, **({} if name in ("ae", "cae") else {"seed": 1}))
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx(plain.item(), rel=0.05)
        half.backward()


BAD = [
    (lambda: methods.Autoencoder(tiny()), ValueError, "image_size: got None"),
    (lambda: methods.Autoencoder(5, image_size=8), TypeError, "encoder: got int"),
    (lambda: methods.Autoencoder(mlp(), code_dim=0), ValueError, "code_dim: got 0"),
    (lambda: methods.Autoencoder(Flat(), decoder=5, image_size=8), TypeError, "decoder: got int, want a torch.nn.Mod"),
    (
        lambda: methods.Autoencoder(Flat(), decoder=nn.Linear(16, 3), image_size=8),
        ValueError,
        r"decoder: got images \(3,",
    ),
    (lambda: methods.Autoencoder(mlp())([]), ValueError, "views: got 0, want 1"),
    (lambda: methods.Autoencoder(mlp())([torch.zeros(2, 1, 9, 9)]), ValueError, r"views: got images \(1, 9, 9\)"),
    (lambda: methods.Autoencoder(mlp()).latent_sweep(uint8(1, 1, 8, 8)), ValueError, "images: got 1, want at least 2"),
    (lambda: methods.Autoencoder(mlp()).latent_sweep(uint8(2, 1, 8, 8), [6]), ValueError, r"dims\[0\]: got 6"),
    (lambda: methods.VariationalAutoencoder(mlp(), 0), ValueError, "latent_dim: got 0"),
    (lambda: methods.VariationalAutoencoder(mlp(), 4, beta=-1), ValueError, "beta: got -1, want a number >= 0"),
    (lambda: methods.mlp_encoder(2), ValueError, "in_chans: got 2, want 1 or 3"),
    (lambda: methods.mlp_encoder(1, 8, ()), ValueError, "widths: got none"),
    (lambda: methods.mlp_encoder(1, 8, (4, 0)), ValueError, r"widths\[1\]: got 0"),
    (lambda: mlp()(torch.zeros(2, 3, 8, 8)), ValueError, r"x: got images \(3, 8, 8\), want \(1, 8, 8\)"),
]


@pytest.mark.parametrize(("make", "error", "says"), BAD)
def test_bad_input(make, error, says):
    with pytest.raises(error, match=says):
        make()
