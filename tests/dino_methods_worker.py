"""One of two gloo processes that train DINO, DINOv2 and SwAV. Arguments: rank, world size, folder.

Each trains on its half of the images under DistributedDataParallel, in float64, and compares what it finds with one
process that has them all.
"""

from __future__ import annotations

import copy
import datetime
import sys

import torch
import torch.distributed as dist
from torch import nn

from fastssl import methods

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.set_num_threads(1)
STEPS, IMAGES = 4, 6


def vit():
    return methods.build_encoder(
        "vit_tiny_patch16_224", in_chans=1, img_size=8, patch_size=2, embed_dim=8, depth=1, num_heads=2,
        dynamic_img_size=True,
    )  # fmt: skip


def dino(**options):
    return methods.DINO(vit(), out_dim=20, hidden_dim=12, bottleneck_dim=6, steps_per_epoch=2, momentum=0.9, **options)


def dinov2(**options):
    method = methods.DINOv2(
        vit(), out_dim=20, hidden_dim=12, bottleneck_dim=6, steps_per_epoch=2, momentum=0.9, **options
    )
    nn.init.normal_(method.mask_token)
    return method


def swav(**options):
    method = methods.SwAV(vit(), prototypes=20, projection_dim=6, hidden_dim=12, steps_per_epoch=1, **options)
    del method.projector[1]  # the batch norm, whose statistics are of each process's images
    return method


CASES = {
    "DINO": dino,
    "DINO, Sinkhorn": lambda: dino(centering="sinkhorn"),
    "DINOv2": dinov2,
    "DINOv2, centre, one head": lambda: dinov2(centering="mean", separate_heads=False),
    "SwAV": swav,
    "SwAV, queue": lambda: swav(queue_size=9, queue_epochs=2),
}


def masks_of(step, n, part):
    """Masks of the images of this process, of which each has one patch more than the one before; drawn for all."""
    torch.manual_seed(100 + step)
    everyone = torch.stack([torch.randperm(16) < 2 + image for image in range(2 * IMAGES)])
    mask = everyone.view(2, IMAGES, 16)[:, part].flatten(0, 1)
    ids = mask.flatten().nonzero()[:, 0]
    return lambda *_: (mask, ids, 1 / mask.sum(1)[ids // 16].double())


def train(method, model, part):
    """Return losses, gradients of all steps, and what the state is in the end."""
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], 1e-2)
    losses, gradients = [], []
    for step in range(1, STEPS + 1):
        torch.manual_seed(step)
        views = [torch.randn(IMAGES, 1, side, side, dtype=torch.float64) for side in (8, 8, 4)]
        if hasattr(method, "masks"):
            method.masks = masks_of(step, IMAGES, part)
        optimizer.zero_grad()
        loss = model([view[part] for view in views])
        loss.backward()
        gradients.append([p.grad.clone() for p in method.parameters() if p.requires_grad])
        method.before_step(step, STEPS)
        optimizer.step()
        method.after_step(step, STEPS)
        losses.append(loss.detach())
    return torch.stack(losses), gradients, method.state_dict()


alone, together = {}, {}
for name, make in CASES.items():
    torch.manual_seed(0)
    alone[name] = make().double()
    together[name] = copy.deepcopy(alone[name])
# Before there is a group, so that one process is all there is.
wanted = {name: train(method, method, slice(None)) for name, method in alone.items()}

dist.init_process_group(
    "gloo", f"file://{folder}/store", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=60)
)
for name, method in together.items():
    half = slice(rank * IMAGES // world, (rank + 1) * IMAGES // world)
    losses, gradients, state = train(method, nn.parallel.DistributedDataParallel(method), half)
    dist.all_reduce(losses)
    want_losses, want_gradients, want_state = wanted[name]
    torch.testing.assert_close(losses / world, want_losses, msg=lambda told, name=name: f"{name}: losses\n{told}")
    for step, (got, want) in enumerate(zip(gradients, want_gradients, strict=True)):
        for p, q in zip(got, want, strict=True):
            torch.testing.assert_close(p, q, msg=lambda told, at=(name, step): f"{at}: gradients\n{told}")
    for key, value in want_state.items():
        torch.testing.assert_close(state[key], value, msg=lambda told, at=(name, key): f"{at}\n{told}")
dist.destroy_process_group()
