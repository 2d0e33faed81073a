"""DINO: the authors' algorithm step by step, its schedules, hooks, teacher and collapse, resume, and two processes."""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import log_softmax, normalize, softmax
from torch.nn.utils.parametrizations import weight_norm
from torch.utils._python_dispatch import TorchDispatchMode

import fastssl
from fastssl import cli, data, methods, transforms
from fastssl.methods._dino_head import DINOHead
from fastssl.methods._multi_crop import clip_each

HEAD = {"out_dim": 24, "hidden_dim": 12, "bottleneck_dim": 6}


def uint8(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def tiny(kind="resnet", **options):
    if kind == "vit":
        sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
        return methods.build_encoder("vit_tiny_patch16_224", in_chans=1, **{**sizes, **options})
    return methods.build_encoder("resnet18", in_chans=1, stem="small", layers=(1, 1, 1, 1), channels=(4, 4, 8, 8))


def dino(kind="resnet", seed=0, **options):
    torch.manual_seed(seed)
    return methods.DINO(tiny(kind), **{**HEAD, "local_views": 2, "steps_per_epoch": 2, **options})


def views_of(method, n, seed=0):
    torch.manual_seed(seed)
    return method.augment(uint8(n, 1, 8, 8, seed=seed))


def trained(method):
    return [p for p in method.parameters() if p.requires_grad]


def step_of(method, optimizer, views, step, total):
    """One training step as the docstring has it; returns the loss."""
    optimizer.zero_grad()
    loss = method(views)
    loss.backward()
    method.before_step(step, total)
    optimizer.step()
    method.after_step(step, total)
    return loss.detach()


class TheirHead(nn.Module):
    """The authors' head, with PyTorch's own weight norm."""

    def __init__(self, head):
        super().__init__()
        self.mlp = copy.deepcopy(head.mlp)
        self.last = weight_norm(copy.deepcopy(head.last_layer))
        g = self.last.parametrizations.weight.original0
        g.data.fill_(1)
        g.requires_grad_(False)

    def forward(self, x):
        return self.last(normalize(self.mlp(x), dim=-1))


class TheirNet(nn.Module):
    """The backbone once for each size of views, and the head once for all."""

    def __init__(self, method):
        super().__init__()
        self.backbone, self.head = copy.deepcopy(method.encoder), TheirHead(method.projector)

    def forward(self, views):
        large, small = [v for v in views if v.shape[-1] == 8], [v for v in views if v.shape[-1] == 4]
        features = [methods.encode(self.backbone, torch.cat(group)) for group in (large, small) if group]
        return self.head(torch.cat(features))


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_it_is_the_authors_algorithm(kind):
    """Their loop in eager PyTorch: schedules of temperature and momentum, clipping, frozen layer, centre and teacher."""
    total, epochs, warmup = 8, 4, 3
    method = dino(kind, momentum=0.9, clip_grad=0.02, warmup_teacher_temp_epochs=warmup).double()
    student, teacher, center = TheirNet(method), TheirNet(method), torch.zeros(24).double()
    temps = np.concatenate((np.linspace(0.04, 0.07, warmup), np.ones(epochs - warmup) * 0.07))
    momenta = [1 + 0.5 * (0.9 - 1) * (1 + np.cos(np.pi * i / total)) for i in range(total)]
    mine = torch.optim.AdamW(trained(method), 1e-2, weight_decay=0.04)
    theirs = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], 1e-2, weight_decay=0.04)
    for i in range(total):
        views = [view.double() for view in views_of(method, 6, i)]
        got = step_of(method, mine, views, i + 1, total)

        out_s = (student(views) / 0.1).chunk(4)
        with torch.no_grad():
            out_t = teacher(views[:2])
        q = softmax((out_t - center) / temps[i // 2], -1).chunk(2)
        pairs = [(t, v) for t in range(2) for v in range(4) if t != v]
        want = sum((-q[t] * log_softmax(out_s[v], -1)).sum(-1).mean() for t, v in pairs) / len(pairs)
        center = center * 0.9 + out_t.mean(0) * 0.1
        theirs.zero_grad()
        want.backward()
        for p in student.parameters():
            if p.grad is not None and (norm := p.grad.norm()) > 0.02:
                p.grad *= 0.02 / (norm + 1e-6)
        if i < 2:
            student.head.last.parametrizations.weight.original1.grad = None
        theirs.step()
        with torch.no_grad():
            for p, s in zip(teacher.parameters(), student.parameters(), strict=True):
                p.mul_(momenta[i]).add_((1 - momenta[i]) * s)
        torch.testing.assert_close(got, want.detach())
        torch.testing.assert_close(method.loss.center, center)
    found = [*method.teacher.encoder.parameters(), *method.teacher.projector.mlp.parameters()]
    for p, want in zip(found, [*teacher.backbone.parameters(), *teacher.head.mlp.parameters()], strict=True):
        torch.testing.assert_close(p, want)
    torch.testing.assert_close(
        method.teacher.projector.last_layer.weight, teacher.head.last.parametrizations.weight.original1
    )


def test_the_head():
    head = DINOHead(10, 50, 16, 8).double()
    x = torch.randn(5, 10, dtype=torch.float64)
    torch.testing.assert_close(head(x), TheirHead(head)(x))
    assert [type(layer).__name__ for layer in head.mlp] == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    assert all(abs(p).max() == 0 if p.ndim == 1 else 0.01 < p.std() < 0.03 for p in head.mlp.parameters())
    default = methods.DINO(tiny())
    assert [tuple(p.shape) for p in default.projector.parameters()] == [
        (2048, 8), (2048,), (2048, 2048), (2048,), (256, 2048), (256,), (65536, 256),
    ]  # fmt: skip
    free = DINOHead(10, 50, 16, 8, norm_last_layer=False, batch_norm=True)
    assert tuple(free.g.shape) == (50, 1)
    assert [type(layer).__name__ for layer in free.mlp][1] == "BatchNorm1d"
    with torch.no_grad():
        free.g.fill_(3.0)
    assert free(x.float()).abs().max() <= 3.0


def test_views_of_one_size_pass_together():
    method = dino("vit", local_views=3)
    seen, taught = [], []
    method.encoder.register_forward_pre_hook(lambda m, args: seen.append(tuple(args[0].shape)))
    method.teacher.encoder.register_forward_pre_hook(lambda m, args: taught.append(tuple(args[0].shape)))
    views = views_of(method, 5)
    assert [tuple(v.shape) for v in views] == [(5, 1, 8, 8)] * 2 + [(5, 1, 4, 4)] * 3
    method(views)
    assert seen == [(10, 1, 8, 8), (15, 1, 4, 4)]
    assert taught == [(10, 1, 8, 8)]
    seen.clear()
    method(views[:2])  # no local views
    method([*views[:2], views[0]])  # one as large as the global ones
    assert seen == [(10, 1, 8, 8), (15, 1, 8, 8)]


def test_the_teacher_learns_nothing_itself_and_drops_nothing_out():
    method = dino("vit")
    method.encoder.blocks[0].drop_path1 = timm.layers.DropPath(0.5)
    method.teacher = methods.DINO(method.encoder, **HEAD).teacher
    before = copy.deepcopy(method.teacher.state_dict())
    assert all(torch.equal(p, before[name]) for name, p in method.encoder.state_dict(prefix="encoder.").items())
    views = views_of(method, 4)
    method.train()
    method(views).backward()
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert all(p.grad is not None for p in trained(method))
    assert torch.equal(method.teacher(views[0]), method.teacher(views[0]))
    assert not torch.equal(method.encoder(views[0]), method.encoder(views[0]))
    norms = [m for m in dino().train().teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(m.training for m in norms)  # with statistics of the batch, as the authors
    assert not any(m.training for m in dino().eval().modules())


def test_schedules_are_functions_of_the_step():
    method = dino(warmup_teacher_temp_epochs=5, steps_per_epoch=3)
    found = []
    for step in range(24):
        method.step.fill_(step)
        found.append(float(method.current_teacher_temp()))
    want = np.concatenate((np.linspace(0.04, 0.07, 5), np.full(3, 0.07))).repeat(3)
    np.testing.assert_allclose(found, want, rtol=1e-12)
    assert dino(warmup_teacher_temp_epochs=0, teacher_temp=0.05).current_teacher_temp() == 0.05
    one = dino(warmup_teacher_temp_epochs=1)
    assert float(one.current_teacher_temp()) == 0.04
    one.step.fill_(2)
    assert float(one.current_teacher_temp()) == pytest.approx(0.07)


def test_schedules_in_epochs_want_to_know_how_long_one_is():
    method = dino(steps_per_epoch=None)
    with pytest.raises(ValueError, match=r"steps_per_epoch: got None, want the steps of an epoch, such as len\(loader\)"):
        method(views_of(method, 4))
    method = dino(steps_per_epoch=None, warmup_teacher_temp_epochs=0, freeze_last_layer=0)
    step_of(method, torch.optim.SGD(trained(method), 0.1), views_of(method, 4), 1, 10)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lars"])
def test_the_last_layer_is_frozen_in_the_first_epoch(tmp_path, optimizer):
    """Bit for bit, weight decay included."""
    method = dino(steps_per_epoch=None)
    start, seen = method.projector.last_layer.weight.clone(), []
    real = method.after_step
    method.after_step = lambda *a: seen.append(method.projector.last_layer.weight.clone()) or real(*a)
    fit(method, tmp_path, images=256, optimizer=optimizer, weight_decay=0.5, lr=0.1)
    assert method.steps_per_epoch == 4
    assert all(torch.equal(start, weight) for weight in seen[:4])
    assert not torch.equal(start, seen[4])
    assert torch.equal(method.teacher.projector.last_layer.weight, start) is False


class NoSync(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


def test_each_gradient_is_clipped_by_itself():
    params = [nn.Parameter(torch.randn(shape)) for shape in ((7, 5), (3,), (2, 2, 2), (4,), (6,))]
    for p, size in zip(params, (1.0, 1e-3, 30.0, 0.0, None), strict=True):
        p.grad = None if size is None else torch.randn(p.shape) * size
    want = [None if p.grad is None else p.grad.clone() for p in params]
    for p, grad in zip(params, want, strict=True):
        if grad is not None:
            twin = nn.Parameter(p.detach())
            twin.grad = grad
            torch.nn.utils.clip_grad_norm_([twin], 0.7)
    with NoSync():
        clip_each(params, 0.7)
    assert all((p.grad is None) if g is None else torch.equal(p.grad, g) for p, g in zip(params, want, strict=True))
    clip_each([], 1.0)


def test_hooks_do_not_wait_for_the_device():
    method = dino("vit", clip_grad=0.1)
    method(views_of(method, 4)).backward()
    with NoSync():
        method.before_step(1, 10)
        method.after_step(1, 10)
        method.current_teacher_temp()
    assert all(p.grad is None or p.grad.norm() < 0.1001 for p in trained(method))
    assert method.projector.last_layer.weight.grad is None
    untouched = dino("vit", clip_grad=None)
    untouched(views_of(untouched, 4)).backward()
    before = [p.grad.clone() for p in trained(untouched)]
    untouched.before_step(3, 10)
    assert all(torch.equal(p.grad, g) for p, g in zip(trained(untouched), before, strict=True))


def test_equal_logits_cost_ln_k():
    method = dino("vit")
    nn.init.zeros_(method.projector.last_layer.weight)
    method.teacher.follow(method.encoder, method.projector, 0.0)
    assert method(views_of(method, 4)).item() == pytest.approx(math.log(24), rel=1e-6)


def collapse(**options):
    """Train on digits; return the teacher's mean entropy over ln K, and the entropy of the mean, of new images."""
    images = data.load("digits").images
    torch.manual_seed(0)
    method = methods.DINO(
        methods.small_resnet(1, 8), out_dim=64, hidden_dim=64, bottleneck_dim=32, batch_norm=True, momentum=0.97,
        freeze_last_layer=0, warmup_teacher_temp_epochs=0, local_views=0, **options,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(trained(method), 3e-3)
    losses = []
    for step in range(150):
        views = method.augment(images[torch.randint(len(images), (64,))])
        losses.append(step_of(method, optimizer, views, step + 1, 10**6).item())
    with torch.no_grad():
        logits = method.teacher(transforms.normalize(images[:500]))
        target = method.loss._target(logits, None)
        center = 0 if target["center"] is None else target["center"]
        q = softmax((logits - center) / target["teacher_temp"], -1)
    return (entropy(q).mean() / math.log(64)).item(), (entropy(q.mean(0)) / math.log(64)).item(), losses


def entropy(q):
    return -(q * q.clamp_min(1e-30).log()).sum(-1)
