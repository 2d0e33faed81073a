"""Balanced assignments: loops and the published form, and every backend, type and shape against the definition."""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import compat_formulas as formulas
import pytest
import torch
from accuracy import assert_close_to_exact
from conftest import DEVICES, runnable
from devices import no_synchronisation
from hypothesis import given, settings
from hypothesis import strategies as st
from sinkhorn_worker import SIZES
from torch import Tensor
from torch.testing import assert_close

import fastssl
from fastssl import _backend, reference
from fastssl.functional import dino_loss, sinkhorn

TYPES = (torch.float64, *_backend.FLOATS)
TEMPS, LOGITS = (0.04, 0.05, 0.5), (0.01, 1.0, 10.0, 100.0, 1000.0)
on_devices = pytest.mark.parametrize("device", DEVICES)
on_backends = pytest.mark.parametrize(("device", "backend"), runnable("sinkhorn"))
on_types = pytest.mark.parametrize(
    ("dtype", "device", "backend"), [(t, *where) for t in TYPES for where in runnable("sinkhorn", t)]
)


def by_loops(logits: Tensor, iterations: int, temp: float) -> list[list[float]]:
    q = [[math.exp(x / temp) for x in row] for row in logits.tolist()]
    samples, prototypes = range(len(q)), range(len(q[0]))
    for _ in range(iterations):
        columns = [sum(q[b][k] for b in samples) for k in prototypes]
        q = [[q[b][k] / columns[k] for k in prototypes] for b in samples]
        q = [[x / sum(row) for x in row] for row in q]
    return [[x / sum(row) for x in row] for row in q]


def check(x: Tensor, temp: float, where: object, iterations: int = 3) -> None:
    """Hold the center and the assignments to the rule. Logits of 16 bits are what they are in float32."""
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    names = ("center", "assignments")
    exact = dict(zip(names, reference.sinkhorn(x.double(), iterations, temp), strict=True))
    eager = dict(zip(names, reference.sinkhorn(x.to(kind), iterations, temp), strict=True))
    found = {"center": sinkhorn(x, iterations, temp), "assignments": sinkhorn(x, iterations, temp, assignments=True)}
    assert found["assignments"].shape == x.shape, where
    assert all(value.dtype == kind for value in found.values()), where
    size = x.double().abs().max().clamp_min(temp)  # a sum's relative error is one of temp in the center
    hold({"center": found["center"]}, eager, exact, size, kind, 0.0, where)
    # An exponent has roundings of the center, of the score less it, and of their quotient by temp, of up to 5/2 eps.
    # The exact ones are no better in float64, and errors of such iterations add up.
    size = max(size.item(), exact["center"].abs().max().item())
    scale = (5 if kind == torch.float32 else 5 * (1 + iterations)) * size / temp
    hold({"assignments": found["assignments"]}, eager, exact, torch.zeros(()), kind, scale, where)


def hold(
    found: dict[str, Tensor], eager: dict[str, Tensor], exact: dict[str, Tensor], terms: Tensor, kind: torch.dtype,
    scale: float, where: object,
) -> None:  # fmt: skip
    (name,) = found
    values = [{name: values[name].double().cpu()} for values in (found, eager, exact)]
    assert_close_to_exact(*values, {name: terms.double().cpu()}, kind, scale, str(where))


def test_reference_equals_loops() -> None:
    for (samples, prototypes), iterations in itertools.product([(1, 1), (4, 3), (3, 7)], range(4)):
        x = torch.randn(samples, prototypes, dtype=torch.float64)
        exact = torch.tensor(by_loops(x, iterations, 0.3), dtype=torch.float64)
        assert_close(reference.sinkhorn(x, iterations, 0.3)[1], exact, rtol=1e-12, atol=0)
        assert_close(sinkhorn(x, iterations, 0.3, assignments=True), exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
@pytest.mark.parametrize("temp", TEMPS)
def test_reference_equals_the_published_form(iterations: int, temp: float) -> None:
    x = torch.nn.functional.normalize(torch.randn(64, 300, dtype=torch.float64))
    center, assignments = reference.sinkhorn(x, iterations, temp)
    assert_close(assignments, formulas.sinkhorn(x, temp, iterations), rtol=1e-10, atol=0)
    assert_close(((x - center) / temp).softmax(1), assignments, rtol=1e-12, atol=0)


@on_types
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1), (1, 16), (1, 1000), (2, 3), (2, 257), (3, 127), (3, 3000), (7, 1), (7, 16), (7, 3000), (64, 1),
        (64, 127), (64, 1000), (129, 3), (129, 16), (129, 257), (129, 3000), (1500, 3),
    ],
    ids=str,
)  # fmt: skip
def test_shapes(device: str, backend: str, dtype: torch.dtype, shape: tuple[int, int], nan_filled: None) -> None:
    with fastssl.use_backend(backend):
        for temp, size in itertools.product(TEMPS, LOGITS):
            check(size * torch.randn(shape, device=device).to(dtype), temp, (shape, temp, size))


