"""How much each layer matters: kept, drawn, and read again."""

import pytest
from matplotlib.figure import Figure

from earlycrop import Sensitivity
from earlycrop.sensitivity import Probe
from earlycrop_lab.cli import main
from earlycrop_lab.why import inquiry, layer_figures

SMALL = ["--network=mlp", "--width=16", "--train-size=100", "--batch-size=50", "--method=magnitude-s"]


@pytest.mark.parametrize("by", ["loss", "metric"])
def test_the_question_is_answered_with_a_table_and_a_picture(by, tmp_path, capsys):
    asked = ["why", "sensitivity", *SMALL, "--after=1", f"--by={by}", "--sparsities", "0.25", "0.75", "--seeds=2"]
    assert main([*asked, f"--out={tmp_path}"]) == 0
    told = capsys.readouterr().out
    assert "seed 0: 1 of 1 dense epochs trained" in told
    assert "about 0 s left] cuts" in told
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"records.json", "sensitivity.png", "sensitivity.svg"}
    found = inquiry.of(folder)
    assert found.title == "Which layers matter to magnitude-s?"
    (axes,) = found.charts[0].figure.axes
    layers = [label.get_text() for label in axes.get_yticklabels()]
    assert layers
    assert all(f"\n  {layer} " in told for layer in layers)
    assert ("test accuracy" if by == "metric" else "loss on the scoring set") in axes.get_title(loc="left")


def test_what_is_worse_is_redder_whether_the_figure_rises_or_falls():
    def drawn(rises: bool) -> list[list[float]]:
        values = {("a",): (1.0, 0.8), ("b", "c"): (0.9, 0.2)}
        probes = [Probe(n, s, 8, 4, v) for n, pair in values.items() for s, v in zip((0.5, 0.9), pair, strict=True)]
        figure = layer_figures.layers([Sensitivity("snap", "channels", "figure", 0.9, tuple(probes))], rises)
        assert isinstance(figure, Figure)
        return figure.axes[0].images[0].get_array().tolist()

    assert drawn(rises=True) == [pytest.approx([0, 0.1]), pytest.approx([0, 0.7])]
    assert drawn(rises=False) == [pytest.approx([0.1, 0]), pytest.approx([0, 0])]


def test_a_method_that_removes_nothing_is_no_answer(tmp_path, capsys):
    assert main(["why", "sensitivity", *SMALL, "--method=dense", f"--out={tmp_path}"]) == 2
    assert "dense removes nothing" in capsys.readouterr().err


def test_a_part_that_is_none_is_refused_before_any_training(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("earlycrop_lab.verbs.questions.stem_after", lambda *_: pytest.fail("trained"))
    assert main(["why", "sensitivity", *SMALL, "--sparsities", "0.5", "1", f"--out={tmp_path}"]) == 2
    assert "from 0 to below 1; 1 is not" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_differs_is_in_the_name_and_a_path_is_one_folder(tmp_path, monkeypatch):
    """The method too, which decides what is cut."""
    monkeypatch.setattr("earlycrop_lab.verbs.questions.stem_after", lambda *_: None)
    monkeypatch.setattr("earlycrop_lab.why.layers.layers", lambda *_: Sensitivity("a", "channels", "b", 1.0, ()))
    monkeypatch.setattr(layer_figures, "layers", lambda *_: Figure())
    for own in (["--data=folder:a/b"], ["--width=8"], ["--width=8", "--by=metric"]):
        assert main(["why", "sensitivity", "--method=snap", f"--out={tmp_path}", *own]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "why-sensitivity-folder_a_b-resnet18-snap-loss-after0",
        "why-sensitivity-digits-resnet18-snap-width8-loss-after0",
        "why-sensitivity-digits-resnet18-snap-width8-metric-after0",
    }
