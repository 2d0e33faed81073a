"""The specification: each op in plain PyTorch, in its shortest correct form. For tests and benchmarks only."""

from ._augment import augment
from ._blockwise_masking import blockwise_masking
from ._gather_tokens import gather_tokens
from ._mask_patchify import mask_patchify, patchify
from ._masked_mse import masked_mse
from ._multiblock_masking import multiblock_masking
from ._ntxent import ntxent
from ._pairwise_logsumexp import pairwise_logsumexp
from ._pairwise_softplus import pairwise_softplus
from ._random_masking import masking_noise, random_masking
from ._restore_tokens import restore_tokens
from ._sample_params import philox, sample_params
from ._text_masking import text_masking

__all__ = [
    "augment", "blockwise_masking", "gather_tokens", "mask_patchify", "masked_mse", "masking_noise",
    "multiblock_masking", "ntxent", "pairwise_logsumexp", "pairwise_softplus", "patchify", "philox", "random_masking",
    "restore_tokens", "sample_params", "text_masking",
]  # fmt: skip
