"""DINOv2: iBOT's and DINOv2's algorithm step by step, masks, the mask token, the three losses, features."""

from __future__ import annotations

import copy
import math

import compat_formulas as formulas
import numpy as np
import pytest
import timm
import torch
from multi_crop import HEAD, NoSync, dinov2, step_of, tiny_vit
from small_methods import fit, trained, views_of
from torch.nn.functional import log_softmax, normalize

from fastssl import data, methods

PATCHES = 16  # of a global view of 8 pixels a side


def their_koleo(x):
    x = normalize(x, eps=1e-8)
    dots = x @ x.t()
    dots.fill_diagonal_(-1)
    return -(torch.nn.PairwiseDistance(2, eps=1e-8)(x, x[dots.argmax(1)]) + 1e-8).log().mean()


def tokens_of(vit, x, mask=None, token=None):
    """Class token and patches, normed, in the steps of timm's forward_features."""
    x = vit.patch_embed(x).flatten(1, 2)
    if mask is not None:
        x = torch.where(mask[..., None], token, x)
    side = math.isqrt(x.shape[1])
    out = vit._pos_embed(x.view(len(x), side, side, -1))
    out = vit.norm(vit.blocks(out))
    return out[:, 0], out[:, 1:]


@pytest.mark.parametrize("separate", [True, False])
def test_it_is_the_authors_algorithm(separate):
    """In eager PyTorch, with the masks that were drawn: three losses, both schedules and the teacher."""
    vit = tiny_vit(class_token=True, global_pool="token")
    method = dinov2(vit=vit, separate_heads=separate, warmup_teacher_temp_epochs=2, koleo_weight=0.3).double()
    method.clip_grad, method.freeze_last_layer = None, 0
    theirs = copy.deepcopy(method)  # of which only the networks are used
    optimizers = [torch.optim.SGD(trained(m), 0.5) for m in (method, theirs)]
    heads = [m.patch_projector or m.projector for m in (theirs,)], [theirs.patch_teacher or theirs.teacher]
    total, masks = 6, []
    draw = method.masks
    method.masks = lambda *a: masks.append(draw(*a)) or masks[-1]
    for i in range(total):
        views = [view.double() for view in views_of(method, 6, i)]
        got = step_of(method, optimizers[0], views, i + 1, total)

        whole, mask = torch.cat(views[:2]), masks[-1][0]
        temp = np.interp(i, (0, 3), (0.04, 0.07))
        with torch.no_grad():
            cls, patches = tokens_of(theirs.teacher.encoder, whole)
            q = formulas.sinkhorn(theirs.teacher.projector(cls), temp).chunk(2)
            q_patches = formulas.sinkhorn(heads[1][0].projector(patches[mask]), temp)
        cls, patches = tokens_of(theirs.encoder, whole, mask, theirs.mask_token)
        small, _ = tokens_of(theirs.encoder, torch.cat(views[2:]))
        p = log_softmax(theirs.projector(torch.cat([cls, small])) / 0.1, -1).chunk(4)
        pairs = [(t, v) for t in range(2) for v in range(4) if t != v]
        want = sum(-(q[t] * p[v]).sum(-1).mean() for t, v in pairs) / len(pairs)
        p_patches = log_softmax(heads[0][0](patches[mask]) / 0.1, -1)
        weight = (1 / mask.sum(1).clamp(min=1))[:, None].expand_as(mask)[mask]
        want = want + -((q_patches * p_patches).sum(-1) * weight).sum() / len(mask)
        want = want + 0.3 * sum(their_koleo(half) for half in cls.chunk(2))
        torch.testing.assert_close(got, want.detach())
        optimizers[1].zero_grad()
        want.backward()
        optimizers[1].step()
        momentum = 1 + 0.5 * (0.992 - 1) * (1 + np.cos(np.pi * i / total))
        pairs = [(theirs.teacher.encoder, theirs.encoder), (theirs.teacher.projector, theirs.projector)]
        pairs += [(theirs.patch_teacher.projector, theirs.patch_projector)] if separate else []
        for teacher, student in pairs:
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.data.mul_(momentum).add_((1 - momentum) * s.data)
    for mine, p in zip(method.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, p)


