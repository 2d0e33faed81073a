"""Text as blocks of tokens: Python's own language reference, and any folder of text files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import _folders
from ._datasets import DataSet, labelled
from ._extras import require

EXTENSIONS = {
    ".txt", ".md", ".rst", ".tex", ".org", ".html", ".py", ".pyi", ".c", ".h", ".cpp", ".cu", ".rs", ".go", ".java",
    ".js", ".ts", ".sh",
}  # fmt: skip
PAD, MASK = 0, 1  # the ids of the special tokens, in every tokenizer that is trained here
SPECIAL = ("[PAD]", "[MASK]")
# The chapters of the reference, and the topics of `pydoc` in each.
_CHAPTERS = {
    "lexical analysis": "floating id-classes identifiers imaginary integers numbers strings",
    "data model": "attribute-access callable-types context-managers customization dynamic-features exceptions "
    "execmodel naming numeric-types objects sequence-types specialnames types",
    "expressions": "atom-identifiers atom-literals attribute-references await binary bitwise booleans calls "
    "comparisons conversions dict exprlists in lambda lists operator-summary power shifting slicings subscriptions "
    "unary",
    "statements": "assert assignment async augassign break class compound continue del else for function global if "
    "import nonlocal pass raise return try while with yield",
    "library": "bltin-code-objects bltin-ellipsis-object bltin-null-object bltin-type-objects debugger formatstrings "
    "specialattrs string-methods truth typesfunctions typesmapping typesmethods typesmodules typesseq typesseq-mutable",
}
_Read = tuple[list[str], list[int], tuple[str, ...]]  # texts, their labels, the classes


class Texts(DataSet):
    """Text held in memory as blocks of tokens of one length.

    Args:
        tokens: int64 ``[n, T]``, 0 (padding) after the end of a text.
        tokenizer: of the package tokenizers, whose tokens 0 and 1 are ``[PAD]`` and ``[MASK]``.
        labels: int64 ``[n]``, or None where there are none.
        classes: class names; by default ``"0"``, ``"1"`` ... up to the largest label.
        name: what to call the data in reports.

    Raises:
        TypeError, ValueError: tokens, tokenizer or labels of another type, shape or range.
    """

    plain = "counts of tokens"

    def __init__(
        self,
        tokens: Tensor,
        tokenizer: Any,
        labels: Tensor | None = None,
        classes: Sequence[str] | None = None,
        name: str = "texts",
    ) -> None:
        if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64:
            got = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
            raise TypeError(f"tokens: got {got}, want an int64 tensor [n, T]")
        if tokens.ndim != 2 or 0 in tokens.shape:
            raise ValueError(f"tokens: got shape {list(tokens.shape)}, want [n, T], none empty")
        _check_tokenizer(tokenizer)
        self.tokenizer, self.vocab_size = tokenizer, int(tokenizer.get_vocab_size())
        low, high = (int(x) for x in tokens.aminmax())
        if low < 0 or high >= self.vocab_size:
            raise ValueError(f"tokens: got {low if low < 0 else high}, want ids from 0 to {self.vocab_size - 1}")
        self.tokens, self.name = tokens, name
        self.labels, self.classes = labelled(labels, classes, len(tokens))

    @property
    def length(self) -> int:
        """Tokens in a block."""
        return int(self.tokens.shape[1])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.tokens[index], int(self.labels[index])

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Blocks ``indices`` as int64 ``[B, T]`` and their labels as int64 ``[B]``."""
        at = torch.as_tensor(indices)
        return self.tokens[at], self.labels[at]

    def take(self, indices: Sequence[int]) -> Texts:
        """The blocks ``indices`` as a data set of its own."""
        return Texts(*self.batch(indices)[:1], self.tokenizer, self.labels[list(indices)], self.classes, self.name)

    def to_plain(self, batch: Tensor) -> Tensor:
        """Return how often each token of the vocabulary is in a block, padding apart, as a share of its tokens."""
        counts = torch.zeros(len(batch), self.vocab_size).scatter_add_(1, batch, (batch != PAD).float())
        return counts / counts.sum(1, keepdim=True).clamp(min=1)

    def words(self, tokens: Tensor) -> list[list[str]]:
        """Return the text of each token of blocks int64 [B, T], without the padding at their ends."""
        return [
            [self.tokenizer.decode([token], skip_special_tokens=False) for token in row if token != PAD]
            for row in tokens.tolist()
        ]

    @property
    def about(self) -> dict[str, Any]:
        """Tokens in a block, and in the vocabulary."""
        return {"length": self.length, "vocab_size": self.vocab_size}

    @property
    def input(self) -> str:
        """The kind of tokens."""
        return "tokens of byte-level BPE"

    def leave(self, out: Path) -> None:
        """Write tokenizer.json."""
        self.tokenizer.save(str(out / "tokenizer.json"))

    def __repr__(self) -> str:
        return f"Texts({self.name!r}, {len(self)} blocks of {self.length} tokens, {self._kinds()})"


