"""What ``fastssl pretrain METHOD`` and ``fastssl compare`` make of a method's name, options and data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ._cli_methods import METHODS, Method
from ._cli_options import Option, small_values

# The default encoders of each kind, up to 64 pixels and above.
ENCODERS = {
    "resnet": ("small-resnet", "resnet18"),
    "vit": ("small-vit", "vit_base_patch16_224"),
    "mlp": ("mlp", "mlp"),
    "text": ("bert-tiny", "bert-base"),
    "either": ("small-resnet", "vit_small_patch16_224"),
}
BATCH = 256
# The options that are arguments of fit, whose default is fit's own.
SETTINGS = ("batch_size", "chunk_size", "optimizer", "lr", "weight_decay", "warmup_epochs", "workers")


@dataclass(frozen=True)
class Prepared:
    """A method that is ready to train.

    Attributes:
        method: the method, with its encoder.
        encoder: name of the encoder.
        settings: arguments of `fastssl.fit`.
    """

    method: Any
    encoder: str
    settings: dict[str, Any]


def prepare(kind: str, images: Any, given: dict[str, Any]) -> Prepared:
    """Make a method for some images, with the defaults of the command line where nothing is given.

    Args:
        kind: a name of `METHODS`.
        images: the data, or texts; up to 64 pixels they get the defaults for small images.
        given: options of the method, of its views and of `fastssl.fit`, ``encoder``, and ``seed`` of the weights.
    """
    import torch

    from . import methods
    from .data import Texts

    known = METHODS[kind]
    if isinstance(images, Texts) != (known.reads == "text"):
        got = "text" if isinstance(images, Texts) else "images"
        raise ValueError(f"data: got {got}, want {known.reads}, which {kind} reads")
    torch.manual_seed(given.get("seed", 0))
    is_small = known.reads == "text" or images.image_size <= 64
    small, large = ENCODERS[known.encoder]
    name = given.get("encoder") or (small if is_small else large)
    name = small if name == "small" else name
    if known.reads == "text":
        encoder, of_data = methods.text_encoder(images.vocab_size, images.length, name), {}
    else:
        encoder = _encoder(known, name, images.channels, images.image_size)
        of_data = {"image_size": images.image_size}
    options = {option.name: option.default for option in known.options if option.default is not None}
    options.update(small_values(known.options) if is_small else {})
    if "queue_size" in options:
        options["queue_size"] = min(options["queue_size"], len(images))
    options.update(_given(known.options, given))
    changes = small_values(known.views) if known.views and is_small and images.channels == 3 else {}
    changes.update(_given(known.views, given))
    settings = {"batch_size": BATCH, **(known.small_fit if is_small else {})}
    if "optimizer" in given:  # the others' rates are not for it
        settings = {"batch_size": settings["batch_size"]}
    settings.update((key, given[key]) for key in SETTINGS if key in given)
    method = methods.METHODS[kind](encoder, **of_data, **options)
    if changes:
        _change_views(method, images.channels, images.image_size, **changes)
    return Prepared(method, name, settings)


def _encoder(method: Method, name: str, channels: int, image_size: int) -> Any:
    """Make the encoder of a run: small-resnet, small-vit, or what timm calls `name`."""
    from . import methods
    from .methods._color import dense_encoder
    from .methods._encoder import is_vit

    channels = method.channels or channels
    more: dict[str, Any] = {"dynamic_img_size": True} if method.any_size else {}
    norm: dict[str, Any] = {} if method.batch_norm else {"norm_layer": "layernorm2d"}
    fine: dict[str, Any] = {"output_stride": 8} if method.dense else {}
    if name == "small-resnet":
        return methods.small_resnet(channels, image_size, **norm, **fine)
    if name == "mlp":
        return methods.mlp_encoder(channels, image_size)
    if name == "small-vit":
        return methods.small_vit(channels, image_size, **more)
    if method.vit_only or is_vit(name):
        return methods.build_encoder(name, in_chans=channels, img_size=image_size, init=method.init, **more)
    if method.dense:
        return dense_encoder(name, channels)
    return methods.build_encoder(name, in_chans=channels, **norm)


def _given(options: tuple[Option, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Return those of a method's options that the command line names."""
    values = {option.name: given[option.name] for option in options if option.name in given}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _change_views(method: Any, channels: int, image_size: int, crop_min: float | None = None, **changes: Any) -> None:
    """Let the views of a method differ from those of its default recipe."""
    import torch

    from .transforms import Transform

    if crop_min is not None and not 0 < crop_min <= 1:
        raise ValueError(f"crop_min: got {crop_min}, want a number in (0, 1]")
    recipe = method.recipe(channels, image_size).recipe
    views = []
    for view, size in zip(recipe.views, recipe.sizes, strict=True):
        if crop_min is not None and size == max(recipe.sizes):
            view = replace(view, scale=(crop_min, max(crop_min, view.scale[1])))
        views.append(replace(view, **changes))
    method.transform = Transform(replace(recipe, views=tuple(views)), memory_format=torch.channels_last)
