"""The stand-ins for the losses of DINO, DINOv2 and lightly's forms of them: against lightly, and against the formulas
in float64 where the original cannot be installed. What several processes do is in test_dino_losses.py.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import compat_formulas as formulas
import lightly.loss
import pytest
import torch
import torch.nn.functional as F
from drop_in import assert_same
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastssl.losses import compat
from fastssl.losses.compat import dino, dinov2
from fastssl.losses.compat import lightly as lightly_here

SEEDS, ROWS, WIDTHS = st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 40)
TEMPS = st.sampled_from([0.04, 0.07, 0.3, 1.0])
any_problem = settings(max_examples=40, deadline=None)


def normal(seed: int, *shape: int) -> Tensor:
    """Numbers that float32 has, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def masks(seed: int, *shape: int) -> Tensor:
    """A mask of which one image has nothing, if there are several, and another one everything."""
    mask = normal(seed, *shape) > 0.5
    mask[-1] = False
    mask[0] = True
    return mask


def term(student_temp: float, rows: int) -> float:
    """The size of what is summed for the gradient of a logit."""
    return 3.4 * 2 / student_temp / rows


@any_problem
@given(
    b=ROWS, k=WIDTHS, s=st.integers(1, 5), t=st.integers(1, 3), seed=SEEDS, temps=st.tuples(TEMPS, TEMPS, TEMPS),
    when=st.sampled_from([{}, {"teacher_temp": 0.11}, *({"epoch": e} for e in (0, 3, 4, 9))]),
)  # fmt: skip
def test_lightly_dino(
    b: int, k: int, s: int, t: int, seed: int, temps: tuple[float, float, float], when: dict[str, float]
) -> None:
    s += s == t == 1  # one view on each side leaves no pair
    logits = normal(seed, s + t, b, k)

    def call(module):  # type: ignore[no-untyped-def]
        def loss(*views: Tensor) -> Tensor:
            criterion = module.DINOLoss(k, *temps[:2], 4, temps[2])
            criterion.center.copy_(normal(seed + 1, 1, 1, k))
            return criterion(list(views[s:]), list(views[:s]), **when)

        return loss

    both = (call(module) for module in (lightly.loss, lightly_here))
    assert_same(*both, list(logits), grads=[True] * s + [False] * t, term=term(temps[2], b), where=f"{temps} {when}")


@any_problem
@given(b=ROWS, k=WIDTHS, seed=SEEDS, temps=st.tuples(TEMPS, TEMPS), given_temp=st.sampled_from([None, 0.11]))
def test_lightly_ibot(b: int, k: int, seed: int, temps: tuple[float, float], given_temp: float | None) -> None:
    mask = masks(seed, b, 3, 2)
    mask[0, 0, 0] = True
    m = int(mask.sum())
    logits = normal(seed, 2, m, k)

    def call(module):  # type: ignore[no-untyped-def]
        def loss(student: Tensor, teacher: Tensor) -> Tensor:
            criterion = module.IBOTPatchLoss(k, *temps)
            criterion.center.center.copy_(normal(seed + 1, 1, k))
            return criterion(teacher, student, mask, given_temp)

        return loss

    both = (call(module) for module in (lightly.loss, lightly_here))
    assert_same(*both, list(logits), grads=[True, False], term=term(temps[1], b), where=f"{temps}")


@any_problem
@given(
    n=st.integers(2, 30), d=st.integers(2, 30), seed=SEEDS, p=st.sampled_from([1, 2, 3.5]),
    eps=st.sampled_from([1e-8, 0.01]),
)  # fmt: skip
def test_lightly_koleo(n: int, d: int, seed: int, p: float, eps: float) -> None:
    x = normal(seed, n, d)
    both = (module.KoLeoLoss(p, eps) for module in (lightly.loss, lightly_here))
    assert_same(*both, [x], **koleo_scales(x))


