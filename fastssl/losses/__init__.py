"""The losses as `nn.Module`s.

With `gather_distributed` a loss is that of the rows of all processes of torch.distributed's default group: True or
"all_gather" gathers the embeddings, "ring" passes them on from process to process and keeps O(local rows x width) of
them. Its value is the same on every process, and its gradient is world_size times the process's share of the exact
gradient, so that the mean which DistributedDataParallel takes is exact.
"""

from ._contrastive import (
    AlignmentLoss,
    CLIPLoss,
    CPCLoss,
    DCLLoss,
    DCLWLoss,
    HardNegativeNTXentLoss,
    InfoNCELoss,
    LinearCrossEntropyLoss,
    MoCoLoss,
    MultiPositiveNTXentLoss,
    SigLIPLoss,
    SupConLoss,
    UniformityLoss,
)
from ._cosine import BYOLLoss, NegativeCosineSimilarity
from ._dino import DINOLoss, IBOTLoss, KoLeoLoss
from ._masked_mse import MaskedMSELoss
from ._ntxent import NTXentLoss
from ._redundancy import BarlowTwinsLoss, VICRegLoss

__all__ = [
    "AlignmentLoss",
    "BYOLLoss",
    "BarlowTwinsLoss",
    "CLIPLoss",
    "CPCLoss",
    "DCLLoss",
    "DCLWLoss",
    "DINOLoss",
    "HardNegativeNTXentLoss",
    "IBOTLoss",
    "InfoNCELoss",
    "KoLeoLoss",
    "LinearCrossEntropyLoss",
    "MaskedMSELoss",
    "MoCoLoss",
    "MultiPositiveNTXentLoss",
    "NTXentLoss",
    "NegativeCosineSimilarity",
    "SigLIPLoss",
    "SupConLoss",
    "UniformityLoss",
    "VICRegLoss",
]
