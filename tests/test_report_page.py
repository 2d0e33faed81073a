"""The page of `fastssl report`: what is on it, what may not be, and how a real browser shows it."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil

import numpy as np
import pytest
from browser import browser, find
from PIL import Image
from small_methods import fit, tiny

import fastssl
from fastssl import cli, data, methods

NASTY = "<script>document.title = 'taken'</script>&\"'"
WIDTHS = (400, 1280)
PROTOCOL = {"k": 20, "normalisation": "unit <b>length</b>", "train": {"images": 1442, "features": 8}}

PARTS = {
    "metrics.csv": "No curves, as there is no metrics.csv",
    "encoder.json": "No encoder yet",
    "evaluation.json": "Not judged beside an untrained encoder yet: fastssl evaluate",
    "pictures.png": "No pictures.png: fastssl.fit draws it",
    "embedding.png": "No map of the features: fastssl.fit draws it",
}


def result(value, **more):
    return {"scores": {"kNN": value}, "accuracy": value, "protocol": PROTOCOL, **more}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs on digits: one judged with protocols, one as version 0.1 judged."""
    folder = tmp_path_factory.mktemp("runs")
    pair = data.load("digits").take(range(256)), data.load("digits", split="test").take(range(100))
    settings = {"images": 256, "knn_every": 1, "log_every": 1, "eval_data": pair}
    fit(methods.SimCLR(tiny(), projection_dim=8, temperature=0.3), folder / "simclr", **settings)
    shutil.copytree(folder / "simclr", folder / "byol")
    byol = json.loads((folder / "byol" / "config.json").read_text())
    change(folder / "byol" / "config.json", method="BYOL", settings={**byol["settings"], "epochs": 1, "lr": 0.125})
    rows = (folder / "byol" / "metrics.csv").read_text().splitlines()
    (folder / "byol" / "metrics.csv").write_text("\n".join([*rows[:6], ""]))
    judged = {
        "trained encoder": {
            "knn": result(0.875, std=0.01),
            "rankme": {"scores": {"RankMe": 5.25}, "rank": 5.25, "protocol": {"images": 1442}},
        },
        "untrained encoder": {"knn": {**result(0.5), "protocol": {**PROTOCOL, "k": 19}}},
        "pixels": {"knn": result(0.625)},
    }
    (folder / "simclr" / "evaluation.json").write_text(json.dumps(judged))
    old = {"trained encoder": {"kNN": 0.25, "linear, all labels": 0.75}, "untrained encoder": {"kNN": 0.125}}
    (folder / "byol" / "evaluation.json").write_text(json.dumps(old))
    return folder