@on_types
@pytest.mark.parametrize(("samples", "size"), [(1, 1.0), (2, 1000.0), (7, 10.0), (9, 0.01)])
def test_65536_prototypes(
    device: str, backend: str, dtype: torch.dtype, samples: int, size: float, nan_filled: None
) -> None:
    with fastssl.use_backend(backend):
        check(size * torch.randn(samples, 65536, device=device).to(dtype), 0.04, (samples, size))


@on_types
def test_sizes_of_what_they_balance(device: str, backend: str, dtype: torch.dtype) -> None:
    """Scores that take one prototype, one sample or all that rise along a row out of proportion."""
    with fastssl.use_backend(backend):
        for high, temp in itertools.product((1, 30, 1000), TEMPS):
            x = torch.randn(40, 5000, device=device)
            rise = torch.linspace(0, high, 5000, device=device)
            samples = torch.linspace(0, high, 40, device=device)[:, None]
            for name, y in (
                ("one prototype", x + high * (torch.arange(5000, device=device) == 77)),
                ("one sample", x + high * (torch.arange(40, device=device) == 7)[:, None]),
                ("rising", x + rise), ("falling", x - rise), ("both", x + samples * (rise > high / 2)),
            ):  # fmt: skip
                check(y.to(dtype), temp, (name, high, temp))


@on_types
def test_layouts(device: str, backend: str, dtype: torch.dtype, nan_filled: None) -> None:
    x = torch.randn(2, 12, 2 * 129 + 5, device=device).to(dtype)
    layouts = {
        "views": x, "views of the batch": x.transpose(0, 1), "cropped": x[:, 1:, 5:134], "every other": x[:, ::2, ::2],
        "transposed": x.transpose(1, 2), "one for all": x[:1].expand(2, -1, -1), "one row for all": x[:, :1],
        "no prototype apart": x[:, :, :1], "scalars": x[..., :1].expand(-1, -1, 9), "rows": x[0], "two axes": x[None],
    }  # fmt: skip
    with fastssl.use_backend(backend):
        for layout, y in layouts.items():
            check(y, 0.1, layout)
            assert torch.equal(sinkhorn(y), sinkhorn(y.contiguous())), layout


@on_backends
@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1, 70),
    prototypes=st.integers(1, 2300),
    iterations=st.integers(0, 5),
    temp=st.floats(0.01, 2),
    size=st.floats(0, 300),
    dtype=st.sampled_from(_backend.FLOATS),
    gap=st.integers(0, 9),
)
def test_any_size_and_type(
    device: str, backend: str, samples: int, prototypes: int, iterations: int, temp: float, size: float,
    dtype: torch.dtype, gap: int,
) -> None:  # fmt: skip
    x = (size * torch.randn(samples, prototypes + gap, device=device)).to(dtype)[:, gap:]
    with fastssl.use_backend(backend):
        check(x, temp, (samples, prototypes, iterations, temp, size, gap), iterations)


@on_backends
@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_any_number_of_threads(device: str, backend: str, threads: int, nan_filled: None) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with fastssl.use_backend(backend):
            for shape in ((1, 40000), (2, 9001), (5, 20000), (21, 3000), (400, 300), (9000, 5), (6000, 33)):
                check(torch.randn(shape, device=device), 0.05, (shape, threads))
    finally:
        torch.set_num_threads(before)


