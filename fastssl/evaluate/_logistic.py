"""Logistic regression on standardised features: by scikit-learn on a CPU, and several at a time by torch on a GPU.

Both minimise the same objective. Of a problem with n rows it is, with W [f, c] and the intercepts b [c],

    1 / n (sum_i cross_entropy(x_i W + b, y_i) + l2 / 2 |W|^2)

For two classes it is that of one column of weights, the difference of both, as in scikit-learn.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._extras import require

SOLVERS = ("auto", "scikit-learn", "torch")
STEPS, TOLERANCE = 200, 1e-3
_ROWS = 65536  # of logits in memory at a time


@dataclass(frozen=True)
class Classifier:
    """A linear classifier, and the statistics that its features are standardised with.

    Attributes:
        mean, std: float64 [f].
        weight: float32 [f, c].
        bias: float32 [c].
        labels: int64 [c], the classes.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor
    labels: Tensor

    def predict(self, x: Tensor) -> Tensor:
        """Return the class of each row, int64 on the CPU."""
        found = []
        for part in x.split(_ROWS):
            logits = _standardise(part, self.mean, self.std).to(self.weight.device) @ self.weight + self.bias
            found.append(logits.argmax(1).cpu())
        return self.labels[torch.cat(found)]


def choose_solver(solver: str, device: torch.device) -> str:
    """Return the solver that "auto" stands for on a device.

    Raises:
        ValueError: there is no such solver.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver: got {solver!r}, want {', '.join(map(repr, SOLVERS))}")
    if solver == "auto":
        return "scikit-learn" if device.type == "cpu" else "torch"
    return solver


def fit(
    x: Tensor,
    y: Tensor,
    subsets: Sequence[Tensor],
    l2: Sequence[float],
    *,
    solver: str,
    device: torch.device,
    steps: int = STEPS,
    tolerance: float = TOLERANCE,
) -> list[Classifier]:
    """Fit a classifier on each subset of rows, with the penalty of the same place.

    Args:
        x: float32 [n, f].
        y: int64 [n].
        subsets: rows to train on; torch fits those of one size together.
        l2: strength of each one's squared penalty on the weights.
        solver: "scikit-learn" or "torch".
        device: where torch fits.
        steps: of L-BFGS at most.
        tolerance: it ends where no derivative is larger.

    Returns:
        The classifiers.

    Raises:
        ValueError: the rows of a subset are of one class.
    """
    classes = [y[at].unique() for at in subsets]
    for labels in classes:
        if len(labels) < 2:
            raise ValueError(f"train: got images of {len(labels)} class, want at least 2")
    if solver == "torch":
        return _fit_torch(x, y, subsets, l2, classes, device, steps, tolerance)
    return [
        _fit_scikit(x[at], y[at], penalty, labels, steps, tolerance)
        for at, penalty, labels in zip(subsets, l2, classes, strict=True)
    ]


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    std, mean = torch.std_mean(x.double(), 0, correction=0)
    return mean, torch.where(std < 1e-8, 1.0, std)  # a constant feature stays constant instead of becoming noise


def _standardise(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return torch.cat([((part.double() - mean) / std).float() for part in x.split(_ROWS)])


def _fit_scikit(x: Tensor, y: Tensor, l2: float, labels: Tensor, steps: int, tolerance: float) -> Classifier:
    linear_model = require("sklearn.linear_model", "linear_probe")
    mean, std = _statistics(x)
    model = linear_model.LogisticRegression(C=1 / l2, max_iter=steps, tol=tolerance)
    with warnings.catch_warnings():
        # 200 steps settle the accuracy long before the optimiser is satisfied on separable data.
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        model.fit(_standardise(x, mean, std).numpy(), y.numpy())
    weight, bias = torch.from_numpy(model.coef_).float().T, torch.from_numpy(model.intercept_).float()
    if len(labels) == 2:
        weight, bias = torch.cat([-weight, weight], 1) / 2, torch.cat([-bias, bias]) / 2
    return Classifier(mean, std, weight, bias, labels)


def _fit_torch(
    x: Tensor,
    y: Tensor,
    subsets: Sequence[Tensor],
    l2: Sequence[float],
    classes: Sequence[Tensor],
    device: torch.device,
    steps: int,
    tolerance: float,
) -> list[Classifier]:
    """Fit subsets of one size and number of classes together."""
    found: dict[int, Classifier] = {}
    kinds = [(len(at), len(labels)) for at, labels in zip(subsets, classes, strict=True)]
    for kind in dict.fromkeys(kinds):
        members = [i for i, each in enumerate(kinds) if each == kind]
        shared = all(subsets[i] is subsets[members[0]] for i in members)  # then one copy of the rows serves all
        read = members[:1] if shared else members
        statistics = [_statistics(x[subsets[i]]) for i in read]
        standard = (_standardise(x[subsets[i]], *each) for i, each in zip(read, statistics, strict=True))
        rows = torch.stack([part.to(device) for part in standard])
        targets = torch.stack([torch.searchsorted(classes[i], y[subsets[i]]) for i in read]).to(device)
        penalties = torch.tensor([l2[i] * (2 if kind[1] == 2 else 1) for i in members], device=device)
        weights, biases = _minimise(rows, targets, penalties, kind[1], steps, tolerance)
        for place, i in enumerate(members):
            found[i] = Classifier(*statistics[0 if shared else place], weights[place], biases[place], classes[i])
    return [found[i] for i in range(len(subsets))]


def _minimise(x: Tensor, y: Tensor, l2: Tensor, classes: int, steps: int, tolerance: float) -> tuple[Tensor, Tensor]:
    """Minimise the sum of the objectives of p problems over weights [p, f, c] and intercepts [p, c].

    The rows x are [p or 1, n, f] and the targets y [p or 1, n]. The derivative is written out, by parts of the rows, so
    that no logits are kept.
    """
    n, width = x.shape[1:]
    theta = torch.zeros(len(l2), width + 1, classes, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=steps, max_eval=2 * steps, tolerance_grad=tolerance, tolerance_change=0.0, history_size=10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    @torch.no_grad()
    def objective() -> Tensor:
        weight, bias = theta[:, :-1], theta[:, -1:]
        loss = (l2[:, None, None] * weight.square()).sum().double() / 2
        grad = torch.cat([l2[:, None, None] * weight, torch.zeros_like(bias)], 1)
        for rows, targets in zip(x.split(_ROWS, 1), y.split(_ROWS, 1), strict=True):
            at = targets[..., None].expand(len(l2), -1, 1)
            logits = rows @ weight + bias
            lse = logits.logsumexp(-1, keepdim=True)
            loss += (lse - logits.gather(-1, at)).double().sum()
            residual = (logits - lse).exp()
            residual.scatter_add_(-1, at, torch.full_like(lse, -1.0))
            grad[:, :-1] += rows.mT @ residual
            grad[:, -1:] += residual.sum(1, keepdim=True)
        theta.grad = grad / n
        return loss / n

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    found = theta.detach()
    return found[:, :-1], found[:, -1]
