"""The optional packages of ``pip install 'fastssl[train]'``: one place that imports them, one sentence when absent."""

from __future__ import annotations

import importlib
from typing import Any

# What the train extra brings: module name -> name on the package index.
TRAIN_EXTRA = {
    "timm": "timm",
    "lightning": "lightning",
    "torchvision": "torchvision",
    "sklearn": "scikit-learn",
    "matplotlib": "matplotlib",
    "safetensors": "safetensors",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
}
# Those of other extras, and which.
OTHER_EXTRAS = {"tokenizers": "text"}


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
        package = TRAIN_EXTRA.get(top, top)
        extra = OTHER_EXTRAS.get(top, "train")
        raise MissingExtraError(f"{needed_by} needs {package}: pip install 'fastssl[{extra}]'") from None