@on_types
def test_a_pass_with_any_center(device: str, backend: str, dtype: torch.dtype, nan_filled: None) -> None:
    """Most prototypes then get less of any sample than float32 can say, though their logarithm is a plain number."""
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    for (samples, prototypes), temp, columns in itertools.product(
        [(1, 30), (5, 3000), (70, 2500), (300, 17)], (0.04, 0.5), (True, False)
    ):
        x = (30 * torch.randn(samples, prototypes, device=device)).to(dtype)
        center = 100 * torch.randn(prototypes, device=device, dtype=kind)
        tau = torch.tensor(temp, dtype=torch.float64)
        row_lse, column_lse = torch.ops.fastssl.sinkhorn_pass(x, center, tau, columns, backend)
        scores, middle = x.double() / temp, center.double() / temp
        rows = (scores - middle).logsumexp(1)
        # Of scores of this size, relative to which float32 rounds.
        size = (scores.abs().max() + middle.abs().max()).item()
        tolerance = 16 * torch.finfo(kind).eps * size
        assert_close(row_lse, rows, rtol=0, atol=tolerance)
        whole = (scores - rows[:, None]).logsumexp(0)
        assert_close(column_lse, whole if columns else whole[:0], rtol=0, atol=2 * tolerance)


@on_backends
def test_no_samples_weigh_nothing(device: str, backend: str) -> None:
    x, tau = torch.empty(0, 7, device=device), torch.tensor(0.1, dtype=torch.float64)
    for center in (None, torch.ones(7, device=device)):
        row_lse, column_lse = torch.ops.fastssl.sinkhorn_pass(x, center, tau, True, backend)
        assert row_lse.shape == (0,)
        assert (column_lse == -math.inf).all()


@on_backends
def test_finite_where_the_published_form_is_not(device: str, backend: str) -> None:
    x = 50 * torch.randn(64, 1000, device=device)
    assert formulas.sinkhorn(x, 0.04, 3).isnan().any()
    with fastssl.use_backend(backend):
        for y in (x, 1e30 * x, 1e-30 * x, x - 1e6):
            assert sinkhorn(y, temp=0.04).isfinite().all()
            assert sinkhorn(y, temp=0.04, assignments=True).isfinite().all()


@on_backends
def test_rows_sum_to_one_and_columns_to_their_share(device: str, backend: str) -> None:
    x = torch.randn(60, 40, device=device)
    with fastssl.use_backend(backend):
        found = [sinkhorn(x, n, 0.3, assignments=True).double() for n in (0, 1, 3, 10, 100)]
    for q in found:
        assert_close(q.sum(1), torch.ones(60, device=device).double(), rtol=1e-6, atol=0)
    off = [(q.sum(0) - 60 / 40).abs().max().item() for q in found]
    assert off == sorted(off, reverse=True)
    assert off[-1] < 1e-5


@on_backends
@pytest.mark.parametrize("iterations", [1, 3])
def test_what_is_added_to_a_prototype_is_in_its_center(device: str, backend: str, iterations: int) -> None:
    # Steps of 1/8 are exact.
    x, shift = torch.randint(-40, 40, (30, 50), device=device) / 8, torch.randint(-40, 40, (50,), device=device) / 8
    with fastssl.use_backend(backend):
        center, moved = sinkhorn(x, iterations, 0.5), sinkhorn(x + shift, iterations, 0.5)
        assert_close(moved - shift, center, rtol=0, atol=1e-5)
        together = sinkhorn(x + 3, iterations, 0.5)
        assert_close(together - 3, center, rtol=0, atol=1e-5)


@on_backends
def test_what_is_added_to_a_sample_is_forgotten(device: str, backend: str) -> None:
    x, shift = torch.randn(30, 50, device=device), torch.randn(30, 1, device=device)
    with fastssl.use_backend(backend):
        first, second = (sinkhorn(y, 200, 0.5, assignments=True) for y in (x, x + shift))
        early = sinkhorn(x, 1, 0.5, assignments=True) - sinkhorn(x + shift, 1, 0.5, assignments=True)
    assert_close(first, second, rtol=1e-4, atol=1e-6)
    assert early.abs().max() > 1e-3


@on_types
def test_no_iteration_is_the_softmax(device: str, backend: str, dtype: torch.dtype) -> None:
    x = torch.randn(5, 2, 8, device=device).to(dtype)
    with fastssl.use_backend(backend):
        assert not sinkhorn(x, 0).any()
        check(x, 0.1, "none", 0)


@on_types
def test_the_loss_takes_the_center_for_the_assignments(device: str, backend: str, dtype: torch.dtype) -> None:
    teacher, student = (torch.randn(v, 6, 300, device=device).to(dtype) for v in (2, 4))
    with fastssl.use_backend(backend):
        center = sinkhorn(teacher, temp=0.07)
        q = sinkhorn(teacher, temp=0.07, assignments=True).double()
        assert center.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        loss = dino_loss(student, teacher, center, 0.1, 0.07)
    nll = -torch.einsum("tbk,vbk->tv", q, (student.double() / 0.1).log_softmax(2)) / 6
    exact = (nll.sum() - nll.diagonal().sum()) / 6
    assert_close(loss.double(), exact, rtol=1e-12 if dtype == torch.float64 else 5e-6, atol=0)


