"""The ops: checks, schema, autograd and autocast over the kernels of whichever backend runs."""

from ._augment import augment
from ._blockwise_masking import blockwise_masking
from ._gather_tokens import gather_tokens
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
from ._text_masking import text_masking

__all__ = [
    "AugmentParams", "Recipe", "TokenMasks", "View", "augment", "blockwise_masking", "gather_tokens", "mask_patchify",
    "masked_mse", "multiblock_masking", "ntxent", "pairwise_logsumexp", "pairwise_softplus", "random_masking",
    "restore_tokens", "sample_params", "text_masking",
]  # fmt: skip
