"""Builds the CPU extension where torch and a C++ compiler are at hand; a pure-Python wheel otherwise.

`pip install --no-build-isolation .` sees the installed torch and builds `fastssl._C`. Under build isolation
torch is absent and the wheel holds the Triton and torch backends only, which is a valid install.
FASTSSL_CPP=0 leaves the extension out, FASTSSL_CPP=1 makes a missing torch or compiler an error.

With it comes `fastssl._CUDA`, where torch is a CUDA build and a CUDA toolkit of its version is at hand; a GPU is not
needed to build it. FASTSSL_CUDA=0 leaves it out, FASTSSL_CUDA=1 makes a missing toolkit an error. TORCH_CUDA_ARCH_LIST
says for which architectures, by default 9.0 and whatever comes after it; thread-block clusters, which the
kernels use, came with 9.0.
"""

import os
import re
import shutil
import subprocess
import sys

from setuptools import find_packages, setup


def cpp_extension():
    """Return (ext_modules, cmdclass), or two empties with the reason printed."""
    wish = os.environ.get("FASTSSL_CPP", "auto")
    if wish not in ("auto", "0", "1"):
        raise SystemExit(f"FASTSSL_CPP: got {wish!r}, want auto, 0 or 1")
    reason = None
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        reason = "torch is not installed in the build environment"
    else:
        if shutil.which(os.environ.get("CXX", "c++").split()[0]) is None and shutil.which("g++") is None:
            reason = "no C++ compiler was found"
    if wish == "0" or (wish == "auto" and reason):
        print(f"fastssl: building without the CPU extension ({reason or 'FASTSSL_CPP=0'})", file=sys.stderr)
        return [], {}
    if reason:
        raise SystemExit(f"FASTSSL_CPP=1, but {reason}")
    # The instruction-set variants are chosen inside the source, so no -m flag may appear here.
    extension = CppExtension(
        "fastssl._C",
        sources=[
            "csrc/cpu/augment.cpp", "csrc/cpu/bindings.cpp", "csrc/cpu/bindings_masking.cpp",
            "csrc/cpu/bindings_pairwise.cpp", "csrc/cpu/bindings_pretexts.cpp", "csrc/cpu/bindings_teachers.cpp",
            "csrc/cpu/blockwise_masking.cpp", "csrc/cpu/dino_loss.cpp", "csrc/cpu/extract_patches.cpp",
            "csrc/cpu/gather_tokens.cpp", "csrc/cpu/lab_bins.cpp", "csrc/cpu/mask_patchify.cpp",
            "csrc/cpu/masked_mse.cpp", "csrc/cpu/multiblock_masking.cpp", "csrc/cpu/ntxent.cpp", "csrc/cpu/pages.cpp",
            "csrc/cpu/pairwise_logsumexp.cpp", "csrc/cpu/pairwise_softplus.cpp", "csrc/cpu/random_masking.cpp",
            "csrc/cpu/restore_tokens.cpp", "csrc/cpu/sample_params.cpp", "csrc/cpu/sinkhorn.cpp",
            "csrc/cpu/sparse_cross_entropy.cpp", "csrc/cpu/text_masking.cpp",
        ],
        depends=[
            "csrc/common/augment_params.h", "csrc/common/color.h", "csrc/common/draws.h", "csrc/common/masking.h",
            "csrc/common/philox.h", "csrc/common/portable.h", "csrc/common/resize.h", "csrc/common/sample_params.h",
            "csrc/cpu/augment.h", "csrc/cpu/augment_axis.h", "csrc/cpu/augment_rows.h", "csrc/cpu/augment_store.h",
            "csrc/cpu/augment_view.h", "csrc/cpu/bindings.h", "csrc/cpu/dino_loss.h", "csrc/cpu/dino_loss_rows.h",
            "csrc/cpu/elements.h", "csrc/cpu/extract_patches.h", "csrc/cpu/extract_patches_rows.h",
            "csrc/cpu/gather_tokens.h", "csrc/cpu/gather_tokens_rows.h", "csrc/cpu/lab_bins.h",
            "csrc/cpu/lab_bins_rows.h", "csrc/cpu/mask_patchify.h", "csrc/cpu/mask_patchify_rows.h",
            "csrc/cpu/masked_mse.h", "csrc/cpu/masked_mse_rows.h", "csrc/cpu/masking.h", "csrc/cpu/normals.h",
            "csrc/cpu/ntxent.h", "csrc/cpu/ntxent_tiles.h", "csrc/cpu/pages.h", "csrc/cpu/pairwise.h",
            "csrc/cpu/pairwise_logsumexp.h", "csrc/cpu/pairwise_logsumexp_tiles.h", "csrc/cpu/pairwise_schedule.h",
            "csrc/cpu/pairwise_softplus.h", "csrc/cpu/pairwise_softplus_tiles.h", "csrc/cpu/pairwise_sums.h",
            "csrc/cpu/pairwise_tiles.h", "csrc/cpu/pairwise_weights.h", "csrc/cpu/patch_rows.h", "csrc/cpu/patches.h",
            "csrc/cpu/restore_tokens.h", "csrc/cpu/restore_tokens_rows.h", "csrc/cpu/sample_params.h",
            "csrc/cpu/simd.h", "csrc/cpu/sinkhorn.h", "csrc/cpu/sinkhorn_columns.h", "csrc/cpu/sinkhorn_rows.h",
            "csrc/cpu/sinkhorn_tiles.h", "csrc/cpu/sparse_cross_entropy.h", "csrc/cpu/sparse_cross_entropy_tiles.h",
            "csrc/cpu/streams.h", "csrc/cpu/token_rows.h", "csrc/cpu/tokens.h", "csrc/cpu/variants.h",
        ],
        extra_compile_args=["-O3", "-fopenmp", "-ffp-contract=fast", "-fvisibility=hidden", "-g0"],
        extra_link_args=["-fopenmp"],
    )  # fmt: skip
    return [extension], {"build_ext": BuildExtension}


