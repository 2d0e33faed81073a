"""BERT and texts: the step by its formula, tokens and splits, the measure of hidden words, a few steps of training."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from small_methods import check_resume, trained
from torch import nn

import fastssl
from fastssl import cli, data, evaluate, methods
from fastssl._texts import MASK, PAD


@pytest.fixture(scope="module")
def pydoc():
    return data.texts("pydoc", length=32, vocab_size=300)


def small(seed=0, vocab_size=300, length=32, **kwargs):
    torch.manual_seed(seed)
    encoder = methods.text_encoder(vocab_size, length, "bert-tiny", **kwargs)
    return methods.BERT(encoder)


def some_tokens(n=6, length=12, vocab_size=300, seed=0):
    tokens = torch.randint(2, vocab_size, (n, length), generator=torch.Generator().manual_seed(seed))
    tokens[0, 7:] = PAD
    return tokens


class PlainEncoder(nn.Module):
    """Post-norm blocks written out, with padding that nothing looks at."""

    def __init__(self, encoder):
        super().__init__()
        self.e = encoder

    def forward(self, x):
        e = self.e
        h = e.norm(e.embed.weight[x] + e.positions[: x.shape[1]])
        for block in e.blocks.layers:
            heads, (n, length, width) = block.self_attn.num_heads, h.shape
            q, k, v = (h @ block.self_attn.in_proj_weight.T + block.self_attn.in_proj_bias).chunk(3, -1)
            q, k, v = (y.view(n, length, heads, -1).transpose(1, 2) for y in (q, k, v))
            scores = q @ k.mT / math.sqrt(width // heads)
            scores = scores.masked_fill((x == PAD)[:, None, None], float("-inf"))
            h = block.norm1(h + block.self_attn.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2)))
            h = block.norm2(h + block.linear2(nn.functional.gelu(block.linear1(h))))
        return h


def test_a_step_is_the_formula():
    method = small(dropout=0.0).double()
    with torch.no_grad():
        for p in method.parameters():
            p.add_(0.05 * torch.randn_like(p))
    tokens = some_tokens()
    method.zero_grad()
    method([tokens], seed=5).backward()
    ours = {name: p.grad.clone() for name, p in method.named_parameters()}
    method.zero_grad()
    seen, labels = method.hide(tokens, seed=5)
    chosen = labels != -100
    logits = method.transform(PlainEncoder(method.encoder)(seen)[chosen]) @ method.encoder.embed.weight.T + method.bias
    loss = nn.functional.cross_entropy(logits, tokens[chosen])
    loss.backward()
    assert method([tokens], seed=5).item() == pytest.approx(loss.item(), rel=1e-6)
    for name, p in method.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_chance_is_the_log_of_the_vocabulary():
    method = small()
    nn.init.zeros_(method.transform[2].weight)
    assert method([some_tokens()], seed=0).item() == pytest.approx(math.log(300), rel=1e-6)


def test_what_is_hidden():
    method = small()
    tokens = some_tokens(400, 100, seed=1)
    seen, labels = method.hide(tokens, seed=3)
    chosen = labels != -100
    assert chosen.double().mean().item() == pytest.approx(0.15, abs=0.01)
    assert not chosen[tokens == PAD].any()
    assert torch.equal(seen[~chosen], tokens[~chosen])
    of_chosen = seen[chosen]
    assert (of_chosen == MASK).double().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (of_chosen == tokens[chosen]).double().mean().item() == pytest.approx(0.1, abs=0.02)
    assert not torch.equal(method.hide(tokens, seed=4)[0], seen)


def test_padding_changes_nothing():
    method = small().eval()
    tokens = some_tokens()[1:, :8]
    padded = nn.functional.pad(tokens, (0, 9), value=PAD)
    torch.testing.assert_close(method.encoder(padded), method.encoder(tokens), rtol=1e-4, atol=1e-5)


def test_no_chosen_token_is_no_loss():
    method = small()
    method.mask_prob = 0.0
    loss = method([some_tokens()])
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in method.parameters())


def test_the_head_is_the_embedding():
    method = small()
    assert method.table is method.encoder.embed.weight
    assert not any(p.shape == method.table.shape for name, p in method.named_parameters() if not name.startswith("enc"))


def test_gradients_are_clipped_together():
    method = small()
    (100 * method([some_tokens()])).backward()
    grads = {name: p.grad.clone() for name, p in method.named_parameters()}
    norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt()
    assert norm > 1
    method.before_step(1, 1)
    for name, p in method.named_parameters():
        torch.testing.assert_close(p.grad, grads[name] / (norm + 1e-6), msg=name)


def test_autocast():
    method = small(dropout=0.0)
    plain = method([some_tokens()], seed=0)
    with torch.autocast("cpu", torch.bfloat16):
        half = method([some_tokens()], seed=0)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(plain.item(), rel=0.02)
    half.backward()


def test_it_learns_more_than_how_often_words_occur(pydoc):
    method = small(dropout=0.0)
    test = data.texts("pydoc", split="test", length=32, tokenizer=pydoc.tokenizer)
    before = evaluate.masked_tokens(method, pydoc, test)
    assert before.loss == pytest.approx(math.log(300), abs=0.3)
    assert before.unigram_perplexity < 300
    optimizer = torch.optim.AdamW(trained(method), 1e-3)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)
    for step in range(150):
        at = torch.randperm(len(pydoc), generator=torch.Generator().manual_seed(step))[:32]
        loss = method(method.augment(pydoc.tokens[at]))
        optimizer.zero_grad()
        loss.backward()
        method.before_step(step + 1, 150)
        optimizer.step()
        warmup.step()
    state, mode = copy.deepcopy(method.state_dict()), method.training
    after = evaluate.masked_tokens(method, pydoc, test)
    assert after.loss < after.unigram_loss - 0.05
    assert after.accuracy > after.unigram_accuracy
    assert (after.tokens, after.unigram_loss) == (before.tokens, before.unigram_loss)
    assert after.perplexity == pytest.approx(math.exp(after.loss))
    assert mode == method.training
    assert all(torch.equal(state[key], value) for key, value in method.state_dict().items())
    assert json.dumps(after.to_dict())


def test_the_baseline_by_hand():
    """Two texts of known counts: the frequencies are (n + 1) / (sum n + V), and padding does not count."""
    tokenizer = data.texts("pydoc", length=8, vocab_size=258).tokenizer
    tokens = torch.tensor([[5, 5, 5, 6], [6, 7, PAD, PAD]])
    train = data.Texts(tokens, tokenizer)
    method = small(vocab_size=258, length=8)
    method.mask_prob = 1.0
    found = evaluate.masked_tokens(method, train, data.Texts(torch.tensor([[5, 6, 9, PAD]]), tokenizer))
    p = torch.tensor([4, 3, 1], dtype=torch.float64) / (6 + 258)
    assert found.tokens == 3
    assert found.unigram_loss == pytest.approx(-p.log().mean().item())
    assert found.unigram_accuracy == pytest.approx(1 / 3)


def test_pictures_show_what_was_hidden(pydoc, tmp_path):
    method = small()
    rows = method.pictures(pydoc.tokens[:5], seed=2)
    assert list(rows) == ["text", "seen", "predicted"]
    seen, labels = method.hide(pydoc.tokens[:5], seed=2)
    assert torch.equal(rows["seen"], seen)
    assert torch.equal(rows["predicted"][labels == -100], pydoc.tokens[:5][labels == -100])
    words = {name: pydoc.words(row) for name, row in rows.items()}
    path = evaluate.plots.texts(words, tmp_path / "texts.png")
    assert path.stat().st_size > 5000


def run(make, out, **settings):
    texts = data.texts("pydoc", length=16, vocab_size=300)
    texts = texts.take(range(settings.pop("images", 160)))
    settings = {"epochs": 2, "batch_size": 32, "knn_every": 0, "progress": False, "accelerator": "cpu", **settings}
    return fastssl.fit(make, texts, out=out, **settings)


def test_a_run_resumes_bit_for_bit_and_leaves_its_tokenizer(tmp_path):
    check_resume(lambda seed=0: small(seed, length=16), run, tmp_path, step=7)
    out = tmp_path / "unbroken"
    texts = data.texts("pydoc", length=16, tokenizer=out / "tokenizer.json")
    encoder = methods.load_encoder(out)
    assert encoder(texts.tokens[:3]).shape == (3, 128)
    about = json.loads((out / "encoder.json").read_text())
    assert (about["length"], about["vocab_size"], "mean" in about) == (16, 300, False)
    assert (out / "pictures.png").stat().st_size > 0


def write(folder, classes=("prose", "code"), files=6):
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(files):
            text = ("the cat sat on the mat, and so it goes. ", "def f(x):\n    return x + 1\n")[label] * (3 + i)
            (folder / name / f"{i}.{('md', 'py')[label]}").write_text(text)
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "no.txt").write_text("nothing of this")
    (folder / classes[0] / "empty.txt").write_text("")
    return folder


def test_a_folder_of_text(tmp_path):
    folder = write(tmp_path / "words")
    train, test = (data.texts(folder, split=split, length=8, vocab_size=280) for split in ("train", "test"))
    assert train.classes == ("code", "prose")
    assert train.tokenizer.to_str() == test.tokenizer.to_str()  # of the train split
    assert set(test.labels.tolist()) == {0, 1}
    everything = data.texts(folder, split="all", length=8, tokenizer=train.tokenizer)
    assert len(everything) == len(train) + len(test)
    spoken = {"".join(words) for words in everything.words(everything.tokens)}
    assert not any("nothing" in text for text in spoken)
    first = "".join("".join(words) for words in train.words(train.tokens[train.labels == 0]))
    assert first.startswith("def f(x):\n    return x + 1\ndef f")
    plain = train.to_plain(train.tokens)
    torch.testing.assert_close(plain.sum(1), torch.ones(len(train)))
    assert (plain[:, PAD] == 0).all()
    assert evaluate.knn(None, train, test, k=3).accuracy == 1
    assert repr(train) == f"Texts('words', {len(train)} blocks of 8 tokens, 2 classes)"


def test_flat_and_split_folders(tmp_path):
    (tmp_path / "flat").mkdir()
    for i in range(10):
        (tmp_path / "flat" / f"{i}.txt").write_text(f"text number {i} of some")
    train, test = (data.texts(tmp_path / "flat", split=split, length=64) for split in ("train", "test"))
    assert (len(train), len(test), train.labelled) == (8, 2, False)
    for split in ("train", "test"):
        (tmp_path / "given" / split).mkdir(parents=True)
        (tmp_path / "given" / split / "a.txt").write_text(f"the {split} text")
    for split in ("train", "test"):
        found = data.texts(tmp_path / "given", split=split, length=64)
        assert ["".join(words) for words in found.words(found.tokens)] == [f"the {split} text"]


def test_no_text_of_pydoc_is_in_both_splits():
    train, test = (data.texts("pydoc", split=split, length=64) for split in ("train", "test"))
    assert train.classes == test.classes
    assert set(test.labels.tolist()) == set(range(5))
    # Of some length: blocks begin anywhere in a paragraph.
    together = "".join("".join(words) for words in train.words(train.tokens))
    for words in test.words(test.tokens):
        for paragraph in "".join(words).split("\n\n")[1:-1]:
            assert len(paragraph) < 60 or paragraph not in together


def test_the_same_text_makes_the_same_tokens(pydoc):
    again = data.texts("pydoc", length=32, vocab_size=300)
    assert torch.equal(pydoc.tokens, again.tokens)
    assert pydoc.tokenizer.to_str() == again.tokenizer.to_str()
    text = "A snowman ☃, and\ttabs\r\n"
    assert pydoc.tokenizer.decode(pydoc.tokenizer.encode(text).ids) == text


def test_the_command_line_trains_on_text(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "words")
    sizes = ("--epochs", "1", "--length", "8", "--vocab-size", "280", "--batch-size", "8", "--quiet")
    assert cli.main(("pretrain", "bert", "--data", "words", *sizes)) == 0
    out = capsys.readouterr().out
    assert "blocks of 8 tokens, 2 classes" in out
    assert "encoder  bert-tiny, " in out
    assert "hidden tokens of test texts told" in out
    run = tmp_path / "runs" / "bert-words"
    assert (run / "tokenizer.json").exists()
    assert cli.main(("pretrain", "simclr", "--data", "pydoc", "--epochs", "1")) == 1
    assert "data: got text, want images, which simclr reads" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(("pretrain", "bert", "--help"))
    told = capsys.readouterr().out
    assert "--vocab-size" in told
    assert "image" not in told


BAD = [
    (lambda: methods.BERT(methods.small_resnet()), TypeError, "encoder: got ResNet, want one of text"),
    (lambda: methods.text_encoder(300, name="bert-huge"), ValueError, "encoder: got 'bert-huge', want 'bert-tiny'"),
    (lambda: methods.text_encoder(0), ValueError, "vocab_size: got 0"),
    (lambda: methods.text_encoder(300, 0), ValueError, "length: got 0"),
    (lambda: methods.text_encoder(300, dropout=1.0), ValueError, "dropout: got 1.0"),
    (lambda: methods.BERT(small().encoder, mask_prob=2), ValueError, "mask_prob: got 2"),
    (lambda: methods.BERT(small().encoder, random_prob=0.5), ValueError, "random_prob: got 0.5 beside"),
    (lambda: methods.BERT(small().encoder, mask_token_id=300), ValueError, "mask_token_id: got 300"),
    (lambda: methods.BERT(small().encoder, clip_grad=0), ValueError, "clip_grad: got 0"),
    (lambda: small().augment(torch.zeros(2, 3)), TypeError, "tokens: got torch.float32, want int64"),
    (lambda: small().augment(torch.full((2, 3), 300)), ValueError, "tokens: got 300, want less than the encoder's 300"),
    (lambda: small()([]), ValueError, "views: got 0, want 1"),
    (lambda: small()([torch.ones(2, 33, dtype=torch.int64)]), ValueError, r"tokens: got torch.int64 \(2, 33\)"),
    (lambda: data.texts("no/such"), FileNotFoundError, "data: no folder 'no/such'"),
    (lambda: data.texts(5), TypeError, "data: got int, want 'pydoc' or a folder"),
    (lambda: data.texts("pydoc", split="dev"), ValueError, "split: got 'dev'"),
    (lambda: data.texts("pydoc", length=0), ValueError, "length: got 0"),
    (lambda: data.texts("pydoc", vocab_size=257), ValueError, "vocab_size: got 257, want an int >= 258"),
    (lambda: data.texts("pydoc", tokenizer=5), TypeError, "tokenizer: got int, want a tokenizers.Tokenizer"),
    (lambda: data.Texts(torch.zeros(2, 3), None), TypeError, "tokens: got torch.float32"),
    (lambda: evaluate.masked_tokens(nn.Linear(1, 1), None, None), TypeError, "method: got Linear, want a fastssl"),
    (lambda: evaluate.masked_tokens(small(), None, None), TypeError, "train: got NoneType, want Texts"),
]


@pytest.mark.parametrize(("make", "error", "says"), BAD)
def test_bad_input(make, error, says):
    with pytest.raises(error, match=says):
        make()


def test_a_folder_without_text(tmp_path):
    (tmp_path / "image.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="data: no text files under"):
        data.texts(tmp_path)
    (tmp_path / "one.txt").write_text("some text")
    with pytest.raises(ValueError, match="split: got 'test', which is empty for"):
        data.texts(tmp_path, split="test")
    with pytest.raises(NotADirectoryError, match="data: got the file"):
        data.texts(tmp_path / "one.txt")
