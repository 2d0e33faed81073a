"""The pictures and curves that a run leaves in its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .data import Texts, loader
from .evaluate import Features, features, plots

if TYPE_CHECKING:
    from ._loop import Run


def draw_pictures(run: Run) -> None:
    """Write pictures.png of eight images or texts, where the method has `pictures`."""
    pictures = getattr(run.method, "pictures", None)
    if pictures is None:
        return
    shown = run.images if run.eval_data is None else run.eval_data[1]
    images, _ = shown.batch(range(min(8, len(shown))))
    device = next(run.method.parameters()).device
    title = f"{type(run.method).__name__} on {run.images.name}"
    rows = pictures(images.to(device))
    if isinstance(shown, Texts):
        plots.texts({name: shown.words(tokens) for name, tokens in rows.items()}, run.out / "pictures.png", title)
    else:
        plots.pictures(rows, run.out / "pictures.png", title)


def plot(run: Run) -> None:
    """Write loss.png, embedding.png and, where they apply, knn.png, pictures.png and latent.png."""
    title = f"{type(run.method).__name__} on {run.images.name}"
    draw_pictures(run)
    plots.loss_curve(run.history, run.out / "loss.png", title)
    if run.eval_data is not None:
        plots.knn_curve(run.history, run.out / "knn.png", title=title)
    shown = run.images if run.eval_data is None else run.eval_data[1]
    sample = shown.take(range(0, len(shown), max(1, -(-len(shown) // 2000))))
    plots.embedding(features(run.method.encoder, sample), run.out / "embedding.png", title)  # type: ignore[arg-type]
    latents: Any = getattr(run.method, "latents", None)
    if latents is not None:
        device = next(run.method.parameters()).device
        batches = loader(sample, [indices.tolist() for indices in torch.arange(len(sample)).split(256)])
        codes = torch.cat([latents(batch.to(device)).cpu() for batch, _ in batches])
        if min(codes.shape) > 1:
            plots.latent_scatter(Features(codes, sample.labels, sample.classes), run.out / "latent.png", title)
