"""The specification: each op in plain PyTorch, in its shortest correct form. For tests and benchmarks only."""

from ._ntxent import ntxent

__all__ = ["ntxent"]
