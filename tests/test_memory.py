"""No matrix 2N x 2N, no patches of whole images, no softmax over prototypes: peak bytes, each in its own process."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from contrastive_providers import Problem as ContrastiveProblem
from masking_providers import Problem
from memory import measure_case, peak_extra_bytes
from teachers_providers import Problem as TeacherProblem

TOKENS, KEPT, WIDTH = 64 * 196, 64 * 49, 768


def test_32768_rows_take_under_100_megabytes() -> None:
    assert peak_extra_bytes("fastssl", 32768, 128) < 100e6  # the matrix alone would be 4.3e9


@pytest.mark.parametrize("provider", ["fastssl", "fastssl-torch"])
def test_memory_grows_with_rows_not_with_their_square(provider: str) -> None:
    small, large = (peak_extra_bytes(provider, m, 64) for m in (4096, 8192))
    assert large < 2.5 * small
    assert large < 0.1 * 4 * 8192**2


def masking_peak(case: str, mode: str, provider: str = "fastssl", n: int = 64, dtype: str = "float32") -> int:
    problem = asdict(Problem(case, n=n, dtype=dtype))
    return measure_case("masking_providers", {"problem": problem, "provider": provider, "mode": mode})["peak_bytes"]


@pytest.mark.parametrize(
    ("case", "mode", "results"),
    [
        ("ids", "fwd", 5 * TOKENS),  # int64 ids of both kinds, ids_restore, a float mask
        ("tokens", "fwd", KEPT * WIDTH),
        ("tokens", "fwd_bwd", (KEPT + TOKENS) * WIDTH),
        ("embed-uint8", "fwd", 3 * KEPT * WIDTH + 196 * WIDTH),  # patches, positions, what is embedded; pos + bias
        ("restore", "fwd", (TOKENS + 64) * WIDTH),
        ("restore", "fwd_bwd", (TOKENS + 64 + KEPT + 64) * WIDTH),
        ("loss", "fwd", TOKENS * WIDTH),  # the gradient alone, which the forward pass makes
        ("loss", "fwd_bwd", TOKENS * WIDTH),
        ("loss-masked", "fwd_bwd", (TOKENS - KEPT) * WIDTH),
        ("simmim", "fwd_bwd", TOKENS * WIDTH),
    ],
)
def test_masked_training_makes_its_results_and_nothing_else(case: str, mode: str, results: int) -> None:
    assert masking_peak(case, mode) < 4 * results + 1.5e6


@pytest.mark.parametrize("case", ["tokens", "restore", "loss"])
def test_halves_are_not_widened(case: str) -> None:
    results = {"tokens": KEPT + TOKENS, "restore": TOKENS + KEPT + 128, "loss": TOKENS}[case]
    assert masking_peak(case, "fwd_bwd", dtype="bfloat16") < 2 * results * WIDTH + 1.5e6


@pytest.mark.parametrize("case", ["restore", "loss"])
def test_streaming_memory_does_not_grow_but_for_results(case: str) -> None:
    small, large = (masking_peak(case, "fwd_bwd", "fastssl-torch", n) for n in (128, 256))
    results = {"restore": TOKENS + KEPT + 128, "loss": TOKENS}[case]
    assert large - small < 2 * 4 * results * WIDTH + 8e6


@pytest.mark.parametrize(
    ("case", "m", "n", "d"),
    [("moco", 256, 65536, 128), ("supcon", 2048, 2048, 128), ("clip", 2048, 2048, 256), ("siglip", 2048, 2048, 256),
     ("dcl", 2048, 2048, 128), ("info-nce", 2048, 2048, 128), ("vocabulary", 1024, 8192, 128)],
)  # fmt: skip
def test_contrastive_losses_take_the_memory_of_their_rows(case: str, m: int, n: int, d: int) -> None:
    problem = asdict(ContrastiveProblem(case, m, n, d))
    peak = measure_case("contrastive_providers", {"problem": problem, "provider": "fastssl"})["peak_bytes"]
    rows = m if case == "moco" else m + n  # nothing of a queue's size is made
    assert peak < 8 * 4 * rows * d + 2e6
    if case != "moco":
        assert peak < 4 * m * n * (2 if case == "dcl" else 1)  # scores alone; of both views, four such matrices


def teachers_peak(case: str, mode: str, provider: str, rows: int, width: int = 65536, views: int = 1) -> int:
    problem = asdict(TeacherProblem(case, rows, width, views))
    return measure_case("teachers_providers", {"problem": problem, "provider": provider, "mode": mode})["peak_bytes"]


# The torch backend's blocks are small beside a softmax too, and are freed when a pass ends.
by_backend = pytest.mark.parametrize(("provider", "blocks"), [("fastssl", 0), ("fastssl-torch", 2e6)])


@by_backend
@pytest.mark.parametrize("case", ["dino-loss", "dino"])
def test_dino_makes_its_gradients_and_no_softmax(case: str, provider: str, blocks: float) -> None:
    view = 4 * 8 * 65536
    assert teachers_peak(case, "fwd", provider, 8, views=10) < 1e6 + blocks < 1.5 * view
    assert teachers_peak(case, "fwd_bwd", provider, 8, views=10) < 10 * view + 2e6


@by_backend
def test_masked_patches_take_their_gradients(provider: str, blocks: float) -> None:
    assert teachers_peak("ibot", "fwd_bwd", provider, 1024, 8192) < 4 * 1024 * 8192 + 1e6 + blocks


def test_a_balanced_center_takes_a_few_vectors_a_thread() -> None:
    vector, threads = 8 * 65536, torch.get_num_threads()
    for rows in (16, 256):
        assert teachers_peak("sinkhorn", "fwd", "fastssl", rows) < (2 * threads + 4) * vector + 1e6


def test_memory_of_a_streamed_center_does_not_grow_with_samples() -> None:
    small, large = (teachers_peak("sinkhorn", "fwd", "fastssl-torch", rows) for rows in (256, 512))
    assert large - small < 2e6


def test_an_average_of_weights_takes_no_memory() -> None:
    assert teachers_peak("ema", "fwd", "fastssl", 2, 384) < 1e6