@on_types
@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(4, 70), (40, 70)])
def test_nan_and_inf_spoil_everything(
    device: str, backend: str, dtype: torch.dtype, poison: float, shape: tuple[int, int]
) -> None:
    x = torch.randn(shape, device=device).to(dtype)
    x[2, 33] = poison
    with fastssl.use_backend(backend):
        for iterations in (1, 2, 3):
            assert sinkhorn(x, iterations, assignments=True).isnan().all()
        assert sinkhorn(x, 2).isnan().all()
        assert sinkhorn(x, 1).isnan().tolist() == [k == 33 for k in range(70)]


@on_backends
def test_any_nan_is_one(device: str, backend: str) -> None:
    x = torch.randn(40, 70, device=device)
    x.view(torch.int32)[2, 33] = -1  # all bits set
    with fastssl.use_backend(backend):
        assert sinkhorn(x).isnan().all()


@on_types
def test_minus_inf_closes_a_prototype(device: str, backend: str, dtype: torch.dtype) -> None:
    x = torch.randn(40, 2100, device=device).to(dtype)
    x[torch.rand(40, 2100, device=device) < 0.7] = -math.inf
    x[3, :-1], x[:, 5], x[7, 5], x[3, -1] = -math.inf, -math.inf, 1, 0  # one prototype alone, one sample alone
    closed = x == -math.inf
    with fastssl.use_backend(backend):
        found = sinkhorn(x, temp=0.3, assignments=True)
    exact = reference.sinkhorn(x.double(), temp=0.3)[1]
    assert not found[closed].any()
    assert_close(found.double(), exact, rtol=1e-4, atol=0)


@on_backends
def test_a_sample_or_prototype_without_any_score_gives_nan(device: str, backend: str) -> None:
    for where in ((slice(None), 5), (7,)):
        x = torch.randn(40, 50, device=device)
        x[where] = -math.inf
        with fastssl.use_backend(backend):
            assert sinkhorn(x).isnan().all()


@on_backends
@pytest.mark.parametrize("samples", [200, 700])
def test_bit_identical_from_run_to_run(device: str, backend: str, samples: int) -> None:
    x = 5 * torch.randn(samples, 3000, device=device)
    torch.use_deterministic_algorithms(True)
    with fastssl.use_backend(backend):
        first, second = (sinkhorn(x, temp=0.04) for _ in range(2))
    torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second)


@on_types
def test_a_derivative_is_never_asked_for(device: str, backend: str, dtype: torch.dtype) -> None:
    x, temp = torch.randn(4, 9, device=device).to(dtype), torch.tensor(0.3, dtype=torch.float64, device=device)
    with fastssl.use_backend(backend):
        for assignments in (False, True):
            plain = sinkhorn(x, temp=0.3, assignments=assignments)
            found = sinkhorn(x.clone().requires_grad_(), temp=temp.clone().requires_grad_(), assignments=assignments)
            assert not found.requires_grad
            assert torch.equal(found, plain)


@on_backends
def test_autocast_changes_nothing(device: str, backend: str) -> None:
    x = torch.randn(4, 9, device=device)
    with fastssl.use_backend(backend), torch.autocast(device, dtype=torch.bfloat16):
        found = sinkhorn(x, assignments=True)
    with fastssl.use_backend(backend):
        assert torch.equal(found, sinkhorn(x, assignments=True))


