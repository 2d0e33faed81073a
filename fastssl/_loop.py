"""The run behind `fit`, as a Lightning module and Trainer.

Lightning sees a run as one long epoch: the batch sampler is the stream of all its steps, and a resumed stream starts
at the checkpoint's step. The order of the data is a function of (seed, epoch) and every other draw a function of
(seed, rank, step), so nothing random needs to be saved, and a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import contextlib
import csv
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from ._cached import CachedStep
from ._images import RaggedImages
from ._run_plots import draw_pictures
from ._settings import Settings
from .data import DataSet, loader
from .evaluate import knn

Row = dict[str, Any]
Batch = tuple[Tensor | RaggedImages, Tensor]  # images and labels
_ORDER, _STEP = 0, 1  # what a seed is for
COLUMNS = ("step", "epoch", "loss", "learning_rate", "knn")


@dataclass
class Run:
    """One run: what to train, on what, where to, and how often to look."""

    method: nn.Module
    images: DataSet
    settings: Settings
    out: Path
    eval_data: tuple[DataSet, DataSet] | None
    knn_every: int
    checkpoint_seconds: float
    log_every: int
    workers: int
    history: list[Row] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)  # of the steps since the last row

    def looks(self, step: int) -> bool:
        """Whether to measure kNN and to draw pictures at a step: every `knn_every` epochs, and at the end."""
        s = self.settings
        return self.knn_every > 0 and (step == s.steps or step % (self.knn_every * s.steps_per_epoch) == 0)

    @property
    def checkpoint(self) -> Path:
        """The file that a killed run resumes from."""
        return self.out / "last.ckpt"


class _Stopped(Exception):
    """Ctrl-C or SIGTERM arrived, and the checkpoint is written."""


class _Stream(Sampler[list[int]]):
    """The batches of a run from one step on; its length is that of the whole run, as Lightning counts it."""

    def __init__(self, settings: Settings, start: int) -> None:
        self.settings, self.start = settings, start

    def __len__(self) -> int:
        return self.settings.steps

    def __iter__(self) -> Iterator[list[int]]:
        s, order = self.settings, torch.empty(0)
        for step in range(self.start, s.steps):
            epoch, at = divmod(step, s.steps_per_epoch)
            if at == 0 or step == self.start:
                order = torch.randperm(s.images, generator=torch.Generator().manual_seed(_seed(_ORDER, s.seed, epoch)))
            yield order[at * s.batch_size : (at + 1) * s.batch_size].tolist()


def _seed(purpose: int, *key: int) -> int:
    """A 63-bit seed that is a function of non-negative integers, spread so that neighbours share nothing."""
    return int(np.random.SeedSequence((purpose, *key)).generate_state(1, np.uint64)[0] >> np.uint64(1))


class _Module(pl.LightningModule):
    def __init__(self, run: Run, stop: threading.Event, bar: tqdm[Any], lines: bool) -> None:
        super().__init__()
        # The views are channels_last, which convolutions are faster in; the weights follow.
        self.method = run.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.run, self.stop, self.bar, self.lines = run, stop, bar, lines
        self.saved_at = time.monotonic()
        self.cached: CachedStep | None = None

    def train_dataloader(self) -> DataLoader[Batch]:
        stream = _Stream(self.run.settings, self.trainer.global_step)
        return loader(self.run.images, stream, self.run.workers, pin=self.device.type == "cuda", native=True)

    def configure_optimizers(self) -> Any:
        s = self.run.settings
        steady = tuple(f"{part}." for part in getattr(self.method, "defaults", {}).get("constant_lr", ()))
        groups: list[dict[str, Any]] = []
        factors: list[Callable[[int], float]] = []
        for constant in (False, True) if steady else (False,):
            named = self.method.named_parameters()
            trained = [p for name, p in named if p.requires_grad and name.startswith(steady) == constant]
            groups.append({"params": [p for p in trained if p.ndim > 1], "weight_decay": s.weight_decay})
            groups.append({"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0})
            factors += [partial(s.lr_factor, constant=constant)] * 2
        optimizer = make_optimizer(s.optimizer, groups, s.lr, s.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        # Lightning's own waits for the copy of whatever is not a tensor.
        images, labels = batch
        beside = device.type == "cuda"  # from pinned memory
        return images.to(device, non_blocking=beside), labels.to(device, non_blocking=beside)

    def on_train_start(self) -> None:
        self.bar.update(self.global_step - self.bar.n)
        if self.global_step == 0:
            self._record(0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(_seed(_STEP, self.run.settings.seed, self.global_rank, self.global_step))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        method: Any = self.method
        chunk_size = self.run.settings.chunk_size
        if chunk_size is None:
            loss: Tensor = method(method.augment(batch[0]))
            return loss
        self.cached = CachedStep(method.project, batch[0], method.criterion, chunk_size, method.augment)
        return self.cached.loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if self.cached is None:
            super().backward(loss, *args, **kwargs)
            return
        self.cached.backward(loss)
        self.cached = None

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Lightning calls this after the backward pass, with the gradients in their own scale again.
        before_step = getattr(self.method, "before_step", None)
        if before_step is not None:
            before_step(self.global_step + 1, self.run.settings.steps)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, s = self.global_step, self.run.settings
        self.run.losses.append(outputs["loss"].detach())
        after_step = getattr(self.method, "after_step", None)
        if after_step is not None:
            after_step(step, s.steps)
        self.bar.update()
        epoch_ends = step % s.steps_per_epoch == 0
        if epoch_ends or step % self.run.log_every == 0:
            self._record(step)
        if epoch_ends or self.stop.is_set() or time.monotonic() - self.saved_at >= self.run.checkpoint_seconds:
            self._save()
        if self.stop.is_set():
            raise _Stopped

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["fastssl"] = {
            "settings": asdict(self.run.settings),
            "history": self.run.history,
            "losses": [loss.item() for loss in self.run.losses],
        }

    def _record(self, step: int) -> None:
        s = self.run.settings
        epoch = step / s.steps_per_epoch
        loss = torch.stack(self.run.losses).mean().item() if self.run.losses else None
        if loss is not None and not math.isfinite(loss):
            raise RuntimeError(f"the loss is {loss} at step {step}; a lower lr or precision='32-true' may help")
        row: Row = {
            "step": step,
            "epoch": epoch,
            "loss": loss,
            "learning_rate": s.lr * s.lr_factor(max(0, step - 1)),
            "knn": None,
        }
        if self.run.looks(step):
            draw_pictures(self.run)
        if self.run.eval_data is not None and self.run.looks(step):
            train, test = self.run.eval_data
            k = min(20, len(train))
            size = min(s.batch_size, s.chunk_size or s.batch_size)
            row["knn"] = knn(self.method.encoder, train, test, k=k, batch_size=size).accuracy  # type: ignore[arg-type]
        self.run.history.append(row)
        self.run.losses.clear()
        told = {key: row[key] for key in ("loss", "learning_rate", "knn") if row[key] is not None}
        if self.logger is not None:
            self.logger.log_metrics(told, step)
        numbers = {key: f"{value:.4g}" for key, value in told.items() if key != "learning_rate"}
        self.bar.set_description(f"epoch {min(s.epochs, int(epoch) + 1)}/{s.epochs}", refresh=False)
        self.bar.set_postfix(numbers, refresh=False)
        if self.lines and step and step % s.steps_per_epoch == 0:
            print(
                f"epoch {step // s.steps_per_epoch}/{s.epochs}", *(f"{k} {v}" for k, v in numbers.items()), flush=True
            )

    def _save(self) -> None:
        write_csv(self.run)
        fresh = self.run.checkpoint.with_suffix(".tmp")
        self.trainer.save_checkpoint(fresh)
        # The name changes hands only when the bytes are on the disk: a kill leaves the old checkpoint or the new.
        with open(fresh, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(fresh, self.run.checkpoint)
        self.saved_at = time.monotonic()


def make_optimizer(
    name: str, groups: list[dict[str, Any]], lr: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    """Make one of `OPTIMIZERS`."""
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9)
    from timm.optim import Lars

    optimizer: torch.optim.Optimizer = Lars(groups, lr=lr, momentum=0.9)
    return optimizer


def read_checkpoint(run: Run) -> dict[str, Any]:
    """Read what this module keeps in a checkpoint, and check that it belongs to the run.

    Raises:
        RuntimeError: the file is damaged, or it is of other settings or another model.
    """
    path = run.checkpoint
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state: dict[str, Any] = checkpoint["fastssl"]
        before = {"betas": Settings.betas, **state["settings"]}  # which version 0.1 did not keep
        shapes = {key: value.shape for key, value in checkpoint["state_dict"].items()}
    except Exception as error:  # a damaged file fails in any of a dozen ways
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise RuntimeError(
            f"out: the checkpoint {path} is damaged ({reason}); delete it or pass overwrite=True to start again"
        ) from None
    now = asdict(run.settings)
    changed = [f"{key} {before.get(key)!r} -> {value!r}" for key, value in now.items() if before.get(key) != value]
    if changed:
        raise RuntimeError(
            f"out: the run in {run.out} had other settings ({', '.join(changed)}); resume it with the same ones, or "
            "choose another folder"
        )
    mine = {f"method.{key}": value.shape for key, value in run.method.state_dict().items()}
    differ = sorted(key for key in mine.keys() | shapes.keys() if mine.get(key) != shapes.get(key))
    if differ:
        raise RuntimeError(
            f"method: {type(run.method).__name__} does not fit the checkpoint {path}: {len(differ)} tensors such as "
            f"{differ[0].removeprefix('method.')} differ; resume with the same model, or choose another folder"
        )
    return state


def train(run: Run, state: dict[str, Any] | None, *, accelerator: str, devices: int, progress: bool) -> None:
    """Train `run.method` to the end, from a checkpoint's state if there is one; fills `run.history`."""
    if state is not None:
        run.history[:] = state["history"]
        run.losses[:] = [torch.tensor(loss) for loss in state["losses"]]
    stop = threading.Event()
    # disable=None draws the bar on a terminal alone; a log file gets a line an epoch instead.
    bar = tqdm(total=run.settings.steps, unit="step", disable=None if progress else True, dynamic_ncols=True)
    # fork_rng: the seeds of the steps stay inside, and the caller's generator goes on where it was.
    with _quiet(), _signals(stop), contextlib.closing(bar), torch.random.fork_rng(devices=[]):
        trainer = _trainer(run, accelerator, devices)
        if trainer.world_size > 1:
            raise RuntimeError(
                f"fit: got {trainer.world_size} processes, want 1; for several, the losses take "
                "gather_distributed=True in a loop of your own"
            )
        module = _Module(run, stop, bar, lines=progress and bar.disable)
        try:
            trainer.fit(module, ckpt_path=None if state is None else run.checkpoint)
        except _Stopped:
            step = trainer.global_step
            raise KeyboardInterrupt(
                f"stopped at step {step} of {run.settings.steps}; {run.checkpoint} is written, and the same call with "
                "resume=True continues"
            ) from None
    write_csv(run)


def _trainer(run: Run, accelerator: str, devices: int) -> pl.Trainer:
    try:
        return pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=run.settings.precision,  # type: ignore[arg-type]
            max_epochs=1,
            logger=TensorBoardLogger(run.out, name="tensorboard", version=""),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (ValueError, MisconfigurationException) as error:
        # The other arguments are fixed or checked, so what Lightning refuses is the accelerator.
        reason = str(error).split(". ")[0].splitlines()[0]
        raise ValueError(f"accelerator: got {accelerator!r}, which Lightning refuses: {reason}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice, which is about its own defaults, out of the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning(\.|$)")
        for log in loggers:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop after the step; the second acts as always."""
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in watched}

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in watched:
        signal.signal(number, request)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def write_csv(run: Run) -> None:
    """Write the history as metrics.csv."""
    fresh = run.out / "metrics.csv.tmp"
    with open(fresh, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(run.history)
    os.replace(fresh, run.out / "metrics.csv")
