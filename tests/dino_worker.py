"""Losses against a teacher on two gloo processes: `python dino_worker.py FOLDER` writes FOLDER/found.json.

For each case it holds the largest difference, in float64, between two processes with a part of the images each and one
with all of them, over two steps: of the value, of the gradients that DistributedDataParallel would average, and of the
centre. A loss that is the mean over a process's own images is weighted by how many they are.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightly.loss
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastssl import functional as F
from fastssl import losses
from fastssl.functional import _distributed  # noqa: F401  what it imports is imported once, before the processes fork
from fastssl.losses.compat import dino, dinov2
from fastssl.losses.compat import lightly as lightly_here

WORLD, K, PATCHES, STEPS = 2, 7, 6, 2
EQUALS = 3  # of the student's crops, one whose rows are all as near to each other or, in the second step, the same
SIZES = {"even": (3, 3), "uneven": (4, 1)}
Images = dict[str, Tensor]
# A loss of images that are like those of `draw`, and the centre after it; None for none.
Step = Callable[[Images], tuple[Tensor, Any]]


def draw(step: int) -> Images:
    """Logits of crops and patches, and masks, image by image."""
    g = torch.Generator().manual_seed(step)
    b = max(sum(sizes) for sizes in SIZES.values())
    crops = {
        name: torch.randn(b, v, K, generator=g, dtype=torch.float64) for name, v in (("student", 4), ("teacher", 2))
    }
    patches = {
        name: torch.randn(b, PATCHES, K, generator=g).double() for name in ("student_patches", "teacher_patches")
    }
    mask = torch.rand(b, PATCHES, generator=g) < 0.4
    mask[0, :2] = mask[-1, -1] = True
    rows = torch.randperm(K, generator=g)[torch.arange(b) % (3 if step else K)]
    crops["student"][:, EQUALS] = torch.eye(K, dtype=torch.float64)[rows]
    return {**crops, **patches, "mask": mask}


def crops(images: Images) -> tuple[Tensor, Tensor]:
    return images["student"].transpose(0, 1), images["teacher"].transpose(0, 1)


def patches(images: Images) -> tuple[Tensor, Tensor, Tensor]:
    return *(images[name][images["mask"]] for name in ("student_patches", "teacher_patches")), images["mask"]


def center_update(one: bool) -> Step:
    center = torch.zeros(K, dtype=torch.float64)

    def step(images: Images) -> tuple[Tensor, Tensor]:
        student, teacher = crops(images)
        if not one and dist.get_rank() == 1 and len(images["student"]) == 1:
            teacher = list(teacher)  # views as a list on one process, and as a tensor on the other
        F.center_update(center, teacher, 0.3)
        return student.square().sum(0).mean(), center

    return step


def no_patches(one: bool) -> Step:
    """A process without patches: nothing of it is in the mean."""
    center = torch.zeros(K, dtype=torch.float64)

    def step(images: Images) -> tuple[Tensor, Tensor]:
        rows = images["teacher_patches"][images["mask"]]
        F.center_update(center, rows if one or dist.get_rank() == 0 else rows[:0], 0.3)
        return images["student"].square().mean(), center

    return step


def koleo(strategy: str, crop: int) -> Callable[[bool], Step]:
    def make(one: bool) -> Step:
        criterion = losses.KoLeoLoss(gather_distributed=strategy)
        return lambda images: (criterion(images["student"][:, crop]), None)

    return make


def module(make: Callable[[], nn.Module], call: Callable[..., Tensor]) -> Callable[[bool], Step]:
    """Of a module with a centre."""

    def made(one: bool) -> Step:
        criterion = make().double()

        def step(images: Images) -> tuple[Tensor, Any]:
            loss = call(criterion, images)
            if hasattr(criterion, "apply_center_update"):
                criterion.apply_center_update()
            center = getattr(criterion, "center", None)
            return loss, getattr(center, "center", center)

        return step

    return made


def flat(criterion: nn.Module, images: Images) -> Tensor:
    """Crop by crop, in one tensor, as DINO's code has them."""
    return criterion(*(x.flatten(0, 1) for x in crops(images)), 1)