@on_types
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_opcheck_of_a_pass(device: str, backend: str, dtype: torch.dtype, centered: bool, columns: bool) -> None:
    x, tau = torch.randn(5, 40, device=device).to(dtype), torch.tensor(0.1, dtype=torch.float64)
    center = torch.randn(40, device=device, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    arguments = (x, center if centered else None, tau, columns, backend)
    torch.library.opcheck(torch.ops.fastssl.sinkhorn_pass.default, arguments)


@on_types
def test_opcheck(device: str, backend: str, dtype: torch.dtype) -> None:
    x, tau = torch.randn(5, 40, device=device).to(dtype), torch.tensor(0.1, dtype=torch.float64)
    torch.library.opcheck(torch.ops.fastssl.sinkhorn.default, (x, 3, tau, backend))


@on_backends
@pytest.mark.parametrize("assignments", [False, True])
def test_compiles_whole_once(device: str, backend: str, assignments: bool) -> None:
    """For any batch and any temperature of a schedule; a group that is not initialised is one process."""
    torch._dynamo.reset()
    call = functools.partial(sinkhorn, assignments=assignments, gather_distributed=True)
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    with fastssl.use_backend(backend):
        compiled(torch.randn(3, 40, device=device), temp=0.03)
        compiled(torch.randn(5, 41, device=device), temp=0.04)
        with torch._dynamo.config.patch(error_on_recompile=True):
            for samples, temp in ((7, 0.05), (9, 0.06), (30, 0.07)):
                x = torch.randn(samples, 50, device=device)
                assert_close(compiled(x, temp=temp), call(x, temp=temp))


@on_backends
def test_the_host_is_not_stalled(device: str, backend: str) -> None:
    x, temp = torch.randn(20, 300, device=device), torch.tensor(0.1, device=device)
    with fastssl.use_backend(backend):
        sinkhorn(x, assignments=True)  # loads what is loaded once
        with no_synchronisation(device):
            assert sinkhorn(x, temp=0.1, assignments=True).shape == x.shape
            assert sinkhorn(x, temp=temp).shape == (300,)


GOOD = torch.randn(4, 3)
# call, error, argument, got, want
BAD = [
    (lambda: sinkhorn([[1.0]]), TypeError, "logits", "list", "torch.Tensor"),
    (lambda: sinkhorn(GOOD.long()), TypeError, "logits", "int64", "float32"),
    (lambda: sinkhorn(GOOD.long()[None]), TypeError, "logits", "int64", "float32"),
    (lambda: sinkhorn(GOOD[0]), ValueError, "logits", r"\(3,\)", r"\[..., K\]"),
    (lambda: sinkhorn(GOOD[:0]), ValueError, "logits", r"\(0, 3\)", r"\[..., K\]"),
    (lambda: sinkhorn(GOOD[:, :0]), ValueError, "logits", r"\(4, 0\)", r"\[..., K\]"),
    (lambda: sinkhorn(GOOD, -1), ValueError, "iterations", "-1", "int >= 0"),
    (lambda: sinkhorn(GOOD, True), ValueError, "iterations", "True", "int >= 0"),
    (lambda: sinkhorn(GOOD, 3.0), ValueError, "iterations", "3.0", "int >= 0"),
    (lambda: sinkhorn(GOOD, temp=0), ValueError, "temp", "0", "> 0"),
    (lambda: sinkhorn(GOOD, temp=math.nan), ValueError, "temp", "nan", "> 0"),
    (lambda: sinkhorn(GOOD, temp="hot"), TypeError, "temp", "str", "number"),
    (lambda: sinkhorn(GOOD, temp=torch.ones(1)), ValueError, "temp", r"\(1,\)", "0-d"),
    (lambda: sinkhorn(GOOD, temp=torch.empty((), device="meta")), ValueError, "temp", "meta", "cpu"),
    (lambda: sinkhorn(GOOD, gather_distributed="ring"), ValueError, "gather_distributed", "'ring'", "a bool"),
]


@pytest.mark.parametrize(("call", "error", "argument", "got", "want"), BAD)
def test_bad_input(call, error, argument, got, want) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=rf"^{argument}: got .*{got}.*, want .*{want}"):
        call()


def test_nothing_is_gathered_without_torch_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    assert sinkhorn(GOOD).isfinite().all()
    with pytest.raises(RuntimeError, match="gather_distributed: got True, but this torch is built without"):
        sinkhorn(GOOD, gather_distributed=True)


@functools.cache
def found_by_processes(folder: Path) -> dict[str, float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(__file__).with_name("sinkhorn_worker.py")), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return found_by_processes(tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_processes_balance_all_samples(processes: dict[str, float], sizes: tuple[int, ...], size: float) -> None:
    assert processes[f"exact {sizes} {size}"] < 1e-12, "in float64, of the size of the logits"
    assert processes[f"float32 {sizes} {size}"] < 16 * torch.finfo(torch.float32).eps
    assert processes[f"differ {sizes} {size}"] == 0, "between the processes"
    assert processes[f"assignments {sizes} {size}"] < 1e-9


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_nan_of_one_process_reaches_all(processes: dict[str, float], sizes: tuple[int, ...]) -> None:
    assert processes[f"nan {sizes}"] == 1
