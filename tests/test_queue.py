"""The queue of keys: a ring against a deque, its state, its cost, and its order across processes."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import normalize

import fastssl
from fastssl.functional import moco


def in_order(queue):
    """The keys, the oldest first."""
    return queue.rows.roll(-int(queue.pointer), 0)


@settings(deadline=None)
@given(size=st.integers(1, 12), batches=st.lists(st.integers(1, 30), max_size=12))
def test_it_is_a_ring(size, batches):
    queue = fastssl.Queue(size, 2)
    ring, count = deque(queue.rows.tolist(), maxlen=size), 0
    for n in batches:
        keys = torch.randn(n, 2)
        queue.enqueue(keys)
        ring.extend(keys.tolist())
        count += n
        assert in_order(queue).tolist() == list(ring)
        assert int(queue.pointer) == count % size


def test_it_starts_with_unit_vectors_of_the_generator():
    torch.manual_seed(3)
    queue = fastssl.Queue(100, 16)
    torch.testing.assert_close(queue.rows.norm(dim=1), torch.ones(100))
    assert (queue.rows @ queue.rows.T).fill_diagonal_(0).abs().max() < 0.9
    torch.manual_seed(3)
    assert torch.equal(fastssl.Queue(100, 16).rows, queue.rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_it_keeps_its_type(dtype):
    queue = fastssl.Queue(4, 3, dtype=dtype)
    keys = torch.randn(2, 3, requires_grad=True)
    queue.enqueue(keys)
    assert queue.rows.dtype == dtype
    assert not queue.rows.requires_grad
    assert torch.equal(queue.rows[:2], keys.detach().to(dtype))


def test_it_resumes_from_its_state():
    whole, first = (fastssl.Queue(7, 3) for _ in range(2))
    first.load_state_dict(whole.state_dict())
    assert sorted(whole.state_dict()) == ["pointer", "rows"]
    batches = torch.randn(6, 5, 3)
    for keys in batches:
        whole.enqueue(keys)
    for keys in batches[:3]:
        first.enqueue(keys)
    second = fastssl.Queue(7, 3)
    second.load_state_dict(first.state_dict())
    for keys in batches[3:]:
        second.enqueue(keys)
    assert torch.equal(second.rows, whole.rows)
    assert torch.equal(second.pointer, whole.pointer)


def test_nothing_is_copied():
    queue = fastssl.Queue(1000, 8)
    query = torch.randn(4, 8, requires_grad=True)
    before, sizes = (queue.rows.data_ptr(), queue.pointer.data_ptr()), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        loss = moco(query, normalize(torch.randn(4, 8)), queue.rows)
    queue.enqueue(query)
    loss.backward()
    assert max(sizes) < queue.rows.numel() / 10
    assert (queue.rows.data_ptr(), queue.pointer.data_ptr()) == before


def test_enqueue_and_backward_in_either_order():
    query, key = torch.randn(2, 6, 8).unbind()
    grads = []
    for enqueue_first in (True, False):
        torch.manual_seed(0)
        queue, q = fastssl.Queue(16, 8), query.clone().requires_grad_()
        loss = moco(q, key, queue.rows)
        if enqueue_first:
            queue.enqueue(key)
        loss.backward()
        grads.append(q.grad)
    assert torch.equal(*grads)


def test_nothing_waits_for_the_device():
    with FakeTensorMode():
        queue = fastssl.Queue(10, 4).to("cuda")
        for n in (3, 10, 25):
            queue.enqueue(torch.randn(n, 4, device="cuda"))
    assert queue.rows.device.type == "cuda"


def test_it_compiles_once():
    eager, queue = (fastssl.Queue(10, 4) for _ in range(2))
    queue.load_state_dict(eager.state_dict())
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter, dynamic=True)
    def step(query, key):
        loss = moco(query, key, queue.rows)
        queue.enqueue(key)
        return loss

    frames = []
    for n in (3, 4, 6, 5, 7):
        query, key = torch.randn(n, 4, requires_grad=True), torch.randn(n, 4)
        loss = step(query, key)
        (grad,) = torch.autograd.grad(loss, query)
        want = moco(query, key, eager.rows)
        eager.enqueue(key)
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(grad, torch.autograd.grad(want, query)[0])
        assert torch.equal(queue.rows, eager.rows)
        assert torch.equal(queue.pointer, eager.pointer)
        frames.append(counter.frame_count)
    assert len(set(frames)) == 1


def test_every_process_has_the_same_queue(tmp_path):
    """Two processes with batches of their own sizes; see queue_worker.py for what they check."""
    worker = Path(__file__).with_name("queue_worker.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(worker), str(rank), "2", str(tmp_path)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(errors)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda q: fastssl.Queue(0, 4), ValueError, "size: got 0, want an int >= 1"),
        (lambda q: fastssl.Queue(4, 2.0), ValueError, "dim: got 2.0, want an int >= 1"),
        (lambda q: fastssl.Queue(4, 2, dtype=torch.int64), TypeError, "dtype: got torch.int64, want float64"),
        (lambda q: q.enqueue([[1.0]]), TypeError, "keys: got list, want a torch.Tensor"),
        (lambda q: q.enqueue(torch.zeros(2, 3).long()), TypeError, "keys: got dtype torch.int64"),
        (lambda q: q.enqueue(torch.zeros(3)), ValueError, r"keys: got shape \(3,\), want \[N, d\]"),
        (lambda q: q.enqueue(torch.zeros(0, 3)), ValueError, r"keys: got shape \(0, 3\)"),
        (lambda q: q.enqueue(torch.zeros(2, 4)), ValueError, "keys: got width 4, want that of the queue, 3"),
        (lambda q: q.enqueue(torch.zeros(2, 3, device="meta")), ValueError, "keys: got device meta, want that of the"),
    ],
)
def test_bad_input(make, error, says):
    queue = fastssl.Queue(4, 3)
    before = queue.rows.clone()
    with pytest.raises(error, match=says):
        make(queue)
    assert torch.equal(queue.rows, before)


def test_it_describes_itself():
    assert repr(fastssl.Queue(4, 3, gather_distributed=True)) == (
        "Queue(4, 3, dtype=torch.float32, gather_distributed=True)"
    )
