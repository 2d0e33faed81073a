"""The ops: checks, schema, autograd and autocast over the kernels of whichever backend runs."""

from ._augment import augment
from ._ntxent import ntxent
from ._params import AugmentParams
from ._recipe import Recipe, View
from ._sample_params import sample_params

__all__ = ["AugmentParams", "Recipe", "View", "augment", "ntxent", "sample_params"]
