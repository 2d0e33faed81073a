"""Encoders as files for those who do not have fastssl, with the lines of Python that read them."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _checks
from .._extras import require
from ..transforms import statistics
from ._color import LabWrapper
from ._encoder import Wrapper, encode, fixed_size, frozen, input_channels, recipe_of
from ._torchvision import in_torchvision

_STATES = (".pth", ".pt", ".safetensors")
# What files of each form end in.
FORMATS = {"timm": _STATES, "torchvision": _STATES, "safetensors": (".safetensors",), "onnx": (".onnx",)}
_IN_WORDS = {
    "timm": "a state dict of timm",
    "torchvision": "a state dict of torchvision",
    "safetensors": "weights by their names",
    "onnx": "an ONNX graph",
}
_LARGEST = 2**31 - 2**20  # bytes of one ONNX file; more weights go beside it


def export(
    encoder: nn.Module,
    path: str | os.PathLike[str],
    format: str = "timm",
    *,
    image_size: int | None = None,
    example: Tensor | None = None,
    normalize: bool = False,
) -> Path:
    """Write an encoder in a form that others read without fastssl, and a text of the lines of Python that do so.

    ``"timm"`` and ``"torchvision"`` are state dicts of their models, made and compared with the encoder before anything
    is written. ``"safetensors"`` takes any encoder: the weights by their names. ``"onnx"`` takes any that
    ``torch.onnx`` can export: the graph with its weights, for batches of any size, and texts and signals of any length
    that the encoder takes.

    Args:
        encoder: the encoder, such as ``method.encoder``; it is left as it was.
        path: the file to write: ``.pth``, ``.pt`` or ``.safetensors`` for timm and torchvision, ``.safetensors``,
            ``.onnx``. A ``.txt`` of the same name goes beside it.
        format: one of the four.
        image_size: height and width of its images in pixels; by default the size that it takes, else 224.
        example: a batch of what it takes, where that is neither images nor what `text_encoder` and `signal_encoder`
            take; only its shape and type matter.
        normalize: for ONNX, take images as they are, uint8, and normalise them in the graph.

    Returns:
        The path.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or the format has no such encoder; the
            message tells what it lacks.
        MissingExtraError: a package is not installed: onnx and onnxscript come with ``pip install 'fastssl[export]'``.

    >>> fastssl.methods.export(method.encoder, "encoder.onnx", "onnx", image_size=224, normalize=True)
    """
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder: got {type(encoder).__name__}, want a torch.nn.Module")
    if format not in FORMATS:
        raise ValueError(f"format: got {format!r}, want {', '.join(map(repr, FORMATS))}")
    path, suffixes = Path(path), FORMATS[format]
    if path.suffix not in suffixes:
        raise ValueError(f"path: got {str(path)!r}, want a name that ends in {' or '.join(suffixes)} for {format}")
    if image_size is not None:
        _checks.positive_int("image_size", image_size)
    images = example is None and not hasattr(encoder, "vocab_size") and not hasattr(encoder, "frames")
    if normalize and not (images and format == "onnx"):
        raise ValueError("normalize: got True, want False: only images in ONNX can be normalised by the graph")
    model = copy.deepcopy(encoder).cpu()
    x = _example(model, image_size) if example is None else example.cpu()
    with frozen(model):
        wanted = encode(model, x)
    weights = {key: value.detach().contiguous() for key, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if format == "onnx":
        lines = _write_onnx(model.eval(), x, path, normalize)
    elif format == "safetensors" and "name" not in (recipe_of(model) or {}):
        _write(weights, path)
        lines = ["from safetensors.torch import load_file", "", f"weights = load_file({path.name!r})"]
    else:
        library = "torchvision" if format == "torchvision" else "timm"
        made, weights = _in_library(model, library, weights)
        _check(made, weights, x, wanted, library)
        _write(weights, path)
        lines = sorted(["import torch", f"import {library}"])
        lines += ["from safetensors.torch import load_file"] if path.suffix == ".safetensors" else []
        lines += ["", *made, f"model.load_state_dict({_reading(path)})", "model.eval()"]
    about = [f"# {type(encoder).__name__} as {_IN_WORDS[format]}.", *_told(model, x, wanted, images, normalize)]
    path.with_suffix(".txt").write_text("\n".join([*about, "", *lines]) + "\n")
    return path


def _example(encoder: Any, image_size: int | None) -> Tensor:
    """Return two random samples of what an encoder takes."""
    generator = torch.Generator().manual_seed(0)
    if hasattr(encoder, "vocab_size"):
        return torch.randint(1, encoder.vocab_size, (2, encoder.length), generator=generator)
    if hasattr(encoder, "frames"):
        return torch.randn(2, encoder.in_chans, 16384, generator=generator)
    size = fixed_size(encoder)
    if size is not None and image_size is not None and size != (image_size, image_size):
        raise ValueError(f"image_size: got {image_size}, want {size[0]} x {size[1]}, which alone the encoder takes")
    channels = 3 if isinstance(encoder, Wrapper) else input_channels(encoder)
    return torch.randn(2, channels, *(size or [image_size or 224] * 2), generator=generator)


def _free(encoder: Any) -> dict[int, str]:
    """Return the axes of the input that may have any length, with their names."""
    if hasattr(encoder, "vocab_size"):
        return {0: "B", 1: "T"}
    return {0: "B", 2: "T"} if hasattr(encoder, "frames") else {0: "B"}


def _told(encoder: Any, x: Tensor, features: Tensor, images: bool, normalize: bool) -> list[str]:
    """Return what a reader must know of input and output, as comments."""
    free, kind = _free(encoder), "uint8" if normalize else f"{x.dtype}".removeprefix("torch.")
    shape = ", ".join(free.get(axis, str(length)) for axis, length in enumerate(x.shape))
    lines = [f"# Input: {kind} [{shape}]. Output: float32 [B, {features.shape[1]}]."]
    if hasattr(encoder, "vocab_size"):
        lines.append(f"# At most {encoder.length} tokens; 0 stands for none, after the end of a text.")
    if images and not normalize and x.shape[1] in (1, 3):
        mean, std = statistics(x.shape[1])
        lines.append(f"# Images of 0 to 255 become its input by (x / 255 - mean) / std, mean {mean}, std {std}.")
    return lines


def _in_library(encoder: nn.Module, format: str, weights: dict[str, Tensor]) -> tuple[list[str], dict[str, Tensor]]:
    """Return the lines that make an encoder in timm or torchvision, and its weights by the names there."""
    if isinstance(encoder, LabWrapper):
        lines: list[str] = ["encoders = []"]
        named: dict[str, Tensor] = {}
        for i, inner in enumerate(encoder.encoders):
            start = f"encoders.{i}."
            its = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
            made, its = _in_library(inner, format, its)
            lines += [*made, "encoders.append(model)"]
            named.update((start + key, value) for key, value in its.items())
        return [*lines, *encoder.elsewhere("encoders")], named
    recipe = recipe_of(encoder)
    if format == "torchvision":
        lines, weights = in_torchvision(encoder, recipe, weights)
    elif recipe is None or "name" not in recipe:
        raise ValueError(
            f"format: got 'timm' for {type(encoder).__name__}, which timm.create_model is not known to make; want "
            "'safetensors' or 'onnx', or an encoder of fastssl.methods.build_encoder, which remembers how it was made"
        )
    else:
        given = "".join(f", {key}={value!r}" for key, value in recipe["kwargs"].items())
        channels = "" if recipe["in_chans"] == 3 else f", in_chans={recipe['in_chans']}"
        lines = [f"model = timm.create_model({recipe['name']!r}, num_classes=0{channels}{given})"]
    if recipe is None:
        return lines, weights
    if recipe["stem"] != "timm":
        lines.append("model.maxpool = torch.nn.Identity()")
    if recipe["stem"] == "small":
        width = weights["conv1.weight"].shape[0]
        lines.append(f"model.conv1 = torch.nn.Conv2d({recipe['in_chans']}, {width}, 3, 1, 1, bias=False)")
    return lines, weights


def _check(lines: Sequence[str], weights: dict[str, Tensor], x: Tensor, wanted: Tensor, format: str) -> None:
    """Make the model by these lines, and raise a ValueError unless it gives the encoder's features."""
    scope: dict[str, Any] = {"torch": torch, format: require(format, f"format={format!r}")}
    try:
        with torch.random.fork_rng(devices=[]):
            exec("\n".join(lines), scope)
        model: nn.Module = scope["model"]
        model.load_state_dict(weights)
        with frozen(model):
            found = encode(model, x)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    except Exception as error:  # whatever is wrong with the other model, it is not the encoder
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"format: got {format!r}, whose form of the encoder is another: {reason}") from None


