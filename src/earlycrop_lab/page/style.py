"""The page's style, for light and dark screens, and the frame around its body."""

from earlycrop_lab.reporting.charts.canvas import DENSE, GRID, HUES, INK, PAPER, SOFT

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
"""Each colour of the charts on a light screen, and its counterpart on a dark one."""

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
