"""Encoders of timm as models of torchvision: the code that makes one, and the weights by its names."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from .._extras import require

Weights = dict[str, Tensor]

_RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
_STARTS = {"zero_init_last", "drop_rate", "drop_path_rate", "drop_block_rate"}  # arguments that trained weights forget


def in_torchvision(encoder: nn.Module, recipe: dict[str, Any] | None, weights: Weights) -> tuple[list[str], Weights]:
    """Return the lines of Python that make torchvision's form of an encoder, and its weights by their names there.

    Args:
        encoder: the encoder.
        recipe: how it was made, where that is known.
        weights: its state.

    Raises:
        ValueError: torchvision has no such model; the message tells what it lacks.
    """
    models = require("timm.models", "format='torchvision'")
    if isinstance(encoder, models.VisionTransformer):
        return _vit(encoder, weights)
    name = (recipe or {}).get("name", type(encoder).__name__).partition(".")[0]
    if recipe is None or name not in _RESNETS:
        raise _lacking(f"no {name} that it could be; ResNets and plain vision transformers of timm have their likes")
    return _resnet(encoder, recipe, name), weights


def _lacking(what: str) -> ValueError:
    return ValueError(f"format: got 'torchvision', which has {what}; want 'timm', 'safetensors' or 'onnx'")


def _resnet(encoder: Any, recipe: dict[str, Any], name: str) -> list[str]:
    kwargs = {key: value for key, value in recipe["kwargs"].items() if key not in _STARTS}
    layers = kwargs.pop("layers", None)
    for key, value in kwargs.items():
        raise _lacking(f"no ResNet with {key}={value!r}")
    if layers is None:
        lines = [f"model = torchvision.models.{name}()"]
    else:
        block = type(encoder.layer1[0]).__name__
        groups, width = (32, 8 if "32x8d" in name else 4) if "resnext" in name else (1, 128 if "wide" in name else 64)
        more = "" if (groups, width) == (1, 64) else f", groups={groups}, width_per_group={width}"
        resnet = "torchvision.models.resnet"
        lines = [f"model = {resnet}.ResNet({resnet}.{block}, {list(layers)}{more})"]
    lines.append("model.fc = torch.nn.Identity()")
    if recipe["stem"] == "timm" and recipe["in_chans"] != 3:
        lines.append(f"model.conv1 = torch.nn.Conv2d({recipe['in_chans']}, 64, 7, 2, 3, bias=False)")
    return lines


def _vit(encoder: Any, weights: Weights) -> tuple[list[str], Weights]:
    block, (height, width) = encoder.blocks[0], encoder.patch_embed.img_size
    patch = encoder.patch_embed.patch_size
    plain = (nn.Identity, nn.Dropout)
    for found, what in (
        (encoder.cls_token is None or encoder.global_pool != "token", "no vision transformer without a class token, "
         "whose features are those of the patches"),
        (encoder.num_prefix_tokens > 1 or encoder.no_embed_class, "no register tokens, and no class token without a "
         "position"),
        (height != width or patch[0] != patch[1], "vision transformers of square images and patches alone"),
        (encoder.patch_embed.proj.in_channels != 3, "vision transformers of 3 channels alone"),
        (not isinstance(encoder.norm_pre, nn.Identity) or not isinstance(encoder.fc_norm, nn.Identity),
         "no norm before the blocks or after the pooling"),
        (not all(isinstance(part, plain) for part in (block.ls1, block.attn.q_norm)), "no layer scale, and no norm of "
         "queries"),
    ):  # fmt: skip
        if found:
            raise _lacking(what)
    depth, dim, heads = len(encoder.blocks), encoder.embed_dim, block.attn.num_heads
    lines = [
        "model = torchvision.models.VisionTransformer(",
        f"    image_size={height}, patch_size={patch[0]}, num_layers={depth}, num_heads={heads}, hidden_dim={dim},",
        f"    mlp_dim={block.mlp.fc1.out_features},",
        ")",
        "model.heads = torch.nn.Identity()",
    ]
    return lines, {_vit_name(key): value for key, value in weights.items()}


def _vit_name(key: str) -> str:
    """Return torchvision's name of a weight of timm's vision transformer."""
    for pattern, name in (
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^norm\.", "encoder.ln."),
        (r"^blocks\.(\d+)\.norm([12])\.", r"encoder.layers.encoder_layer_\1.ln_\2."),
        (r"^blocks\.(\d+)\.attn\.qkv\.", r"encoder.layers.encoder_layer_\1.self_attention.in_proj_"),
        (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layers.encoder_layer_\1.self_attention.out_proj."),
        (r"^blocks\.(\d+)\.mlp\.fc1\.", r"encoder.layers.encoder_layer_\1.mlp.0."),
        (r"^blocks\.(\d+)\.mlp\.fc2\.", r"encoder.layers.encoder_layer_\1.mlp.3."),
    ):
        key, changed = re.subn(pattern, name, key)
        if changed:
            return key
    return key
