"""The page of `fastssl.report`: its template and its style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._extras import require
from ._report_curves import DARK, LIGHT, swatch


def page(content: Mapping[str, Any]) -> str:
    """Fill in the template, which escapes every word but the SVG of `_report_curves`."""
    jinja2 = require("jinja2", "fastssl.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["look"] = swatch
    style = _STYLE
    for name, values in (("light", LIGHT), ("dark", DARK)):
        style = style.replace(f"/* {name} */", " ".join(f"--run-{i}: {value};" for i, value in enumerate(values)))
    text: str = environment.from_string(_PAGE).render(style=style, **content)
    return text


_STYLE = """
:root {
  color-scheme: light dark;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  --paper: #f4f6f8; --card: #ffffff; --ink: #17222d; --soft: #5a6876; --line: #e1e6eb; --accent: #1f6feb;
  --tint: #e4eefc; /* light */
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #0e1318; --card: #171e25; --ink: #e8edf2; --soft: #98a6b3; --line: #2a343e; --accent: #62a8ff;
    --tint: #1d3350; /* dark */
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif;
}
main, header, footer { max-width: 1120px; margin: 0 auto; padding: 0 clamp(14px, 3vw, 32px); }
header { padding-top: clamp(28px, 6vw, 64px); padding-bottom: 8px; }
h1 { font-size: clamp(1.7rem, 4.5vw, 2.6rem); line-height: 1.15; letter-spacing: -0.022em; margin: 0.15em 0 0.2em; }
h2 { font-size: 1.35rem; letter-spacing: -0.012em; margin: 2.4em 0 0.7em; }
h3 { font-size: 0.95rem; margin: 0 0 0.6em; }
p { margin: 0.4em 0; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 2px; }
code { font: 0.88em var(--mono); }
.brand { color: var(--accent); font-weight: 650; letter-spacing: 0.02em; margin: 0; }
.soft, figcaption, footer { color: var(--soft); }
footer { padding-top: 40px; padding-bottom: 48px; font-size: 0.875rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px; margin: 0; }
.plots { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr)); }
.pictures { display: flex; flex-wrap: wrap; gap: 16px; }
.pictures > * { flex: 1 1 min(100%, 400px); }
.pictures > .wide { flex-basis: 100%; }
.tiles, .plots, .pictures { margin: 16px 0; }
.plots > *, .pictures > * { min-width: 0; }
.tiles { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 150px), 1fr)); }
.tile { padding: 14px 16px; }
.tile .name { color: var(--soft); font-size: 0.85rem; }
.tile .value { font-size: 1.75rem; line-height: 1.3; font-weight: 650; letter-spacing: -0.02em; }
.tile .value small { font-size: 0.95rem; font-weight: 500; letter-spacing: 0; }
.tile .note { color: var(--soft); font-size: 0.85rem; }
.name, .value, td, .note { font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
.scroll.card { padding: 6px 8px; }
.scroll.card + .scroll.card { margin-top: 16px; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; }
th, td { text-align: left; padding: 8px 12px; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child > td, tr:last-child > th, tbody:last-child tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 550; font-size: 0.92em; vertical-align: bottom; }
thead tr:last-child > * { border-bottom: 1px solid var(--line); }
tbody th { font-weight: 550; }
td .note { color: var(--soft); font-size: 0.88em; font-weight: 400; line-height: 1.35; }
.settings { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 160px), 1fr)); gap: 12px 20px; }
.settings.long { grid-template-columns: repeat(auto-fill, minmax(min(100%, 240px), 1fr)); }
.settings + h3 { margin-top: 26px; padding-top: 22px; border-top: 1px solid var(--line); }
.settings dt { color: var(--soft); font: 0.82rem/1.5 var(--mono); }
.settings dd { overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; }
.bar { background: linear-gradient(var(--tint), var(--tint)) no-repeat right top 5px / var(--part) 1.75em; }
.judged { table-layout: fixed; }
.judged thead td { width: 26%; }
.judged thead th { white-space: normal; overflow-wrap: anywhere; }
.best { font-weight: 700; }
.dot {
  display: inline-block; width: 0.72em; height: 0.72em; margin-right: 0.5em; border: 0.16em solid; border-radius: 50%;
}
.whole { white-space: nowrap; }
.spark { width: 80px; height: 20px; vertical-align: -4px; margin-right: 8px; }
.spark polyline { fill: none; stroke: currentColor; stroke-width: 1.5; stroke-linejoin: round; }
.spark circle { fill: currentColor; }
figure svg, figure img { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit; }
figcaption { font-size: 0.875rem; margin-top: 10px; }
.picture { padding: 10px; }
.picture img { margin: 0 auto; border-radius: 6px; background: #fff; }
.picture:not(.wide) img { width: auto; max-width: 100%; max-height: 560px; }
.picture figcaption { margin: 8px 6px 2px; }
.lacks { list-style: none; padding: 0; margin: 16px 0 0; color: var(--soft); font-size: 0.92rem; }
.lacks li { border-left: 3px solid var(--line); padding: 2px 0 2px 12px; margin: 6px 0; }
dl { margin: 0; font-size: 0.92rem; }
dd { margin: 0; font-variant-numeric: tabular-nums; }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--soft); font-size: 0.92rem; }
details .scroll { margin-top: 10px; }
@media screen and (max-width: 640px) {
  .wide img { min-width: 620px; }
  .card { padding: 14px; }
  .scroll.card { padding: 4px 2px; }
  th, td { padding: 7px 10px; }
}
@media print {
  body { background: none; font-size: 10.5pt; }
  main, header, footer { max-width: none; padding-left: 0; padding-right: 0; }
  .card, figure, .tile, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .plots { grid-template-columns: repeat(3, 1fr); }
  .scroll { overflow: visible; }
  table { font-size: 8pt; min-width: 0 !important; }
  th, td { padding: 4px 6px; }
  th.whole, .judged td { white-space: normal; }
  .spark { width: 44px; margin-right: 4px; }
  .bar { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

_PAGE = """
{%- macro swatch(run) %}
{% if several %}<span class="dot" style="{{ run.number | look }}"></span>{% endif %}
{% endmacro %}
{%- macro settings(rows, more="") %}
<dl class="settings {{ more }}">
  {% for name, value in rows %}
  <div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
  {% endfor %}
</dl>
{% endmacro %}
{%- macro tiles(run) %}
<div class="tiles">
  {% for tile in run.tiles %}
  <div class="card tile">
    <div class="name">{{ tile.name }}</div>
    <div class="value">{{ tile.value }}{% if tile.unit %} <small>{{ tile.unit }}</small>{% endif %}</div>
    <div class="note">{{ tile.note }}</div>
  </div>
  {% endfor %}
</div>
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="fastssl {{ version }}">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<header>
  <p class="brand">fastssl report</p>
  <h1>{{ title }}</h1>
  <p class="soft">{{ summary }}</p>
  <p class="soft">Made on <time>{{ date }}</time></p>
</header>
<main>

{% if several %}
<h2 id="runs">Runs</h2>
<div class="card scroll"><table>
  <thead><tr>
    <th scope="col">run</th><th scope="col">kNN accuracy</th><th scope="col" class="number">best kNN</th>
    <th scope="col">training loss</th><th scope="col">method</th><th scope="col">data</th>
    <th scope="col" class="number">epochs</th><th scope="col" class="number">time</th>
  </tr></thead>
  <tbody>
  {% for run in runs %}
    <tr>
      <th scope="row" class="whole">{{ swatch(run) }}<a href="#run-{{ run.number }}">{{ run.name }}</a></th>
      <td class="whole">{{ run.knn_line | safe }}{{ run.knn }}</td><td class="number">{{ run.best_knn }}</td>
      <td class="whole">{{ run.loss_line | safe }}{{ run.loss }}</td>
      <td>{{ run.method }}</td><td>{{ run.data }}</td>
      <td class="number">{{ run.epochs }}</td><td class="number">{{ run.time }}</td>
    </tr>
  {% endfor %}
  </tbody>
</table></div>
{% else %}
{{ tiles(runs[0]) }}
{% endif %}

{% if plots %}
<h2 id="curves">Curves</h2>
<div class="plots">
  {% for plot in plots %}
  <figure class="card">
    <h3>{{ plot.title }}</h3>{{ plot.svg | safe }}<figcaption>{{ plot.caption }}</figcaption>
  </figure>
  {% endfor %}
</div>
{% endif %}

{% if judged.tables %}
<h2 id="judgements">What the encoder is worth</h2>
{% for table in judged.tables %}
{% set width = 150 + (130 if several else 92) * table.heads | length %}
<div class="card scroll"><table class="judged" style="min-width: {{ width }}px">
  <thead><tr><td></td>
    {% for head in table.heads %}<th scope="col" class="number">{{ swatch(head) }}{{ head.name }}</th>{% endfor %}
  </tr></thead>
  <tbody>
  {% for row in table.rows %}
    <tr><th scope="row">{{ row.name }}</th>
      {% for cell in row.cells %}
      {% if cell %}
      <td class="number bar{{ " best" if cell.best }}" style="--part: {{ cell.part }}">{{ cell.text }}
        {% for other in cell.others %}<div class="note">{{ other }}</div>{% endfor %}</td>
      {% else %}
      <td></td>
      {% endif %}
      {% endfor %}
    </tr>
  {% endfor %}
  </tbody>
</table></div>
{% endfor %}
<p class="soft">In %{% if judged.plain %}, but for {{ judged.plain }}{% endif %}.
  {{ "Bold: the best of the runs. In small: the same encoder before it was trained, and other baselines." if several }}
{% if judged.protocols %} <a href="#protocols">How it was judged</a>{% endif %}</p>
{% endif %}

{% if several and differing.names %}
<h2 id="differences">Settings that differ</h2>
<div class="card scroll"><table>
  <thead><tr><th scope="col">run</th>
    {% for name in differing.names %}<th scope="col"><code>{{ name }}</code></th>{% endfor %}</tr></thead>
  <tbody>
  {% for run in runs %}
    <tr><th scope="row" class="whole">{{ swatch(run) }}{{ run.name }}</th>
      {% for value in differing.values_of[run.number] %}<td>{{ value }}</td>{% endfor %}</tr>
  {% endfor %}
  </tbody>
</table></div>
{% endif %}

{% for run in runs %}
<article id="run-{{ run.number }}">
<h2>{{ swatch(run) }}{{ run.name if several else "The run" }}</h2>
{% if several %}{{ tiles(run) }}{% endif %}
{% if run.pictures %}
<div class="pictures">
  {% for picture in run.pictures %}
  <figure class="card picture{{ " wide" if picture.wide }}">
    <div class="scroll"><img src="{{ picture.source }}" width="{{ picture.width }}" height="{{ picture.height }}"
      {% if picture.wide %}style="max-width: {{ picture.width }}px"{% endif %} alt="{{ picture.caption }}"></div>
    <figcaption>{{ picture.caption }}</figcaption>
  </figure>
  {% endfor %}
</div>
{% endif %}
<div class="card">
  {% for group in run.groups %}
  <h3>{{ group.title }}</h3>
  {{ settings(group.rows) }}
  {% endfor %}
</div>
{% if run.measured %}
<details>
  <summary>The numbers of the curves, where kNN was measured</summary>
  <div class="scroll card"><table>
    <thead><tr>{% for name in run.columns %}<th scope="col" class="number">{{ name }}</th>{% endfor %}</tr></thead>
    <tbody>
    {% for row in run.measured %}
      <tr>{% for value in row %}<td class="number">{{ value }}</td>{% endfor %}</tr>
    {% endfor %}
    </tbody>
  </table></div>
</details>
{% endif %}
{% if run.lacks %}
<ul class="lacks">
  {% for lack in run.lacks %}
  <li>{{ lack.what }}{% if lack.command %}: <code>{{ lack.command }}</code>{% else %}.{% endif %}</li>
  {% endfor %}
</ul>
{% endif %}
</article>
{% endfor %}

{% if judged.protocols %}
<h2 id="protocols">How it was judged</h2>
<div class="card">
  {% for protocol in judged.protocols %}
  <h3>{{ protocol.way }}</h3>
  {{ settings(protocol.rows, "long") }}
  {% endfor %}
</div>
{% endif %}
</main>
<footer>fastssl {{ version }}</footer>
</body>
</html>
"""
