"""One of several gloo processes that train a method together. Arguments: rank, world size, folder.

First the process trains alone, with the batches of all; then together with the others, with its share of them. Loss,
gradients and every weight and running statistic must come out the same. In float64, so that nothing but the arithmetic
differs.
"""

from __future__ import annotations

import copy
import datetime
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from fastssl import methods

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
STEPS = 3
HEADS = {"projection_dim": 6, "hidden_dim": 12}


class SyncedBatchNorm(_BatchNorm):
    """What nn.SyncBatchNorm does, which is for accelerators alone."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        axes, shape = [axis for axis in range(x.ndim) if axis != 1], [1, -1] + [1] * (x.ndim - 2)
        count = all_reduce(torch.tensor(float(x.numel() // x.shape[1]), dtype=x.dtype))
        mean = all_reduce(x.sum(axes)) / count
        centred = x - mean.view(shape)
        var = all_reduce(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
            self.num_batches_tracked.add_(1)
        y = centred / (var + self.eps).sqrt().view(shape)
        return y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y

    def _check_input_dim(self, x):
        pass


def synced(module):
    """A copy of a module whose batch statistics are those of all processes."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                norm = SyncedBatchNorm(child.num_features, child.eps, child.momentum, child.affine).double()
                norm.load_state_dict(child.state_dict())
                for p, q in zip(norm.parameters(), child.parameters(), strict=True):
                    p.requires_grad_(q.requires_grad)
                setattr(parent, name, norm)
    return module


def train(method, model, batches, average):
    """A few steps; yields the losses, the gradients of the last step, and the state at the end."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], 0.1, 0.9)
    losses = []
    for step, views in enumerate(batches):
        optimizer.zero_grad()
        loss = model(views)
        loss.backward()
        losses.append(average(loss.detach()))
        optimizer.step()
        if hasattr(method, "after_step"):
            method.after_step(step + 1, STEPS)
    grads = {f"gradient of {name}": p.grad for name, p in method.named_parameters() if p.grad is not None}
    return {"losses": torch.stack(losses), **grads, **method.state_dict()}


def mean_of_processes(x):
    x = x.clone()
    dist.all_reduce(x)
    return x / world


def cases():
    resnet = {"layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8), "in_chans": 1, "stem": "small"}
    yield methods.BYOL(methods.build_encoder("resnet18", **resnet), **HEADS), [4, 4]
    yield methods.SimSiam(methods.build_encoder("resnet18", **resnet), predictor_dim=5, **HEADS), [4, 4]
    # Its loss is that of all, so that shares may differ in size.
    yield methods.MoCoV3(methods.build_encoder("resnet18", **resnet), **HEADS), [5, 3]
    yield methods.MoCoV3(methods.small_vit(1, 8), **HEADS), [4, 4]


torch.manual_seed(0)
alone = []
for method, sizes in cases():
    method = method.double()
    batches = [[torch.randn(sum(sizes), 1, 8, 8, dtype=torch.float64) for _ in range(2)] for _ in range(STEPS)]
    start = copy.deepcopy(method)
    alone.append((start, sizes, batches, train(method, method, batches, lambda loss: loss)))

dist.init_process_group(
    "gloo", f"file://{folder}/store", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
)
for start, sizes, batches, want in alone:
    method = synced(start)
    shares = [[view.split(sizes)[rank] for view in views] for views in batches]
    got = train(method, nn.parallel.DistributedDataParallel(method), shares, mean_of_processes)
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-7, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
dist.destroy_process_group()
