"""A folder of runs as one page that needs nothing else, with tables and pictures; and these as files, for a paper."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from earlycrop.files import replacing
from earlycrop_lab import claims, equal_cost, why_figures
from earlycrop_lab.charts import (
    COSTS,
    DENSE,
    GRID,
    HUES,
    INK,
    PAPER,
    SOFT,
    WIDTH,
    Chart,
    charts,
    labels,
    ranked,
    reading,
)
from earlycrop_lab.claims import Finding, findings
from earlycrop_lab.equal_cost import HEADINGS, Comparison, comparisons, narrower
from earlycrop_lab.figures import sampled
from earlycrop_lab.report import what_left
from earlycrop_lab.runs import RESULT, Result, failure, read
from earlycrop_lab.tables import (
    NONE,
    SPREAD,
    Column,
    Row,
    by_setting,
    column,
    csv,
    data_of,
    footnotes,
    frontier,
    markdown,
    shown,
    shown_columns,
    table,
    times,
    unequal,
)
from earlycrop_lab.why_figures import Inquiry

LIGHT = {
    "page": "#f5f6f8",
    "card": PAPER,
    "ink": INK,
    "soft": SOFT,
    "grid": GRID,
    "dense": DENSE,
    **{f"hue{number}": hue for number, hue in enumerate(HUES)},
}
DARK = {
    "page": "#101418",
    "card": "#181d23",
    "ink": "#e8ebef",
    "soft": "#a4adb9",
    "grid": "#2c343d",
    "dense": "#98a2b1",
    **dict(
        zip(
            (f"hue{number}" for number in range(len(HUES))),
            (
                "#35c2ba",
                "#ff8090",
                "#93a9ff",
                "#f0b04a",
                "#d096f2",
                "#98cc66",
                "#5fc0f0",
                "#f09a62",
                "#f58cc6",
                "#c9c95c",
            ),
            strict=True,
        )
    ),
}
"""What each colour of the pictures is on a light screen, and its twin on a dark one."""


def write(folder: Path, file: Path) -> list[Path]:
    """Write the page of a folder of runs, and beside it, in a folder of its name, its tables and pictures as files.

    Raises:
        ValueError: If no run has a result.
        OSError: If something cannot be read or written.
    """
    results, lacking = finished(folder)
    if not results:
        why = "".join(f" {name}: {reason}." for name, reason in lacking.items())
        raise ValueError(f"There is no finished run in {folder}. `earlycrop train --out {folder}` makes one.{why}")
    rows = table(results)
    drawn = {
        setting: [*charts(group, narrower(group[0], rows)), *_sampled(group, folder)]
        for setting, group in by_setting(rows).items()
    }
    tested, equal = findings(rows), comparisons(rows)
    asked, unread = inquiries(folder)
    lacking |= unread
    beside = file.with_suffix("")
    beside.mkdir(parents=True, exist_ok=True)
    written = {
        file: page(rows, drawn, tested, equal, asked, lacking).encode(),
        beside / "table.md": _joined(markdown(rows), equal_cost.markdown(equal)).encode(),
        beside / "table.csv": csv(rows).encode(),
    }
    if tested or equal:
        written[beside / "claims.md"] = _joined(claims.markdown(tested), equal_cost.markdown(equal)).encode()
    for path, content in written.items():
        with replacing(path) as out:
            out.write(content)
    pictures = []
    for number, found in enumerate(drawn.values(), start=1):
        for chart in found:
            name = chart.name if len(drawn) == 1 else f"{number}-{chart.name}"
            pictures += [beside / f"{name}.{kind}" for kind in ("png", "svg")]
            for path in pictures[-2:]:
                with replacing(path) as out, rc_context(FONT):
                    chart.figure.savefig(out, format=path.suffix[1:], dpi=216, metadata=UNDATED[path.suffix])
    return [*written, *pictures]


def _sampled(rows: Sequence[Row], folder: Path) -> list[Chart]:
    """What dense and pruned networks make of a few samples, for each sparsity; of each method the first seed."""
    found = []
    for level in sorted({row.sparsity for row in rows if row.sparsity is not None}) or [None]:
        among = sorted((row for row in rows if row.sparsity in (None, level)), key=lambda row: row.prunes)
        figure = sampled({row.name: row.results[0] for row in among}, folder, width=WIDTH / 72, across=False)
        if figure is not None:
            at = "" if level is None else f" at {100 * level:g} % sparsity"
            note = "Test samples, the same for all, after the last epoch of each method's first seed."
            found.append(Chart(f"samples{'' if level is None else f'-{level:g}'}", f"What they see{at}", note, figure))
    return found


FONT: Any = {"font.family": "DejaVu Sans", "svg.fonttype": "none", "svg.hashsalt": "earlycrop"}
UNDATED = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
"""Equal results make equal files."""


def finished(folder: Path) -> tuple[list[Result], dict[str, str]]:
    """The results of a folder of runs, and for each of its runs that has none, by name, the reason."""
    results, lacking = [], {}
    for run in sorted(path for path in folder.iterdir() if path.is_dir()):
        if (run / RESULT).exists():
            try:
                results.append(read(run))
            except (ValueError, OSError) as error:
                lacking[run.name] = str(error)
        elif why := failure(run):
            lacking[run.name] = f"failed: {why}"
        elif re.search(r"-seed\d+$", run.name) and not run.name.startswith(("plan-", "why-")):
            lacking[run.name] = "has no result: it is running, or was cut off; the same command goes on with it"
    return results, lacking


def inquiries(folder: Path) -> tuple[list[Inquiry], dict[str, str]]:
    """What `earlycrop why` kept among the runs, and of its folders that cannot be read, by name, the reason."""
    found, unread = [], {}
    for kept in sorted(folder.glob("why-*/records.json")):
        try:
            found.append(why_figures.of(kept.parent))
        except (ValueError, OSError) as error:
            unread[kept.parent.name] = str(error)
    return found, unread


def page(
    rows: Sequence[Row],
    drawn: Mapping[str, Sequence[Chart]],
    found: Mapping[str, Sequence[Finding]],
    equal: Mapping[str, Sequence[Comparison]],
    asked: Sequence[Inquiry],
    lacking: Mapping[str, str],
) -> str:
    """The page, which is well-formed XML too; no script, and its policy forbids every request."""
    groups = by_setting(rows)
    runs = [result for row in rows for result in row.results]
    days = sorted({day[:10] for run in runs if (day := run.environment.get("started"))})
    when = f", begun {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
    parts = [
        f"<header><h1>EarlyCroP report</h1><p>{_count(len(runs), 'run')} in {_count(len(rows), 'row')}{when}."
        f"{_lacking_note(lacking)} {_link('table.csv', 'text/csv', csv(rows))} "
        f"{_link('table.md', 'text/markdown', markdown(rows))}</p></header>"
    ]
    for number, (setting, group) in enumerate(groups.items(), start=1):
        pictures = "".join(_picture(chart, f"s{number}-{chart.name}") for chart in drawn[setting])
        parts.append(
            f"<section><h2>{escape(setting)}</h2>{_data(group)}{_summary(group, narrower(group[0], rows))}"
            f"{_table(group, setting)}"
            f"<p class='note'>{escape(SPREAD)} {escape(reading(group))}</p>"
            f"<div class='pictures'>{pictures}</div>{_equal(equal.get(setting, ()))}"
            f"{_claims(found.get(setting, ()))}</section>"
        )
    parts += [*map(_inquiry, asked), _conditions(rows), _lacking(lacking), _runs(rows)]
    return PAGE.format(
        title=escape(f"EarlyCroP: {_count(len(runs), 'run')}"),
        light="".join(f"--{name}:{colour};" for name, colour in LIGHT.items()),
        dark="".join(f"--{name}:{colour};" for name, colour in DARK.items()),
        style=STYLE,
        body="\n".join(filter(None, parts)),
    )


def _data(rows: Sequence[Row]) -> str:
    return f"<p class='note'>{escape(told)}</p>" if (told := data_of(rows)) else ""


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def _link(name: str, kind: str, text: str) -> str:
    """A file that lies in the page itself."""
    data = base64.b64encode(text.encode()).decode()
    return f"<a download='{name}' href='data:{kind};charset=utf-8;base64,{data}'>{name}</a>"


def _joined(*texts: str) -> str:
    return "\n".join(text for text in texts if text.strip())


def _summary(rows: Sequence[Row], narrow: Sequence[Row]) -> str:
    """Which row is the best, and which are on the frontiers, narrow dense ones too; nothing of a rehearsal."""
    if rows[0].description.max_steps is not None:
        return ""
    best, names, among = ranked(rows)[0], labels([*rows, *narrow]), [*rows, *narrow]
    metric = best.metric
    told = _whole(f"{best.text(column(metric))} {metric.unit}".rstrip() + f", n = {len(best.results)}")
    items = [f"Best {metric.label}: <b>{_whole(names(best))}</b>, {told}. {_whole(unequal(rows))}".rstrip()]
    for cost in COSTS.values():
        if len(among) > 1 and (front := frontier(among, cost)):
            told = ", ".join(f"<b>{_whole(names(row))}</b>" for row in front)
            items.append(f"On the frontier of {metric.label} and {cost.group}: {told}.")
    return f"<ul class='summary'>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _table(rows: Sequence[Row], setting: str) -> str:
    columns = shown_columns(rows)
    grouped = [(name, list(group)) for name, group in groupby(columns, lambda each: each.group)]
    first = {group[0].name for _, group in grouped}
    above = "".join(f"<th colspan='{len(group)}' scope='colgroup' class='first'>{name}</th>" for name, group in grouped)
    edge = {each.name: " class='first'" if each.name in first else "" for each in columns}
    below = "".join(
        f"<th scope='col'{edge[each.name]}>{each.label}{' ' * bool(each.label)}<i>{each.unit}</i></th>"
        for each in columns
    )
    head = f"<thead><tr><th rowspan='2' class='name'>method</th>{above}</tr><tr>{below}</tr></thead>"
    bodies = []
    for _, level in groupby(rows, lambda row: row.sparsity):
        lines = []
        for row in level:
            asked = f"{row.asked}, " if row.prunes else ""
            marks = f"<sup>{row.marks}</sup>" if row.marks else ""
            name = f"{escape(row.name)}{marks}<small>{asked}n = {len(row.results)}</small>"
            cells = "".join(f"<td{edge[each.name]}>{_cell(row, each)}</td>" for each in columns)
            lines.append(f"<tr><th scope='row' class='name'>{name}</th>{cells}</tr>")
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    inside = f"<table>{head}{''.join(bodies)}</table>"
    return f"<div class='scroll' tabindex='0' role='region' aria-label='{escape(setting)}'>{inside}</div>"


def _cell(row: Row, column: Column) -> str:
    """The mean, which holds itself unrounded too; then its deviation, n if runs lack it, the multiple, the interval."""
    spread = row.spread(column)
    if spread is None:
        return NONE
    beside = []
    if deviation := column.show_deviation(spread):
        beside.append(f"± {deviation}")
    if spread.n < len(row.results):
        beside.append(f"n = {spread.n}")
    if column.multiple and (multiple := row.multiple(column)) is not None:
        beside.append(times(multiple))
    small = "".join(f"<small>{line}</small>" for line in (" ".join(beside), row.interval(column)) if line)
    return f"<data value='{spread.mean!r}'>{column.show(spread.mean)}</data>{small}"


def _equal(found: Sequence[Comparison]) -> str:
    """Who is better at equal cost."""
    if not found:
        return ""
    head = "".join(f"<th scope='col'>{each}</th>" for each in HEADINGS)
    lines = []
    for each in found:
        name, *cells = each.marked("<b>{}</b>", _whole)
        inside = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f"<tr><th scope='row' class='name'>{name}</th>{inside}</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    scroll = f"<div class='scroll' tabindex='0' role='region' aria-label='At equal cost'>{table}</div>"
    return f"<h3>At equal cost</h3><p class='note'>{escape(equal_cost.HOW)}</p>{scroll}"


def _claims(found: Sequence[Finding]) -> str:
    """What the poster claims, and what became of it here."""
    if not found:
        return ""
    lines = [
        f"<li><b class='{each.verdict.split()[0]}'>{each.verdict}</b> {_whole(each.claim)}"
        f"<small>aim {each.aim}; {_whole(each.why)}</small></li>"
        for each in found
    ]
    told = f"<p class='note'>{escape(claims.HOW)}</p><ul class='claims'>{''.join(lines)}</ul>"
    return f"<h3>The poster's claims here</h3>{told}"


def _inquiry(asked: Inquiry) -> str:
    """What was asked of one network, with its pictures."""
    pictures = "".join(_picture(chart, chart.name) for chart in asked.charts)
    said = f"<p class='note'>{escape(asked.setting)}</p>"
    return f"<section><h2>{escape(asked.title)}</h2>{said}<div class='pictures'>{pictures}</div></section>"


def _picture(chart: Chart, name: str) -> str:
    said = f"<figcaption>{_whole(chart.note)}</figcaption>"
    return f"<figure><h3>{_whole(chart.title)}</h3>{inline(chart, name)}{said}</figure>"


def _whole(text: str) -> str:
    """Escaped, with numbers and their units on one line."""
    return escape(re.sub(r"(?<=\d) (?=(?:s|ms|g|MB|runs)\b|%)|(?<=±) |(?<=n) (?==)|(?<==) (?=\d)", "\u00a0", text))


def inline(chart: Chart, name: str) -> str:
    """The picture for a page: as wide as there is room, in the page's colours and letters, ids under its name."""
    file = StringIO()
    with rc_context(FONT):
        chart.figure.savefig(file, format="svg", transparent=True, metadata=UNDATED[".svg"])
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{name}-", svg)
    svg = re.sub(r"(font: (?:bold )?[\d.]+px) [^;\"]+", r"\1 var(--letters)", svg)
    for colour, value in LIGHT.items():
        svg = svg.replace(value, f"var(--{colour})")
    alt = escape(f"{chart.title}. {chart.note}", quote=True)
    return re.sub(
        r'^<svg[^>]*viewBox="([^"]*)"[^>]*>', rf'<svg role="img" aria-label="{alt}" {XMLNS} viewBox="\1">', svg
    )