def koleo_scales(x: Tensor) -> dict[str, float]:
    """What is a difference of unit rows is divided by its length and, in the gradient, by its square and the row's."""
    u = F.normalize(x)
    first, *second = (u @ u.T).fill_diagonal_(-2).topk(min(2, len(x) - 1)).values.T
    assume(not second or (first - second[0]).min() > 1e-6)  # float32 tells which is the nearest
    near = torch.cdist(u, u, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(4).min().item()
    return {"scale": 1 / near, "term": 3.4 / len(x) / near**2 / x.norm(dim=1).min().item()}


@pytest.mark.parametrize("name", ["DINOLoss", "IBOTPatchLoss"])
@pytest.mark.parametrize("training", [True, False])
def test_lightly_state(name: str, training: bool) -> None:
    """The same centres after several steps, in both modes, and state dicts that the other one loads."""
    there, here = (
        getattr(module, name)(6, center_momentum=0.7).train(training) for module in (lightly.loss, lightly_here)
    )
    mask = masks(0, 4, 2, 2)
    for step in range(3):
        logits = normal(step, 2, int(mask.sum()), 6).float()
        rest = (mask,) if name == "IBOTPatchLoss" else ()
        inputs = logits if rest else ([logits[0], logits[1]], [logits[1], logits[0]])
        values = [criterion(*inputs, *rest) for criterion in (there, here)]
        torch.testing.assert_close(*values)
        torch.testing.assert_close(dict(here.state_dict()), dict(there.state_dict()))
    fresh = getattr(lightly.loss, name)(6)
    fresh.load_state_dict(here.state_dict())
    getattr(lightly_here, name)(6).load_state_dict(there.state_dict())


def test_lightly_center_module() -> None:
    criterion = lightly_here.IBOTPatchLoss(3, center_momentum=0.5)
    criterion.center.update(torch.ones(2, 3))
    assert torch.equal(criterion.center.value, torch.full((1, 3), 0.5))


@any_problem
@given(b=ROWS, k=WIDTHS, crops=st.integers(2, 5), seed=SEEDS, epoch=st.integers(0, 6), temp=TEMPS)
def test_dino(b: int, k: int, crops: int, seed: int, epoch: int, temp: float) -> None:
    center = normal(seed + 1, 1, k)
    logits = normal(seed, crops * b, k), normal(seed + 2, 2 * b, k)
    teacher_temp = 0.04 + (0.3 - 0.04) * min(epoch / 3, 1)

    def ours(student: Tensor, teacher: Tensor) -> Tensor:
        criterion = dino.DINOLoss(k, crops, 0.04, 0.3, 4, 7, temp)
        criterion.center.copy_(center)
        return criterion(student, teacher, epoch)

    form = lambda s, t: formulas.dino(s, t, center.to(s), crops, (temp, teacher_temp))  # noqa: E731
    assert_same(form, ours, logits, grads=[True, False], term=term(temp, b), where=f"{epoch}")


@pytest.mark.parametrize("training", [True, False])
def test_dino_s_centre(training: bool) -> None:
    criterion, center = dino.DINOLoss(5, 3, 0.1, 0.2, 0, 9, center_momentum=0.7).train(training), torch.zeros(1, 5)
    assert list(criterion.state_dict()) == ["center"]
    for step in range(3):
        student, teacher = normal(step, 12, 5).float(), normal(step + 9, 8, 5).float()
        torch.testing.assert_close(
            criterion(student, teacher, step), formulas.dino(student, teacher, center, 3, (0.1, 0.2))
        )
        center = center * 0.7 + teacher.mean(0, keepdim=True) * 0.3
        torch.testing.assert_close(criterion.center, center)


@any_problem
@given(b=ROWS, k=WIDTHS, seed=SEEDS, temp=TEMPS, iterations=st.integers(1, 4))
def test_dinov2_targets(b: int, k: int, seed: int, temp: float, iterations: int) -> None:
    logits, close = normal(seed, b, k), {"rtol": 1e-9, "atol": 1e-12}
    balanced = formulas.sinkhorn(logits, temp, iterations)
    torch.testing.assert_close(
        dinov2.DINOLoss(k).sinkhorn_knopp_teacher(logits, temp, n_iterations=iterations), balanced, **close
    )
    count = torch.tensor([b])
    found = dinov2.iBOTPatchLoss(k).sinkhorn_knopp_teacher(logits, temp, count, n_iterations=iterations)
    torch.testing.assert_close(found, balanced, **close)
    assert count == b
    for criterion, x in ((dinov2.DINOLoss(k), logits), (dinov2.iBOTPatchLoss(k), logits[None])):
        criterion.center.copy_(normal(seed + 1, k))
        wanted = ((x - criterion.center) / temp).softmax(-1)
        torch.testing.assert_close(criterion.softmax_center_teacher(x, temp), wanted, **close)


def test_sinkhorn_does_not_overflow() -> None:
    logits = normal(0, 20, 6) * 100
    found = dinov2.DINOLoss(6).sinkhorn_knopp_teacher(logits.float(), 0.01)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(20))


