"""The specification: each op in plain PyTorch, in its shortest correct form. For tests and benchmarks only."""

from ._augment import augment
from ._ntxent import ntxent
from ._sample_params import sample_params

__all__ = ["augment", "ntxent", "sample_params"]
