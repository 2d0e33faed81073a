"""Fused kernels for self-supervised learning, as ordinary PyTorch ops.

Every public name is loaded on first use, so importing fastssl needs neither Triton, nor the compiled
extension, nor any extra.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import data, evaluate, functional, losses, masking, methods, transforms
    from ._backend import use_backend
    from ._cached import cached_step
    from ._images import RaggedImages
    from ._queue import Queue
    from ._report import report
    from .losses import MaskedMSELoss, NTXentLoss
    from .train import fit

# public name -> the module that defines it
_NAMES = {
    "MaskedMSELoss": "losses", "NTXentLoss": "losses", "Queue": "_queue", "RaggedImages": "_images",
    "cached_step": "_cached", "fit": "train", "report": "_report", "use_backend": "_backend",
}  # fmt: skip
_MODULES = ("data", "evaluate", "functional", "losses", "masking", "methods", "transforms")

__all__ = [
    "MaskedMSELoss", "NTXentLoss", "Queue", "RaggedImages", "__version__", "cached_step", "data", "evaluate", "fit",
    "functional", "losses", "masking", "methods", "report", "transforms", "use_backend",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module 'fastssl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