def _write(weights: dict[str, Tensor], path: Path) -> None:
    # Through a second name, so that a reader never meets half a file.
    fresh = path.with_name(path.name + ".tmp")
    if path.suffix == ".safetensors":
        require("safetensors.torch", "export").save_file(weights, fresh, metadata={"format": "pt"})
    else:
        torch.save(weights, fresh)
    os.replace(fresh, path)


def _reading(path: Path) -> str:
    if path.suffix == ".safetensors":
        return f"load_file({path.name!r})"
    return f"torch.load({path.name!r}, weights_only=True)"


class _Graph(nn.Module):
    """An encoder with pooled features, of images as they are or normalised."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, channels: int | None) -> None:
        super().__init__()
        self.encoder, self.normalize = encoder, channels is not None
        for name, values in zip(("mean", "std"), statistics(channels) if channels else ((), ()), strict=True):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return encode(self.encoder, (x.float() / 255 - self.mean) / self.std if self.normalize else x)


def _write_onnx(encoder: Any, x: Tensor, path: Path, normalize: bool) -> list[str]:
    for module in ("onnx", "onnxscript"):
        require(module, "format='onnx'")
    graph = _Graph(encoder, x.shape[1] if normalize else None).eval()
    given = (torch.randint(256, x.shape, dtype=torch.uint8) if normalize else x,)
    free: dict[int, Any] = dict(_free(encoder))
    if hasattr(encoder, "vocab_size"):
        free[1] = torch.export.Dim("T", min=2, max=encoder.length)
    bytes_of_weights = sum(value.nbytes for value in encoder.state_dict().values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter, about itself
        torch.onnx.export(
            graph, given, path, dynamo=True, dynamic_shapes=(free,), input_names=["input"],
            output_names=["features"], external_data=bytes_of_weights > _LARGEST, verbose=False,
        )  # fmt: skip
    kind = f"{given[0].dtype}".removeprefix("torch.")
    return [
        "import numpy",
        "import onnxruntime",
        "",
        f"session = onnxruntime.InferenceSession({path.name!r})",
        f"(features,) = session.run(None, {{'input': numpy.zeros({tuple(x.shape)}, {kind!r})}})",
    ]
