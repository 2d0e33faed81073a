"""Gradient caching: the step of a large batch in the memory of a small one."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from . import _checks
from ._images import RaggedImages

Views = Sequence[Tensor]
Buffers = list[tuple[nn.Module, str, Tensor, Tensor]]  # whose, its name, the buffer, what was in it


def cached_step(
    encoder: Callable[[Tensor], Tensor],
    batch: Views | Tensor | RaggedImages,
    loss: Callable[..., Tensor],
    chunk_size: int,
    *,
    augment: Callable[[Any], Views] | None = None,
    scaler: GradScaler | None = None,
) -> Tensor:
    """Add the gradients of ``loss(*(encoder(view) for view in views))`` with the activations of a chunk at a time.

    The embeddings of all N rows are made chunk by chunk without a graph; the loss is differentiated at the embeddings
    alone; then each chunk is embedded again with its graph, and continues with its rows of that gradient. This is the
    step of the whole batch, negatives included, to rounding. It costs one more forward pass, and memory of O(N d) for
    embeddings beside one chunk's activations. Like ``loss.backward()``, it adds to `.grad`, and touches no optimizer.

    Random draws and autocast are those of the first pass in the second: the states of PyTorch's generators, on the CPU
    and on the devices of the batch and the encoder, are put back before each chunk. Buffers such as running
    statistics are put back, too, and so change once a chunk. Batch norm takes each chunk as a batch, which is
    another model than batch norm over all rows, and synchronised batch norm takes one chunk of each process. With group
    norm, layer norm or frozen batch norm, chunks make no difference.

    A `DistributedDataParallel` encoder reduces its gradients once, with the last chunk. Processes may have different
    numbers of rows, unless batch norm is synchronised. Parameters of the loss get the gradient of their own process.

    Args:
        encoder: view [b, ...] -> embeddings [b, d]: a module, a method of one, or a function that names its
            modules as variables; what it hides otherwise changes its buffers twice, and reduces every chunk.
        batch: the views, a list of tensors [N, ...]; with `augment` the images that they are made of: a tensor
            [N, ...], `fastssl.RaggedImages`, or anything else with ``len(batch)`` and ``batch[a:b]``.
        loss: embeddings [N, d] of each view -> a 0-d tensor, such as `fastssl.NTXentLoss()`.
        chunk_size: rows of a view in memory at a time, >= 1. Chunks are of equal size, give or take a row.
        augment: images -> list of views, called once a chunk in either pass, so that the views of the batch never exist
            at once, such as ``method.augment`` or ``lambda images: method.augment(images.to("cuda"))``. Its draws must
            come from PyTorch's generators.
        scaler: multiplies the loss, so that gradients are what ``scaler.step`` expects.

    Returns:
        The loss, detached and not scaled.

    Raises:
        TypeError, ValueError: an argument is of another type, shape or range; the embeddings are not [b, d] or have no
            gradient, or the loss is not 0-d. `.grad` is as it was.

    Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".

    >>> loss = fastssl.cached_step(model, [view0, view1], fastssl.NTXentLoss(0.1), chunk_size=256)
    >>> loss = fastssl.cached_step(method.project, images, method.criterion, 256, augment=method.augment)
    >>> optimizer.step()
    """
    if scaler is not None and not isinstance(scaler, GradScaler):
        raise TypeError(f"scaler: got {type(scaler).__name__}, want a torch.amp.GradScaler")
    step = CachedStep(encoder, batch, loss, chunk_size, augment)
    step.backward(step.loss if scaler is None else scaler.scale(step.loss))
    return step.loss.detach()


class CachedStep:
    """The two halves of `cached_step`, for loops that scale the loss or clear gradients in between.

    Attributes:
        loss: a 0-d tensor with the graph down to the embeddings; `backward` takes it, or a multiple of it.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Tensor],
        batch: Views | Tensor | RaggedImages,
        loss: Callable[..., Tensor],
        chunk_size: int,
        augment: Callable[[Any], Views] | None = None,
    ) -> None:
        n = _check(encoder, batch, loss, chunk_size, augment)
        self._encoder, self._batch, self._augment = encoder, batch, augment
        chunks = -(-n // chunk_size)
        self._parts = [slice(n * i // chunks, n * (i + 1) // chunks) for i in range(chunks)]
        roots = list(_modules(encoder))
        self._replicas = [m for root in roots for m in root.modules() if isinstance(m, DistributedDataParallel)]
        self._devices = _devices(roots, batch)
        self._autocast = [
            (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
            for kind in sorted({"cpu", *(d.type for d in self._devices)})
        ]
        self._states: list[list[Tensor]] = []  # of the generators, before each chunk
        buffers = _buffers(roots)
        try:
            self._embeddings = self._embed(n)
        finally:
            with torch.no_grad():
                for module, name, buffer, before in buffers:
                    setattr(module, name, buffer.copy_(before))
        self.loss = loss(*self._embeddings)
        if not isinstance(self.loss, Tensor) or self.loss.ndim != 0:
            got = f"shape {tuple(self.loss.shape)}" if isinstance(self.loss, Tensor) else type(self.loss).__name__
            raise ValueError(f"loss: got a result of {got}, want a 0-d tensor")
        if not self.loss.requires_grad:
            raise ValueError("loss: got a result without gradient, want one that depends on the embeddings")

    def _views(self, part: slice) -> Views:
        if self._augment is None:
            return [view[part] for view in self._batch]  # type: ignore[union-attr]
        views = self._augment(_rows(self._batch, part))
        rows = part.stop - part.start
        if not isinstance(views, (list, tuple)) or not all(isinstance(v, Tensor) and v.ndim for v in views):
            raise TypeError(f"augment: got a result of {type(views).__name__}, want a list of views [{rows}, ...]")
        if not views or any(len(view) != rows for view in views):
            raise ValueError(f"augment: got views of {[len(v) for v in views]} rows, want {rows} in each")
        return views

    def _embed(self, n: int) -> list[Tensor]:
        """The first pass: return the embeddings of all rows, as leaves for the loss."""
        embeddings: list[Tensor] = []
        for part in self._parts:
            self._states.append(_random_states(self._devices))
            with self._amp(), self._no_sync():
                for i, view in enumerate(self._views(part)):
                    # The first chunk has its graph, for a moment, to tell whether there is a gradient at all.
                    with torch.set_grad_enabled(torch.is_grad_enabled() and part.start == 0):
                        z = self._encoder(view)
                    _check_embeddings(z, part.stop - part.start, part.start == 0)
                    if part.start == 0:
                        embeddings.append(z.new_empty(n, z.shape[1]))
                    embeddings[i][part] = z.detach()
                    del z
        return [z.requires_grad_() for z in embeddings]

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, which is `self.loss` or a multiple of it; to be called once."""
        with self._amp(enabled=False):
            loss.backward()
        grads = [torch.zeros_like(z) if z.grad is None else z.grad for z in self._embeddings]
        for replica in self._replicas:
            replica.require_forward_param_sync = True  # it starts from the buffers of the first process, again
        after = _random_states(self._devices)
        for part, states in zip(self._parts, self._states, strict=True):
            _set_random_states(self._devices, states)
            with self._amp():
                views = self._views(part)
            for i, view in enumerate(views):
                is_last = part is self._parts[-1] and i == len(views) - 1
                with contextlib.nullcontext() if is_last else self._no_sync():
                    with self._amp():
                        z = self._encoder(view)
                    with self._amp(enabled=False):
                        z.backward(grads[i][part])
                del z
        _set_random_states(self._devices, after)

    @contextlib.contextmanager
    def _amp(self, enabled: bool = True) -> Iterator[None]:
        """The autocast that the step began with, wherever `backward` is called, or none."""
        with contextlib.ExitStack() as stack:
            for kind, dtype, was_enabled in self._autocast:
                # Before PyTorch 2.11 the cache lends weights that were cast in the first pass, without a graph, to the
                # second, which then ends at them.
                stack.enter_context(torch.autocast(kind, dtype, enabled and was_enabled, cache_enabled=False))
            yield

    @contextlib.contextmanager
    def _no_sync(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for replica in self._replicas:
                stack.enter_context(replica.no_sync())
            yield


def _check(encoder: object, batch: object, loss: object, chunk_size: object, augment: object) -> int:
    """Check the arguments of `cached_step`, and return the rows of the batch."""
    for name, value in (("encoder", encoder), ("loss", loss), ("augment", augment)):
        if not (callable(value) or (name == "augment" and value is None)):
            raise TypeError(f"{name}: got {type(value).__name__}, want a module or a function")
    _checks.positive_int("chunk_size", chunk_size)
    if augment is None:
        if not isinstance(batch, (list, tuple)) or not all(isinstance(view, Tensor) and view.ndim for view in batch):
            raise TypeError(
                f"batch: got {type(batch).__name__}, want a list of views [N, ...], or `augment` to make them"
            )
        sizes = [len(view) for view in batch]
        if len(set(sizes)) > 1:
            raise ValueError(f"batch: got views of {sizes} rows, want as many in each")
        n = sizes[0] if sizes else 0
    else:
        if not hasattr(batch, "__len__") or not hasattr(batch, "__getitem__"):
            raise TypeError(f"batch: got {type(batch).__name__}, want images: a tensor [N, ...] or RaggedImages")
        n = len(batch)
    if n == 0:
        raise ValueError("batch: got 0 rows, want at least 1")
    return n


def _check_embeddings(z: object, rows: int, is_first: bool) -> None:
    if not isinstance(z, Tensor) or z.ndim != 2 or len(z) != rows:
        got = f"shape {tuple(z.shape)}" if isinstance(z, Tensor) else type(z).__name__
        raise ValueError(f"encoder: got an output of {got} for {rows} rows, want embeddings [{rows}, d]")
    if is_first and not z.requires_grad:
        raise ValueError(
            "encoder: got embeddings without gradient, want some parameter that requires it, and no torch.no_grad()"
        )


def _modules(function: object) -> Iterator[nn.Module]:
    """Yield the modules that a callable is, belongs to, or names."""
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, functools.partial):
        for part in (function.func, *function.args, *function.keywords.values()):
            yield from _modules(part)
    elif inspect.ismethod(function):
        yield from _modules(function.__self__)
    elif inspect.isfunction(function):
        names = inspect.getclosurevars(function)
        yield from (value for value in {**names.nonlocals, **names.globals}.values() if isinstance(value, nn.Module))


def _devices(roots: Sequence[nn.Module], batch: object) -> list[torch.device]:
    """Return the accelerators that modules and a batch are on."""
    held: list[object] = [t for root in roots for t in (*root.parameters(), *root.buffers())]
    held += batch if isinstance(batch, (list, tuple)) else [batch]
    devices = {t.device for t in held if isinstance(t, (Tensor, RaggedImages))}
    return sorted((device for device in devices if device.type not in ("cpu", "meta")), key=str)


def _buffers(roots: Sequence[nn.Module]) -> Buffers:
    """Return the buffers of modules with copies of what is in them."""
    modules = {module: None for root in roots for module in root.modules()}
    return [(m, name, b, b.detach().clone()) for m in modules for name, b in m.named_buffers(recurse=False)]


def _rows(batch: Any, part: slice) -> Any:
    """Return some rows of a batch; of `RaggedImages`, with their pixels alone."""
    if not isinstance(batch, RaggedImages):
        return batch[part]
    on_host, on_device = (extents[part].clone() for extents in (batch.host_extents, batch.extents))
    start = int(on_host[:, 0].min())
    on_host[:, 0] -= start
    on_device[:, 0] -= start
    stop = start + int((on_host[:, 0] + on_host[:, 1] * on_host[:, 2] * batch.channels).max())
    return RaggedImages(batch.pixels[start:stop], on_device, batch.channels, on_host)


def _random_states(devices: Sequence[torch.device]) -> list[Tensor]:
    """Return the states of PyTorch's generators on the CPU and on the devices."""
    return [torch.get_rng_state(), *(torch.get_device_module(device).get_rng_state(device) for device in devices)]


def _set_random_states(devices: Sequence[torch.device], states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(devices, states[1:], strict=True):
        torch.get_device_module(device).set_rng_state(state, device)
