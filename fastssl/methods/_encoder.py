"""Encoders: made by timm, exported as safetensors and a JSON file that says how to make them again."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, ParamSpec

import torch
from torch import Tensor, nn

from .._extras import require
from ..transforms import statistics
from ._vit import init_vit

_STEMS = ("timm", "no-pool", "small")
_INITS = ("timm", "mae", "mocov3")
_Arguments = ParamSpec("_Arguments")
_RECIPE = "_fastssl_recipe"  # the attribute that remembers build_encoder's arguments


def build_encoder(
    name: str = "resnet18", *, in_chans: int = 3, stem: str = "timm", init: str = "timm", **kwargs: Any
) -> nn.Module:
    """Make a timm model without its classifier, and remember how it was made.

    Args:
        name: name of a timm model.
        in_chans: channels of its input: 1 or 3 as of images, or 2 as of their colours alone.
        stem: ``"timm"``, or for small images ``"no-pool"``, which leaves out the pooling after the stem of a ResNet, or
            ``"small"``, which besides makes its first layer a 3x3 convolution of stride 1.
        init: ``"timm"``, or for a vision transformer ``"mae"`` or ``"mocov3"``: the initial weights of He et al. 2022
            or of Chen et al. 2021, with fixed positions of sines and cosines.
        **kwargs: passed to ``timm.create_model``, such as ``pretrained=True`` or ``layers=(1, 1, 1, 1)``.

    Returns:
        A module float [B, in_chans, H, W] -> features [B, f].

    Raises:
        ValueError: timm has no such model, it refuses an argument, or the model has no ResNet stem to replace.
        TypeError: initial weights of MAE or MoCo v3 are wanted for what is no vision transformer.
        MissingExtraError: timm is not installed.
    """
    timm = require("timm", "an encoder by name")
    if stem not in _STEMS:
        raise ValueError(f"stem: got {stem!r}, want {', '.join(map(repr, _STEMS))}")
    if init not in _INITS or (init != "timm" and kwargs.get("pretrained")):
        raise ValueError(f"init: got {init!r}, want 'timm', or 'mae' or 'mocov3' for an encoder that is not pretrained")
    if in_chans not in (1, 2, 3):
        raise ValueError(f"in_chans: got {in_chans!r}, want 1, 2 or 3")
    if not isinstance(name, str) or not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:3] if isinstance(name, str) else []
        hint = f" such as {', '.join(near)}" if near else "; timm.list_models() names them"
        raise ValueError(f"encoder: got {name!r}, want the name of a timm model{hint}")
    try:
        model: nn.Module = timm.create_model(name, num_classes=0, in_chans=in_chans, **kwargs)
    except TypeError as error:
        if "img_size" in kwargs and "img_size" in str(error):
            raise ValueError(
                f"encoder: got {name!r}, which takes no img_size; want a vision transformer such as "
                "'vit_base_patch16_224'"
            ) from None
        raise ValueError(f"encoder: timm cannot make {name!r} with {kwargs}: {error}") from None
    if stem != "timm":
        first: Any = getattr(model, "conv1", None)
        if not hasattr(model, "maxpool") or not (isinstance(first, nn.Conv2d) or stem == "no-pool"):
            raise ValueError(f"stem: got {stem!r} for {name!r}, want a ResNet of timm with such a stem to change")
        model.maxpool = nn.Identity()
    if stem == "small":
        conv = nn.Conv2d(in_chans, first.out_channels, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        model.conv1 = conv
    if init != "timm":
        init_vit(model, init)
    # Weights come from the exported file, so a rebuilt encoder never downloads the pretrained ones.
    kept = {key: value for key, value in kwargs.items() if not key.startswith("pretrained")}
    setattr(model, _RECIPE, {"name": name, "in_chans": in_chans, "stem": stem, "init": init, "kwargs": kept})
    return model


def small_resnet(
    in_chans: int = 3, image_size: int = 32, *, output_stride: int = 32, norm_layer: str | None = None
) -> nn.Module:
    """Make a ResNet of four blocks and 0.3 million weights, small enough to train on a CPU in minutes.

    Args:
        in_chans: channels of the images, 1 or 3, or 2 for their colours alone.
        image_size: height and width of the images in pixels; over 16, the first layer halves them.
        output_stride: 8 or 16: the last two blocks, or the last one, do not halve the map but look further instead, for
            methods that tell something of every place; 32 pixels a side then leave 8 or 4, and else 2.
        norm_layer: timm's name of another norm than batch norm, such as "layernorm2d".

    Returns:
        A module float [B, in_chans, H, W] -> features [B, 128].
    """
    stem: dict[str, Any] = {"stem": "small"}
    if image_size > 16:
        stem = {"stem": "no-pool", "stem_type": "deep", "stem_width": 8}
    if output_stride != 32:
        stem["output_stride"] = output_stride
    if norm_layer is not None:
        stem["norm_layer"] = norm_layer
    # Without zero_init_last every block takes part from the first step, in an untrained baseline too.
    return build_encoder(
        "resnet18", in_chans=in_chans, layers=(1, 1, 1, 1), channels=(16, 32, 64, 128), zero_init_last=False, **stem
    )


def build_for_any_size(name: str, **kwargs: Any) -> nn.Module:
    """Make an encoder as `build_encoder` does; a vision transformer takes images of any size of whole patches."""
    encoder = build_encoder(name, **kwargs)
    return encoder if fixed_size(encoder) is None else build_encoder(name, dynamic_img_size=True, **kwargs)


def small_vit(in_chans: int = 3, image_size: int = 32, *, dynamic_img_size: bool = False) -> nn.Module:
    """Make a vision transformer of six blocks and 0.7 million weights, small enough to train on a CPU in minutes.

    Args:
        in_chans: channels of the images, 1 or 3.
        image_size: height and width of the images in pixels, which patches of some size must divide into 4 to 16 a
            side; 8 a side where there is a choice.
        dynamic_img_size: take images of other sizes as well, of whole patches, as methods with local views show it; the
            positions are interpolated.

    Returns:
        A module float [B, in_chans, H, W] -> features [B, 96], with MAE's initial weights.

    Raises:
        ValueError: no patch size divides the images so.
    """
    patches = [p for p in range(2, image_size // 4 + 1) if image_size % p == 0 and image_size // p <= 16]
    if not patches:
        raise ValueError(f"image_size: got {image_size}, want one of 4 to 16 whole patches a side, such as 32")
    patch = min(patches, key=lambda p: abs(image_size / p - 8))
    more: dict[str, Any] = {"dynamic_img_size": True} if dynamic_img_size else {}
    # The features are the mean of the normed patches: there is no class token, which masking would not train.
    return build_encoder(
        "vit_tiny_patch16_224", in_chans=in_chans, init="mae", img_size=image_size, patch_size=patch, embed_dim=96,
        depth=6, num_heads=3, class_token=False, global_pool="avg", fc_norm=False, **more,
    )  # fmt: skip


def is_vit(name: str) -> bool:
    """Tell whether timm makes a vision transformer by this name, whose images may be of another size by `img_size`."""
    timm = require("timm.models", "an encoder by name")
    return bool(timm.is_model_in_modules(name, {"vision_transformer"}))


def rebuild(recipe: dict[str, Any]) -> nn.Module:
    """Make a fresh encoder by the recipe of an encoder.json, with new random weights."""
    if "maker" in recipe:
        return MAKERS[recipe["maker"]](**recipe["kwargs"])
    if "wrapper" in recipe:
        return Wrapper.kinds[recipe["wrapper"]](*map(rebuild, recipe["encoders"]))
    init = recipe.get("init", "timm")  # which files of version 0.1 do not tell
    return build_encoder(
        recipe["name"], in_chans=recipe["in_chans"], stem=recipe["stem"], init=init, **recipe["kwargs"]
    )  # fmt: skip


def encoder_width(encoder: object, given: int | None = None) -> int:
    """Return the width of an encoder's features, and refuse what is not an encoder."""
    if not isinstance(encoder, nn.Module):
        raise TypeError(f"encoder: got {type(encoder).__name__}, want a torch.nn.Module or the name of a timm model")
    if getattr(encoder, "num_classes", 0):
        raise ValueError(
            f"encoder: got a classifier of {encoder.num_classes} classes, want one that returns features: "
            "timm.create_model(..., num_classes=0)"
        )
    width = given or getattr(encoder, "num_features", None)
    if not isinstance(width, int) or width < 1:
        raise ValueError("feature_dim: the encoder has no num_features; pass the width of its features")
    return width