XMLNS = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def _conditions(rows: Sequence[Row]) -> str:
    notes = footnotes(rows)
    several = ""
    if len(notes) > 1:
        several = "Rows with a letter have runs under other conditions than most; their times cannot be compared."
    items = "".join(f"<li>{f'<b>{letter}</b> ' if letter else ''}{escape(text)}</li>" for letter, text in notes)
    return f"<section><h2>Under what conditions</h2><p class='note'>{several}</p><ul>{items}</ul></section>"


def _lacking_note(lacking: Mapping[str, str]) -> str:
    return f" <a href='#lacking'>{_count(len(lacking), 'folder')} without a result.</a>" if lacking else ""


def _lacking(lacking: Mapping[str, str]) -> str:
    if not lacking:
        return ""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(why)}</dd>" for name, why in lacking.items())
    return f"<section id='lacking'><h2>Without a result</h2><dl>{items}</dl></section>"


def _runs(rows: Iterable[Row]) -> str:
    """Every run with its description, what left and when it began."""
    parts = []
    for row in rows:
        runs = "".join(_run(result) for result in row.results)
        title = f"{escape(row.label)}<small>{escape(row.setting)}, {_count(len(row.results), 'run')}</small>"
        parts.append(f"<details><summary>{title}</summary>{runs}</details>")
    return f"<section><h2>Every run</h2>{''.join(parts)}</section>"


