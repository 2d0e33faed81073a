"""The optional packages, such as of ``pip install 'fastssl[train]'``: imported here, with one sentence when absent."""

from __future__ import annotations

import importlib
from typing import Any

# What each extra brings: module name -> name on the package index.
EXTRAS = {
    "train": {
        "timm": "timm",
        "lightning": "lightning",
        "torchvision": "torchvision",
        "sklearn": "scikit-learn",
        "matplotlib": "matplotlib",
        "safetensors": "safetensors",
        "tensorboard": "tensorboard",
        "tqdm": "tqdm",
    },
    "text": {"tokenizers": "tokenizers"},
    "export": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
}


class MissingExtraError(ImportError):
    """An optional package is needed and not installed."""


def require(module: str, needed_by: str) -> Any:
    """Import an optional module, or say in one sentence how to get it.

    Args:
        module: dotted module name, such as ``"lightning.pytorch"``.
        needed_by: what the user called, such as ``"fastssl.fit"``; opens the sentence.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: the package is not installed.
    """
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module missing *inside* an installed package is that package's fault and must not be hidden.
        if error.name is not None and error.name.partition(".")[0] != top:
            raise
        extra = next((name for name, packages in EXTRAS.items() if top in packages), "train")
        package = EXTRAS[extra].get(top, top)
        raise MissingExtraError(f"{needed_by} needs {package}: pip install 'fastssl[{extra}]'") from None