def fixed_size(encoder: nn.Module) -> tuple[int, int] | None:
    """Return the only height and width of images that an encoder takes, or None where it takes others, too."""
    if isinstance(encoder, Wrapper):
        return fixed_size(encoder.encoders[0])
    only: Any = getattr(encoder, "only_size", None)
    if only is not None:
        return int(only[0]), int(only[1])
    embed: Any = getattr(encoder, "patch_embed", None)
    size = getattr(embed, "img_size", None) if getattr(embed, "strict_img_size", False) else None
    return None if size is None else (int(size[0]), int(size[1]))


@contextlib.contextmanager
def frozen(encoder: nn.Module) -> Iterator[None]:
    """Put a module in eval mode without gradients, and every submodule's mode back afterwards."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode  # train(mode) would recurse, and modes may differ below


def encode(encoder: nn.Module, x: Tensor) -> Tensor:
    """Return an encoder's features as [B, f]: maps [B, f, h, w] are averaged over h and w."""
    features: Tensor = encoder(x)
    return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)


def feature_map(encoder: nn.Module, x: Tensor) -> Tensor:
    """Return an encoder's features before they are pooled, as [B, f, h, w]; patches of a ViT in the places they have.

    An encoder that is not timm's and returns [B, f] has a map of one place.
    """
    model: Any = encoder
    features: Tensor = model.forward_features(x) if hasattr(model, "forward_features") else model(x)
    if features.ndim == 4:
        return features.permute(0, 3, 1, 2) if getattr(model, "output_fmt", "") == "NHWC" else features
    if features.ndim == 2:
        return features[:, :, None, None]
    grid = [side // patch for side, patch in zip(x.shape[2:], model.patch_embed.patch_size, strict=True)]
    places: Tensor = features[:, getattr(model, "num_prefix_tokens", 0) :].mT.unflatten(2, grid)
    return places


class Wrapper(nn.Module):
    """Base of encoders of RGB images that show other encoders something of them; the recipe is that of these.

    Args:
        *encoders: those that it is made of, all that a subclass's constructor needs.
        feature_dim: the width of each one's features, where they have no attribute `num_features` to tell.
    """

    kinds: ClassVar[dict[str, type[Wrapper]]] = {}  # by the names that recipes have for them

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Wrapper.kinds[cls.__name__] = cls

    def __init__(self, *encoders: nn.Module, feature_dim: int | None = None) -> None:
        super().__init__()
        self.widths = [encoder_width(encoder, feature_dim) for encoder in encoders]
        self.num_features = sum(self.widths)
        self.encoders = nn.ModuleList(encoders)


# Functions that make encoders which timm does not, by which a recipe names them.
MAKERS: dict[str, Callable[..., nn.Module]] = {}


def remembered(make: Callable[_Arguments, nn.Module]) -> Callable[_Arguments, nn.Module]:
    """Let an encoder remember the arguments of the function that made it, for `rebuild`, as a decorator."""

    @functools.wraps(make)
    def remember(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> nn.Module:
        encoder = make(*args, **kwargs)
        bound = inspect.signature(make).bind(*args, **kwargs)
        bound.apply_defaults()
        setattr(encoder, _RECIPE, {"maker": make.__name__, "kwargs": dict(bound.arguments)})
        return encoder

    MAKERS[make.__name__] = remember
    return remember


def recipe_of(encoder: nn.Module, in_chans: int | None = None) -> dict[str, Any] | None:
    """Return how to make an encoder again, or None where it is not known; see `rebuild`.

    Args:
        encoder: of `build_encoder`, of ``timm.create_model``, or a wrapper of such.
        in_chans: channels of its input; by default those of its first convolution.
    """
    if isinstance(encoder, Wrapper):
        parts = [recipe_of(part) for part in encoder.encoders]
        return None if None in parts else {"wrapper": type(encoder).__name__, "encoders": parts}
    recipe: dict[str, Any] | None = getattr(encoder, _RECIPE, None)
    made_by_timm: Any = getattr(encoder, "pretrained_cfg", None)
    if recipe is None and isinstance(made_by_timm, dict):
        in_chans = input_channels(encoder) if in_chans is None else in_chans
        recipe = {"name": made_by_timm.get("architecture"), "in_chans": in_chans, "stem": "timm", "kwargs": {}}
        if not _rebuilds(recipe, encoder):
            recipe = None
    return recipe


def input_channels(encoder: nn.Module) -> int:
    """Return the channels that an encoder says it takes, else those of its first convolution, 3 where it has none."""
    told = getattr(encoder, "in_chans", None)
    return told or next((m.in_channels for m in encoder.modules() if isinstance(m, nn.Conv2d)), 3)


def export_encoder(
    encoder: nn.Module,
    folder: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    in_chans: int | None = None,
    **more: Any,
) -> Path:
    """Write ``encoder.safetensors`` (the weights) and ``encoder.json`` (how to rebuild it) into a folder.

    An encoder of `build_encoder` or of ``timm.create_model`` can be rebuilt by `load_encoder`; with the stem of
    timm, ``timm.create_model(name, num_classes=0, checkpoint_path="encoder.safetensors")`` reads the weights too.

    Args:
        encoder: the encoder.
        folder: where to; made if absent.
        image_size: height and width of the images it was trained on, in pixels.
        in_chans: their channels.
        **more: of an encoder of something else, what is to be told of its input.

    Returns:
        The path of ``encoder.safetensors``.
    """
    safetensors = require("safetensors.torch", "export_encoder")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"timm": recipe_of(encoder, in_chans), "feature_dim": getattr(encoder, "num_features", None), **more}
    if image_size is not None:
        in_chans = input_channels(encoder) if in_chans is None else in_chans
        mean, std = map(list, statistics(in_chans))
        about.update(image_size=image_size, in_chans=in_chans, mean=mean, std=std)
    weights = {key: value.detach().cpu().contiguous() for key, value in encoder.state_dict().items()}
    path = folder / "encoder.safetensors"
    # Through a second name, so that a reader never meets half a file.
    safetensors.save_file(weights, f"{path}.tmp", metadata={"format": "pt"})
    os.replace(f"{path}.tmp", path)
    (folder / "encoder.json").write_text(json.dumps(about, indent=2) + "\n")
    return path


def load_encoder(folder: str | os.PathLike[str], encoder: nn.Module | None = None) -> nn.Module:
    """Rebuild an exported encoder with its weights, in eval mode.

    Args:
        folder: the folder of a run, or the path of its ``encoder.safetensors``.
        encoder: the module to fill; needed only for one that timm cannot make.

    Returns:
        The encoder. Its input is ``fastssl.transforms.normalize(images)``.

    Raises:
        FileNotFoundError: there is no exported encoder.
        ValueError: the file is damaged, or does not fit the encoder.
        MissingExtraError: timm or safetensors is not installed.
    """
    safetensors = require("safetensors.torch", "load_encoder")
    path = Path(folder)
    path = path if path.suffix == ".safetensors" else path / "encoder.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"folder: got {str(folder)!r}, which holds no encoder.safetensors; fastssl.fit writes it"
        )
    about = read_about(path)
    if encoder is None:
        recipe = about["timm"]
        if recipe is None:
            raise ValueError(f"encoder: {path} is not a model that timm can make; pass the module to fill")
        encoder = rebuild(recipe)
    try:
        encoder.load_state_dict(safetensors.load_file(path))
    except Exception as error:  # safetensors has an exception type of its own for damaged files
        reason = str(error).splitlines()[0]
        raise ValueError(f"folder: {path} is damaged or belongs to another encoder ({reason})") from None
    return encoder.eval()


def read_about(path: Path) -> dict[str, Any]:
    """Read the encoder.json beside an exported encoder."""
    beside = path.parent / "encoder.json"
    try:
        about = json.loads(beside.read_text())
        wanted = ("timm", "feature_dim", *(("in_chans", "mean", "std") if "image_size" in about else ()))
        return {**about, **{key: about[key] for key in wanted}}
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"folder: {beside} is missing or damaged; export the encoder again") from None


def _rebuilds(recipe: dict[str, Any], encoder: nn.Module) -> bool:
    """Tell whether a recipe makes a model whose weights have the names and shapes of the encoder's."""
    try:
        with torch.device("meta"):
            twin = rebuild(recipe)
    except Exception:  # timm may fail in any way on a name or a device; the answer is the same
        return False
    shapes = {key: value.shape for key, value in twin.state_dict().items()}
    return shapes == {key: value.shape for key, value in encoder.state_dict().items()}
