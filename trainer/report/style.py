"""The style sheet of the report."""

__all__ = ["STYLE"]

STYLE = """\
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #16191f; --muted: #5d6675; --line: #e1e5eb; --accent: 37 99 235;
  --good: #157f4b; --bad: #c2352b;
  --series-0: #2563eb; --series-1: #d9660a; --series-2: #0f8a6d; --series-3: #a33ea1; --series-4: #8a6d00;
  --series-5: #5d6675;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #101318; --card: #191d24; --ink: #e8ebf0; --muted: #99a3b3; --line: #2c323c; --accent: 96 150 255;
    --good: #4cc38a; --bad: #ff7b72;
    --series-0: #6f9fff; --series-1: #ff9a4d; --series-2: #3fcaa5; --series-3: #dd8bdb; --series-4: #d9bb45;
    --series-5: #99a3b3;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .25rem; }
h3 { font-size: .9rem; margin: 0 0 .25rem; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 0 0 .75rem; }
header p { margin: .25rem 0 0; }
.sub, .note { color: var(--muted); }
.note { font-size: .875rem; max-width: 75ch; overflow-wrap: anywhere; }
.card + .note { margin-top: .5rem; }
.missing { color: var(--muted); border-left: 3px solid var(--line); padding-left: .75rem; margin: .5rem 0 0; }
section { margin-top: 2.5rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: .75rem;
  margin-top: 1.25rem; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; }
.tile b { display: block; font-size: 1.25rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--muted); font-size: .8rem; display: block; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20.5rem), 1fr)); gap: .75rem; }
.plots svg { display: block; width: 100%; height: auto; }
.plots svg text { font-family: inherit; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: .25rem 0 .75rem; padding: 0; list-style: none;
  font-size: .85rem; }
.legend li { overflow-wrap: anywhere; }
.legend i, .swatch { display: inline-block; width: .8em; height: .8em; border-radius: .2em; margin-right: .4em;
  vertical-align: -.06em; border: 1px solid rgb(128 128 128 / .35); flex: none; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .32rem .75rem .32rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--muted); font-weight: 500; font-size: .8rem; }
tbody th { color: var(--ink); font-size: inherit; font-weight: 400; }
tr:last-child > * { border-bottom: 0; }
tfoot > tr > * { font-weight: 600; color: var(--ink); border-top: 2px solid var(--line); }
.number { text-align: right; }
.bars { width: 55%; min-width: 7rem; padding-right: 0; }
.bar { height: .7rem; border-radius: .2rem; background: rgb(var(--accent)); }
.track { position: relative; background: var(--line); border-radius: .2rem; }
.track u { position: absolute; top: -.15rem; bottom: -.15rem; width: 2px; background: var(--series-1); }
th.cells { display: flex; justify-content: space-between; gap: .5rem; }
td.cells { width: 65%; min-width: 8rem; }
.cells svg { display: block; width: 100%; height: 1rem; }
.progress th, .progress td { padding-top: .12rem; padding-bottom: .12rem; }
ul.plain { margin: 0; padding: 0; list-style: none; font-size: .875rem; overflow-wrap: anywhere; }
.settings td { white-space: normal; overflow-wrap: anywhere; }
.good { color: var(--good); } .bad { color: var(--bad); }
.matrix svg { display: block; width: 100%; height: auto; }
.matrix text { font: 11px system-ui, sans-serif; fill: var(--ink); }
.matrix .on { fill: var(--card); }
.two { display: grid; grid-template-columns: minmax(0, 5fr) minmax(13rem, 2fr); gap: 1.5rem; align-items: start; }
.sample { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .5rem; margin: .25rem 0 1.25rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; border-radius: .35rem; background: var(--line); }
figure img.map { image-rendering: pixelated; outline: 1px solid var(--line); outline-offset: -1px; }
figcaption { color: var(--muted); font-size: .8rem; margin-top: .15rem; overflow-wrap: anywhere; }
details > summary { cursor: pointer; color: var(--muted); }
details[open] > summary { margin-bottom: .5rem; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .8rem 1rem; margin: 0;
  overflow-x: auto; font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: 0; font-size: .875rem; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
.stack > * + * { margin-top: 1rem; }
@media (max-width: 700px) {
  main { padding: 1.25rem .9rem 3rem; }
  .two { grid-template-columns: minmax(0, 1fr); }
  .two th { white-space: normal; overflow-wrap: anywhere; }
  .sample { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .optional { display: none; }
}
@media print {
  body { background: none; }
  h2, h3, .note, .legend { break-after: avoid; }
  .tile, .plots > .card, .sample, tr { break-inside: avoid; }
  tfoot { display: table-row-group; }
}
"""
