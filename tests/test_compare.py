"""`fastssl compare`: all judgements in a table, why a method is not ahead, and going on when it was stopped."""

from __future__ import annotations

import json

import pytest

from fastssl import _cli_methods, _compare, _compare_table, cli

NAMES = ("simclr", "mae")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a comparison of two methods on digits, and its rows."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_compare.FINETUNING, "epochs", 1)
        return folder, _compare.compare(NAMES, "digits", epochs=1, out=folder, progress=False)


def judged(accuracy, rank=20.0):
    protocol = {"test": {"images": 400}}
    return {
        "knn": {"scores": {"kNN": accuracy}, "protocol": protocol},
        "rankme": {"scores": {"RankMe": rank}, "protocol": protocol},
    }


def row(accuracy, before=0.2, loss=(4.0, 2.0), rank=20.0, name="made-up"):
    seconds = {"judging before": 1.0, "training": 2.0, "judging": 3.0}
    made = {
        "method": name, "epochs": 3, "batch_size": 64, "seconds": seconds, "loss": list(loss), "before": judged(before),
        "after": judged(accuracy, rank),
    }  # fmt: skip
    return {**made, "behind": _compare_table.reason(made)}


def test_a_comparison_judges_every_method_alike(compared):
    folder, rows = compared
    assert [each["method"] for each in rows] == list(NAMES)
    for each in rows:
        assert set(each["before"]) == set(each["after"]) == set(_compare.WAYS)
        assert all(found["protocol"] and found["scores"] for found in each["after"].values())
        assert each["epochs"] == 1
        assert each["seconds"].keys() == {"judging before", "training", "judging"}
        assert (folder / each["method"] / "encoder.safetensors").stat().st_size > 0
        assert (folder / each["method"] / "pictures.png").stat().st_size > 0
    stored = json.loads((folder / "compare.json").read_text())
    assert stored["rows"] == json.loads(json.dumps(rows))
    assert stored["data"] == "digits"
    told = (folder / "compare.md").read_text()
    for each in rows:
        for name, value in _compare_table.scores(each["after"]).items():
            assert name in told
            assert _compare_table.number(name, value) in told


def test_a_comparison_goes_on_where_it_was(compared, monkeypatch):
    folder, rows = compared
    monkeypatch.setattr(_compare, "fit", None)  # nothing is trained again
    again = _compare.compare(NAMES, "digits", epochs=1, out=folder, progress=False)
    assert again == json.loads(json.dumps(rows))
    with pytest.raises(ValueError, match=r"out: .* other settings \(epochs 1 -> 2\)"):
        _compare.compare(NAMES, "digits", epochs=2, out=folder)


def test_a_method_that_was_stopped_is_resumed(tmp_path, compared, monkeypatch):
    _, (whole, _) = compared
    real, calls = _compare.judge, []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:  # the training is done, and the judging of it was not
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(_compare, "judge", stopped)
    monkeypatch.setattr(_compare, "WAYS", ("knn", "rankme"))
    with pytest.raises(KeyboardInterrupt):
        _compare.compare(["simclr"], "digits", epochs=1, out=tmp_path, progress=False)
    (resumed,) = _compare.compare(["simclr"], "digits", epochs=1, out=tmp_path, progress=False)
    assert len(calls) == 3  # the untrained encoder was judged once
    assert resumed["loss"] == whole["loss"]
    assert _compare_table.scores(resumed["after"]).items() <= _compare_table.scores(whole["after"]).items()


def test_an_error_in_one_method_is_told_and_tried_again(tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("no\nluck")

    monkeypatch.setattr(_compare, "fit", fail)
    monkeypatch.chdir(tmp_path)
    code = cli.main(["compare", "--methods", "simclr", "--data", "digits", "--epochs", "1"])
    out, err = capsys.readouterr()
    assert code == 1
    assert "failed: no luck" in out
    assert "- simclr: no luck" in out
    assert "1 of 1 methods failed: simclr" in err
    assert "RuntimeError: no" in (tmp_path / "runs" / "compare-digits" / "simclr" / "error.txt").read_text()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_compare, "WAYS", ("knn",))
    assert cli.main(["compare", "--methods", "simclr", "--data", "digits", "--epochs", "1", "--quiet"]) == 0
    assert "failed" not in capsys.readouterr().out


def test_why_a_method_is_not_ahead():
    assert _compare_table.reason(row(0.5)) is None
    assert "one direction" in _compare_table.reason(row(0.2, rank=1.1))
    assert "did not learn its own task in 3 epochs" in _compare_table.reason(row(0.2, loss=(4.0, 3.99)))
    assert "it learned its own task, a loss of 4 to 2" in _compare_table.reason(row(0.2))
    # Within two standard errors of the difference, 0.2 and 0.22 of 400 images are the same.
    assert _compare_table.reason(row(0.22)) is not None
    probed = row(0.2)
    for when, accuracy in (("before", 0.2), ("after", 0.4)):
        probed[when] = {**probed[when], "linear_probe": {"scores": {"linear, all labels": accuracy}}}
    assert "but not nearest (linear, all labels, 40.0 against 20.0)" in _compare_table.reason(probed)
    told = _compare_table.markdown([row(0.5, name="good"), row(0.19, name="bad"), {"method": "ugly", "error": "why"}])
    assert "- bad: kNN 19.0 against 20.0: " in told
    assert "- good" not in told
    assert "- ugly: why." in told


def test_a_method_that_learns_from_colours_is_skipped_on_grey_images(tmp_path):
    (found,) = _compare.compare(["colorization"], "digits", epochs=1, out=tmp_path, progress=False)
    assert found["skipped"] == "it learns from colours, and these images are grey"
    assert "- colorization: it learns from colours" in (tmp_path / "compare.md").read_text()
    assert "colorization         skipped: it learns" in _compare_table.line(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["simclr", "nothing"], "digits"), r"methods: got simclr, nothing, want some of simclr, moco"),
        ((["simclr", "simclr"], "digits"), r"each once"),
        (([], "digits"), r"methods: got , want"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        _compare.compare(*arguments, out=tmp_path / "none")
    with pytest.raises(ValueError, match="epochs: got 0, want an int >= 1"):
        _compare.compare(["simclr"], "digits", epochs=0, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_defaults_of_all_methods_are_positive():
    assert all(method.epochs >= 1 for method in _cli_methods.METHODS.values())
