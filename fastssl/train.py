"""`fit`: train a method with Lightning and good defaults, in a folder that survives being killed."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ._environment import arguments, environment, recorded, versions
from ._extras import EXTRAS, require
from ._settings import check, make_settings
from .data import DataSet, Images, load
from .methods import export_encoder
from .methods._encoder import fixed_size

__all__ = ["FitResult", "fit"]

# The files of a run that another run must not find; TensorBoard keeps its own side by side.
WRITTEN = (
    "last.ckpt", "metrics.csv", "config.json", "encoder.safetensors", "encoder.json",
    "loss.png", "knn.png", "embedding.png", "pictures.png",
)  # fmt: skip
# Which some methods and data leave besides, and what `fastssl evaluate` says of the encoder.
AT_TIMES = (
    "latent.png", "tokenizer.json", "evaluation.json", "evaluation.png", "label_efficiency.png", "retrieval.png",
    "shortcut_audit.png",
)  # fmt: skip


@dataclass(frozen=True)
class FitResult:
    """Result of `fit`.

    Attributes:
        method: the method passed in, trained.
        out: the folder of the run.
        encoder_path: the exported weights, ``out/encoder.safetensors``; see `fastssl.methods.load_encoder`.
        history: rows of `step`, `epoch` (fractional), `loss` (mean since the last row), `learning_rate`, `knn`;
            what a row does not tell is None. The rows of ``out/metrics.csv``.
        loss: the last loss of the history.
        knn: the last kNN accuracy in [0, 1], None where it was not measured.
    """

    method: nn.Module
    out: Path
    encoder_path: Path
    history: list[dict[str, Any]]
    loss: float
    knn: float | None


def fit(
    method: nn.Module,
    data: DataSet | str | os.PathLike[str],
    *,
    epochs: int = 100,
    batch_size: int = 256,
    chunk_size: int | None = None,
    lr: float | None = None,
    optimizer: str | None = None,
    weight_decay: float | None = None,
    warmup_epochs: float | None = None,
    out: str | os.PathLike[str] = "runs/fastssl",
    seed: int = 0,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int = 1,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    eval_data: tuple[DataSet, DataSet] | None = None,
    knn_every: int = 10,
    checkpoint_minutes: float = 10.0,
    log_every: int | None = None,
    progress: bool = True,
) -> FitResult:
    """Train a method and leave a folder with its encoder, metrics, plots and a checkpoint.

    The learning rate warms up linearly and follows half a cosine to 0. Biases and norm parameters are not decayed.
    A checkpoint is written, all or nothing, after every epoch and every `checkpoint_minutes`. A run killed at
    any moment and called again with ``resume=True`` ends with the same weights as one that was never killed, bit
    for bit on CPU with the same number of threads. Ctrl-C and SIGTERM finish the step, write a checkpoint and
    raise KeyboardInterrupt.

    `out` receives ``encoder.safetensors`` and ``encoder.json`` (the encoder), ``config.json`` (the settings),
    ``metrics.csv``, ``loss.png``, ``knn.png`` and ``embedding.png``, ``tensorboard/``, and ``last.ckpt``; of a method
    that has ``pictures(images)`` also ``pictures.png``: what it does with eight images.

    Args:
        method: such as `fastssl.methods.SimCLR`: a module with `encoder`, ``augment(uint8 images) -> views``,
            ``forward(views) -> loss`` and, if it needs them, ``before_step(step, total_steps)``, which is called after
            the backward pass with gradients that no loss scaling is left in, to change them, and ``after_step(step,
            total_steps)`` after the optimizer's step; steps count from 1. The images of a folder reach `augment` at
            their own sizes, as `fastssl.RaggedImages`, all others as a tensor. An attribute `image_size` that is None
            is set to that of the data, so that views are as large as the images which the encoder is evaluated on, and
            an attribute `steps_per_epoch` that is None to that of the run. Published settings in an attribute
            `defaults` count where the call says none.
        data: images, ``"digits"``, ``"shapes"`` or a folder (its training split); see `fastssl.data.load`.
        epochs: passes through the data, >= 1.
        batch_size: images a step, from 2 to the size of the data.
        chunk_size: images whose activations are in memory at a time, >= 1, for a batch that would not fit otherwise;
            by default all. Steps are those of `fastssl.cached_step`: they are made of ``method.project(view)`` and
            ``method.criterion(z, ...)``, which a method such as SimCLR has, in place of ``forward``. Augmentation
            and batch norm go by chunks as well, so that another `chunk_size` is another run.
        lr: peak learning rate > 0; by default the method's, else 1e-3 for adamw, and for a batch of 256 0.06 (sgd) or
            0.3 (lars), scaled with the batch, as the method's is.
        optimizer: "adamw", "sgd" or "lars" (both with momentum 0.9; LARS of timm); by default the method's, else adamw.
        weight_decay: >= 0; by default the method's, else 1e-2 for adamw, 5e-4 for sgd, 1e-6 for lars.
        warmup_epochs: >= 0; by default a tenth of the epochs, at most 10 or what the method says.
        out: folder of the run.
        seed: of the data order, the augmentation and everything random in a step. It does not touch the weights
            that the method starts with.
        precision: "32-true", "16-mixed" or "bf16-mixed".
        accelerator: as for Lightning's Trainer: "auto", "cpu", "gpu" ...
        devices: number of devices; 1, as `fit` trains in one process.
        workers: processes that read images; by default 0 for images in memory, else up to 8.
        resume: continue the run in `out` if there is one; the settings must be the same.
        overwrite: delete the run in `out` first.
        eval_data: labelled (train, test) images for the kNN accuracy; by default the splits of `data` where it is
            a name or a labelled folder, else none.
        knn_every: epochs between kNN measurements, and pictures, 0 for none on the way; the last
            epoch is always measured otherwise.
        checkpoint_minutes: longest time between checkpoints; 0 writes one after every step.
        log_every: steps between rows of the history; by default about 1000 rows a run.
        progress: show a progress bar.

    Returns:
        The trained method and what was written.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range; the message names it.
        FileNotFoundError: the data do not exist.
        FileExistsError: `out` holds a run and neither `resume` nor `overwrite` is set.
        RuntimeError: the checkpoint is damaged or of other settings, or several processes are asked for.
        KeyboardInterrupt: the run was stopped, with a checkpoint.
        MissingExtraError: lightning, timm or another package of the train extra is not installed.
    """
    for module in ("lightning.pytorch", "timm", "tensorboard", "tqdm", "matplotlib", "sklearn", "safetensors"):
        require(module, "fastssl.fit")
    from . import _loop, _run_plots

    method_name = check_method(method)
    images = data if isinstance(data, DataSet) else load(data)
    settings = make_settings(
        epochs=epochs, batch_size=batch_size, lr=lr, optimizer=optimizer, weight_decay=weight_decay,
        warmup_epochs=warmup_epochs, seed=seed, precision=precision, images=len(images),
        defaults=getattr(method, "defaults", {}), chunk_size=chunk_size,
    )  # fmt: skip
    if chunk_size is not None and not all(callable(getattr(method, part, None)) for part in ("project", "criterion")):
        raise ValueError(
            f"chunk_size: got {chunk_size}, want None: {method_name} has no project(view) and criterion(z, ...), as "
            "methods have whose loss compares the images of a batch; for others a smaller batch_size saves as much"
        )
    check("knn_every", knn_every, int, 0)
    check("checkpoint_minutes", checkpoint_minutes, (int, float), 0)
    check("log_every", 1 if log_every is None else log_every, int, 1)
    check("workers", 0 if workers is None else workers, int, 0)
    check("devices", devices, int, 1)
    if devices > 1:
        raise ValueError(
            f"devices: got {devices}, want 1: fit trains in one process; for several, the losses take "
            "gather_distributed=True in a loop of your own"
        )
    if isinstance(images, Images):
        _check_channels(method, images)
        _check_size(method, images)
    if not knn_every:
        eval_data = None
    elif eval_data is None and not isinstance(data, DataSet) and isinstance(images, Images) and images.labelled:
        eval_data = images, load(data, split="test", image_size=images.image_size)

    default_workers = 0 if images.in_memory else min(8, os.cpu_count() or 1)
    out = Path(out)
    run = _loop.Run(
        method,
        images,
        settings,
        out,
        eval_data=eval_data,
        knn_every=knn_every,
        checkpoint_seconds=60 * checkpoint_minutes,
        log_every=log_every or max(1, settings.steps // 1000),
        workers=default_workers if workers is None else workers,
    )
    if run.checkpoint.exists() and overwrite:
        for name in (*WRITTEN, *AT_TIMES):
            (out / name).unlink(missing_ok=True)
    if run.checkpoint.exists() and not resume:
        raise FileExistsError(
            f"out: {str(out)!r} already holds a run; resume it (resume=True), replace it (overwrite=True) or choose "
            "another folder"
        )
    state = _loop.read_checkpoint(run) if run.checkpoint.exists() else None
    out.mkdir(parents=True, exist_ok=True)
    about = {
        "method": method_name,
        "data": images.source or images.name,
        "classes": list(images.classes),
        **images.about,
        "settings": asdict(settings),
        "arguments": arguments(method),
        "environment": environment(accelerator),
        "versions": versions(tuple(EXTRAS["train"].values())),
    }

    if isinstance(images, Images) and getattr(method, "image_size", 0) is None:
        method.image_size = images.image_size  # type: ignore[assignment]
    if getattr(method, "steps_per_epoch", 0) is None:
        method.steps_per_epoch = settings.steps_per_epoch  # type: ignore[assignment]
    with recorded(out / "config.json", about, resumed=state is not None):
        _loop.train(run, state, accelerator=accelerator, devices=devices, progress=progress)

    _run_plots.plot(run)
    encoder: nn.Module = method.encoder  # type: ignore[assignment]
    path = export_encoder(encoder, out, **images.exported)
    images.leave(out)
    losses = [row["loss"] for row in run.history if row["loss"] is not None]
    measured = [row["knn"] for row in run.history if row["knn"] is not None]
    return FitResult(method, out, path, run.history, losses[-1], measured[-1] if measured else None)


def _check_channels(method: nn.Module, images: Images) -> None:
    """Check that the images have what the method learns from."""
    wanted = getattr(method, "channels", None)
    if wanted is not None and images.channels != wanted:
        raise ValueError(f"data: got grey images, want images in colour, from which {type(method).__name__} learns")


def _check_size(method: nn.Module, images: Images) -> None:
    """Check that the encoder takes images of the size that it is evaluated on."""
    encoder: nn.Module = method.encoder  # type: ignore[assignment]
    wanted = fixed_size(encoder)
    if wanted is not None and wanted != (images.image_size, images.image_size):
        size = images.image_size
        raise ValueError(
            f"image_size: got images of {size} x {size} for an encoder that takes {wanted[0]} x {wanted[1]} alone; "
            f"load them at that size, or make the encoder with img_size={size}"
        )


def check_method(method: object) -> str:
    """Check that `method` has what `fit` needs, and return its name.

    Raises:
        TypeError: it is not a module with `encoder` and `augment`.
    """
    wanted = "want a method such as fastssl.methods.SimCLR(encoder), with .encoder and .augment"
    if not isinstance(method, nn.Module):
        raise TypeError(f"method: got {type(method).__name__}, {wanted}")
    if not isinstance(getattr(method, "encoder", None), nn.Module) or not callable(getattr(method, "augment", None)):
        raise TypeError(f"method: got {type(method).__name__} without them, {wanted}")
    return type(method).__name__
