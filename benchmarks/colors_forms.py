"""The ops of colourisation in the forms that people write: colours as Lab and as bins, and the loss of soft targets."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pretexts_forms import Form, FormOf, Inputs, Problem, pixels
from torch import Tensor

from fastssl import functional

BINS, NEIGHBORS, SIGMA, STRIDE = 313, 10, 5.0, 4


def image_inputs(problem: Problem, generator: torch.Generator) -> Inputs:
    """Images, and the bins of their colours."""
    return {"images": pixels(problem, generator), "bins": functional.ab_bins()}


def _stride(problem: Problem) -> int:
    """Of the colours that are encoded: of "lab" next to none are."""
    return STRIDE if problem.case == "bins" else problem.side


def _own(problem: Problem) -> Form:
    stride = _stride(problem)
    if problem.case == "lab":
        return lambda x: functional.lab_bins(x["images"], x["bins"], 1, stride=stride).lab
    return lambda x: tuple(functional.lab_bins(x["images"], x["bins"], NEIGHBORS, SIGMA, stride))


def _lab(images: Tensor) -> Tensor:
    x = images.float() / 255
    linear = torch.where(x > 0.04045, ((x + 0.055) / 1.055) ** 2.4, x / 12.92)
    to_xyz = torch.tensor([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169],
                           [0.019334, 0.119193, 0.950227]], device=x.device)  # fmt: skip
    white = torch.tensor([0.95047, 1.0, 1.08883], device=x.device)[:, None, None]
    t = torch.einsum("ij,njhw->nihw", to_xyz, linear) / white
    f = torch.where(t > 0.008856, t ** (1 / 3), 7.787 * t + 16 / 116)
    return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def _softly(away: Tensor) -> Tensor:
    """Weights of distances [points, K]."""
    weight = (-away.square() / (2 * SIGMA**2)).exp()
    return weight / weight.sum(1, keepdim=True)


def _as_maps(x: Tensor, points: Tensor) -> Tensor:
    """From [points, K] to maps like those of the points [N, 2, h, w]."""
    n, _, height, width = points.shape
    return x.reshape(n, height, width, -1).movedim(-1, 1)


def _eager(problem: Problem) -> Form:
    """Distances to all bins, and the smallest of them."""
    if problem.case == "lab":
        return lambda x: _lab(x["images"])

    def form(x: Inputs) -> tuple[Tensor, ...]:
        lab = _lab(x["images"])
        points = lab[:, 1:, ::STRIDE, ::STRIDE]
        away, index = torch.cdist(points.movedim(1, -1).reshape(-1, 2), x["bins"]).topk(NEIGHBORS, 1, largest=False)
        return lab, _as_maps(index, points), _as_maps(_softly(away), points)

    return form


def _by_tree(problem: Problem) -> Form:
    """The neighbours of scikit-learn's ball tree, as the code of the paper has them."""
    from sklearn.neighbors import NearestNeighbors

    tree = NearestNeighbors(n_neighbors=NEIGHBORS, algorithm="ball_tree").fit(functional.ab_bins().numpy())

    def form(x: Inputs) -> tuple[Tensor, ...]:
        lab = _lab(x["images"])
        points = lab[:, 1:, ::STRIDE, ::STRIDE]
        away, index = tree.kneighbors(points.movedim(1, -1).reshape(-1, 2).numpy())
        return lab, _as_maps(torch.from_numpy(index), points), _as_maps(_softly(torch.from_numpy(away)), points)

    return form


def _by_kornia(problem: Problem) -> Form:
    import kornia

    return lambda x: kornia.color.rgb_to_lab(x["images"].float() / 255)


def color_bytes(problem: Problem, mode: str) -> int:
    """Reads the pixels, writes their Lab, and a number and a weight for each neighbour that is asked for."""
    plane, stride = problem.n * problem.side**2, _stride(problem)
    neighbors = NEIGHBORS if problem.case == "bins" else 1
    return plane * (3 + 12) + problem.n * (-(-problem.side // stride)) ** 2 * neighbors * 8


def colors_alike(inputs: Inputs, out: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """What all forms agree on: the colours, the weights, and the colours that these are of."""
    lab, index, weight = out
    return [lab, weight, (weight[..., None] * inputs["bins"][index.long()]).sum(1)]


LAB: dict[str, FormOf] = {
    "fastssl": _own,
    "eager": _eager,
    "compile": lambda problem: torch.compile(_eager(problem), dynamic=False),  # static shapes, its best case
    "kornia": _by_kornia,
}
COLOR_BINS: dict[str, FormOf] = {**{name: LAB[name] for name in ("fastssl", "eager", "compile")}, "tree": _by_tree}


def target_inputs(problem: Problem, generator: torch.Generator) -> Inputs:
    """Logits of all bins, and ten targets of each place, as images of that size have them."""
    _, index, weight = functional.lab_bins(pixels(problem, generator).contiguous())
    logits = torch.randn((problem.n, BINS, problem.side, problem.side), generator=generator)
    form = torch.channels_last if problem.interleaved else torch.contiguous_format
    return {"logits": logits.contiguous(memory_format=form), "index": index, "weight": weight}


def _dense(x: Inputs) -> Tensor:
    """The targets of all bins."""
    zeros = torch.zeros_like(x["logits"], dtype=torch.float32)
    return zeros.scatter_add_(1, x["index"].long(), x["weight"])


def _by_cross_entropy(problem: Problem) -> Form:
    return lambda x: F.cross_entropy(x["logits"], _dense(x).to(x["logits"]))


LOSS: dict[str, FormOf] = {
    "fastssl": lambda problem: lambda x: functional.sparse_cross_entropy(x["logits"], x["index"], x["weight"]),
    "eager": _by_cross_entropy,
    "compile": lambda problem: torch.compile(_by_cross_entropy(problem), dynamic=False),
    "products": lambda problem: lambda x: -(_dense(x) * x["logits"].log_softmax(1)).sum(1).mean(),
}


def loss_bytes(problem: Problem, mode: str) -> int:
    """Reads logits, indices and weights, and writes the gradient."""
    places = problem.n * problem.side**2
    size = places * BINS * getattr(torch, problem.dtype).itemsize
    return places * NEIGHBORS * 8 + (size if mode == "fwd" else 2 * size)
