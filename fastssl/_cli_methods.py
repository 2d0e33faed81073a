"""The methods that ``fastssl pretrain`` knows: what each does, its options, and what small images want of it.

An entry of `METHODS` is all that the command line needs to know of a method. Nothing here imports torch, so that help
is there at once; a test holds names and defaults against `fastssl.methods`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from ._cli_options import Option


@dataclass(frozen=True)
class Method:
    """What the command line knows of a method."""

    help: str
    options: tuple[Option, ...] = ()
    views: tuple[Option, ...] = ()  # which change the views of the default recipe
    # The kind of the default encoder: "resnet", "vit", "mlp", "text", or "either", a ViT for large images.
    encoder: str = "resnet"
    vit_only: bool = False  # whether no other encoder will do
    dense: bool = False  # whether places of the image are told, for which a ResNet keeps a finer map
    channels: int | None = None  # of what the encoder sees, where it is not the image
    init: str = "timm"  # initial weights of a vision transformer
    any_size: bool = False  # whether a vision transformer meets images of several sizes
    optimizer: str = "adamw"  # the default in words
    small_fit: dict[str, Any] = field(default_factory=dict)  # arguments of fit for images up to 64 pixels
    reads: str = "images"  # or "text"
    batch_norm: bool = True  # whether an encoder may have it
    chunks: bool = False  # whether fit takes a chunk_size
    epochs: int = 12  # of `fastssl compare`: about a minute of `shapes` on two cores


_PROJECTION = Option("projection_dim", "width of the projections", 128)


def _momentum(published: float, small: float | None = None, to: str = "") -> Option:
    return Option("momentum", f"part of the copy that stays at each step{to}", published, small)


_VIEWS = tuple(
    replace(option, told="by recipe", where="small images in colour")
    for option in (
        # Small pictures tell themselves apart by their colours, of which methods are to see little.
        Option("crop_min", "least part of the image in a crop, of the large views", None, 0.5, float),
        Option(
            "jitter", "strength of brightness, contrast, saturation and hue, of which the last is at most 0.5",
            None, (0.8, 0.8, 0.8, 0.5), float, 4,
        ),
        Option("jitter_p", "probability that colours are jittered", None, 1.0, float),
        Option("gray_p", "probability that a view is grey", None, 0.8, float),
    )
)  # fmt: skip


def _local_views(published: int) -> tuple[Option, ...]:
    size = Option(
        "local_size", "pixels a side of the small views", None, kind=int, told="3/7 of the large ones; 1/2 up to 64"
    )
    return Option("local_views", "small views of each image", published, small=0), size


_DINO = (
    Option("out_dim", "prototypes, among which the student must choose", 65536, small=256),
    Option("hidden_dim", "width of the head's hidden layers", 2048, small=512),
    Option("bottleneck_dim", "width of what is compared with the prototypes", 256, small=128),
    Option("norm_last_layer", "let the prototypes have any length", True),
    Option("batch_norm", "batch norm in the head", False),
    Option("student_temp", "temperature of the student", 0.1),
    Option("teacher_temp", "temperature of the teacher after its warm-up", 0.07, small=0.01),
    Option("warmup_teacher_temp", "temperature of the teacher at the start", 0.04),
    Option("warmup_teacher_temp_epochs", "epochs from the one to the other, 0 for none", 30, small=0),
    _momentum(0.996, small=0.95, to=", rising to 1"),
    Option("centering", "of the teacher's logits", "mean", small="sinkhorn", choices=("mean", "sinkhorn", "none")),
    Option("center_momentum", "part of the mean of these logits that stays at each step", 0.9),
    Option("clip_grad", "greatest norm of a parameter's gradient", 3.0),
    Option("freeze_last_layer", "epochs in which the last layer of the head stays as it is", 1, kind=float),
    *_local_views(8),
)
_DINOV2 = {"centering": "sinkhorn", "momentum": 0.992}  # where it differs

_CODE = (
    Option(
        "code_dim",
        "numbers in the code, made of the features by a linear layer",
        None,
        kind=int,
        told="those of the features",
    ),
    Option("decoder_dim", "channels of the smallest map of a convolutional decoder", 128),
    Option("allow_identity", "let the code be as wide as the image", False),
)


_STRIDE = Option("stride", "pixels from one place that is told to the next", 4)
_DECODER = Option("decoder_dim", "width of the decoder", 256, small=64)


METHODS = {
    "simclr": Method(
        "two views of each image must agree, against all others",
        (Option("temperature", "temperature of the loss", 0.5, small=0.2), _PROJECTION),
        _VIEWS,
        small_fit={"lr": 2e-3, "batch_size": 64},
        chunks=True,
        epochs=15,
    ),
    "moco": Method(
        "the first view must find the second among a queue of others, seen by a slow copy of the encoder",
        (
            Option("version", "of MoCo: v2 has a deeper head, and blur", "v2", choices=("v1", "v2")),
            Option("temperature", "temperature of the loss", None, kind=float, told="0.2; 0.07 for v1"),
            Option("queue_size", "keys in the queue, no more than there are images", 65536, small=4096),
            _momentum(0.999, small=0.99),
            _PROJECTION,
            Option("batch_norm", "batch norm in the head", False, small=True),
        ),
        _VIEWS,
        optimizer="sgd",
    ),
    "mocov3": Method(
        "each view must find the other among those of the batch, seen by a slow copy of the encoder",
        (
            Option(
                "temperature", "temperature of the loss", None, 0.1, float, told="1.0; 0.2 for a vision transformer"
            ),
            _momentum(0.99, to=", rising to 1"),
            Option("projection_dim", "width of the projections", 256),
            Option("hidden_dim", "width of the hidden layers of projector and predictor", 4096, small=512),
            Option("freeze_patches", "train the patch projection of a vision transformer, too", True),
        ),
        _VIEWS,
        init="mocov3",
        optimizer="lars; adamw for a vision transformer",
        small_fit={"optimizer": "adamw", "lr": 4e-3, "weight_decay": 1e-2, "batch_size": 128},
        epochs=15,
    ),
    "byol": Method(
        "each view must predict what a slow copy of the encoder makes of the other, without negatives",
        (
            _momentum(0.996, small=0.95, to=", rising to 1"),
            Option("projection_dim", "width of the projections", 256),
            Option("hidden_dim", "width of the hidden layers of projector and predictor", 4096, small=512),
        ),
        _VIEWS,
        optimizer="lars",
        small_fit={"optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-2, "batch_size": 64},
        epochs=10,
    ),
    "simsiam": Method(
        "each view must predict the other, which is held still, without negatives or a copy",
        (
            Option("projection_dim", "width of the projections", 2048, small=128),
            Option("hidden_dim", "width of the projector's hidden layers", 2048, small=128),
            Option("predictor_dim", "width of the predictor's hidden layer", 512, small=32),
        ),
        _VIEWS,
        optimizer="sgd",
        small_fit={"optimizer": "adamw", "lr": 5e-4, "weight_decay": 1e-2, "batch_size": 16},
        epochs=8,
    ),
    "swav": Method(
        "each view must predict the cluster that another is assigned to, with clusters of equal size",
        (
            Option("prototypes", "clusters", 3000, small=100),
            Option("projection_dim", "width of projections and prototypes", 128),
            Option("hidden_dim", "width of the projector's hidden layer", 2048, small=512),
            Option("temperature", "temperature of the predictions", 0.1),
            Option("epsilon", "temperature of the assignments, which are the softer the larger it is", 0.05, 0.02),
            Option("iterations", "steps of Sinkhorn-Knopp", 3),
            Option("queue_size", "past images that are assigned along with the batch, 0 for none", 0),
            Option("queue_epochs", "epochs before the queue is used", 15),
            Option("freeze_prototypes", "epochs in which the prototypes stay as they are", 1),
            *_local_views(6),
        ),
        _VIEWS,
        any_size=True,
        optimizer="lars",
        small_fit={"optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-4, "batch_size": 64},
        epochs=15,
    ),
    "dino": Method(
        "crops of an image must tell what a slow copy of the encoder, the teacher, sees in the whole of it",
        _DINO,
        _VIEWS,
        encoder="either",
        any_size=True,
        small_fit={"lr": 1e-3, "batch_size": 64},
        epochs=10,
    ),
    "dinov2": Method(
        "as dino, and hidden patches must be told from the others, with features that keep apart",
        (
            Option("mask_ratio", "least and greatest part of the patches to hide", (0.1, 0.5)),
            Option("mask_probability", "part of the images in which patches are hidden", 0.5),
            Option("ibot_weight", "weight of the loss on hidden patches", 1.0),
            Option("koleo_weight", "weight of the loss that keeps features apart", 0.1),
            Option("separate_heads", "one head for both losses", True),
            *(replace(option, default=_DINOV2.get(option.name, option.default)) for option in _DINO),
        ),
        _VIEWS,
        encoder="vit",
        vit_only=True,
        any_size=True,
        small_fit={"lr": 1e-3, "batch_size": 32},
        epochs=1,
    ),
    "mae": Method(
        "hide most patches of a vision transformer, and reconstruct them with a small decoder",
        (
            Option("mask_ratio", "part that is hidden", 0.75),
            Option("decoder_dim", "width of the decoder", 512, small=48),
            Option("decoder_depth", "blocks of the decoder", 8, small=1),
            Option("decoder_heads", "attention heads of the decoder", 16, small=2),
            Option("norm_pix", "predict pixels as they are", True),
        ),
        encoder="vit",
        vit_only=True,
        init="mae",
        small_fit={"lr": 1e-3},
        epochs=8,
    ),
    "simmim": Method(
        "hide squares behind mask tokens, and predict their pixels linearly",
        (
            Option("mask_ratio", "part that is hidden", 0.6),
            Option(
                "mask_patch_size", "side of the hidden squares in pixels", None, kind=int,
                told="32; an eighth of a small image",
            ),
        ),
        encoder="vit",
        vit_only=True,
        init="mae",
        small_fit={"lr": 1e-3},
        epochs=3,
    ),
    "rotation": Method(
        "tell by which quarter turn an image was turned",
        (Option("exact", "turn by a warp, whose traces give the answer away", True),),
        optimizer="sgd",
        small_fit={"optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-2, "batch_size": 64},
        epochs=10,
    ),
    "context": Method(
        "tell on which side of a patch of an image another one lies",
        (
            Option("hidden_dim", "width of the head's hidden layer", 4096, small=512),
            Option("patch_size", "side of the patches in pixels", None, kind=int, told="what gap and jitter leave"),
            Option("gap", "pixels between patches", None, kind=int, told="48 of 398, in proportion"),
            Option("jitter", "the farthest that a patch is moved", None, kind=int, told="7 of 398, in proportion"),
            Option("zoom", "side of what is cut up in that of the images", 1.0, small=2.0),
            Option("keep_channel_p", "part of the patches of which one channel alone is kept", 1.0),
            Option("standardize", "leave brightness and contrast as they are", True),
            Option("pixelate_p", "part of the patches that are made of fewer pixels", 0.33),
        ),
        any_size=True,
        small_fit={"lr": 2e-3, "batch_size": 64},
        epochs=10,
    ),
    "jigsaw": Method(
        "tell in which order the shuffled tiles of an image are",
        (
            Option("permutations", "orders in which they may be", 1000, small=100),
            Option("hidden_dim", "width of the head's hidden layer", 4096, small=512),
            Option("patch_size", "side of the tiles in pixels", None, kind=int, told="what gap and jitter leave"),
            Option("gap", "pixels between tiles", None, kind=int, told="21 of 255, in proportion"),
            Option("jitter", "the farthest that a tile is moved", None, kind=int, told="10 of 255, in proportion"),
            Option("zoom", "side of what is cut up in that of the images", 1.0, small=2.0),
            Option("standardize", "leave brightness, contrast and tint as they are", True),
            Option("gray_p", "part of the images that turn grey", 0.3),
            Option("channel_jitter", "the farthest that a channel of a tile is moved", 2, small=1),
        ),
        any_size=True,
        optimizer="sgd",
        small_fit={"optimizer": "adamw", "lr": 2e-3, "weight_decay": 1e-2, "batch_size": 64},
        epochs=8,
    ),
    "inpainting": Method(
        "fill a hole in an image, as an adversary cannot tell it from the original",
        (
            Option("region", "where holes are: the middle, or blocks anywhere", "center", choices=("center", "blocks")),
            Option("hole", "side of the region as a part of the image's", 0.5),
            Option("overlap", "width of the band around it, as a part of the image's side", 1 / 32),
            Option("overlap_weight", "weight of errors in the band", 10.0),
            Option("adversarial", "weight of the adversary, 0 for none", 0.001),
            Option("decoder_dim", "channels of the decoder's small map", 512, small=128),
            Option("discriminator_dim", "channels of the adversary's first map", 64, small=16),
        ),
        small_fit={"lr": 2e-3, "batch_size": 64},
        epochs=8,
    ),
    "colorization": Method(
        "tell the colours of an image from its lightness",
        (
            Option("rebalance", "the smaller, the more rare colours count; 1 counts all alike", 0.5),
            _STRIDE,
            _DECODER,
        ),
        dense=True,
        channels=1,
        small_fit={"lr": 2e-3, "batch_size": 64},
        epochs=8,
    ),
    "split-brain": Method(
        "tell the colours of an image from its lightness, and its lightness from its colours, by half an encoder each",
        (_STRIDE, _DECODER),
        dense=True,
        channels=1,
        small_fit={"lr": 2e-3, "batch_size": 64},
        epochs=4,
    ),
    "video-colorization": Method(
        "point at the places of earlier frames from which a grey frame could take its colours",
        (
            Option("references", "frames before the one that is grey", 3),
            Option("clusters", "of colours", 16),
            Option("embed_dim", "width of what is compared", 64),
            Option("temperature", "temperature of the pointer", 1.0),
        ),
        dense=True,
        channels=1,
        small_fit={"lr": 3e-3, "batch_size": 32},
        epochs=3,
    ),
    "ae": Method(
        "squeeze the image into a few numbers by linear layers, and reconstruct it from them",
        _CODE,
        encoder="mlp",
        small_fit={"batch_size": 64},
    ),
    "cae": Method(
        "squeeze the image into a few numbers by convolutions, and reconstruct it from them",
        (replace(_CODE[0], small=32), *_CODE[1:]),
        small_fit={"batch_size": 64},
        epochs=8,
    ),
    "vae": Method(
        "as cae, with a code that is drawn from a normal distribution for each image, close to the standard one",
        (
            Option("latent_dim", "numbers in the code", 20),
            Option("beta", "weight of the distance to the standard normal", 1.0),
            *_CODE[1:],
        ),
        small_fit={"batch_size": 64},
        epochs=8,
    ),
    "cpc": Method(
        "the patches above, each seen alone, must find those below among the patches of all images",
        (
            Option("context_dim", "width of the contexts", 256),
            Option("steps_ahead", "rows that are predicted", None, kind=int, told="5, or all there are"),
            Option("temperature", "temperature of the loss", 1.0),
            Option("normalize", "compare by the cosine", False),
            Option("grid", "patches a side, which overlap by half", 7, small=3),
            Option("jitter", "pixels by which a patch is moved at most", None, kind=int, told="2 of 256"),
            Option("keep_channel_p", "probability that a patch keeps one colour channel alone", 1.0),
            Option("standardize", "leave brightness and contrast of patches as they are", True),
        ),
        batch_norm=False,
        small_fit={"lr": 2e-3, "batch_size": 64},
        epochs=8,
    ),
    "bert": Method(
        "hide words of a text, and tell which they were",
        (
            Option("mask_prob", "share of the tokens that are chosen", 0.15),
            Option("replace_prob", "share of the chosen that become the mask token", 0.8),
            Option("random_prob", "share of the chosen that become a random token", 0.1),
            Option("clip_grad", "greatest norm of the gradient", 1.0),
        ),
        encoder="text",
        reads="text",
        small_fit={"lr": 1e-3, "batch_size": 16},
        epochs=10,
    ),
    "dae": Method(
        "reconstruct the clean image of a corrupted one, from the features alone",
        (
            Option(
                "corruption", "noise, grey pixels, or grey squares", "gaussian", choices=("gaussian", "dropout", "mask")
            ),
            Option(
                "strength", "deviation of the noise where white is 1, or part that turns grey", None, kind=float,
                told="0.25, or 0.5",
            ),
        ),
        epochs=8,
    ),
}  # fmt: skip
