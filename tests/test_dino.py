"""DINO: the authors' algorithm step by step, its head, schedules, hooks and teacher, and collapse."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import timm
import torch
from multi_crop import HEAD, NoSync, dino, step_of
from small_methods import fit, tiny, trained, uint8, views_of
from torch import nn
from torch.nn.functional import log_softmax, normalize, softmax
from torch.nn.utils.parametrizations import weight_norm

from fastssl import data, methods, transforms
from fastssl.methods._dino_head import DINOHead
from fastssl.methods._multi_crop import clip_each


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
    """Their loop in eager PyTorch: both schedules, clipping, the frozen layer, centre and teacher."""
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
    with pytest.raises(ValueError, match="steps_per_epoch: got None, want the steps of an epoch, such as"):
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
    for step in range(100):
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


def test_centre_and_temperature_hold_each_other():
    """Without the centre one prototype is the answer to everything; without a low temperature all are, equally."""
    each, together = {}, {}
    for name, options in (
        ("both", {"teacher_temp": 0.04}),
        ("no centre", {"teacher_temp": 0.04, "centering": "none"}),
        ("no sharpening", {"teacher_temp": 1.0}),
    ):
        each[name], together[name], losses = collapse(**options)
        assert all(math.isfinite(loss) for loss in losses)
        if name == "no sharpening":
            assert losses[-1] == pytest.approx(math.log(64), rel=1e-2)
    assert each["no centre"] < 0.01
    assert together["no centre"] < 0.01  # and it is the same one for all
    assert each["no sharpening"] > 0.99
    assert 0.1 < each["both"] < 0.9
    assert together["both"] > each["both"] + 0.1  # images differ in their answers


def test_the_temperature_does_not_recompile():
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    method = dino("vit", warmup_teacher_temp_epochs=4)
    views = views_of(method, 4)
    compiled = torch.compile(method, backend=counter)
    for step in range(1, 8):
        compiled(views).backward()
        method.after_step(step, 10)
        if step == 1:
            first = counter.frame_count
    assert counter.frame_count == first


def test_features_improve(tmp_path):
    splits = tuple(data.load("digits", split=split) for split in ("train", "test"))
    method = dino(
        steps_per_epoch=None, out_dim=128, hidden_dim=128, bottleneck_dim=32, batch_norm=True, local_views=0,
        momentum=0.97, teacher_temp=0.02, warmup_teacher_temp_epochs=0,
    )  # fmt: skip
    result = fit(method, tmp_path, epochs=6, batch_size=128, lr=4e-3, knn_every=6, eval_data=splits)
    before, after = (row["knn"] for row in result.history if row["knn"] is not None)
    assert after > before + 0.1
    settings = json.loads((tmp_path / "config.json").read_text())["settings"]
    assert (settings["optimizer"], settings["weight_decay"]) == ("adamw", 0.04)


def test_default_views():
    large = methods.DINO(timm.create_model("resnet10t", num_classes=0), **HEAD)
    assert large.recipe(3, 224).recipe == transforms.DINO().recipe
    assert large.recipe(3, 112).recipe.sizes[2:] == ((48, 48),) * 8
    vit = methods.DINO(timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True), **HEAD)
    assert vit.recipe(3, 112).recipe.sizes == ((112, 112),) * 2 + ((48, 48),) * 8
    small = methods.DINO(methods.small_resnet(3, 32), **HEAD, local_views=3, image_size=32)
    assert [v.shape[-1] for v in small.augment(uint8(2, 3, 40, 50))] == [32, 32, 16, 16, 16]
    assert [v.shape[-1] for v in dino(local_size=6).augment(uint8(2, 1, 8, 8))] == [8, 8, 6, 6]
    assert not any(v.hflip_p for v in dino().recipe(1, 8).recipe.views)  # a mirrored digit is another
    mine = dino(transform=transforms.DINO(12, local_size=6, local_views=1))
    assert [v.shape[-1] for v in mine.augment(uint8(2, 3, 40, 50))] == [12, 12, 6]


def test_a_named_vision_transformer_takes_local_views():
    method = methods.DINO(
        "vit_tiny_patch16_224", **HEAD, steps_per_epoch=1, local_views=1, image_size=64, local_size=32
    )
    assert method(method.augment(uint8(2, 3, 70, 80))).isfinite()
    assert methods.DINO("resnet10t", **HEAD).encoder.num_features == 512
    vit = methods.small_vit(1, 8, dynamic_img_size=True)
    x = torch.randn(2, 1, 8, 8)
    fixed = methods.small_vit(1, 8)
    fixed.load_state_dict(vit.state_dict())
    torch.testing.assert_close(vit.eval()(x), fixed.eval()(x))
    assert vit(x[..., :4, :4]).shape == (2, 96)


def test_a_small_vit_of_any_size_is_rebuilt(tmp_path):
    vit = methods.small_vit(1, 8, dynamic_img_size=True)
    methods.export_encoder(vit, tmp_path, image_size=8, in_chans=1)
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(methods.load_encoder(tmp_path)(x), vit.eval()(x))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"out_dim": 0}, ValueError, "out_dim: got 0, want an int >= 1"),
        ({"hidden_dim": 0}, ValueError, "hidden_dim: got 0"),
        ({"bottleneck_dim": 1.5}, ValueError, "bottleneck_dim: got 1.5"),
        ({"student_temp": 0}, ValueError, "student_temp: got 0, want a finite number > 0"),
        ({"teacher_temp": -1}, ValueError, "teacher_temp: got -1"),
        ({"warmup_teacher_temp": 0}, ValueError, "warmup_teacher_temp: got 0"),
        ({"warmup_teacher_temp_epochs": -1}, ValueError, "warmup_teacher_temp_epochs: got -1, want an int >= 0"),
        ({"momentum": 1.0}, ValueError, r"momentum: got 1.0, want a number in \[0, 1\)"),
        ({"center_momentum": 2}, ValueError, r"center_momentum: got 2, want a number in \[0, 1\]"),
        ({"centering": "median"}, ValueError, "centering: got 'median', want 'mean', 'sinkhorn'"),
        ({"clip_grad": 0}, ValueError, "clip_grad: got 0, want a finite number > 0"),
        ({"freeze_last_layer": -1}, ValueError, "freeze_last_layer: got -1"),
        ({"local_views": -1}, ValueError, "local_views: got -1, want an int >= 0"),
        ({"local_size": 0}, ValueError, "local_size: got 0"),
        ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch: got 0"),
    ],
)
def test_bad_input(options, error, says):
    with pytest.raises(error, match=says):
        dino(**options)
