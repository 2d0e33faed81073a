"""The modules of DINO's, iBOT's and KoLeo's losses, their state, and what several processes do: dino_worker.py."""

from __future__ import annotations

import copy
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dino_worker import CASES
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from fastssl import functional, reference
from fastssl.losses import DINOLoss, IBOTLoss, KoLeoLoss

K, WORKER = 11, Path(__file__).with_name("dino_worker.py")
CENTERINGS = ("mean", "sinkhorn", "none")


def views(s: int, t: int, b: int = 5, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(s, b, K).to(dtype), torch.randn(t, b, K).to(dtype) + torch.arange(K).to(dtype)


def mean(center: Tensor, teacher: Tensor, m: float) -> Tensor:
    return m * center + (1 - m) * teacher.float().flatten(0, -2).mean(0)


def test_the_mean_is_of_the_steps_before() -> None:
    criterion, center = DINOLoss(K, center_momentum=0.8), torch.zeros(K)
    for temp in (None, 0.07, torch.tensor(0.05)):
        s, t = views(4, 2)
        found = criterion(s, t, temp)
        torch.testing.assert_close(found, reference.dino_loss(s, t, center, 0.1, 0.04 if temp is None else temp))
        center = mean(center, t, 0.8)
        torch.testing.assert_close(criterion.center, center)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_sinkhorn(listed: bool, skip: bool) -> None:
    s, t = views(3, 2, dtype=torch.float64)
    criterion = DINOLoss(K, 0.2, 0.3, centering="sinkhorn", iterations=2, skip_same_view=skip)
    center = reference.sinkhorn(t.flatten(0, 1), 2, 0.3)[0]
    found = criterion(list(s), list(t)) if listed else criterion(s, t)
    torch.testing.assert_close(found, reference.dino_loss(s, t, center, 0.2, 0.3, skip))


def test_no_centering() -> None:
    s, t = views(3, 2)
    torch.testing.assert_close(DINOLoss(K, centering="none")(s, t), reference.dino_loss(s, t))


@pytest.mark.parametrize("centering", CENTERINGS)
def test_ibot(centering: str) -> None:
    (s, t), weights = (x[0].double() for x in views(1, 1, 7)), torch.rand(7)
    criterion = IBOTLoss(K, 0.2, 0.3, 0.8, centering)
    center = reference.sinkhorn(t, 3, 0.3)[0] if centering == "sinkhorn" else torch.zeros(K)
    found = criterion(s, t, weights, 3)
    torch.testing.assert_close(found, reference.ibot_loss(s, t, center, 0.2, 0.3, weights=weights, samples=3))
    if centering == "mean":
        torch.testing.assert_close(criterion.center, mean(center, t, 0.8))


def test_koleo() -> None:
    x = torch.randn(6, 4)
    assert KoLeoLoss(0.1)(x) == functional.koleo(x, 0.1)


@pytest.mark.parametrize("centering", CENTERINGS)
def test_state(centering: str) -> None:
    """A resumed module goes on as the whole one; only a moving mean is state."""
    whole = DINOLoss(K, centering=centering)
    assert list(whole.state_dict()) == (["center"] if centering == "mean" else [])
    whole(*views(3, 2))
    resumed = DINOLoss(K, centering=centering)
    resumed.load_state_dict(whole.state_dict())
    s, t = views(3, 2)
    assert whole(s, t) == resumed(s, t)
    assert all(torch.equal(x, y) for x, y in zip(whole.buffers(), resumed.buffers(), strict=True))


@pytest.mark.parametrize("make", [DINOLoss, IBOTLoss])
def test_it_moves_in_training_alone(make: Callable[[int], torch.nn.Module]) -> None:
    criterion = make(K).eval()
    s, t = views(2, 2)
    inputs = (s, t) if make is DINOLoss else (s[0], t[0])
    criterion(*inputs)
    assert not criterion.center.any()
    criterion.train()(*inputs)
    assert criterion.center.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("cast", [lambda m, d: m.to(d), lambda m, d: m.half(), lambda m, d: m.bfloat16()])
def test_the_centre_stays_wide(cast: Callable[..., torch.nn.Module], dtype: torch.dtype) -> None:
    criterion = DINOLoss(K)
    criterion(*views(2, 2))
    before = criterion.center.clone()
    model = cast(torch.nn.Sequential(criterion, torch.nn.Linear(2, 2)), dtype)
    assert model[1].weight.dtype in (torch.float16, torch.bfloat16)
    assert criterion.center.dtype == torch.float32
    assert torch.equal(criterion.center, before)
    assert criterion.double().center.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_types(dtype: torch.dtype) -> None:
    s, t = views(2, 2, dtype=dtype)
    loss = DINOLoss(K)(s.requires_grad_(), t)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.autograd.grad(loss, s)[0].dtype == dtype


def test_the_centre_may_move_before_the_backward_pass() -> None:
    s, t = views(3, 2)
    grads = []
    for criterion in (DINOLoss(K), DINOLoss(K).eval()):
        leaf = s.clone().requires_grad_()
        loss = criterion(leaf, t)
        grads.append(torch.autograd.grad(loss, leaf)[0])
    assert torch.equal(*grads)


def test_a_learnt_temperature_and_those_of_tensors() -> None:
    tau = torch.nn.Parameter(torch.tensor(0.2))
    criterion = DINOLoss(K, tau, torch.tensor(0.05), torch.tensor(0.9))
    assert [name for name, _ in criterion.named_parameters()] == ["student_temp"]
    s, t = views(3, 2)
    loss = criterion(s, t)
    torch.testing.assert_close(loss, reference.dino_loss(s, t, None, 0.2, 0.05))
    assert torch.autograd.grad(loss, tau)[0] != 0


@pytest.mark.parametrize("centering", CENTERINGS)
def test_compiles_whole_and_once(centering: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    criterion = DINOLoss(K, centering=centering)
    other = copy.deepcopy(criterion)
    compiled = torch.compile(criterion, fullgraph=True, dynamic=True, backend=counter)
    frames = []
    for b, temp in ((4, 0.04), (5, 0.05), (7, 0.06)):
        s, t = views(3, 2, b)
        s.requires_grad_()
        found, wanted = (f(s, t, temp) for f in (compiled, other))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(x, s)[0] for x in (found, wanted)))
        torch.testing.assert_close(list(criterion.buffers()), list(other.buffers()))
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1


