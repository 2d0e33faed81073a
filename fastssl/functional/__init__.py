"""The ops: checks, schema, autograd and autocast over the kernels of whichever backend runs."""

from ._ntxent import ntxent

__all__ = ["ntxent"]
