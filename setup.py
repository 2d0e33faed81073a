"""Builds the CPU extension where torch and a C++ compiler are at hand; a pure-Python wheel otherwise.

`pip install --no-build-isolation .` sees the installed torch and builds `fastssl._C`. Under build isolation
torch is absent and the wheel holds the Triton and torch backends only, which is a valid install.
FASTSSL_CPP=0 leaves the extension out, FASTSSL_CPP=1 makes a missing torch or compiler an error.
"""

import os
import shutil
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
            "csrc/cpu/bindings.cpp", "csrc/cpu/augment.cpp", "csrc/cpu/ntxent.cpp", "csrc/cpu/sample_params.cpp",
        ],
        depends=[
            "csrc/common/augment_params.h", "csrc/common/color.h", "csrc/common/philox.h", "csrc/common/portable.h",
            "csrc/common/resize.h", "csrc/common/sample_params.h", "csrc/cpu/augment.h", "csrc/cpu/augment_axis.h",
            "csrc/cpu/augment_rows.h", "csrc/cpu/augment_store.h", "csrc/cpu/augment_view.h", "csrc/cpu/ntxent.h",
            "csrc/cpu/ntxent_tiles.h", "csrc/cpu/sample_params.h", "csrc/cpu/simd.h", "csrc/cpu/variants.h",
        ],
        extra_compile_args=["-O3", "-fopenmp", "-ffp-contract=fast", "-fvisibility=hidden", "-g0"],
        extra_link_args=["-fopenmp"],
    )
    return [extension], {"build_ext": BuildExtension}


ext_modules, cmdclass = cpp_extension()
kernel_packages = ["", ".triton", ".torch"]
setup(
    packages=find_packages(include=["fastssl", "fastssl.*"]) + [f"fastssl.kernels{p}" for p in kernel_packages],
    package_dir={"fastssl": "fastssl", "fastssl.kernels": "kernels"},
    package_data={"fastssl": ["py.typed"]},
    ext_modules=ext_modules,
    cmdclass=cmdclass,
)
