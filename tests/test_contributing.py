"""The recipe of CONTRIBUTING.md for adding an op, followed to the letter on a copy of the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import fastssl
from fastssl import _backend

ROOT = Path(__file__).parent.parent


def test_recipe_for_adding_an_op(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "fastssl", tmp_path / "fastssl")
    shutil.copytree(ROOT / "kernels", tmp_path / "fastssl" / "kernels")  # where an installation puts it
    text = (ROOT / "CONTRIBUTING.md").read_text()
    files = re.findall(r"```python\n# file: (\S+)\n(.*?)```", text, re.DOTALL)
    assert [Path(name).parts[0] for name, _ in files] == ["fastssl", "fastssl", "kernels", "tests"]
    for name, code in files:
        path = tmp_path / (f"fastssl/{name}" if name.startswith("kernels") else name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    for layer in ("reference", "functional"):
        with (tmp_path / "fastssl" / layer / "__init__.py").open("a") as init:
            init.write("\nfrom ._cosine_distance import cosine_distance\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_cosine_distance.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "1 passed" in done.stdout, done.stdout


def test_every_op_has_its_file_in_every_layer() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    masking = ("random_masking", "multiblock_masking", "blockwise_masking", "text_masking", "gather_tokens",
               "mask_patchify", "restore_tokens", "masked_mse")  # fmt: skip
    pairwise = ("pairwise_logsumexp", "pairwise_softplus")
    measured_with = (
        {"sample_params": "augment", "dino_loss": "teachers", "sinkhorn": "teachers"}
        | dict.fromkeys(masking, "masking")
        | dict.fromkeys(pairwise, "contrastive")
        | dict.fromkeys(("extract_patches", "lab_bins", "sparse_cross_entropy"), "pretexts")
    )
    public = set(fastssl.functional.__all__)  # which registers the ops
    ops = set(_backend._kernels)
    assert ops < public
    for op in ops:
        for name in (
            f"fastssl/reference/_{op}.py",
            f"fastssl/functional/_{op}.py",
            f"kernels/torch/{op}.py",
            f"kernels/triton/{op}.py",
            f"csrc/cpu/{op}.cpp",
            f"tests/test_{op}.py",
            f"benchmarks/bench_{measured_with.get(op, op)}.py",
        ):
            assert (ROOT / name).exists(), name
    for name in filter(str.islower, public):
        assert f"functional.{name}`" in changelog, name


def test_imports_only_go_down() -> None:
    layers = ["_backend", "functional", "losses masking transforms", "methods", "data evaluate train", "cli"]
    rank = {name: i for i, names in enumerate(layers) for name in names.split()}
    for path in (ROOT / "fastssl").rglob("*.py"):
        parts = path.relative_to(ROOT / "fastssl").with_suffix("").parts
        if parts[0] in ("reference", "__init__") or parts[0] not in rank:
            continue
        prefix = r"\.\." if len(parts) > 1 else r"\."
        imported = re.findall(rf"^\s*from (?:fastssl\.|{prefix})(\w+)|^\s*from (?:fastssl|{prefix}) import (.+)$",
                              path.read_text(), re.MULTILINE)  # fmt: skip
        names = {n.strip() for pair in imported for field in pair for n in field.split(",") if n.strip()}
        assert "reference" not in names, path
        for name in names & set(rank):
            assert rank[name] <= rank[parts[0]], f"{path}: imports {name} from above"