@any_problem
@given(
    b=ROWS, k=WIDTHS, s=st.integers(1, 4), t=st.integers(1, 3), seed=SEEDS, temp=TEMPS, tensors=st.booleans(),
)  # fmt: skip
def test_dinov2_dino(b: int, k: int, s: int, t: int, seed: int, temp: float, tensors: bool) -> None:
    """The sum over all pairs, of lists or of tensors that are like lists."""
    students, targets = normal(seed, s, b, k), normal(seed + 1, t, b, k).softmax(-1).float().double()

    def form(students: Tensor, targets: Tensor) -> Tensor:
        return sum(formulas.soft_cross_entropy(q, x, temp).mean() for x in students for q in targets)  # type: ignore[return-value]

    def ours(students: Tensor, targets: Tensor) -> Tensor:
        lists = (students, targets) if tensors else (list(students), targets.unbind())
        return dinov2.DINOLoss(k, temp)(*lists)

    assert_same(form, ours, [students, targets], grads=[True, False], scale=s * t, term=t * term(temp, b))


@any_problem
@given(b=ROWS, n=st.integers(1, 7), k=WIDTHS, seed=SEEDS, temp=TEMPS)
def test_dinov2_patches(b: int, n: int, k: int, seed: int, temp: float) -> None:
    student, targets = normal(seed, b, n, k), normal(seed + 1, b, n, k).softmax(-1).float().double()
    mask = masks(seed, b, n)
    criterion = dinov2.iBOTPatchLoss(k, temp)
    kinds: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "all": lambda x, q: criterion(x, q, mask),
        "masked": lambda x, q: criterion.forward_masked(x[mask], q[mask], mask),
    }
    for where, ours in kinds.items():
        form = lambda x, q: formulas.dino_patches(x, q, mask, temp)  # noqa: E731
        assert_same(form, ours, [student, targets], grads=[True, False], term=term(temp, b), where=where)


def test_dinov2_patches_of_a_padded_batch() -> None:
    """Rows from `n_masked_patches` on do not count, and weights are taken as they are."""
    student, targets, weights = normal(0, 9, 5), normal(1, 9, 5).softmax(-1), normal(2, 6).abs()
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, :6] = True
    found = dinov2.iBOTPatchLoss(5, 0.2).forward_masked(student, targets, mask, 6, weights)
    wanted = (weights * formulas.soft_cross_entropy(targets[:6], student[:6], 0.2)).sum() / 4
    torch.testing.assert_close(found, wanted)
    found = dinov2.iBOTPatchLoss(5, 0.2).forward_masked(student, targets, mask, 6)
    torch.testing.assert_close(found, formulas.soft_cross_entropy(targets[:6], student[:6], 0.2).mean() / 4)


@pytest.mark.parametrize(("loss", "shape"), [(dinov2.DINOLoss, (6, 5)), (dinov2.iBOTPatchLoss, (3, 4, 5))])
def test_dinov2_s_centre(loss: Callable[..., torch.nn.Module], shape: tuple[int, ...]) -> None:
    """An update begins, and counts from the next time that the centre is asked for."""
    criterion = loss(5, center_momentum=0.7)
    center = torch.zeros_like(criterion.center)
    assert center.shape == (1,) * (len(shape) - 1) + (5,)
    for step in range(3):
        logits = normal(step, *shape).float()
        found = criterion.softmax_center_teacher(logits, 0.2)
        torch.testing.assert_close(criterion.center, center)
        torch.testing.assert_close(found, ((logits - center) / 0.2).softmax(-1))
        criterion.update_center(logits)
        torch.testing.assert_close(criterion.center, center)
        center = center * 0.7 + logits.flatten(0, -2).mean(0) * 0.3
    assert list(criterion.state_dict()) == ["center"]


@any_problem
@given(n=st.integers(2, 30), d=st.integers(2, 30), seed=SEEDS, eps=st.sampled_from([1e-8, 0.01]))
def test_dinov2_koleo(n: int, d: int, seed: int, eps: float) -> None:
    x = normal(seed, n, d)

    assert_same(lambda x: formulas.koleo(x, eps), lambda x: dinov2.KoLeoLoss()(x, eps), [x], **koleo_scales(x))
    u = F.normalize(x, dim=1)
    assert torch.equal(dinov2.KoLeoLoss().pairwise_NNs_inner(u), (u @ u.T).fill_diagonal_(-1).argmax(1))


