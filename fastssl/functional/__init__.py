"""The ops: checks, schema, autograd and autocast over the kernels of whichever backend runs."""

from ._augment import augment
from ._blockwise_masking import blockwise_masking
from ._center_update import center_update
from ._clip import clip
from ._cpc import cpc
from ._dcl import dcl, dclw, hard_negative_ntxent
from ._dino_loss import dino_loss
from ._ema_update import ema_update
from ._extract_patches import extract_patches
from ._gather_tokens import gather_tokens
from ._ibot_loss import ibot_loss
from ._info_nce import info_nce, moco
from ._koleo import koleo
from ._lab_bins import LabBins, ab_bins, lab_bins
from ._linear_cross_entropy import linear_cross_entropy
from ._mask_patchify import mask_patchify
from ._masked_mse import masked_mse
from ._multiblock_masking import multiblock_masking
from ._ntxent import ntxent
from ._pairwise_logsumexp import pairwise_logsumexp
from ._pairwise_softplus import pairwise_softplus
from ._params import AugmentParams
from ._random_masking import TokenMasks, random_masking
from ._recipe import Recipe, View
from ._restore_tokens import restore_tokens
from ._sample_params import sample_params
from ._siglip import siglip
from ._sinkhorn import sinkhorn
from ._sparse_cross_entropy import sparse_cross_entropy
from ._supcon import multi_positive_ntxent, supcon
from ._text_masking import text_masking
from ._uniformity import alignment, uniformity

__all__ = [
    "AugmentParams", "LabBins", "Recipe", "TokenMasks", "View", "ab_bins", "alignment", "augment", "blockwise_masking",
    "center_update", "clip", "cpc", "dcl", "dclw", "dino_loss", "ema_update", "extract_patches", "gather_tokens",
    "hard_negative_ntxent", "ibot_loss", "info_nce", "koleo", "lab_bins", "linear_cross_entropy", "mask_patchify",
    "masked_mse", "moco", "multi_positive_ntxent", "multiblock_masking", "ntxent", "pairwise_logsumexp",
    "pairwise_softplus", "random_masking", "restore_tokens", "sample_params", "siglip", "sinkhorn",
    "sparse_cross_entropy", "supcon", "text_masking", "uniformity",
]  # fmt: skip