def texts(
    source: str | os.PathLike[str],
    *,
    split: str = "train",
    length: int = 64,
    vocab_size: int = 2048,
    tokenizer: Any = None,
) -> Texts:
    """Read text as blocks of tokens of byte-level BPE.

    Args:
        source: ``"pydoc"``, the language reference that comes with Python, whose classes are its chapters; or a folder
            of text files, with each sub-folder's name as a class where there are any, without what is hidden.
        split: ``"train"``, ``"test"`` or ``"all"``. A folder holding ``train`` and ``test`` sub-folders is split by
            them; any other 80/20 by whole files, within each class, always in the same way.
        length: tokens in a block; the last one of a file is padded. BERT had 128 and 512.
        vocab_size: most tokens in the vocabulary, at least 258: the two special ones and the 256 bytes. The default is
            for a few books; BERT had 30,000.
        tokenizer: of the package tokenizers, or the path of its file, such as a run's ``tokenizer.json``; by default
            one is trained on the train split.

    Returns:
        The blocks.

    Raises:
        TypeError, ValueError: an argument is of another type or out of range, or there is no text.
        FileNotFoundError: ``source`` is neither ``"pydoc"`` nor a folder.
        MissingExtraError: tokenizers is not installed.
    """
    package = require("tokenizers", "fastssl.data.texts")
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"data: got {type(source).__name__}, want 'pydoc' or a folder of text files")
    if split not in ("train", "test", "all"):
        raise ValueError(f"split: got {split!r}, want 'train', 'test' or 'all'")
    for name, value, least in (("length", length, 1), ("vocab_size", vocab_size, len(SPECIAL) + 256)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}: got {value!r}, want an int >= {least}")
    read = _pydoc if source == "pydoc" else partial(_files, Path(source))
    found, labels, classes = read(split)
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = package.Tokenizer.from_file(os.fspath(tokenizer))
    if tokenizer is None:
        known = found if split == "train" else read("train")[0]
        tokenizer = train_tokenizer(known, vocab_size)
    _check_tokenizer(tokenizer)
    blocks, of_blocks = [], []
    for text, label in zip(found, labels, strict=True):
        ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
        padded = torch.nn.functional.pad(ids, (0, -len(ids) % length), value=PAD)
        blocks += padded.split(length)
        of_blocks += [label] * (len(padded) // length)
    name = "pydoc" if source == "pydoc" else Path(source).resolve().name
    data = Texts(torch.stack(blocks), tokenizer, torch.tensor(of_blocks), classes, name)
    data.source = "pydoc" if source == "pydoc" else str(Path(source).resolve())
    return data


def train_tokenizer(corpus: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer, which leaves no text out; the same text makes the same one.

    Source: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"; on bytes, Radford et
    al. 2019, "Language Models are Unsupervised Multitask Learners".
    """
    package = require("tokenizers", "fastssl.data.texts")
    tokenizer = package.Tokenizer(package.models.BPE())
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    trainer = package.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=package.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def _check_tokenizer(tokenizer: Any) -> None:
    if not hasattr(tokenizer, "token_to_id"):
        raise TypeError(f"tokenizer: got {type(tokenizer).__name__}, want a tokenizers.Tokenizer")
    ids = tuple(tokenizer.token_to_id(token) for token in SPECIAL)
    if ids != (PAD, MASK):
        raise ValueError(f"tokenizer: got {ids} for {', '.join(SPECIAL)}, want {(PAD, MASK)}, as those trained here")


def _pydoc(split: str) -> _Read:
    from pydoc_data.topics import topics

    found, labels = [], []
    classes = tuple(_CHAPTERS)
    chapter = {topic: i for i, members in enumerate(_CHAPTERS.values()) for topic in members.split()}
    known: set[str] = set()
    # Long topics repeat short ones: each paragraph counts where it is first, so that no text is in both splits.
    for topic, text in sorted(topics.items(), key=lambda item: (len(item[1]), item[0])):
        fresh = [paragraph for paragraph in text.split("\n\n") if paragraph.strip() not in known]
        known.update(paragraph.strip() for paragraph in fresh)
        if fresh and topic in chapter:  # other versions of Python may have more
            found.append("\n\n".join(fresh))
            labels.append(chapter[topic])
    keep = _folders.stratified(torch.tensor(labels), split).tolist()
    return [found[i] for i in keep], [labels[i] for i in keep], classes


def _files(root: Path, split: str) -> _Read:
    if not root.exists():
        raise FileNotFoundError(f"data: no folder {str(root)!r}, and the named text is 'pydoc'")
    if not root.is_dir():
        raise NotADirectoryError(f"data: got the file {str(root)!r}, want a folder of text files")
    roots, given = _folders.roots(root, split)
    files, labels, classes = _folders.scan(roots, EXTENSIONS)
    found = [file.read_text("utf-8", errors="replace") for file in files]
    shown = [i for i, text in enumerate(found) if text]
    if not shown:
        raise ValueError(f"data: no text files under {str(root)!r} (looked for {', '.join(sorted(EXTENSIONS))})")
    if not given:
        shown = [shown[i] for i in _folders.stratified(labels[shown], split).tolist()]
    if not shown:
        raise ValueError(f"split: got {split!r}, which is empty for {str(root)!r}: a class needs 5 files to be split")
    return [found[i] for i in shown], labels[shown].tolist(), tuple(classes)
