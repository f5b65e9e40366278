"""What every page shares: its head, its style in light and dark and on paper. No script, nothing from a network."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.report.html import Html, join, tag

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"  # a browser refuses whatever a page should not have
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--faint:#5d6877;--paper:#fff;--line:#d8dee6;--now:#2f6fde;--last:#e08a2e;
--ok:#1d7f45;--warn:#a76400;--fail:#c22f2f;--p2:#7aa6ee;--p3:#5bb08a;--p4:#b9a2e6;--p5:#b6bec9;--p6:#98a3b1;--p7:#d3645f;--p8:#7a8696;--p9:#dfe3e8}
@media screen and (prefers-color-scheme:dark){
:root{--ink:#e4e9f0;--faint:#9aa6b5;--paper:#12161c;--line:#313a46;--now:#6ea2ff;
--last:#f0a956;--ok:#56c482;--warn:#e5aa4a;--fail:#ff7b72;--p2:#3f66ad;--p3:#3f8a68;--p4:#7d68ad;--p5:#4b5563;--p6:#66717f;
--p7:#b8524d;--p8:#7f8a98;--p9:#2a313a}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:16px;font:15px/1.5 system-ui,sans-serif;
color:var(--ink);background:var(--paper)}
h1{font-size:1.5rem;margin:.2em 0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:1.6em 0 .4em}
h3{font-size:.95rem;margin:.4em 0;overflow-wrap:anywhere}
p{margin:.4em 0}.faint{color:var(--faint);overflow-wrap:anywhere}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(124px,1fr));gap:10px;margin:12px 0}
.facts div{border:1px solid var(--line);border-radius:6px;padding:8px 10px}
.facts b{display:block;font-size:1.15rem;overflow-wrap:anywhere}.facts span{color:var(--faint);font-size:.85rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,330px),1fr));gap:20px}
figure{margin:0;min-width:0;break-inside:avoid}svg{width:100%;height:auto;max-width:560px;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--ink)}
.now,.point{fill:var(--now)}.last{fill:var(--last)}.outline{fill:none;stroke:var(--last);stroke-width:2}
rect.warn{fill:var(--warn)}rect.fail{fill:var(--fail)}a{color:var(--now)}
.point{opacity:.6}.axis{stroke:var(--faint)}
.part0{fill:var(--p2)}.part1{fill:var(--p3)}.part2{fill:var(--now)}.part3{fill:var(--last)}.part4{fill:var(--p4)}
.part5{fill:var(--p5)}.part6{fill:var(--p6)}.part7{fill:var(--p7)}.part8{fill:var(--p8)}.part9{fill:var(--p9)}
i.key{display:inline-block;width:.8em;height:.8em;border-radius:2px}
i.part0{background:var(--p2)}i.part1{background:var(--p3)}i.part2,i.now{background:var(--now)}
i.part3,i.last{background:var(--last)}i.part4{background:var(--p4)}i.part5{background:var(--p5)}
i.part6{background:var(--p6)}i.part7{background:var(--p7)}i.part8{background:var(--p8)}i.part9{background:var(--p9)}
.legend span{margin-right:1.1em;white-space:nowrap;font-size:.9rem}.legend{display:flex;flex-wrap:wrap}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;min-width:100%}
th,td{padding:4px 10px 4px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top}
th{color:var(--faint);font-weight:600}.whole{white-space:nowrap}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.ok{color:var(--ok)}.warn{color:var(--warn)}.fail{color:var(--fail)}.level{font-weight:600}
pre{font-size:.8rem;overflow-x:auto;border:1px solid var(--line);border-radius:6px;padding:10px}
@media screen and (max-width:700px){td.text{min-width:8.5em}}
@media print{body{max-width:none;padding:0}*{print-color-adjust:exact}.scroll,pre{overflow:visible}
@page{size:A4;margin:11mm}h2,h3,.legend{break-after:avoid}tr,.facts div{break-inside:avoid}
table{font-size:.6rem}th,td{padding:2px 5px 2px 0;overflow-wrap:anywhere}.number,.whole{white-space:normal}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.6rem}}
"""


def page(title: str, sections: Sequence[Html]) -> str:
    """A whole document."""
    head = join(
        [
            Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
            tag("title", title),
            Html(f"<style>{_STYLE}</style>"),
        ]
    )
    return f'<!doctype html>\n<html lang="en">{tag("head", head)}{tag("body", tag("main", *sections))}</html>\n'


def section(title: str, *parts: Html) -> Html:
    """A headed part of a page."""
    return tag("section", tag("h2", title), *parts)


def charts(*drawn: tuple[str, Html]) -> Html:
    """Drawings with their names, side by side where there is room."""
    return tag("div", *(tag("figure", tag("h3", name), drawing) for name, drawing in drawn), class_="charts")


def facts(*entries: tuple[str, object]) -> Html:
    """Figures with what they are."""
    return tag("div", *(tag("div", tag("b", value), tag("span", name)) for name, value in entries), class_="facts")


def format_seconds(value: float) -> str:
    """A duration as people say it."""
    if value < 600:
        return f"{value:,.1f} s"
    return f"{value / 60:,.1f} min" if value < 36_000 else f"{value / 3600:,.1f} h"