@pytest.mark.parametrize("balanced", [False, True])
def test_a_step_of_dinov2(balanced: bool) -> None:
    """Global crops of the student, joined, meet those of the teacher in reverse order; local ones meet both."""
    b, k = 4, 6
    crops, local, teacher = (normal(i, n * b, k).requires_grad_(i < 2) for i, n in enumerate((2, 3, 2)))
    criterion = dinov2.DINOLoss(k)
    form = criterion.sinkhorn_knopp_teacher if balanced else criterion.softmax_center_teacher
    targets = form(teacher, teacher_temp=0.07).view(2, -1, k)
    local_loss = criterion(student_output_list=local.chunk(3), teacher_out_softmaxed_centered_list=targets)
    global_loss = criterion(
        student_output_list=[crops], teacher_out_softmaxed_centered_list=[targets.flip(0).flatten(0, 1)]
    )
    wanted = sum(formulas.soft_cross_entropy(q, x, 0.1).mean() for x in local.chunk(3) for q in targets)
    torch.testing.assert_close(local_loss, wanted)
    wanted = (
        sum(formulas.soft_cross_entropy(q, x, 0.1).mean() for x, q in zip(crops.chunk(2), targets.flip(0), strict=True))
        / 2
    )
    torch.testing.assert_close(global_loss, wanted)
    assert all(g.any() for g in torch.autograd.grad(local_loss + global_loss, (crops, local)))


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


@HALVES
def test_half_precision(dtype: torch.dtype) -> None:
    """Losses are float32, gradients of the logits' type, and centres stay wide."""
    k, mask = 6, masks(0, 4, 2, 2)
    m = int(mask.sum())
    student, teacher = normal(0, m, k).to(dtype).requires_grad_(), normal(1, m, k).to(dtype)
    v2, patches = dinov2.DINOLoss(k).to(dtype), dinov2.iBOTPatchLoss(k).to(dtype)
    double = [torch.cat([x, x]) for x in (student, teacher)]
    targets = patches.sinkhorn_knopp_teacher(teacher, 0.1)
    criteria = {
        "lightly DINO": lambda: lightly_here.DINOLoss(k).to(dtype)([teacher], [teacher, student]),
        "lightly iBOT": lambda: lightly_here.IBOTPatchLoss(k).to(dtype)(teacher, student, mask),
        "lightly KoLeo": lambda: lightly_here.KoLeoLoss()(student),
        "DINO": lambda: dino.DINOLoss(k, 2, 0.1, 0.1, 0, 1).to(dtype)(*double, 0),
        "DINOv2": lambda: v2([student], [v2.softmax_center_teacher(teacher, 0.1)]),
        "DINOv2 iBOT": lambda: patches.forward_masked(student, targets, mask.flatten(1)),
        "DINOv2 KoLeo": lambda: dinov2.KoLeoLoss()(student),
    }
    for name, call in criteria.items():
        loss = call()
        assert loss.dtype == torch.float32, name
        (grad,) = torch.autograd.grad(loss, student)
        assert grad.dtype == dtype, name
        assert grad.isfinite().all(), name
    v2.update_center(teacher)
    v2.apply_center_update()
    assert v2.center.dtype == torch.float32
    torch.testing.assert_close(v2.center[0], 0.1 * teacher.float().mean(0))


def steps(k: int) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """A step of each loss, of logits [M, K] of the patches of a mask [M, 1], with modules of their own."""
    v1, v2, patches = dino.DINOLoss(k, 2, 0.1, 0.2, 3, 5), dinov2.DINOLoss(k), dinov2.iBOTPatchLoss(k)
    one, ibot = lightly_here.DINOLoss(k), lightly_here.IBOTPatchLoss(k)

    def late(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        targets = v2.softmax_center_teacher(teacher, 0.1)
        v2.update_center(teacher)
        return v2([student, student * 2], [targets])

    return {
        "lightly DINO": lambda s, t, m: one([t], [t, s], epoch=1),
        "lightly iBOT": lambda s, t, m: ibot(t, s, m[..., None]),
        "lightly KoLeo": lambda s, t, m: lightly_here.KoLeoLoss()(s),
        "DINO": lambda s, t, m: v1(torch.cat([s, s * 2]), torch.cat([t, t]), 1),
        "DINOv2": late,
        "DINOv2 iBOT": lambda s, t, m: patches.forward_masked(s, patches.sinkhorn_knopp_teacher(t, 0.1), m),
        "DINOv2 KoLeo": lambda s, t, m: dinov2.KoLeoLoss()(s),
    }


@pytest.mark.parametrize("name", steps(1))
def test_compiles_whole(name: str) -> None:
    k = 6
    eager, compiled = steps(k)[name], torch.compile(steps(k)[name], fullgraph=True, dynamic=True, backend="aot_eager")
    for i, m in enumerate((8, 9, 11)):
        student, teacher = normal(i, m, k).float().requires_grad_(), normal(i + 5, m, k).float()
        found, wanted = (f(student, teacher, torch.ones(m, 1, dtype=torch.bool)) for f in (compiled, eager))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (found, wanted)))


