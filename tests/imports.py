"""The README's table of imports: what a loop has today, the line to change it to, and calls to hold the two to.

A call is an expression of names that both lines import, and of the tensors that `tensors` makes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import compat_formulas as formulas
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        library: whose import it is.
        today: the line of the loop as it is.
        line: the line that replaces it.
        calls: expressions whose value and gradients are the same after either.
        original: what `today` would import, where the library cannot be installed: eager forms of our own.
    """

    library: str
    today: str
    line: str
    calls: tuple[str, ...]
    original: dict[str, Callable[..., Any]] = field(default_factory=dict)


class _SupCon:
    def __init__(self, temperature: float = 0.07, contrast_mode: str = "all", base_temperature: float = 0.07) -> None:
        self.given = temperature, contrast_mode, base_temperature

    def __call__(self, features: Tensor, labels: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return formulas.supcon(features, labels, mask, *self.given)


class _DINO:
    def __init__(self, out_dim: int, ncrops: int, warmup_temp: float, temp: float, warmup: int, epochs: int) -> None:
        self.ncrops, self.center = ncrops, torch.zeros(out_dim)
        self.temps = torch.linspace(warmup_temp, temp, warmup, dtype=torch.float64)

    def __call__(self, student: Tensor, teacher: Tensor, epoch: int) -> Tensor:
        return formulas.dino(student, teacher, self.center, self.ncrops, (0.1, self.temps[epoch].item()))


class _DINOv2:
    def __init__(self, out_dim: int) -> None:
        pass

    def __call__(self, students: list[Tensor], targets: list[Tensor]) -> Tensor:
        return sum(formulas.soft_cross_entropy(q, s, 0.1).mean() for s in students for q in targets)

    def forward_masked(self, student: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        sizes = mask.sum(1).tolist()
        images = zip(student.split(sizes), targets.split(sizes), strict=True)
        return torch.stack([formulas.soft_cross_entropy(q, s, 0.1).mean() for s, q in images]).mean()


class _MoCo:
    T = 0.2

    def contrastive_loss(self, q: Tensor, k: Tensor) -> Tensor:
        return formulas.one_direction(q, k, self.T) * (2 * self.T)


COMPAT = "fastssl.losses.compat"
ROWS = (
    Row(
        "lightly", "from lightly.loss import NTXentLoss", "from fastssl import NTXentLoss",
        ("NTXentLoss()(x, y)", "NTXentLoss(temperature=0.1, gather_distributed=True)(x, y)"),
    ),
    Row(
        "lightly", "from lightly.loss import DCLLoss, DCLWLoss",
        f"from {COMPAT}.lightly import DCLLoss, DCLWLoss",
        ("DCLLoss()(x, y)", "DCLLoss(0.2, weight_fn=lambda a, b: (a - b).square().sum(1))(x, y)", "DCLWLoss()(x, y)"),
    ),
    Row(
        "lightly", "from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, VICRegLoss",
        f"from {COMPAT}.lightly import BarlowTwinsLoss, NegativeCosineSimilarity, VICRegLoss",
        ("BarlowTwinsLoss()(x, y)", "NegativeCosineSimilarity()(x, y)", "VICRegLoss()(x, y)"),
    ),
    Row(
        "lightly", "from lightly.loss import DINOLoss, IBOTPatchLoss, KoLeoLoss",
        f"from {COMPAT}.lightly import DINOLoss, IBOTPatchLoss, KoLeoLoss",
        ("DINOLoss(6)([y.detach(), x.detach()], [x, y, x - y])", "IBOTPatchLoss(6)(y.detach(), x, masks)",
         "KoLeoLoss()(x)"),
    ),
    Row(
        "pytorch-metric-learning", "from pytorch_metric_learning import losses",
        f"from {COMPAT} import pytorch_metric_learning as losses",
        ("losses.NTXentLoss()(x, labels)", "losses.SupConLoss()(x, labels)",
         "losses.SelfSupervisedLoss(losses.NTXentLoss())(x, y)",
         "losses.CrossBatchMemory(losses.NTXentLoss(), 6)(x, labels)"),
    ),
    Row(
        "pytorch-metric-learning", "from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss",
        f"from {COMPAT}.pytorch_metric_learning import NTXentLoss, SelfSupervisedLoss",
        ("SelfSupervisedLoss(NTXentLoss(temperature=0.1))(x, y)", "NTXentLoss()(x, labels, None, y, others)"),
    ),
    Row(
        "SupCon's `losses.py`", "from losses import SupConLoss", f"from {COMPAT}.supcon import SupConLoss",
        ("SupConLoss()(features, labels)", "SupConLoss(0.1, 'one')(features)", "SupConLoss()(features, mask=mask)"),
        {"SupConLoss": _SupCon},
    ),
    Row(
        "open_clip", "from open_clip import ClipLoss", f"from {COMPAT}.open_clip import ClipLoss",
        ("ClipLoss(cache_labels=True)(unit_x, unit_y, scale)", "ClipLoss()(unit_x, unit_y, scale, bias)",
         "ClipLoss()(unit_x, unit_y, scale, output_dict=True)['contrastive_loss']"),
    ),
    Row(
        "open_clip", "from open_clip.loss import SigLipLoss", f"from {COMPAT}.open_clip import SigLipLoss",
        ("SigLipLoss()(unit_x, unit_y, scale, bias)",),
    ),
    Row(
        "info-nce-pytorch", "from info_nce import InfoNCE, info_nce",
        f"from {COMPAT}.info_nce import InfoNCE, info_nce",
        ("InfoNCE()(x, y)", "InfoNCE(0.2)(x, y, memory)", "info_nce(x, y, memory, negative_mode='unpaired')"),
    ),
    Row(
        "solo-learn", "from solo.losses import simclr_loss_func", f"from {COMPAT}.solo import simclr_loss_func",
        ("simclr_loss_func(z, indexes, temperature=0.2)",), {"simclr_loss_func": formulas.simclr},
    ),
    Row(
        "solo-learn", "from solo.losses import mocov2plus_loss_func, mocov3_loss_func",
        f"from {COMPAT}.solo import mocov2plus_loss_func, mocov3_loss_func",
        ("mocov2plus_loss_func(unit_x, unit_y, memory.T, 0.2)", "mocov3_loss_func(x, y.detach(), 0.2)"),
        {"mocov2plus_loss_func": formulas.queue, "mocov3_loss_func": lambda *x: formulas.one_direction(*x) * 0.4},
    ),
    Row(
        "solo-learn", "from solo.losses import barlow_loss_func, byol_loss_func, vicreg_loss_func",
        f"from {COMPAT}.solo import barlow_loss_func, byol_loss_func, vicreg_loss_func",
        ("barlow_loss_func(x, y, 5e-3, 0.025)", "byol_loss_func(x, y)", "vicreg_loss_func(x, y, 25.0, 25.0, 1.0)"),
        {"barlow_loss_func": formulas.barlow, "byol_loss_func": formulas.byol, "vicreg_loss_func": formulas.vicreg},
    ),
    Row(
        "MoCo v3", "loss = self.contrastive_loss(q1, k2)",
        f"from {COMPAT}.moco_v3 import contrastive_loss; loss = contrastive_loss(q1, k2, self.T)",
        ("loss",), {"self": _MoCo()},
    ),
    Row(
        "DINO", "from main_dino import DINOLoss", f"from {COMPAT}.dino import DINOLoss",
        ("DINOLoss(6, 4, 0.04, 0.07, 30, 100)(z, y.detach(), 3)",), {"DINOLoss": _DINO},
    ),
    Row(
        "DINOv2", "from dinov2.loss import DINOLoss, KoLeoLoss, iBOTPatchLoss",
        f"from {COMPAT}.dinov2 import DINOLoss, KoLeoLoss, iBOTPatchLoss",
        ("DINOLoss(6)([x, y], [z[6:18].softmax(-1).detach()])", "KoLeoLoss()(x)",
         "iBOTPatchLoss(6).forward_masked(x, y.softmax(-1).detach(), masks.flatten(1))"),
        {"DINOLoss": _DINOv2, "KoLeoLoss": lambda: formulas.koleo, "iBOTPatchLoss": _DINOv2},
    ),
)  # fmt: skip


def tensors() -> dict[str, Tensor]:
    """Tensors that calls may name; those with a gradient are compared in it."""
    draw = torch.Generator().manual_seed(0)
    rows = {name: torch.randn(12, 6, generator=draw, dtype=torch.float64).requires_grad_() for name in "xy"}
    features = F.normalize(torch.randn(12, 2, 6, generator=draw, dtype=torch.float64), dim=2).requires_grad_()
    labels, others = (torch.randint(4, (12,), generator=draw) for _ in range(2))
    return rows | {
        "z": torch.cat([rows["x"], rows["y"]]), "indexes": torch.arange(12).repeat(2), "q1": rows["x"],
        "k2": rows["y"].detach(),
        "unit_x": F.normalize(rows["x"]), "unit_y": F.normalize(rows["y"]), "features": features, "labels": labels,
        "others": others, "memory": F.normalize(torch.randn(30, 6, generator=draw, dtype=torch.float64)),
        "masks": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 0, 1], [1, 1, 0, 1]]).bool().view(4, 2, 2),
        "mask": (torch.rand(12, 12, generator=draw) < 0.4).double(),
        "scale": torch.tensor(10.0, dtype=torch.float64).requires_grad_(),
        "bias": torch.tensor(-8.0, dtype=torch.float64).requires_grad_(),
    }  # fmt: skip


def table() -> list[str]:
    """The table as it is in the README."""
    lines = ["| library | your loop | the line to change it to |", "|---|---|---|"]
    return lines + [f"| {row.library} | `{row.today}` | `{row.line}` |" for row in ROWS]


def readme() -> list[str]:
    """The lines between the README's markers."""
    text = (ROOT / "README.md").read_text()
    return text.split("<!-- imports:begin -->\n")[1].split("<!-- imports:end -->")[0].splitlines()