def cuda_home():
    """Return the folder of a whole CUDA toolkit, or None; the nvcc on the path may be a script that calls another."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), nvcc and os.path.dirname(os.path.dirname(nvcc)), "/usr/local/cuda"]
    parts = ("bin/nvcc", "include/cuda_runtime.h")
    return next((h for h in homes if h and all(os.path.exists(os.path.join(h, p)) for p in parts)), None)


def missing_for_cuda(home):
    """Return why the CUDA extension cannot be built with the toolkit in `home`, or None."""
    try:
        import torch
    except ImportError:
        return "torch is not installed in the build environment"
    if torch.version.cuda is None:
        return "torch was built without CUDA"
    if home is None:
        return "no CUDA toolkit was found; CUDA_HOME says where it is"
    said = subprocess.run([os.path.join(home, "bin", "nvcc"), "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release ([\d.]+)", said)
    if release is None or release[1].split(".")[0] != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {release and release[1]}, torch of {torch.version.cuda}"
    return None


def cuda_extension(home, with_cpp):
    """Return the CUDA extension in a list, or an empty one with the reason printed."""
    wish = os.environ.get("FASTSSL_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        raise SystemExit(f"FASTSSL_CUDA: got {wish!r}, want auto, 0 or 1")
    if wish == "0" or (wish == "auto" and not with_cpp):
        return []
    reason = missing_for_cuda(home)
    if reason and wish == "1":
        raise SystemExit(f"FASTSSL_CUDA=1, but {reason}")
    if reason:
        print(f"fastssl: building without the CUDA extension ({reason})", file=sys.stderr)
        return []
    from torch.utils.cpp_extension import CUDAExtension

    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "9.0+PTX")
    return [CUDAExtension(
        "fastssl._CUDA",
        sources=["csrc/cuda/bindings.cpp", "csrc/cuda/augment.cu", "csrc/cuda/sample_params.cu"],
        depends=[
            "csrc/common/augment_params.h", "csrc/common/color.h", "csrc/common/draws.h", "csrc/common/philox.h",
            "csrc/common/portable.h", "csrc/common/resize.h", "csrc/common/sample_params.h", "csrc/cuda/augment_call.h",
            "csrc/cuda/augment_kernel.h", "csrc/cuda/augment_resize.h", "csrc/cuda/augment_view.h",
            "csrc/cuda/launch.h", "csrc/cuda/sample_params.h", "csrc/cuda/scalars.h",
        ],
        extra_compile_args={"cxx": ["-O3", "-fvisibility=hidden", "-g0"], "nvcc": ["-O3"]},
    )]  # fmt: skip


home = cuda_home()
if home:
    os.environ["CUDA_HOME"] = home  # torch.utils.cpp_extension reads it when it is imported
ext_modules, cmdclass = cpp_extension()
if cuda := cuda_extension(home, with_cpp=bool(ext_modules)):
    from torch.utils.cpp_extension import BuildExtension

    ext_modules, cmdclass = ext_modules + cuda, {"build_ext": BuildExtension}
kernel_packages = ["", ".triton", ".torch"]
setup(
    packages=find_packages(include=["fastssl", "fastssl.*"]) + [f"fastssl.kernels{p}" for p in kernel_packages],
    package_dir={"fastssl": "fastssl", "fastssl.kernels": "kernels"},
    package_data={"fastssl": ["py.typed"]},
    ext_modules=ext_modules,
    cmdclass=cmdclass,
)
