"""CUDA sources compiled by NVRTC, the compiler that comes with torch's CUDA build: no toolkit and no GPU are needed."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent
# NVRTC has no C library; this is all of it that the kernels use.
STDINT = b"".join(
    b"typedef %s int%d_t; typedef unsigned %s uint%d_t;" % (name, bits, name.removeprefix(b"signed "), bits)
    for name, bits in ((b"signed char", 8), (b"short", 16), (b"int", 32), (b"long long", 64))
)


def load() -> ctypes.CDLL:
    """Load the library from the packages that torch depends on, or from the system."""
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) / "cu13" / "lib" for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        for part in folder.glob("libnvrtc-builtins.so.*"):  # which NVRTC opens by its bare name
            ctypes.CDLL(str(part), mode=ctypes.RTLD_GLOBAL)
        for library in folder.glob("libnvrtc.so.*"):
            return ctypes.CDLL(str(library))
    try:
        return ctypes.CDLL("libnvrtc.so")
    except OSError:
        raise AssertionError(
            "NVRTC was not found: the tests that compile CUDA need the package nvidia-cuda-nvrtc, with which torch's "
            "CUDA builds come, or a CUDA toolkit on the library path"
        ) from None


def compile_cuda(source: str, arch: str) -> tuple[str, str]:
    """Compile for an architecture such as sm_90a; return (report of ptxas, PTX)."""
    library = load()
    program = ctypes.c_void_p()
    headers = ((ctypes.c_char_p * 1)(STDINT), (ctypes.c_char_p * 1)(b"stdint.h"))
    assert library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"test.cu", 1, *headers) == 0

    def text(name: str) -> str:
        size = ctypes.c_size_t()
        assert getattr(library, f"nvrtcGet{name}Size")(program, ctypes.byref(size)) == 0
        out = ctypes.create_string_buffer(size.value)
        assert getattr(library, f"nvrtcGet{name}")(program, out) == 0
        return out.value.decode()

    include = f"-I{ROOT / 'csrc' / 'cuda'}"
    options = [f"-arch={arch}", "-std=c++17", include, "-default-device", "--ptxas-options=-v"]
    strings = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = library.nvrtcCompileProgram(program, len(options), strings)
    report = text("ProgramLog")
    assert status == 0, report
    return report, text("PTX")
