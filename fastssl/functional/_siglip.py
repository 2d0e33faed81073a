"""SigLIP's loss: logistic regression on every pair of an image and a text."""

from __future__ import annotations

from torch import Tensor

from .. import _checks
from ._info_nce import same_shape
from ._peers import Gather, peers
from ._similarity import embeddings, positions


def siglip(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = -10.0,
    labels: Tensor | None = None,
    normalize: bool = True,
    gather_distributed: Gather = False,
) -> Tensor:
    r"""SigLIP's loss: every pair of N images and N texts is told to be a match or not.

    With logits_ij = logit_scale <image_i, text_j> + logit_bias, of unit rows if `normalize`, and l_ij = 1 for a match,
    else -1:

        loss = -1/N sum_ij log sigmoid(l_ij logits_ij)

    Args:
        image_features: [N, D], N >= 1; float32, float16, bfloat16 or float64; any strides.
        text_features: [N, D], the same dtype and device.
        logit_scale, logit_bias: finite numbers or 0-d tensors, which get their gradients if they require them.
        labels: int [N], for several matches: pairs of equal labels match. None: image i matches text i alone.
        normalize: divide the rows by max(|row|, 1e-12) first; False where the model has done so.
        gather_distributed: take the rows of all processes: True, "all_gather" or "ring"; N is then their number.

    Returns:
        A 0-d float32 tensor (float64 for float64 embeddings).

    Raises:
        TypeError, ValueError: an argument is of another type, dtype, shape, device or value; the message names it.

    The logits are never stored; the gradients are made in the forward pass, as there is no row sum to wait for.

    Source: Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023, algorithm 1.
    """
    same_shape("image_features", image_features, "text_features", text_features)
    device = image_features.device
    scale = _checks.scalar("logit_scale", logit_scale, device)
    bias = _checks.scalar("logit_bias", logit_bias, device)
    if labels is not None:
        _checks.ids("labels", labels, len(image_features), device)
    found = peers(gather_distributed, len(image_features), device)
    products, (x, y) = embeddings(image_features, text_features, normalize=normalize)
    own = positions(len(x), device, found.start)
    ids = (own, own) if labels is None else found.all_ids(labels)
    total = found.softplus(x, y, scale, bias.to(device).expand(len(x)), ids, products)
    return found.ratio(total, float(len(x))).to(x.dtype)
