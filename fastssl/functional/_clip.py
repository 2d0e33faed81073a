"""CLIP's loss: both directions from one pass over the scores."""

from __future__ import annotations

from torch import Tensor

from .. import _checks
from ._info_nce import same_shape
from ._peers import Gather, peers
from ._similarity import embeddings, paired_scores, positions, softplus_excess


def clip(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor = 1 / 0.07,
    normalize: bool = True,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""CLIP's symmetric cross-entropy of matching N images and N texts.

    With logits_ij = logit_scale <image_i, text_j>, of unit rows if `normalize`:

        loss = 1/2N sum_i [ log sum_j exp(logits_ij) - logits_ii ] + 1/2N sum_j [ log sum_i exp(logits_ij) - logits_jj ]

    Args:
        image_features: [N, D], N >= 1; float32, float16, bfloat16 or float64; any strides.
        text_features: [N, D], the same dtype and device.
        logit_scale: 1 / tau, as it multiplies: ``log_scale.exp()`` of a model that learns it. A finite number or a 0-d
            tensor, which gets its gradient if it requires one.
        normalize: divide the rows by max(|row|, 1e-12) first; False where the model has done so.
        gather_distributed: take the rows of all processes: True, "all_gather" or "ring"; see `fastssl.losses`.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings).

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    The N x N logits are never stored, and computed once for both directions. Memory beyond inputs and gradients is
    O(N D).

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, 2021, figure 3.
    """
    same_shape("image_features", image_features, "text_features", text_features)
    scale = _checks.scalar("logit_scale", logit_scale, image_features.device)
    found = peers(gather_distributed, len(image_features), image_features.device)
    products, (x, y) = embeddings(image_features, text_features, normalize=normalize)
    own = positions(len(x), x.device, found.start)
    positive = paired_scores(x, y) * scale
    rows, columns = found.both_logsumexp(x, y, scale, (own, own), products, bounded=normalize)
    nll = softplus_excess(rows, positive) + softplus_excess(columns, positive)
    return (found.mean(nll) / 2).to(x.dtype)