def test_representation() -> None:
    assert repr(DINOLoss(8)) == (
        "DINOLoss(8, student_temp=0.1, teacher_temp=0.04, center_momentum=0.9, centering='mean', iterations=3,"
        " skip_same_view=True, gather_distributed=True)"
    )
    assert repr(KoLeoLoss()) == "KoLeoLoss(eps=1e-08, gather_distributed=False)"


S = torch.randn(2, 4, K)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: DINOLoss(0), ValueError, "out_dim: got 0, want an int >= 1"),
        (lambda: DINOLoss(K, 0.0), ValueError, "student_temp: got 0.0, want a finite number > 0"),
        (lambda: DINOLoss(K, 0.1, "cold"), TypeError, "teacher_temp: got str, want a number"),
        (lambda: DINOLoss(K, center_momentum=1.5), ValueError, r"center_momentum: got 1.5, want a number in \[0, 1\]"),
        (
            lambda: DINOLoss(K, centering="median"),
            ValueError,
            "centering: got 'median', want 'mean', 'sinkhorn', 'none'",
        ),
        (lambda: DINOLoss(K, iterations=0), ValueError, "iterations: got 0, want an int >= 1"),
        (lambda: DINOLoss(K, gather_distributed="star"), ValueError, "gather_distributed: got 'star'"),
        (lambda: DINOLoss(K)(S, S, -1.0), ValueError, "teacher_temp: got -1.0, want a finite number > 0"),
        (lambda: DINOLoss(K + 1)(S, S), ValueError, rf"center: got shape \({K + 1},\), want \[{K}\]"),
        (lambda: DINOLoss(K)(S[:1], S[:1]), ValueError, "skip_same_view: got True for one view on each side"),
        (lambda: DINOLoss(K, centering="sinkhorn")(S, [1]), TypeError, "teacher_logits: got int, want a torch.Tensor"),
        (lambda: IBOTLoss(K, centering=None), ValueError, "centering: got None"),
        (lambda: IBOTLoss(K)(S[0], S[1], samples=0), ValueError, "samples: got 0, want an int >= 1"),
        (lambda: IBOTLoss(K)(S[0], S[1], S[0, 0]), ValueError, r"weights: got shape \(11,\), want \[4\]"),
        (lambda: KoLeoLoss(0)(S[0]), ValueError, "eps: got 0, want a finite number > 0"),
        (lambda: KoLeoLoss(gather_distributed=None), ValueError, "gather_distributed: got None"),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


def test_a_refused_call_leaves_the_centre() -> None:
    criterion = DINOLoss(K)
    with pytest.raises(ValueError):
        criterion(S, S[..., 1:])
    assert not criterion.center.any()


@functools.cache
def found() -> dict[str, dict[str, float]]:
    """What two processes find that are started once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, str(WORKER), folder]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((Path(folder) / "found.json").read_text())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", ["even", "uneven"])
def test_two_processes_are_one(case: str, sizes: str) -> None:
    """Value, gradients as DistributedDataParallel averages them, and centre, in float64."""
    apart = found()[f"{case} {sizes}"]
    assert apart
    assert not {part: error for part, error in apart.items() if not error < 1e-12}


def test_lightly_on_two_processes() -> None:
    assert not {name: error for name, error in found()["originals"].items() if not error < 1e-12}


def test_dinov2_moves_its_centre_late() -> None:
    assert found()["late"] == {"late": 0.0}
