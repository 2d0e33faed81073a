"""The specification: each op in plain PyTorch, in its shortest correct form. For tests and benchmarks only."""

from ._augment import augment
from ._blockwise_masking import blockwise_masking
from ._contrastive import (
    alignment,
    clip,
    cpc,
    dcl,
    dclw,
    hard_negative_ntxent,
    info_nce,
    linear_cross_entropy,
    moco,
    multi_positive_ntxent,
    siglip,
    supcon,
    uniformity,
)
from ._dino_loss import dino_loss, ibot_loss
from ._extract_patches import extract_patches
from ._gather_tokens import gather_tokens
from ._koleo import koleo
from ._lab_bins import lab_bins, rgb_to_lab
from ._mask_patchify import mask_patchify, patchify
from ._masked_mse import masked_mse
from ._multiblock_masking import multiblock_masking
from ._ntxent import ntxent
from ._pairwise_logsumexp import pairwise_logsumexp
from ._pairwise_softplus import pairwise_softplus
from ._random_masking import masking_noise, random_masking
from ._restore_tokens import restore_tokens
from ._sample_params import philox, sample_params
from ._sinkhorn import sinkhorn
from ._sparse_cross_entropy import sparse_cross_entropy
from ._text_masking import text_masking

__all__ = [
    "alignment", "augment", "blockwise_masking", "clip", "cpc", "dcl", "dclw", "dino_loss", "extract_patches",
    "gather_tokens", "hard_negative_ntxent", "ibot_loss", "info_nce", "koleo", "lab_bins", "linear_cross_entropy",
    "mask_patchify", "masked_mse", "masking_noise", "moco", "multi_positive_ntxent", "multiblock_masking", "ntxent",
    "pairwise_logsumexp", "pairwise_softplus", "patchify", "philox", "random_masking", "restore_tokens", "rgb_to_lab",
    "sample_params", "siglip", "sinkhorn", "sparse_cross_entropy", "supcon", "text_masking", "uniformity",
]  # fmt: skip
