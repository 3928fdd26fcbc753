"""The page: well-formed XML, without scripts."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby

from earlycrop_lab.page.pictures import inline
from earlycrop_lab.page.style import DARK, LIGHT, PAGE, STYLE
from earlycrop_lab.reporting import claims, equal_cost
from earlycrop_lab.reporting.charts import COSTS, Chart, reading
from earlycrop_lab.reporting.charts.marks import labels, ranked
from earlycrop_lab.reporting.claims import Finding
from earlycrop_lab.reporting.columns import Column, column, shown
from earlycrop_lab.reporting.equal_cost import HEADINGS, Comparison, narrower
from earlycrop_lab.reporting.numbers import NONE, times
from earlycrop_lab.reporting.summary import what_left
from earlycrop_lab.reporting.tables import (
    SPREAD,
    Row,
    by_setting,
    csv,
    data_of,
    footnotes,
    frontier,
    markdown,
    shown_columns,
    unequal,
)
from earlycrop_lab.runs import Result
from earlycrop_lab.why.inquiry import Inquiry


def page(
    rows: Sequence[Row],
    drawn: Mapping[str, Sequence[Chart]],
    found: Mapping[str, Sequence[Finding]],
    equal: Mapping[str, Sequence[Comparison]],
    asked: Sequence[Inquiry],
    lacking: Mapping[str, str],
) -> str:
    """The page as HTML that is also well-formed XML, without scripts; its security policy forbids every request."""
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
    """A link to a file that is embedded in the page."""
    data = base64.b64encode(text.encode()).decode()
    return f"<a download='{name}' href='data:{kind};charset=utf-8;base64,{data}'>{name}</a>"


def _summary(rows: Sequence[Row], narrow: Sequence[Row]) -> str:
    """Which row is the best and which are on the frontiers, narrow dense ones included; empty for smoke runs."""
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
    """The mean, rounded and as an unrounded attribute; its deviation, n if runs lack it, the multiple, the interval."""
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
    """The comparisons at equal cost."""
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
    """The poster's claims and their verdicts."""
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
    """One answer of `earlycrop why`, with its charts."""
    pictures = "".join(_picture(chart, chart.name) for chart in asked.charts)
    said = f"<p class='note'>{escape(asked.setting)}</p>"
    return f"<section><h2>{escape(asked.title)}</h2>{said}<div class='pictures'>{pictures}</div></section>"


def _picture(chart: Chart, name: str) -> str:
    said = f"<figcaption>{_whole(chart.note)}</figcaption>"
    return f"<figure><h3>{_whole(chart.title)}</h3>{inline(chart, name)}{said}</figure>"


def _whole(text: str) -> str:
    """The text escaped, with no line break between a number and its unit."""
    return escape(re.sub(r"(?<=\d) (?=(?:s|ms|g|MB|runs)\b|%)|(?<=±) |(?<=n) (?==)|(?<==) (?=\d)", "\u00a0", text))


def _conditions(rows: Sequence[Row]) -> str:
    notes = footnotes(rows)
    several = ""
    if len(notes) > 1:
        several = "Rows with a letter have runs under other conditions than most; their times cannot be compared."
    items = "".join(f"<li>{f'<b>{letter}</b> ' if letter else ''}{escape(text)}</li>" for letter, text in notes)
    return f"<section><h2>Conditions</h2><p class='note'>{several}</p><ul>{items}</ul></section>"


def _lacking_note(lacking: Mapping[str, str]) -> str:
    return f" <a href='#lacking'>{_count(len(lacking), 'folder')} without a result.</a>" if lacking else ""


def _lacking(lacking: Mapping[str, str]) -> str:
    if not lacking:
        return ""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(why)}</dd>" for name, why in lacking.items())
    return f"<section id='lacking'><h2>Without a result</h2><dl>{items}</dl></section>"


def _runs(rows: Iterable[Row]) -> str:
    """Every run with its description, what was removed and when it began."""
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