def lists(criterion: nn.Module, images: Images) -> Tensor:
    student, teacher = crops(images)
    return criterion(list(teacher), list(student), 0.05)


def weighted(criterion: nn.Module, images: Images) -> Tensor:
    student, teacher, mask = patches(images)
    weights = (1 / mask.sum(1).clamp_min(1))[:, None].expand_as(mask)[mask]
    return criterion(student, teacher, weights.double(), len(mask))


def masked(criterion: nn.Module, images: Images) -> Tensor:
    student, teacher, mask = patches(images)
    return criterion(teacher, student, mask[:, None])


def v2_crops(balanced: bool) -> Callable[..., Tensor]:
    def call(criterion: nn.Module, images: Images) -> Tensor:
        student, teacher = crops(images)
        form = criterion.sinkhorn_knopp_teacher if balanced else criterion.softmax_center_teacher
        targets = form(teacher.flatten(0, 1), 0.3).unflatten(0, (2, -1))
        criterion.update_center(teacher.flatten(0, 1))
        return criterion(student, targets)

    return call


def v2_patches(balanced: bool) -> Callable[..., Tensor]:
    def call(criterion: nn.Module, images: Images) -> Tensor:
        student, teacher, mask = patches(images)
        if balanced:
            targets = criterion.sinkhorn_knopp_teacher(teacher, 0.3, torch.tensor([len(teacher)]))
        else:
            targets = criterion.softmax_center_teacher(teacher[None], 0.3)[0]
        criterion.update_center(teacher[None])
        return criterion.forward_masked(student, targets, mask)

    return call


CASES: dict[str, Callable[[bool], Step]] = {
    "center_update": center_update,
    "center_update without patches": no_patches,
    **{f"koleo {strategy}": koleo(strategy, 0) for strategy in ("all_gather", "ring")},
    **{f"koleo {strategy} of equals": koleo(strategy, EQUALS) for strategy in ("all_gather", "ring")},
    **{
        f"DINOLoss {c}": module(lambda c=c: losses.DINOLoss(K, 0.2, 0.3, 0.7, c), lambda m, i: m(*crops(i)))
        for c in ("mean", "sinkhorn", "none")
    },
    **{
        f"IBOTLoss {c}": module(lambda c=c: losses.IBOTLoss(K, 0.2, 0.3, 0.7, c), weighted)
        for c in ("mean", "sinkhorn")
    },
    "lightly DINOLoss": module(lambda: lightly_here.DINOLoss(K), lists),
    "lightly IBOTPatchLoss": module(lambda: lightly_here.IBOTPatchLoss(K), masked),
    "dino DINOLoss": module(lambda: dino.DINOLoss(K, 4, 0.2, 0.4, 3, 5), flat),
    "dinov2 DINOLoss": module(lambda: dinov2.DINOLoss(K), v2_crops(False)),
    "dinov2 DINOLoss sinkhorn": module(lambda: dinov2.DINOLoss(K), v2_crops(True)),
    "dinov2 iBOTPatchLoss": module(lambda: dinov2.iBOTPatchLoss(K), v2_patches(False)),
    "dinov2 iBOTPatchLoss sinkhorn": module(lambda: dinov2.iBOTPatchLoss(K), v2_patches(True)),
}


def run(step: Step, parts: list[Images], share: float) -> dict[str, Tensor]:
    """Return values, gradients and centres of all steps."""
    found: dict[str, Tensor] = {}
    for i, part in enumerate(parts):
        leaves = {name: part[name].clone().requires_grad_() for name in ("student", "student_patches")}
        loss, center = step({**part, **leaves})
        grads = torch.autograd.grad(loss * share, tuple(leaves.values()), materialize_grads=True, allow_unused=True)
        found |= {
            f"value {i}": loss.detach() * share,
            f"center {i}": torch.zeros(K) if center is None else center.clone(),
        }
        found |= {f"{name} {i}": grad for name, grad in zip(leaves, grads, strict=True)}
    return found