@pytest.fixture
def runs(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs")


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser") / "profile") as tab:
        yield tab


@pytest.fixture(scope="module")
def pages(made):
    """The page of one run and that of several, for the browser."""
    return {
        which: fastssl.report(folder, made.parent / "pages" / f"{which}.html")
        for which, folder in (("one", made / "simclr"), ("several", made))
    }


def page(*arguments, **options):
    return fastssl.report(*arguments, **options).read_text()


def words(text):
    """The text of a page, without tags, in one line."""
    text = re.sub(r"<style>.*?</style>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_every_setting_and_where_it_ran(runs, tmp_path):
    text = words(page(runs / "simclr", tmp_path / "report.html"))
    config = json.loads((runs / "simclr" / "config.json").read_text())
    encoder = json.loads((runs / "simclr" / "encoder.json").read_text())
    for part in ("settings", "arguments", "environment", "versions"):
        assert config[part]
        for name, value in config[part].items():
            told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            assert f"{name} {told}" in text
    assert "temperature 0.3" in text
    assert f"feature_dim {encoder['feature_dim']}" in text
    assert f"timm.name {encoder['timm']['name']}" in text
    assert "classes 10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9" in text
    assert config["sessions"][0]["started"][:10] in text
    assert f"seconds {config['sessions'][0]['seconds']}" in text
    assert text.startswith("SimCLR on digits fastssl report SimCLR on digits 256 images of 8 × 8, 10 classes")


def test_numbers_are_those_of_the_metrics(runs, tmp_path):
    text = words(page(runs / "simclr", tmp_path / "report.html"))
    with open(runs / "simclr" / "metrics.csv") as file:
        rows = [{name: float(value) if value else None for name, value in row.items()} for row in csv.DictReader(file)]
    losses = [row["loss"] for row in rows if row["loss"] is not None]
    knn = [(row["epoch"], row["knn"]) for row in rows if row["knn"] is not None]
    best = max(knn, key=lambda point: point[1])
    assert len(knn) == 3
    assert f"training loss {losses[-1]:.4g} {losses[0]:.4g} at first" in text
    assert f"kNN accuracy {100 * knn[-1][1]:.1f} % best {100 * best[1]:.1f} at epoch {best[0]:g}" in text
    assert f"{100 * knn[0][1]:.1f} untrained" in text
    for row in rows:
        if row["knn"] is not None:
            assert " ".join(f"{value:.6g}" for value in row.values() if value is not None) in text


def test_judgements_and_their_protocols(runs, tmp_path):
    text = words(page(runs / "simclr", tmp_path / "report.html"))
    assert "trained untrained pixels kNN 87.5 ± 1.0 50.0 62.5 RankMe 5.25 In %, but for RankMe." in text
    assert "k 20 (trained, pixels); 19 (untrained)" in text
    assert "normalisation unit <b>length</b> train.images 1442 train.features 8" in text
    old = words(page(runs / "byol", tmp_path / "report.html"))
    assert "trained untrained kNN 25.0 12.5 linear, all labels 75.0" in old
    assert "linear, all labels 75.0 %" in old
    assert "How it was judged" not in old


def test_several_runs_are_compared(runs, tmp_path):
    source = page([runs / "byol", runs / "simclr"], tmp_path / "report.html")
    text = words(source)
    assert "BYOL and SimCLR on digits" in text
    assert "2 runs · 256 images of 8 × 8, 10 classes" in text
    assert "Settings that differ run method epochs" in text
    assert "run kNN accuracy best kNN training loss method data epochs time byol " in text
    assert "byol simclr kNN 25.0 untrained 12.5" in text
    assert "k 20 (simclr, trained, simclr, pixels); 19 (simclr, untrained)" in text
    assert "Losses of different methods have scales of their own." in text
    assert source.count("<title>byol</title>") == source.count("<title>simclr</title>") == 3  # of each curve
    assert source == page(runs, tmp_path / "report.html")  # a folder of runs stands for them
    assert len(set(re.findall(r' id="([^"]*)"', source))) == source.count(' id="')
    same = words(page([runs / "byol", runs / "byol"], tmp_path / "report.html", title="One"))
    assert same.startswith("One fastssl report One 256 images")


def test_many_runs_share_tables_and_colours(runs, tmp_path):
    folders = [shutil.copytree(runs / "byol", tmp_path / "many" / f"run{i:02}") for i in range(10)]
    source = page([*folders, runs / "simclr"], tmp_path / "report.html")
    assert source.count('<table class="judged"') == 2
    assert "var(--run-7)" in source
    assert "stroke-dasharray" in source
    assert "var(--run-8)" not in source
    twins = [shutil.copytree(runs / "byol", tmp_path / side / "same") for side in ("a", "b")]
    assert {str(twin) in words(page(twins, tmp_path / "report.html")) for twin in twins} == {True}


def test_same_runs_make_the_same_page(runs, tmp_path):
    pages = [page(runs, tmp_path / f"{name}.html") for name in "ab"]
    assert len({re.sub(r"<time>.*?</time>", "", text) for text in pages}) == 1


def test_nothing_is_loaded_and_nothing_runs(runs, tmp_path):
    source = page(runs, tmp_path / "report.html")
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[^\"]*", "", source))
    assert "<script" not in source
    assert all(link.startswith(("data:", "#")) for link in re.findall(r"""(?:src|href)=["']([^"']*)""", source))
    assert "url(" not in re.sub(r"url\(#", "", source)
    assert "@import" not in source


def test_pictures_are_inside(runs, tmp_path):
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(runs / "simclr" / "nearest_{images}.png")
    source = page(runs / "simclr", tmp_path / "report.html")
    assert source.count('<img src="data:image/png;base64,') == 3
    assert "What SimCLR does with eight images" in source
    assert "Nearest {images}" in source
    assert 'width="6" height="4"' in source


def test_words_of_others_cannot_act(runs, tmp_path, tab):
    folder = runs / NASTY.replace("/", "")
    (runs / "simclr").rename(folder)
    config = json.loads((folder / "config.json").read_text())
    change(
        folder / "config.json",
        classes=[NASTY, "b"],
        method=NASTY,
        data=NASTY,
        settings={**config["settings"], NASTY: NASTY},
    )
    change(folder / "evaluation.json", **{NASTY: {NASTY: {"scores": {NASTY: 0.5}, "protocol": {NASTY: NASTY}}}})
    path = fastssl.report(runs, tmp_path / "report.html", title=NASTY)
    assert "<script" not in path.read_text()
    tab.show(path, 1280)
    assert tab.ask("document.title") == NASTY
    assert tab.ask("document.scripts.length") == 0
    assert NASTY in tab.ask("document.body.innerText")


def test_parts_that_are_missing_are_left_out(runs, tmp_path):
    for file in PARTS:
        (runs / "simclr" / file).unlink()
    text = words(page(runs / "simclr", tmp_path / "report.html"))
    for sentence in PARTS.values():
        assert text.count(sentence) == 1
    assert "Settings" in text


@pytest.mark.parametrize("damage", [b"", b"{\xff", b"[1]", b"epoch,loss\n1,x\n"])
def test_parts_that_are_damaged_are_left_out(runs, tmp_path, damage):
    for file in PARTS:
        (runs / "simclr" / file).write_bytes(damage)
    text = words(page(runs / "simclr", tmp_path / "report.html"))
    for file in PARTS:
        assert text.count(f"Left out: '{runs / 'simclr' / file}' is damaged (") == 1
    assert "Settings" in text


def test_a_truncated_picture_is_left_out(runs, tmp_path):
    path = runs / "simclr" / "embedding.png"
    path.write_bytes(path.read_bytes()[:-2000])
    source = page(runs / "simclr", tmp_path / "report.html")
    assert source.count("<img") == 1
    assert "embedding.png&#39; is damaged" in source


def test_what_a_run_has_yet_to_do(runs, tmp_path):
    lines = (runs / "simclr" / "metrics.csv").read_text().splitlines()
    (runs / "simclr" / "metrics.csv").write_text("\n".join([*lines[:4], ""]))
    change(
        runs / "simclr" / "config.json", classes=[], environment={}, sessions=[{"started": "2026-01-02T03:04:05+00:00"}]
    )
    (runs / "simclr" / "evaluation.json").unlink()
    text = words(page(runs / "simclr", tmp_path / "report.html"))
    assert "Stopped at epoch 0.5 of 2: the same call of fastssl.fit with resume=True goes on." in text
    assert f"fastssl evaluate {runs / 'simclr'} --data LABELLED" in text
    assert "started 2026-01-02 03:04:05 UTC seconds a session was killed" in text
    assert "training time" not in text

    config = json.loads((runs / "byol" / "config.json").read_text())
    for name in ("environment", "sessions", "arguments"):
        del config[name]
    (runs / "byol" / "config.json").write_text(json.dumps(config))
    (runs / "byol" / "metrics.csv").write_text("step,epoch,loss,learning_rate,knn\n4,1.0,2.5,0.1,\n")
    text = words(page(runs / "byol", tmp_path / "report.html"))
    assert "No environment and time: the run is of a version of fastssl that did not store them." in text
    assert "No kNN accuracy: fastssl.fit measures it of labelled data where knn_every is not 0." in text
    assert "training loss 2.5" in text


def test_a_comparison_is_read_where_it_lies(runs, tmp_path):
    (runs / "byol" / "evaluation.json").unlink()
    row = {"before": {"knn": result(0.5)}, "after": {"knn": result(0.75)}}
    (runs / "byol" / "row.json").write_text(json.dumps(row))
    (runs / "byol" / "metrics.csv").unlink()
    assert "trained untrained kNN 75.0 50.0" in words(page(runs / "byol", tmp_path / "report.html"))
    assert "time byol 75.0 % BYOL digits " in words(page(runs, tmp_path / "report.html"))


def test_what_is_no_run_is_refused(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match="runs: no folder 'nowhere'"):
        fastssl.report("nowhere")
    with pytest.raises(ValueError, match=r"runs: .* holds no config.json, want the folder of a run of fastssl.fit"):
        fastssl.report([runs / "byol" / "tensorboard"])
    with pytest.raises(ValueError, match="runs: got none, want the folder of a run, or several"):
        fastssl.report([])
    with pytest.raises(ValueError, match=r"out: got the folder .*, want a file such as report.html"):
        fastssl.report(runs, tmp_path)
    for damaged in ("{", "[]", '{"settings": 1}'):
        (runs / "byol" / "config.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"runs: '.*config.json' is damaged \("):
            fastssl.report(runs, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_command(runs, tmp_path, capsys):
    out = tmp_path / "pages" / "both.html"
    assert cli.main(["report", str(runs / "byol"), str(runs / "simclr"), "--out", str(out), "--title", "Both"]) == 0
    assert f"written  {out}, " in capsys.readouterr().out
    assert "<title>Both</title>" in out.read_text()
    assert cli.main(["report", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert capsys.readouterr().err == f"fastssl: error: runs: no folder '{tmp_path / 'none'}'\n"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["one", "several"])
def test_a_browser_shows_it(pages, tmp_path, tab, which, width, dark):
    tab.show(pages[which], width, dark=dark)
    assert [event["entry"] for event in tab.told("Log.entryAdded")] == []
    assert tab.told("Runtime.exceptionThrown") == []
    assert tab.told("Runtime.consoleAPICalled") == []
    loaded = {event["request"]["url"].split(":")[0] for event in tab.told("Network.requestWillBeSent")}
    assert loaded == {"file", "data"}
    images = tab.ask("[...document.images].map(image => [image.complete, image.naturalWidth, image.clientWidth])")
    assert len(images) == (2 if which == "one" else 4)
    assert all(complete and natural > 0 and shown > 100 for complete, natural, shown in images)
    assert tab.ask("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
    # No box reaches beyond the page, but inside of what scrolls by itself.
    beyond = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll *') && !e.closest('svg *') && "
    assert tab.ask(beyond + "e.getBoundingClientRect().right > innerWidth).map(e => e.outerHTML.slice(0, 80))") == []
    lines = tab.ask(
        "[...document.querySelectorAll('figure svg path')].filter(path => path.getBBox().width > 50).map("
        "path => getComputedStyle(path).stroke)"
    )
    assert {"rgb(98, 168, 255)" if dark else "rgb(31, 111, 235)"} <= set(lines)
    paper = tab.ask("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 200) is dark
    shot = tmp_path / "page.png"
    tab.picture(shot)
    with Image.open(shot) as picture:
        assert picture.width == width
        assert len(set(picture.convert("RGB").resize((64, 64)).get_flattened_data())) > 50


def test_a_browser_prints_it(pages, tab):
    tab.show(pages["several"], 700, dark=True, media="print")  # about the width of A4
    assert tab.ask("getComputedStyle(document.documentElement).getPropertyValue('--card')").strip() == "#ffffff"
    assert tab.ask("document.documentElement.scrollWidth") == 700
    assert len(tab.call("Page.printToPDF", printBackground=True)["data"]) > 20_000


def test_without_a_browser_one_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"^no browser: none of chromium, .* is installed \(Debian: apt-get install"):
        find()
