"""Python-side kernels, installed as `fastssl.kernels`: one folder a backend, one file an op."""

if __name__ != "fastssl.kernels":
    raise ImportError("this folder is the package fastssl.kernels; import it under that name (pip install fastssl)")
