"""The page of a folder of runs: its numbers are the results', it asks for nothing, and a browser shows it whole."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from earlycrop_lab.cli import main
from earlycrop_lab.page import finished, write
from earlycrop_lab.page.style import DARK, LIGHT
from earlycrop_lab.runs import folder_name, pack
from earlycrop_lab.runs import write as write_result
from earlycrop_lab.tasks.classification import Classification
from tests.lab.page.browser import BROWSER, Browser, browsing
from tests.lab.results import report, result

FAILED = "digits-resnet18-snap-0.9-seed7"
ODD = "loss is nan <b> & worse"


def runs() -> Iterator:
    """Three seeds of three methods at two sparsities and a dense twin, another budget, and no two numbers alike."""
    number = 0
    for seed in range(3):
        for method, sparsity in (("dense", 0), *((m, s) for m in ("earlycrop-s", "snap", "snip") for s in (0.9, 0.98))):
            number += 1
            description = Classification(method=method, seed=seed)
            unlike = {
                "test_accuracy": 0.5 + 0.013 * number,
                "dense_seconds": 3.1 * number,
                "scoring_seconds": 0.17 * number,
                "grams_co2": None if number == 4 else 0.011 * number,
                "kwh": None if number == 4 else 0.00013 * number,
                "disk_bytes": 1_000 * number,
                "weight_sparsity": sparsity or None,
                "sparse_memory_bytes": 1_100_000 + number if sparsity else None,
            }
            cut = report(unit="weights" if method == "snip" else "channels") if sparsity else None
            if cut and method != "earlycrop-s":
                cut |= {"reason": "init", "epoch": 0.0, "curve": []}
            yield result(replace(description, sparsity=sparsity or 0.95), cut, **unlike)
    yield result(Classification(method="dense", epochs=3), test_accuracy=0.4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """All of them, one that failed, one that was cut off, one that is garbled, and a plan."""
    out = tmp_path_factory.mktemp("runs")
    for each in runs():
        (out / folder_name(each.description)).mkdir()
        write_result(each, out / folder_name(each.description))
    for name, text in ((FAILED, json.dumps({"error": ODD})), ("garbled-seed1", None), ("cut-off-seed2", None)):
        (out / name).mkdir()
        if text:
            (out / name / "failure.json").write_text(text)
    (out / "garbled-seed1" / "result.json").write_text('{"repr": 3}')
    (out / "plan-digits-seed0").mkdir()
    for name, records in answers().items():
        (out / name).mkdir()
        (out / name / "records.json").write_text(json.dumps({"asked": repr(Classification()), **records}))
    return out


def answers() -> dict[str, dict]:
    """What `earlycrop why` keeps: a sweep of three epochs that two rules watched, and two scores."""
    look = {"epochs": [1.0, 2.0], "seen": [0.5, 0.6], "signal": [None, 0.2], "threshold": 0.05, "seconds": 0.003}
    rules = [{"rule": "lazy regime", "chosen": None, **look}, {"rule": "rate settled", "chosen": 4.0, **look}]
    found = {"accuracy": 0.6, "behind": 0.1, "seconds": 0.003}
    return {
        "why-moment-digits-seed0": {
            "accuracies": {"1.0": [0.5, 0.55], "3.0": [0.6, 0.65], "5.0": [0.7, 0.8]},
            "moments": [
                {"rule": "lazy regime", "epoch": 5.0, "reason": "cap", **found},
                {"rule": "rate settled", "epoch": 3.0, "reason": "trigger", **found},
            ],
            "seen": {
                "epochs": [0, 1, 2],
                "norm": [1.0, 1.1, 1.2],
                "drift": [0.0, 0.5, 0.6],
                "from_start": [0.0, 0.3, 0.4],
                "pace": [None, 0.3, 0.1],
                "rules": rules,
            },
        },
        "why-flow-digits": {
            "found": [
                {"method": method, "sparsity": sparsity, "seed": 0, "epochs": 1, **numbers}
                for method in ("snip", "crop-s")
                for sparsity in (0.9, 0.98)
                for numbers in [{"flow_before": 2.0, "flow_after": 1.0 + sparsity, "kernel_change": sparsity}]
            ]
        },
    }


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("page") / "page.html"
    write(folder, file)
    return file


def parsed(page: Path) -> Any:  # an element or text that is not there fails the test that asks it
    return ElementTree.fromstring(page.read_text(encoding="utf-8").removeprefix("<!DOCTYPE html>"))


READ = {
    "test_accuracy": lambda r: r["columns"]["metrics"]["test_accuracy"],
    "parameters": lambda r: r["columns"]["parameters_after"],
    "flops": lambda r: r["columns"]["flops_after"],
    "epochs": lambda r: len(r["epochs"]),
    "seconds": lambda r: sum(r["columns"][f"{phase}_seconds"] for phase in ("dense", "scoring", "sparse")),
    "scoring_seconds": lambda r: r["report"] and r["columns"]["scoring_seconds"],
    "sparse_seconds": lambda r: r["report"] and r["columns"]["sparse_seconds"],
}
"""Columns of the table that are not the column of that name in a `result.json`."""
HEADINGS = (
    *("test_accuracy", "weight_sparsity", "parameters", "flops", "epochs", "optimizer_steps"),
    *("seconds", "dense_seconds", "scoring_seconds", "sparse_seconds", "dense_step_milliseconds"),
    *("dense_memory_bytes", "sparse_memory_bytes", "disk_bytes", "grams_co2", "kwh"),
)
"""Those that the runs have, in their order."""
SCALES = {"%": 100, "M": 1e-6, "MB": 1e-6, "Wh": 1e3}


def test_every_number_of_the_table_is_that_of_the_results(folder, page):
    groups: dict[tuple, list[dict]] = {}
    for path in sorted(folder.glob("digits*/result.json")):
        stored = json.loads(path.read_text())
        d = stored["description"]
        asked = None if d["method"] == "dense" else d["sparsity"]
        groups.setdefault((d["epochs"], d["method"], asked), []).append(stored)
    checked = 0
    for section in parsed(page).iter("section"):
        if (grid := section.find(".//table")) is None:
            continue
        epochs = 3 if "3 epochs" in "".join(section.find("h2").itertext()) else 20
        units = [unit.text or "" for unit in grid.iterfind("./thead/tr[2]/th/i")]
        names = HEADINGS if epochs == 20 else [name for name in HEADINGS if name in ONE]
        assert len(units) == len(names)
        for row in grid.iterfind("./tbody/tr"):
            method, small = row.find("th").text, "".join(row.find("th/small").itertext())
            asked = float(small.split(" %")[0]) / 100 if "%" in small else None
            group = groups.pop((epochs, method, asked))
            assert small.endswith(f"n = {len(group)}")
            for name, unit, cell in zip(names, units, row.iterfind("td"), strict=True):
                read = READ.get(name, lambda r, name=name: r["columns"][name])
                values = [value for stored in group if (value := read(stored)) is not None]
                if not values:
                    assert cell.text == "–"
                    continue
                data, beside = cell.find("data"), "".join(cell.findtext("small", ""))
                assert float(data.get("value")) == pytest.approx(mean(values), rel=1e-14)
                scale = SCALES.get(unit, 1)
                shown = float(data.text.replace(",", ""))
                assert shown == pytest.approx(scale * mean(values), rel=5e-3, abs=0.05 if unit == "%" else 0)
                deviation = re.search(r"± ([\d,.e-]+)", beside)
                if len(values) > 1 and stdev(values) > 0:
                    decimals = len(data.text.partition(".")[2])
                    assert deviation is not None
                    told = float(deviation[1].replace(",", ""))
                    assert told == pytest.approx(scale * stdev(values), abs=0.5001 * 10**-decimals)
                else:
                    assert deviation is None
                assert ("n = " in beside) == (len(values) < len(group))
                if name == "test_accuracy" and len(values) > 1:
                    half = 4.302652729911275 * stdev(values) / 3**0.5  # Student's, of three runs
                    ends = [f"{100 * (mean(values) + side * half):.1f}" for side in (-1, 1)]
                    assert cell.findall("small")[1].text == " to ".join(ends)
                else:
                    assert len(cell.findall("small")) == bool(beside)
                checked += 1
    assert groups == {}  # every run stands in a row
    assert checked > 80


ONE = {*HEADINGS} - {"weight_sparsity", "scoring_seconds", "sparse_seconds", "sparse_memory_bytes", "grams_co2", "kwh"}
"""What the dense run alone has."""


def test_multiples_are_of_the_dense_mean(folder, page):
    of = {}
    for method in ("dense", "snap-0.9"):
        found = [json.loads(p.read_text()) for p in folder.glob(f"digits-resnet18-{method}-seed?/result.json")]
        of[method] = mean(READ["seconds"](stored) for stored in found)
    row = next(
        row for row in parsed(page).iter("tr") if row.findtext("th") == "snap" and "90 %" in row.findtext("th/small")
    )
    cell = row.findall("td")[HEADINGS.index("seconds")]
    assert cell.findtext("small").endswith(f"×{of['snap-0.9'] / of['dense']:#.3g}")


def test_nothing_is_dropped_silently(page):
    lacking = parsed(page).find(".//section[@id='lacking']/dl")
    told = dict(zip((e.text for e in lacking.iter("dt")), (e.text for e in lacking.iter("dd")), strict=True))
    assert sorted(told) == ["cut-off-seed2", FAILED, "garbled-seed1"]
    assert told[FAILED] == f"failed: {ODD}"
    assert "is no result of this laboratory" in told["garbled-seed1"]
    assert "was cut off" in told["cut-off-seed2"]
    assert "3 folders without a result." in "".join(parsed(page).find(".//header").itertext())


def test_what_was_asked_why_stands_before_every_run(page):
    sections = {section.findtext("h2"): section for section in parsed(page).iter("section")}
    asked = ("What do scores do to flow and kernel?", "When to prune? earlycrop-s at 95 %")
    assert [name for name in sections if name in (*asked, "Every run")] == [*asked, "Every run"]
    titles = [[title.text for title in sections[name].iterfind(".//figure/h3")] for name in asked]
    assert list(map(len, titles)) == [1, 2]
    told = "".join(sections[asked[1]].itertext())
    assert "epoch 5, 75.0\u00a0%" in told
    assert "Never in 2 epochs: lazy regime." in told


def test_an_answer_that_cannot_be_read_is_told(tmp_path):
    run = Classification(method="dense")
    for name in (folder_name(run), "why-flow-digits"):
        (tmp_path / name).mkdir()
    write_result(result(run), tmp_path / folder_name(run))
    (tmp_path / "why-flow-digits" / "records.json").write_text("{}")
    write(tmp_path, tmp_path / "page.html")
    lacking = parsed(tmp_path / "page.html").find(".//section[@id='lacking']/dl")
    assert lacking.findtext("dt") == "why-flow-digits"
    assert "is no answer of `earlycrop why`" in lacking.findtext("dd")


def test_a_copied_or_moved_folder_is_no_further_seed(tmp_path):
    """Neither is a folder that was renamed after its result was packed."""
    copied, moved = Classification(method="dense"), Classification(method="dense", seed=1)
    for name, run in (("z-copy", copied), (folder_name(copied), copied), (folder_name(moved), moved)):
        (tmp_path / name).mkdir()
        write_result(result(run), tmp_path / name)
    pack(tmp_path, tmp_path)
    (tmp_path / folder_name(moved)).rename(tmp_path / "renamed")
    results, lacking = finished(tmp_path)
    assert [each.description.seed for each in results] == [0, 1]
    assert sorted(lacking) == ["renamed", "z-copy"]
    write(tmp_path, tmp_path / "page.html")
    table = (tmp_path / "page" / "table.md").read_text()
    assert next(line for line in table.splitlines() if line.startswith("| `dense`")).split("|")[3].strip() == "2"
    told = parsed(tmp_path / "page.html").find(".//section[@id='lacking']/dl")
    assert told.findtext("dd") == f"is another result of the same run as {folder_name(moved)}, and is left out"


def test_a_page_without_suffix_has_one_beside_its_folder(tmp_path, capsys):
    run = Classification(method="dense")
    (tmp_path / folder_name(run)).mkdir()
    write_result(result(run), tmp_path / folder_name(run))
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:2] == [str(tmp_path / "page.html"), str(tmp_path / "page" / "table.md")]
    assert all(Path(path).is_file() for path in printed)


def test_every_run_is_described_as_its_own_source(page):
    told = [eval("".join(pre.itertext()), {"Classification": Classification}) for pre in parsed(page).iter("pre")]
    assert sorted(map(folder_name, told)) == sorted(folder_name(each.description) for each in runs())
    assert set(told) == {each.description for each in runs()}


def test_the_pages_ids_are_its_own_and_every_reference_is_within(page):
    root = parsed(page)
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    text = page.read_text(encoding="utf-8")
    references = re.findall(r"href=[\"']([^\"']*)", text) + re.findall(r"url\(([^)]*)", text)
    assert {reference[:1] for reference in references if not reference.startswith("data:")} == {"#"}
    assert {reference[1:] for reference in references if reference.startswith("#")} <= set(ids)
    assert not {"script", "link", "img", "iframe", "object"} & {each.tag for each in root.iter()}
    assert "default-src 'none'" in text


def test_it_is_html_in_which_every_element_is_closed(page):
    class Strict(HTMLParser):
        open: list[str]

        def handle_starttag(self, tag, attrs):
            assert len(attrs) == len(dict(attrs)), tag  # no attribute twice
            self.open.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    parser = Strict()
    parser.open = []
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == []


def test_pictures_say_what_they_show_and_take_the_pages_colours(page):
    pictures = list(parsed(page).iter("{http://www.w3.org/2000/svg}svg"))
    assert len(pictures) == 12  # sparsity, five costs, moments, widths at two sparsities; sweep, training, flow
    for picture in pictures:
        assert len(picture.get("aria-label")) > 20
        text = ElementTree.tostring(picture, encoding="unicode")
        assert {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}\b", text)} == set()
        assert set(re.findall(r"var\(--([a-z0-9]+)\)", text)) <= {*LIGHT, "letters"}
    assert LIGHT.keys() == DARK.keys()


def test_tables_and_pictures_lie_beside_it_as_files(page):
    files = {path.name for path in page.with_suffix("").iterdir()}
    pictures = ("sparsity", "time", "memory", "emissions", "moments-lazyregime")
    assert {"table.md", "table.csv"} | {f"1-{name}.{kind}" for name in pictures for kind in ("png", "svg")} <= files | {
        ""
    }
    for path in page.with_suffix("").glob("*.png"):
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    for path in page.with_suffix("").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert page.with_suffix("").joinpath("table.csv").read_text().count("\n") == 9


def test_equal_results_make_an_equal_page(folder, page, tmp_path):
    again = write(folder, tmp_path / "page.html")
    before = {path.relative_to(page.parent): path for path in (page, *page.with_suffix("").iterdir())}
    for path in again:
        assert path.read_bytes() == before[path.relative_to(tmp_path)].read_bytes(), path.name


def test_runs_under_other_conditions_are_marked_and_told(tmp_path):
    one, other = result(Classification(method="dense")), result(Classification(method="dense", seed=1))
    other = replace(other, environment={**other.environment, "cpu": "Another CPU"})
    for each in (one, other):
        (tmp_path / folder_name(each.description)).mkdir()
        write_result(each, tmp_path / folder_name(each.description))
    write(tmp_path, tmp_path / "page.html")
    root = parsed(tmp_path / "page.html")
    assert root.findtext(".//th/sup") == "a"
    told = ["".join(each.itertext()) for each in root.iter("li")]
    assert any("Some CPU, 1 thread on 2 CPUs" in text and "Another" not in text for text in told)
    assert any("Another CPU" in text for text in told)


def test_a_smoke_run_has_no_best_row_and_no_claims(tmp_path):
    for seed in range(2):
        for method in ("dense", "earlycrop-s", "random-s"):
            run = Classification(method=method, seed=seed, max_steps=2)
            (tmp_path / folder_name(run)).mkdir()
            write_result(result(run, None if method == "dense" else report()), tmp_path / folder_name(run))
    write(tmp_path, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<h2>A SMOKE RUN, NO RESULT (2 batches an epoch): resnet18" in page
    assert "Best test accuracy" not in page
    assert "The poster's claims" not in page
    assert not (tmp_path / "page" / "claims.md").exists()


def test_the_command_writes_the_page_into_the_folder_of_the_runs(folder, tmp_path, capsys):
    assert main(["report", str(folder), "--out", str(tmp_path / "a.html")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(tmp_path / "a.html")
    assert all(Path(path).is_file() for path in printed)


def test_a_folder_without_runs_says_so(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "There is no finished run in" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err


# In a browser ---------------------------------------------------------------------------------------------

browser_is_here = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on the PATH to show the page in"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as started:
        yield started


@browser_is_here
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_a_browser_shows_it_whole_and_asks_for_nothing(browser, page, width, height, scheme):
    browser.open(page, width, height, scheme)
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") == width  # nothing is wider than the screen
    assert browser.said() == []
    assert browser.requests() == [page.absolute().as_uri()]
    colours = DARK if scheme == "dark" else LIGHT
    rgb = "rgb({}, {}, {})".format(*(int(colours["page"][n : n + 2], 16) for n in (1, 3, 5)))
    assert browser.value("getComputedStyle(document.body).backgroundColor") == rgb

    # the table scrolls in its own box, and its first column stays
    box = "document.querySelector('.scroll')"
    assert browser.value(f"{box}.scrollWidth > {box}.clientWidth")
    assert browser.value(f"{box}.scrollLeft = 200, {box}.scrollLeft") == 200
    left = f"{box}.querySelector('tbody th').getBoundingClientRect().left - {box}.getBoundingClientRect().left"
    assert browser.value(left) == pytest.approx(1, abs=1)

    # no text of a picture is cut off at its edge, nor smaller than can be read
    outside = """[...document.querySelectorAll('figure text')].filter(text => {
        const t = text.getBoundingClientRect(), f = text.closest('figure').getBoundingClientRect();
        return t.left < f.left || t.right > f.right || t.top < f.top || t.bottom > f.bottom;
    }).map(text => text.textContent)"""
    assert browser.value(outside) == []
    smallest = """Math.min(...[...document.querySelectorAll('figure text')].map(text => {
        const scale = text.getScreenCTM();  // turned by any angle
        return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(scale.a, scale.b);
    }))"""
    assert browser.value(smallest) >= 8.5

    # descriptions open
    assert browser.value("document.querySelector('details pre').checkVisibility()") is False
    browser.value("document.querySelector('summary').click()")
    assert browser.value("document.querySelector('details pre').checkVisibility()") is True
    assert browser.value("document.documentElement.scrollWidth") == width
    assert browser.picture().startswith(b"\x89PNG")