@HALVES
def test_koleo_of_equal_rows_in_half_precision(dtype: torch.dtype) -> None:
    """Where the originals' gradients are not finite, or are the only ones that count."""
    x = normal(0, 1, 8).expand(3, 8).to(dtype).requires_grad_()
    for loss in (lightly_here.KoLeoLoss(), dinov2.KoLeoLoss()):
        assert not torch.autograd.grad(loss(x), x)[0].any()


def test_modules_copy() -> None:
    criterion = dinov2.DINOLoss(4)
    criterion.update_center(normal(0, 3, 4))
    other = copy.deepcopy(criterion)
    other.apply_center_update()
    criterion.apply_center_update()
    assert torch.equal(other.center, criterion.center)


def test_nothing_leads_to_the_originals() -> None:
    assert all(f"`{name}`" in (compat.__doc__ or "") for name in ("dino", "dinov2"))
    names = "fastssl.losses.compat.dino, fastssl.losses.compat.dinov2, fastssl.losses.compat.lightly"
    code = f"import sys, {names}; print({{'lightly', 'dinov2', 'main_dino', 'xformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n", done.stderr


Z, MASK = torch.randn(4, 3), torch.ones(2, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: lightly_here.DINOLoss(3, center_mode="median"), ValueError, "center_mode: got 'median', want 'mean'"),
        (lambda: lightly_here.DINOLoss(3)([Z], [Z]), ValueError, "skip_same_view: got True for one view on each side"),
        (lambda: lightly_here.DINOLoss(0), ValueError, "out_dim: got 0, want an int >= 1"),
        (lambda: lightly_here.IBOTPatchLoss(3)(Z, Z, MASK[:1]), ValueError, "mask: got 2 masked patches, want .* 4"),
        (lambda: lightly_here.IBOTPatchLoss(3)(Z, Z, MASK.float()), TypeError, "mask: got torch.float32 .* want a"),
        (lambda: lightly_here.KoLeoLoss(p=0)(Z), ValueError, "p: got 0, want a finite number > 0"),
        (lambda: lightly_here.KoLeoLoss()(Z[:1]), ValueError, "x: got 1 row, want at least 2"),
        (lambda: dino.DINOLoss(3, 1, 0.1, 0.1, 0, 1), ValueError, r"ncrops: got 1, want an int in \[2"),
        (lambda: dino.DINOLoss(3, 2, 0.1, 0.1, 5, 4), ValueError, r"warmup_teacher_temp_epochs: got 5, want .* 4\]"),
        (lambda: dino.DINOLoss(3, 2, 0.1, 0.1, 0, 1, center_momentum=2), ValueError, "center_momentum: got 2"),
        (lambda: dino.DINOLoss(3, 3, 0.1, 0.1, 0, 1)(Z, Z, 0), ValueError, "student_output: got 4 rows, want"),
        (lambda: dino.DINOLoss(3, 2, 0.1, 0.1, 0, 1)(Z, None, 0), TypeError, "teacher_output: got NoneType"),
        (lambda: dinov2.DINOLoss(3)([], [Z]), ValueError, "student_output_list: got 0 by 1 views, want at least one"),
        (lambda: dinov2.DINOLoss(3).sinkhorn_knopp_teacher(Z, 0.1, 0), ValueError, "n_iterations: got 0, want an int"),
        (lambda: dinov2.DINOLoss(3).update_center(Z[:0]), ValueError, "teacher_output: got no rows, want at least one"),
        (lambda: dinov2.iBOTPatchLoss(3).forward_masked(Z, Z, MASK[0]), TypeError, r"mask: got torch.bool \(2,\)"),
        (lambda: dinov2.iBOTPatchLoss(3)(Z, Z, MASK), ValueError, r"student_patch_tokens: got shape \(4, 3\), want"),
        (lambda: dinov2.KoLeoLoss()(Z, 0.0), ValueError, "eps: got 0.0, want a finite number > 0"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()