def compare(name: str, sizes: tuple[int, ...], one: dict[str, Tensor], images: list[Images]) -> dict[str, float]:
    rank, total, whole = dist.get_rank(), sum(sizes), name.startswith("koleo")  # whose value is that of all images
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    parts = [{key: x[own] for key, x in part.items()} for part in images]
    share = 1.0 if whole else sizes[rank] * WORLD / total
    apart: dict[str, Tensor] = {}
    for key, value in run(CASES[name](False), parts, share).items():
        if key.startswith("student"):
            value, wanted = value / WORLD, one[key][own]
        elif key.startswith("value") and not whole:
            dist.all_reduce(value)
            value, wanted = value / WORLD, one[key]
        else:
            wanted = one[key]
        kind = key.rsplit(" ", 1)[0]
        apart[kind] = torch.maximum((value - wanted).abs().max(), apart.get(kind, torch.zeros(()).double()))
    worst = torch.stack(list(apart.values()))
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return dict(zip(apart, worst.tolist(), strict=True))


def originals(images: list[Images]) -> dict[str, float]:
    """Lightly's own modules on two processes, in even batches."""
    own = slice(3 * dist.get_rank(), 3 * dist.get_rank() + 3)
    parts = [{key: x[own] for key, x in part.items()} for part in images]
    apart = {}
    for name, call in (("DINOLoss", lists), ("IBOTPatchLoss", masked)):
        both = (run(module(lambda m=m, name=name: getattr(m, name)(K), call)(False), parts, 1.0)
                for m in (lightly.loss, lightly_here))  # fmt: skip
        there, here = both
        if name == "IBOTPatchLoss":  # whose processes have different numbers of patches, which lightly does not weigh
            there, here = ({k: v for k, v in d.items() if k in ("value 0", "student_patches 0")} for d in (there, here))
        apart[name] = max(float((x.flatten() - here[key].flatten()).abs().max()) for key, x in there.items())
    worst = torch.tensor(list(apart.values()), dtype=torch.float64)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return dict(zip(apart, worst.tolist(), strict=True))


def late(images: list[Images]) -> dict[str, float]:
    """The centre of DINOv2's losses is the old one until it is asked for, also in the state dict."""
    criterion = dinov2.DINOLoss(K)
    criterion.update_center(images[0]["teacher"])
    before = criterion.state_dict()["center"].clone()
    pending = not criterion.updated and criterion.reduce_handle is not None
    criterion.softmax_center_teacher(images[0]["teacher"][:, 0], 0.1)
    ended = criterion.updated and criterion.reduce_handle is None and bool(criterion.center.any())
    again = copy.deepcopy(criterion.center)
    criterion.apply_center_update()
    return {"late": float(before.any() or not pending or not ended or not torch.equal(again, criterion.center))}


def work(rank: int, folder: Path) -> None:
    data = [draw(step) for step in range(STEPS)]
    of = {name: [{key: x[: sum(sizes)] for key, x in part.items()} for part in data] for name, sizes in SIZES.items()}
    one = {f"{case} {name}": run(make(True), images, 1.0) for case, make in CASES.items() for name, images in of.items()
           if case != "center_update without patches"}  # fmt: skip
    for name, sizes in SIZES.items():  # where the images of one process alone are
        there = [{**part, "mask": part["mask"] & (torch.arange(sum(sizes)) < sizes[0])[:, None]} for part in of[name]]
        one[f"center_update without patches {name}"] = run(no_patches(True), there, 1.0)
    dist.init_process_group("gloo", init_method=(folder / "store").as_uri(), rank=rank, world_size=WORLD)
    found = {
        f"{case} {name}": compare(case, SIZES[name], one[f"{case} {name}"], images)
        for case in CASES for name, images in of.items()
    }  # fmt: skip
    found["originals"] = originals(of["even"])
    found["late"] = late(of["even"])
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.multiprocessing.start_processes(work, (Path(sys.argv[1]),), WORLD, start_method="fork")