@pytest.mark.parametrize(("n", "grid"), [(12, (4, 4)), (1, (4, 4)), (7, (2, 3)), (64, (14, 14)), (3, (1, 1))])
@pytest.mark.parametrize("ratio", [(0.1, 0.5), (0.3, 0.3), (0.6, 1.0)])
def test_masks(n, grid, ratio):
    """As many patches in every draw, in half of the images, from the least to the greatest ratio."""
    method, length = dinov2(mask_ratio=ratio), grid[0] * grid[1]
    totals, which = set(), torch.zeros(n, dtype=torch.bool)
    for seed in range(20):
        torch.manual_seed(seed)
        mask, ids, weights = method.masks(n, grid, torch.device("cpu"))
        assert mask.shape == (n, length)
        assert torch.equal(ids, mask.flatten().nonzero()[:, 0])
        counts = mask.sum(1)
        torch.testing.assert_close(weights, (1 / counts)[ids // length])
        hidden = counts[counts > 0]
        assert len(hidden) == max(1, n // 2)
        assert hidden.min() >= max(1, math.floor(ratio[0] * length))
        assert hidden.max() <= max(1, math.ceil(ratio[1] * length))
        totals.add(len(ids))
        which |= counts > 0
    assert len(totals) == 1
    assert which.sum() > n / 2 or n == 1
    if n == 64:
        assert totals.pop() == pytest.approx(32 * length * sum(ratio) / 2, rel=0.02)


def test_hidden_patches_come_in_blocks():
    """Neighbours are hidden together far more often than of patches drawn one by one."""
    torch.manual_seed(0)
    mask = dinov2(mask_ratio=(0.3, 0.3)).masks(64, (14, 14), torch.device("cpu"))[0]
    mask = mask[mask.any(1)].view(-1, 14, 14)
    together = (mask[:, :, 1:] & mask[:, :, :-1]).float().mean() / mask.float().mean()
    assert together > 0.6  # 0.3 of independent patches


def test_drawing_masks_does_not_wait_for_the_device():
    method = dinov2()
    with NoSync():
        method.masks(12, (4, 4), torch.device("cpu"))


def test_the_student_does_not_see_what_is_hidden():
    method = dinov2(mask_probability=1.0, mask_ratio=(1.0, 1.0), ibot_weight=0.0, koleo_weight=0.0, local_views=0)
    method.warmup_teacher_temp_epochs = 0
    views, others = views_of(method, 6), views_of(method, 6, 1)
    seen = []
    method.projector.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach().clone()))
    method(views)
    method(others)
    assert torch.equal(*seen)
    assert torch.equal(seen[0][0], seen[0][5])


def test_the_mask_token_is_learnt_and_the_teacher_sees_everything():
    method = dinov2()
    views, taught = views_of(method, 6), []
    teach = method.teach
    method.teach = lambda *a: taught.append(teach(*a)) or taught[-1]
    method(views).backward()
    assert method.mask_token.grad.abs().sum() > 0
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is None for p in method.patch_teacher.parameters())
    torch.testing.assert_close(taught[0][0], method.teacher(torch.cat(views[:2])))
    assert method.mask_token.ndim == 1  # and so without weight decay
    assert torch.count_nonzero(methods.DINOv2(tiny_vit(), **HEAD).mask_token) == 0


def test_weights_of_the_losses():
    views, losses = views_of(dinov2(), 6), {}
    for ibot, koleo in ((0, 0), (1, 0), (0, 1), (2, 3)):
        method = dinov2(ibot_weight=ibot, koleo_weight=koleo).double()
        torch.manual_seed(0)
        losses[ibot, koleo] = method([view.double() for view in views]).item()
    dino_alone = losses[0, 0]
    want = dino_alone + 2 * (losses[1, 0] - dino_alone) + 3 * (losses[0, 1] - dino_alone)
    assert losses[2, 3] == pytest.approx(want, rel=1e-9)


def test_equal_logits_cost_ln_k():
    method = dinov2(koleo_weight=0.0)
    for head in (method.projector, method.patch_projector):
        torch.nn.init.zeros_(head.last_layer.weight)
    method.teacher.follow(method.encoder, method.projector, 0.0)
    method.patch_teacher.follow(torch.nn.Identity(), method.patch_projector, 0.0)
    assert method(views_of(method, 4)).item() == pytest.approx(
        1.5 * math.log(24), rel=1e-6
    )  # patches of half of the views


def test_defaults():
    method = methods.DINOv2(tiny_vit(), **HEAD)
    assert method.loss.centering == method.patch_loss.centering == "sinkhorn"
    assert method.patch_projector is not method.projector
    assert methods.DINOv2(tiny_vit(), separate_heads=False, **HEAD).patch_projector is None
    assert method.recipe(3, 224).recipe.sizes == ((224, 224),) * 2 + ((96, 96),) * 8
    small = {"image_size": 64, "local_size": 32, "local_views": 1}
    named = methods.DINOv2("vit_tiny_patch16_224", steps_per_epoch=1, **small, **HEAD)
    assert named(named.augment(torch.zeros(2, 3, 70, 80, dtype=torch.uint8))).isfinite()


def test_features_improve(tmp_path):
    splits = tuple(data.load("digits", split=split) for split in ("train", "test"))
    torch.manual_seed(0)
    encoder = methods.build_encoder(
        "vit_tiny_patch16_224", in_chans=1, img_size=8, patch_size=2, embed_dim=64, depth=3, num_heads=4,
        dynamic_img_size=True, init="mae",
    )  # fmt: skip
    method = methods.DINOv2(
        encoder, out_dim=128, hidden_dim=128, bottleneck_dim=32,
        batch_norm=True, local_views=0, momentum=0.97, teacher_temp=0.03, warmup_teacher_temp_epochs=0,
    )  # fmt: skip
    result = fit(method, tmp_path, epochs=6, batch_size=128, lr=2e-3, knn_every=6, eval_data=splits)
    before, after = (row["knn"] for row in result.history if row["knn"] is not None)
    assert after > before + 0.05


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"mask_ratio": (0.5, 0.1)}, ValueError, r"mask_ratio: got \(0.5, 0.1\), want 0 < least <= greatest <= 1"),
        ({"mask_ratio": (0, 0.1)}, ValueError, "mask_ratio: got"),
        ({"mask_ratio": (0.1, 1.1)}, ValueError, "mask_ratio: got 1.1"),
        ({"mask_probability": 0}, ValueError, r"mask_probability: got 0, want a number in \(0, 1\]"),
        ({"ibot_weight": -1}, ValueError, "ibot_weight: got -1"),
        ({"koleo_weight": "much"}, TypeError, "koleo_weight: got str 'much', want a number >= 0"),
        ({"out_dim": 0}, ValueError, "out_dim: got 0, want an int >= 1"),
        ({"centering": "median"}, ValueError, "centering: got 'median'"),
    ],
)
def test_bad_input(options, error, says):
    with pytest.raises(error, match=says):
        dinov2(**options)


def test_what_cannot_be_masked_is_refused():
    with pytest.raises(TypeError, match="encoder: got ResNet, want a VisionTransformer"):
        methods.DINOv2(timm.create_model("resnet10t", num_classes=0), **HEAD)
    method = dinov2()
    with pytest.raises(ValueError, match="x: got 1 row, want at least 2"):
        method(views_of(method, 1))
