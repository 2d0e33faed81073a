"""MAE, SimMIM and the denoising autoencoder, against plain PyTorch and on a few steps of training."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import timm
import torch
from torch import nn

from fastssl import evaluate, methods, transforms
from fastssl.masking import patchify
from fastssl.methods._vit import sincos_positions, unpatchify

EPS = torch.finfo(torch.float32).eps
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
DECODER = {"decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2}
VITS = {
    "class token": {},
    "registers": {"reg_tokens": 3},
    "registers without positions": {"reg_tokens": 2, "no_embed_class": True},
    "no class token": {"class_token": False, "global_pool": "avg"},
    "normed before pooling": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "not square": {"img_size": (12, 24), "patch_size": (4, 6)},
    "no bias, norm first, no positions": {"pre_norm": True, "pos_embed": "none"},
    "grey": {"in_chans": 1},
}


def uint8(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def tiny_vit(seed=0, **kwargs):
    torch.manual_seed(seed)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **{**TINY, **kwargs})
    with torch.no_grad():  # biases and norms that do nothing would hide where they are left out
        for p in vit.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return vit


def some_views(vit, n=5, seed=1):
    height, width = vit.patch_embed.img_size
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, vit.patch_embed.proj.in_channels, height, width, generator=generator)


class PlainMAE(nn.Module):
    """The same step in plain PyTorch: every patch is embedded, tokens are gathered, put together and gathered again."""

    def __init__(self, method):
        super().__init__()
        self.m = method

    def forward(self, view, noise):
        m, vit = self.m, self.m.encoder
        n, length = noise.shape
        prefix = vit.num_prefix_tokens
        x = vit.patch_embed.proj(view).flatten(2).transpose(1, 2)
        special = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        special = torch.cat([token.expand(n, -1, -1) for token in special], 1) if special else x[:, :0]
        if vit.pos_embed is not None and vit.no_embed_class:
            x = x + vit.pos_embed
        elif vit.pos_embed is not None:
            x, special = x + vit.pos_embed[:, prefix:], special + vit.pos_embed[:, :prefix]
        shuffle = noise.argsort(dim=1, stable=True)
        restore = shuffle.argsort(1)
        kept = int(length * (1 - m.mask_ratio))
        at = shuffle[:, :kept, None].expand(-1, -1, x.shape[2])
        x = vit.norm_pre(torch.cat([special, x.gather(1, at)], 1))
        for block in vit.blocks:
            x = block(x)
        x = m.decoder_embed(vit.fc_norm(vit.norm(x)))
        hidden = m.mask_token.expand(n, length - kept, -1)
        tokens = torch.cat([x[:, prefix:], hidden], 1).gather(1, restore[..., None].expand(-1, -1, x.shape[2]))
        x = torch.cat([x[:, :prefix], tokens], 1) + m.decoder_pos_embed
        for block in m.decoder_blocks:
            x = block(x)
        pred = m.decoder_pred(m.decoder_norm(x))[:, prefix:]
        p, q = vit.patch_embed.patch_size
        h, w = vit.patch_embed.grid_size
        target = view.reshape(n, -1, h, p, w, q)
        target = torch.einsum("nchpwq->nhwpqc", target).reshape(n, h * w, -1)
        if m.norm_pix:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        mask = (restore >= kept).to(pred.dtype)
        return ((pred - target).square().mean(-1) * mask).sum() / mask.sum()


def loss_and_gradients(module, *args, **kwargs):
    module.zero_grad()
    loss = module(*args, **kwargs)
    loss.backward()
    grads = {name.removeprefix("m."): p.grad for name, p in module.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), **grads}


def assert_the_same_step(method, view, noise):
    """The accuracy rule, by the largest error in a tensor, which no single rounding decides."""
    exact = loss_and_gradients(PlainMAE(copy.deepcopy(method).double()), view.double(), noise)
    eager = loss_and_gradients(PlainMAE(copy.deepcopy(method)), view, noise)
    ours = loss_and_gradients(method, [view], noise=noise)
    assert ours.keys() == exact.keys()
    for name, x in exact.items():
        assert (ours[name] is None) == (x is None), name
        if x is None:
            continue
        error, theirs = ((other[name].double() - x).abs().max() for other in (ours, eager))
        assert error <= 2 * theirs + 16 * EPS * x.abs().max().clamp_min(1e-6), f"{name}: {error} against {theirs}"


@pytest.mark.parametrize("norm_pix", [True, False])
@pytest.mark.parametrize("kind", VITS)
def test_a_step_of_mae_equals_plain_pytorch(kind, norm_pix):
    vit = tiny_vit(**VITS[kind])
    method = methods.MAE(vit, **DECODER, norm_pix=norm_pix)
    length = vit.patch_embed.num_patches
    assert_the_same_step(method, some_views(vit), torch.rand(5, length))


def test_a_step_of_mae_at_full_width():
    torch.manual_seed(0)
    method = methods.MAE("vit_base_patch16_224")
    assert_the_same_step(method, torch.randn(2, 3, 224, 224), torch.rand(2, 196))


def test_the_seed_fixes_the_masks():
    method = methods.MAE(tiny_vit(), **DECODER)
    view = some_views(method.encoder)
    same = [method([view], seed=3).item() for _ in range(2)]
    assert same[0] == same[1] != method([view], seed=4).item()
    rolled = method([view.roll(1, 0)], seed=3, sample_ids=torch.arange(5).roll(1)).item()
    assert rolled == pytest.approx(method([view], seed=3, sample_ids=torch.arange(5)).item(), rel=1e-5)
    torch.manual_seed(5)
    first = method([view]).item()
    torch.manual_seed(5)
    assert first == method([view]).item()


def test_a_zero_prediction_costs_the_variance():
    method = methods.MAE(tiny_vit(img_size=32, patch_size=16), **DECODER, mask_ratio=0.5)
    nn.init.zeros_(method.decoder_pred.weight)
    assert method([torch.randn(4, 3, 32, 32)]).item() == pytest.approx(767 / 768, abs=1e-5)


def test_initial_weights_are_those_of_the_paper():
    method = methods.MAE("vit_tiny_patch16_224", image_size=64, **DECODER)
    vit = method.encoder
    assert not vit.pos_embed.requires_grad
    assert not method.decoder_pos_embed.requires_grad
    assert torch.equal(vit.pos_embed, sincos_positions(192, (4, 4), 1))
    # One entry by hand: frequency 3 of the column, sine, and of the row, cosine, for the patch in row 2, column 1.
    row = vit.pos_embed[0, 1 + 2 * 4 + 1]
    assert row[3].item() == pytest.approx(math.sin(1 / 10000 ** (3 / 48)), abs=1e-6)
    assert row[96 + 48 + 3].item() == pytest.approx(math.cos(2 / 10000 ** (3 / 48)), abs=1e-6)
    assert not vit.pos_embed[0, 0].any()
    for weight in (vit.patch_embed.proj.weight.flatten(1), vit.blocks[0].mlp.fc1.weight, method.decoder_pred.weight):
        bound = math.sqrt(6 / sum(weight.shape))
        assert 0.95 * bound < weight.abs().max() <= bound
    for token in (vit.cls_token, method.mask_token):
        assert 0.01 < token.std() < 0.03
    names = {name.split(".")[0] for name in method.state_dict()} - {"encoder"}
    assert names == {
        "decoder_embed", "mask_token", "decoder_pos_embed", "decoder_blocks", "decoder_norm", "decoder_pred"
    }  # fmt: skip


def test_a_given_encoder_keeps_its_weights():
    vit = tiny_vit()
    before = copy.deepcopy(vit.state_dict())
    methods.MAE(vit, **DECODER)
    methods.SimMIM(vit)
    assert all(torch.equal(before[key], value) for key, value in vit.state_dict().items())
    assert vit.pos_embed.requires_grad


def test_timm_reads_what_mae_trained(tmp_path):
    method = methods.MAE("vit_tiny_patch16_224", **DECODER)
    path = methods.export_encoder(method.encoder, tmp_path, image_size=224, in_chans=3)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, checkpoint_path=str(path)).eval()
    assert theirs.state_dict().keys() == method.encoder.state_dict().keys()
    x = torch.randn(1, 3, 224, 224)
    assert torch.equal(theirs(x), method.encoder.eval()(x))
    classifier = timm.create_model("vit_tiny_patch16_224", num_classes=7)
    missing = classifier.load_state_dict(theirs.state_dict(), strict=False)
    assert set(missing.missing_keys) == {"head.weight", "head.bias"}
    assert not missing.unexpected_keys
    assert torch.equal(methods.load_encoder(tmp_path)(x), theirs(x))


def test_a_small_vit_is_rebuilt_with_its_kind_of_weights(tmp_path):
    vit = methods.small_vit(1, 8)
    methods.export_encoder(vit, tmp_path, image_size=8, in_chans=1)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(methods.load_encoder(tmp_path)(x), vit.eval()(x))
    fresh = methods.rebuild(vit._fastssl_recipe)
    assert torch.equal(fresh.pos_embed, vit.pos_embed)
    assert not torch.equal(fresh.patch_embed.proj.weight, vit.patch_embed.proj.weight)


@pytest.mark.parametrize("make", [lambda: methods.MAE(tiny_vit(), **DECODER), lambda: methods.SimMIM(tiny_vit())])
def test_compile_and_autocast(make):
    method, twin = make(), make()
    view = some_views(method.encoder, 6)
    noise = torch.rand(6, 16)
    plain = loss_and_gradients(method, [view], noise=noise)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    loss = compiled([view], noise=noise)
    loss.backward()
    assert torch.allclose(loss, plain["loss"], rtol=1e-5)
    for (name, p), q in zip(method.named_parameters(), twin.parameters(), strict=True):
        if p.requires_grad:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-5, msg=name)
    assert torch.compile(method, fullgraph=True, backend="aot_eager")([view]).isfinite()  # draws masks of its own
    with torch.autocast("cpu", torch.bfloat16):
        half = loss_and_gradients(method, [view], noise=noise)
    assert half["loss"].dtype == torch.float32
    assert abs(half["loss"] - plain["loss"]) < 0.02 * plain["loss"]
    for name, p in method.named_parameters():
        if p.requires_grad:
            assert half[name].dtype == torch.float32
            cosine = nn.functional.cosine_similarity(half[name].flatten(), plain[name].flatten(), 0)
            assert cosine > 0.98, name


def test_checkpointed_blocks_give_the_same_step():
    method = methods.MAE(tiny_vit(), **DECODER)
    view, noise = some_views(method.encoder), torch.rand(5, 16)
    plain = loss_and_gradients(method, [view], noise=noise)
    method.encoder.set_grad_checkpointing()
    again = loss_and_gradients(method, [view], noise=noise)
    assert all(torch.equal(value, again[name]) for name, value in plain.items())


class PlainSimMIM(nn.Module):
    def __init__(self, method):
        super().__init__()
        self.m = method

    def forward(self, view, mask):
        """`mask` bool [N, H / p, W / p] of patches."""
        m, vit = self.m, self.m.encoder
        x = vit.patch_embed(view)
        w = mask.flatten(1)[..., None].to(x.dtype)
        x = vit._pos_embed(x * (1 - w) + m.mask_token * w)
        x = vit.norm(vit.blocks(vit.norm_pre(x)))[:, vit.num_prefix_tokens :]
        made = unpatchify(m.decoder(x), view.shape, m.patch_size)
        pixels = mask.repeat_interleave(m.patch_size[0], 1).repeat_interleave(m.patch_size[1], 2)[:, None]
        return ((made - view).abs() * pixels).sum() / (pixels.sum() * view.shape[1])


@pytest.mark.parametrize("kind", ["class token", "registers without positions", "normed before pooling", "not square"])
def test_a_step_of_simmim_equals_plain_pytorch(kind):
    vit = tiny_vit(**VITS[kind])
    method = methods.SimMIM(vit, mask_patch_size=12 if kind == "not square" else 8, mask_ratio=0.5)
    view = some_views(vit)
    noise = torch.rand(5, 2 if kind == "not square" else 4)
    masks = method.masks(5, view.device, noise, None, None)
    mask = masks.mask.view(5, *method.grid).bool()
    # Whole squares, half of them; the ids agree with the mask.
    p, q = (method.mask_patch_size // side for side in method.patch_size)
    squares = mask.view(5, mask.shape[1] // p, p, mask.shape[2] // q, q).permute(0, 1, 3, 2, 4).flatten(3)
    assert (squares.all(-1) == squares.any(-1)).all()
    assert (mask.flatten(1).sum(1) * 2 == mask[0].numel()).all()
    order = torch.cat([masks.ids_keep, masks.ids_masked], 1)
    assert torch.equal(order.gather(1, masks.ids_restore), torch.arange(mask[0].numel()).expand(5, -1))
    assert mask.flatten(1).gather(1, masks.ids_masked).all()
    exact = loss_and_gradients(PlainSimMIM(copy.deepcopy(method).double()), view.double(), mask)
    eager = loss_and_gradients(PlainSimMIM(copy.deepcopy(method)), view, mask)
    ours = loss_and_gradients(method, [view], noise=noise)
    for name, x in exact.items():
        error, theirs = ((other[name].double() - x).abs().max() for other in (ours, eager))
        assert error <= 2 * theirs + 16 * EPS * x.abs().max().clamp_min(1e-6), name


def test_the_worked_example_of_the_denoising_loss():
    clean = torch.tensor([0.8, 0.3, 0.9, 0.5], dtype=torch.float64)
    noisy = torch.tensor([0.95, 0.18, 0.72, 0.61], dtype=torch.float64)
    made = torch.tensor([0.79, 0.28, 0.88, 0.51], dtype=torch.float64)
    assert methods.denoising_loss(made, clean).item() == pytest.approx(0.00025, abs=1e-12)
    assert methods.denoising_loss(made, noisy).item() == pytest.approx(0.0178, abs=1e-12)
    assert methods.denoising_loss(made.bfloat16(), clean.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("corruption", ["gaussian", "dropout", "mask"])
def test_corruptions(corruption):
    method = methods.DenoisingAutoencoder(methods.small_resnet(3, 16), corruption, image_size=16)
    view = torch.randn(64, 3, 16, 16) + 3
    seen = method.corrupt(view, seed=1)
    assert torch.equal(seen, method.corrupt(view, seed=1))
    assert not torch.equal(seen, method.corrupt(view, seed=2))
    if corruption == "gaussian":
        std = torch.tensor(transforms.statistics(3)[1])
        assert torch.allclose((seen - view).std((0, 2, 3)) * std, torch.tensor(0.25), rtol=0.02)
        return
    gone = seen == 0
    assert (gone.all(1) == gone.any(1)).all()  # all channels together
    assert torch.equal(seen[~gone], view[~gone])
    assert gone.float().mean().item() == pytest.approx(0.5, abs=0.02)
    if corruption == "mask":
        squares = gone[:, 0].view(64, 8, 2, 8, 2)
        assert (squares.all((2, 4)) == squares.any((2, 4))).all()
        assert (gone[:, 0].sum((1, 2)) == 128).all()


def methods_of(channels, size):
    small = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
    return {
        "mae": methods.MAE(methods.small_vit(channels, size), **small),
        "simmim": methods.SimMIM(methods.small_vit(channels, size)),
        "gaussian": methods.DenoisingAutoencoder(methods.small_resnet(channels, size), strength=0.5, image_size=size),
        "dropout": methods.DenoisingAutoencoder(methods.small_resnet(channels, size), "dropout", image_size=size),
        "mask": methods.DenoisingAutoencoder(methods.small_resnet(channels, size), "mask", image_size=size),
    }


@pytest.mark.parametrize("name", ["mae", "simmim", "gaussian", "dropout", "mask"])
def test_the_loss_falls_and_the_pictures_fit(name):
    from fastssl import data

    images = data.load("digits").images[:128]
    torch.manual_seed(0)
    method = methods_of(1, 8)[name]
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 4e-3)
    losses = []
    for _ in range(40):
        loss = method(method.augment(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    method.encoder.blocks[0].eval() if hasattr(method.encoder, "blocks") else method.encoder.layer1.eval()
    before, modes = copy.deepcopy(method.state_dict()), [m.training for m in method.modules()]
    original, seen, made = list(method.pictures(images[:8]).values())[:3]
    assert modes == [m.training for m in method.modules()]
    assert all(torch.equal(before[key], value) for key, value in method.state_dict().items())
    torch.testing.assert_close(original, images[:8] / 255, atol=1e-6, rtol=0)
    assert all(p.shape == (8, 1, 8, 8) and p.min() >= 0 and p.max() <= 1 for p in (seen, made))
    assert torch.equal(made, method.pictures(images[:8])["reconstruction"])
    assert not torch.equal(seen, method.pictures(images[:8], seed=1)["seen"])
    # What was learned beats what the encoder saw.
    assert (made - original).square().mean() < (seen - original).square().mean()
    if name in ("mae", "simmim"):
        visible = (seen == original).all(1)
        assert torch.equal(made[visible[:, None]], original[visible[:, None]])


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 30), (1, 7)])
def test_pictures_of_any_size(channels, size):
    method = methods.DenoisingAutoencoder(methods.small_resnet(channels, size), image_size=size)
    images = uint8(3, channels, size, size)
    assert method(method.augment(images)).isfinite()
    assert method.pictures(images)["reconstruction"].shape == images.shape


def test_patches_go_there_and_back():
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, (2, 4))
    assert torch.equal(unpatchify(patches, images.shape, (2, 4)), images)
    assert torch.equal(patches[1, 4].view(2, 4, 3), images[1, :, 2:4, 4:8].permute(1, 2, 0))


def test_views(tmp_path):
    method = methods.MAE(tiny_vit(), **DECODER)
    assert method.image_size == 16
    (view,) = method.augment(uint8(3, 3, 40, 50))  # cut to what the encoder takes
    assert view.shape == (3, 3, 16, 16)
    tall = methods.MAE(tiny_vit(**VITS["not square"]), **DECODER)
    assert tall.augment(uint8(2, 3, 40, 50))[0].shape == (2, 3, 12, 24)
    mine = methods.MAE(tiny_vit(), **DECODER, transform=lambda images: [transforms.normalize(images)])
    images = uint8(3, 3, 16, 16)
    assert torch.equal(mine.augment(images)[0], transforms.normalize(images))
    assert mine([images], seed=0).item() == pytest.approx(mine(mine.augment(images), seed=0).item(), rel=1e-5)


BAD = [
    (lambda: methods.MAE("resnet10t"), TypeError, "encoder: got ResNet, want a VisionTransformer of timm"),
    (lambda: methods.MAE(methods.small_resnet()), TypeError, "encoder: got ResNet, want a VisionTransformer of timm"),
    (lambda: methods.MAE("nonsense"), ValueError, "encoder: got 'nonsense', want the name of a timm model"),
    (lambda: methods.MAE(5), TypeError, "encoder: got int"),
    (lambda: methods.MAE(timm.create_model("vit_tiny_patch16_224")), ValueError, "encoder: got a classifier of 1000"),
    (
        lambda: methods.SimMIM(timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0)),
        TypeError,
        "encoder: got VisionTransformerDistilled",
    ),
    (lambda: methods.MAE(tiny_vit(img_size=18)), ValueError, r"encoder: got images \(18, 18\) in patches \(4, 4\)"),
    (lambda: methods.MAE(tiny_vit(global_pool="map")), ValueError, "encoder: got global_pool='map'"),
    (lambda: methods.MAE(tiny_vit(), image_size=32), ValueError, "image_size: got 32, want 16 as the encoder takes"),
    (lambda: methods.MAE(tiny_vit(), mask_ratio=1.0), ValueError, "mask_ratio: got 1.0"),
    (lambda: methods.MAE(tiny_vit(), mask_ratio=0.99), ValueError, "mask_ratio: got 0.99, which keeps 0 of 16 patches"),
    (lambda: methods.MAE(tiny_vit(), mask_ratio=0), ValueError, "mask_ratio: got 0.0, which keeps 16 of 16 patches"),
    (lambda: methods.MAE(tiny_vit(), decoder_dim=30), ValueError, "decoder_dim: got 30, want a multiple of 4 and of"),
    (lambda: methods.MAE(tiny_vit(), decoder_depth=0), ValueError, "decoder_depth: got 0"),
    (lambda: methods.MAE(tiny_vit(), **DECODER)([]), ValueError, "views: got 0, want 1"),
    (
        lambda: methods.MAE(tiny_vit(), **DECODER)([torch.zeros(2, 3, 8, 8)]),
        ValueError,
        r"views: got images \(3, 8, 8\)",
    ),
    (lambda: methods.SimMIM(tiny_vit(), mask_patch_size=6), ValueError, "mask_patch_size: got 6, want a multiple"),
    (
        lambda: methods.SimMIM(tiny_vit(), mask_patch_size=16),
        ValueError,
        "mask_ratio: got 0.6, which keeps 0 of 1 squa",
    ),
    (lambda: methods.DenoisingAutoencoder(methods.small_resnet()), ValueError, "image_size: got None"),
    (lambda: methods.DenoisingAutoencoder(tiny_vit(), "salt"), ValueError, "corruption: got 'salt', want 'gaussian'"),
    (lambda: methods.DenoisingAutoencoder(tiny_vit(), "mask", 1.0), ValueError, "strength: got 1.0"),
    (lambda: methods.DenoisingAutoencoder(tiny_vit(), strength=-1), ValueError, "strength: got -1, want a number >= 0"),
    (lambda: methods.small_vit(3, 31), ValueError, "image_size: got 31, want one of 4 to 16 whole patches"),
    (lambda: methods.build_encoder(init="he"), ValueError, "init: got 'he'"),
    (lambda: methods.build_encoder("vit_tiny_patch16_224", init="mae", pretrained=True), ValueError, "init: got 'mae'"),
]


@pytest.mark.parametrize(("make", "error", "says"), BAD)
def test_bad_input(make, error, says):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error, match=says):
            make()


def test_features_are_those_of_evaluation():
    """Nothing hidden, MAE's path through the encoder is timm's own."""
    for kind in VITS.values():
        vit = tiny_vit(**kind).eval()
        if vit.global_pool == "avg" and not isinstance(vit.fc_norm, nn.Identity):
            continue  # normed after pooling there, each token here
        method = methods.MAE(vit, **DECODER)
        view = some_views(vit)
        everything = torch.arange(vit.patch_embed.num_patches).expand(len(view), -1)
        torch.testing.assert_close(method.encode_visible(view, everything), vit.forward_features(view))
    assert evaluate.features(methods.small_vit(1, 8), "digits").x.shape[1] == methods.small_vit(1, 8).num_features
