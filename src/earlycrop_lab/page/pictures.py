"""Charts as files, for a paper, and as parts of the page, in its colours and fonts."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from earlycrop.files import replacing
from earlycrop_lab.page.style import LIGHT
from earlycrop_lab.reporting.charts import Chart

FONT: Any = {"font.family": "DejaVu Sans", "svg.fonttype": "none", "svg.hashsalt": "earlycrop"}
UNDATED = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
"""Metadata without dates and versions, so that equal results give equal files."""


def keep(drawn: Mapping[str, Sequence[Chart]], folder: Path) -> list[Path]:
    """Write the charts of each setting as files; their paths."""
    paths = []
    for number, found in enumerate(drawn.values(), start=1):
        for chart in found:
            name = chart.name if len(drawn) == 1 else f"{number}-{chart.name}"
            paths += [folder / f"{name}.{kind}" for kind in ("png", "svg")]
            for path in paths[-2:]:
                with replacing(path) as out, rc_context(FONT):
                    chart.figure.savefig(out, format=path.suffix[1:], dpi=216, metadata=UNDATED[path.suffix])
    return paths


def inline(chart: Chart, name: str) -> str:
    """A chart as SVG for the page: as wide as the page allows, in its colours and fonts, its ids prefixed by `name`."""
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
