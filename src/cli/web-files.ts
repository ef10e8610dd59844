/** HTML and style of the page of `dmapool web`. Its program is src/observe/page. */

export const HTML = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>dmapool</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="app/chart.css">
<link rel="stylesheet" href="style.css">
<script type="module" src="app/main.js"></script>
</head>
<body>
<header>
<h1>dmapool</h1>
<p id="process"></p>
<p id="status" role="status">Connecting.</p>
<button id="theme" type="button">Light or dark</button>
</header>
<main>
<div id="tabs" role="tablist" aria-label="Devices"></div>
<p id="empty">No device has a pool yet.</p>
<section id="panel" role="tabpanel" hidden>
<p id="device"></p>
<div class="scroll">
<table>
<caption class="hidden">Pools of the device</caption>
<thead><tr>
<th scope="col">Pool</th><th scope="col">Size</th><th scope="col">Active</th><th scope="col">Blocks</th>
<th scope="col">Peak</th><th scope="col">Limit</th><th scope="col">Memory</th><th scope="col">Alloc/s</th>
<th scope="col">Failures</th><th scope="col">Waiting</th><th scope="col">Corrupted</th>
</tr></thead>
<tbody id="pools"></tbody>
</table>
</div>
<section id="pool" aria-labelledby="pool-name" hidden>
<h2 id="pool-name"></h2>
<p id="facts"></p>
<div class="charts">
<div id="chart-active" role="img" aria-label="active blocks"></div>
<div id="chart-rate" role="img" aria-label="allocations a second"></div>
<div id="chart-waits" role="img" aria-label="calls waiting"></div>
</div>
<canvas id="map" role="img" tabindex="0" aria-label="Map of blocks" aria-describedby="block keys"></canvas>
<p id="block" role="status"></p>
<ul class="legend" aria-label="Blocks by state">
<li><i data-byte="0"></i>free <b id="count-free"></b></li>
<li><i data-byte="1"></i>in a magazine <b id="count-magazines"></b></li>
<li><i data-byte="65"></i>allocated <b id="count-allocated"></b></li>
<li><i data-byte="129"></i>in transit <b id="count-transit"></b></li>
<li><i data-byte="192"></i>quarantined <b id="count-quarantined"></b></li>
<li><i data-byte="193"></i>beyond the limit <b id="count-beyond"></b></li>
</ul>
<p id="keys">Arrow keys: move between blocks. n: next block in another state. + and -: cell size. 0: fit all.</p>
<div class="tables">
<div class="scroll">
<table>
<caption>Holders of blocks</caption>
<thead><tr><th scope="col">Allocated at</th><th scope="col">Worker</th><th scope="col">Blocks</th><th scope="col">Oldest</th></tr></thead>
<tbody id="holders"></tbody>
</table>
</div>
<div class="scroll">
<table>
<caption>Workers</caption>
<thead><tr><th scope="col">Worker</th><th scope="col">Thread</th><th scope="col">State</th><th scope="col">Held</th><th scope="col">Cached</th><th scope="col">In transit</th><th scope="col">Allocations</th></tr></thead>
<tbody id="workers"></tbody>
</table>
</div>
</div>
</section>
</section>
<section aria-labelledby="events-title">
<h2 id="events-title">Events</h2>
<ol id="events" aria-live="polite"></ol>
</section>
</main>
</body>
</html>
`;

export const CSS = `
:root { --back: #ffffff; --text: #1b1f24; --line: #d5dae0; --quiet: #5b6470; --accent: #1f6feb; color-scheme: light; }
@media (prefers-color-scheme: dark) {
  :root:not([data-theme=light]) { --back: #14171c; --text: #e4e8ed; --line: #323943; --quiet: #98a2ae; --accent: #6cb0ff; color-scheme: dark; }
}
:root[data-theme=dark] { --back: #14171c; --text: #e4e8ed; --line: #323943; --quiet: #98a2ae; --accent: #6cb0ff; color-scheme: dark; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 14px/1.45 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: 0 1.5em; align-items: baseline; padding: .6em 1.2em; border-bottom: 1px solid var(--line); }
header p { margin: 0; color: var(--quiet); }
#theme { margin-left: auto; }
h1, h2 { font-size: 1.15em; margin: .4em 0; }
main { padding: .6em 1.2em 2em; max-width: 1500px; }
button { font: inherit; color: inherit; background: none; border: 1px solid var(--line); border-radius: 4px; padding: .1em .6em; cursor: pointer; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px; }
[role=tablist] { display: flex; flex-wrap: wrap; gap: .3em; border-bottom: 1px solid var(--line); }
[role=tab] { border-bottom: none; border-radius: 4px 4px 0 0; padding: .3em .9em; }
[role=tab][aria-selected=true] { background: var(--accent); color: var(--back); border-color: var(--accent); }
#device, #facts, #keys { color: var(--quiet); margin: .5em 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .4em 0; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; font-weight: 400; }
th[scope=col] { color: var(--quiet); }
th:first-child { text-align: left; }
#holders th { white-space: normal; overflow-wrap: anywhere; }
button[aria-pressed=true] { border-color: var(--accent); font-weight: 600; }
.scroll { overflow-x: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(260px, 1fr)); gap: .8em; margin: .6em 0; }
.charts > div { min-width: 0; overflow: hidden; border: 1px solid var(--line); border-radius: 4px; }
.charts p { margin: .2em .6em 0; color: var(--quiet); font-variant-numeric: tabular-nums; }
#map { width: 100%; height: 420px; display: block; border: 1px solid var(--line); border-radius: 4px; }
#block { min-height: 1.5em; margin: .3em 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .2em 1.4em; list-style: none; padding: 0; margin: .4em 0; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border: 1px solid var(--line); vertical-align: -1px; }
.tables { display: flex; flex-wrap: wrap; gap: 1em 3em; }
#events { list-style: none; padding: 0; max-height: 16em; overflow-y: auto; font-variant-numeric: tabular-nums; }
`;