def _run(result: Result) -> str:
    figures = result.columns.metrics
    told = ["; ".join(f"{m.label} {shown(m, figures.get(m.name))}" for m in result.description.metrics) + "."]
    if result.report is not None:
        told.append(what_left(result.report))
    if started := result.environment.get("started"):
        told.append(f"Begun {started}.")
    description = re.sub(r", (?=\w+=)", ",\n  ", repr(result.description)).replace("(", "(\n  ", 1)
    return (
        f"<h4>Seed {result.description.seed}</h4><p>{escape(' '.join(told))}</p>"
        f"<pre tabindex='0'>{escape(description)}</pre>"
    )


STYLE = """
:root{color-scheme:light dark;--letters:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
*{box-sizing:border-box}
body{margin:0 auto;max-width:80rem;padding:1.25rem clamp(.75rem,3vw,2rem) 3rem;background:var(--page);color:var(--ink);
 font:1rem/1.5 var(--letters);overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:0}h2{font-size:1.2rem;line-height:1.3;margin:2.2rem 0 .6rem}
h3{font-size:1rem;margin:0 0 .4rem}h4{font-size:.9rem;margin:.8rem 0 0}
p{margin:.3rem 0}a{color:var(--hue0)}ul{padding-left:1.2rem;margin:.5rem 0}.summary{margin-bottom:1rem}
.note,figcaption,dd,header p,details p,section>ul:not(.summary){color:var(--soft);font-size:.85rem}
.scroll,figure,details{background:var(--card);border:1px solid var(--grid);border-radius:.6rem}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:separate;border-spacing:0;font-size:.85rem;font-variant-numeric:tabular-nums;white-space:nowrap}
th,td{padding:.3rem .55rem;text-align:right;vertical-align:top;overflow-wrap:normal}
td.first,th.first{border-left:1px solid var(--grid)}
thead th{font-weight:500;color:var(--soft);vertical-align:bottom}thead i{font-style:normal;opacity:.75}
thead tr:first-child th{text-align:left;color:var(--ink)}
tbody:first-of-type tr:first-child>*,tbody+tbody tr:first-child>*{border-top:1.5px solid var(--soft)}
tbody tr+tr>*{border-top:1px solid var(--grid)}
.name{position:sticky;left:0;z-index:1;background:var(--card);text-align:left;font-weight:600;
 border-right:1px solid var(--grid)}
.name+.first{border-left:0}
td small,.name small,summary small{display:block;color:var(--soft);font-size:.75rem;font-weight:400;line-height:1.25}
sup{color:var(--hue1);margin-left:.15em}
.claims{list-style:none;padding:0;columns:22rem;column-gap:2rem}
.claims li{break-inside:avoid;margin-bottom:.6rem;font-size:.9rem}
.claims small{display:block;color:var(--soft);font-size:.78rem}
.claims b{color:var(--soft)}.claims .holds{color:var(--hue0)}.claims .fails{color:var(--hue1)}
section>h3{margin-top:1.4rem}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:1rem;align-items:start;
 margin-top:1rem}
figure{margin:0;padding:.7rem .6rem}figure svg{display:block;width:100%;height:auto;stroke-linejoin:round}
figcaption{margin-top:.5rem}
details{margin:.4rem 0;padding:.5rem .8rem}summary{cursor:pointer;font-weight:600}
pre{font-size:.78rem;line-height:1.4;overflow-x:auto;margin:.4rem 0;padding:.6rem;background:var(--page);
 border-radius:.4rem;white-space:pre-wrap}
dt{font-weight:600}dd{margin:0 0 .6rem}
@media print{details{break-inside:avoid}figure{break-inside:avoid}}
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"/>
<title>{title}</title>
<style>:root{{{light}}}
@media (prefers-color-scheme:dark){{:root{{{dark}}}}}{style}</style></head><body>
{body}
</body></html>
"""
