"""Fixtures for the op tests. Where a CUDA device is present, the same tests run on it too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from fastssl import _backend

with contextlib.suppress(ImportError):
    # Inductor imports it. Before Python 3.12 that fails if it comes after a search for pip, as huggingface_hub's.
    import setuptools  # noqa: F401

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def runnable(op: str, dtype: torch.dtype = torch.float32) -> list[tuple[str, str]]:
    """Return the (device, backend) pairs that can run `op` here; the compiled extension is not optional on a CPU."""
    __import__("fastssl.functional")
    pairs = []
    for device in DEVICES:
        like = torch.empty(1, 1, dtype=dtype, device=device)
        for backend in _backend.BACKENDS:
            missing = device == "cpu" and backend == "cpp" and dtype != torch.float64
            if missing or _backend.why_not(op, backend, like) is None:
                pairs.append((device, backend))
    return pairs


SLOW_FILES = (
    "test_autoencoders.py", "test_bert.py", "test_byol.py", "test_cached.py", "test_cached_training.py",
    "test_compare.py", "test_compat.py", "test_compat_dino.py", "test_compat_distributed.py",
    "test_compat_formulas.py", "test_compat_pml.py", "test_context.py", "test_contrastive.py", "test_cpc.py",
    "test_cuda_augment.py", "test_dino.py", "test_dino_loss.py", "test_dino_loss_op.py", "test_dino_losses.py",
    "test_dinov2.py", "test_distributed.py", "test_every_method.py", "test_export.py", "test_finetune.py",
    "test_ibot_loss.py", "test_imports.py", "test_inpainting.py", "test_isa.py", "test_jigsaw.py", "test_koleo.py",
    "test_label_efficiency.py", "test_masked_methods.py", "test_masking_benchmark.py", "test_memory.py",
    "test_memory_bank.py", "test_moco.py", "test_moco_v3.py", "test_multi_crop.py", "test_packaging.py",
    "test_pairwise_logsumexp.py", "test_pairwise_softplus.py", "test_pretexts_benchmark.py", "test_queue.py",
    "test_readme_examples.py", "test_report_page.py", "test_rotation.py", "test_sanitizers.py", "test_simsiam.py",
    "test_sinkhorn.py", "test_sparse_cross_entropy.py", "test_swav.py", "test_teachers_benchmark.py",
    "test_thin_losses.py", "test_train.py", "test_triton_augment_compile.py", "test_triton_compile.py",
    "test_triton_interpreter.py", "test_triton_masking_compile.py", "test_triton_pairwise_compile.py",
    "test_triton_pretexts_compile.py", "test_triton_teachers_compile.py", "test_two_views.py",
    "test_video_colorization.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name in SLOW_FILES:
            item.add_marker(pytest.mark.slow)
    # The longest files first, so that no worker is left alone with one at the end.
    items.sort(key=lambda item: item.path.name not in SLOW_FILES)


@pytest.fixture
def nan_filled() -> Iterator[None]:
    """Fill every fresh tensor with NaN, in C++ as well, so that an element nobody writes cannot pass."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """The same random numbers for every test, and no forced backend left to the next."""
    torch.manual_seed(0)
    yield
    assert _backend.requested() == "auto"
