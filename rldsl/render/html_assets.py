"""What the page of a plan brings along: its styles and its script. Neither fetches anything."""

STYLE = """
:root { --line: #d5d8dd; --dim: #667; --mark: #b45309; }
* { box-sizing: border-box; }
body { margin: 0; font: 14px/1.45 system-ui, sans-serif; color: #1b1f24; background: #fff; }
header, section { padding: 12px 24px; }
header { border-bottom: 1px solid var(--line); }
h1 { font-size: 20px; margin: 0; display: inline; }
h2 { font-size: 15px; margin: 8px 0; }
code, td.name, svg text { font-family: ui-monospace, monospace; }
.dim { color: var(--dim); }
.graph { display: grid; grid-template-columns: minmax(0, 3fr) minmax(300px, 2fr); gap: 16px; align-items: start; }
.scroll { overflow: auto; max-width: 100%; }
#panel { position: sticky; top: 8px; border: 1px solid var(--line); border-radius: 8px; padding: 12px 16px;
  max-height: 92vh; overflow: auto; overflow-wrap: anywhere; background: #fafbfc; }
#panel h3 { margin: 0; font: 600 15px ui-monospace, monospace; }
#panel dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 12px; margin: 8px 0 16px; }
#panel dt { color: var(--dim); }
#panel dd { margin: 0; }
svg text { font-size: 12px; fill: #1b1f24; }
svg .call { fill: #556; font-size: 11px; }
.node rect { stroke: #667; rx: 6px; }
.node { cursor: pointer; }
.node:focus { outline: none; }
.node:hover rect, .node:focus rect, .node.chosen rect { stroke: #111; stroke-width: 2.5px; }
.edge { fill: none; stroke: #9aa2ad; stroke-width: 1.3px; }
.edge.crosses { stroke: var(--mark); }
.edge.again { stroke-dasharray: 5 4; }
.lit .edge, .lit .node { opacity: .18; }
.lit .edge.on, .lit .node.on { opacity: 1; }
.frame { fill: #f6f7f9; stroke: #98a; stroke-dasharray: 5 4; rx: 8px; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 500; color: var(--dim); }
th, td { padding: 3px 10px 3px 0; border-bottom: 1px solid #eceef1; vertical-align: top; }
td.num { text-align: right; color: var(--dim); }
td.how b { color: var(--mark); }
[data-name] { cursor: pointer; }
td[data-name]:hover { text-decoration: underline; }
summary { cursor: pointer; font-weight: 600; margin: 6px 0; }
.why { color: var(--dim); font-style: italic; }
@media (max-width: 900px) { .graph { grid-template-columns: 1fr; } #panel { position: static; } }
"""

SCRIPT = """
const pages = JSON.parse(document.getElementById('pages').textContent);
const panel = document.getElementById('panel'), graph = document.getElementById('graph');
const nodes = [...document.querySelectorAll('.node')], edges = [...document.querySelectorAll('.edge')];
function put(parent, tag, text) {
  const made = parent.appendChild(document.createElement(tag));
  text.split('`').forEach((part, i) => {
    if (i % 2) made.appendChild(document.createElement('code')).textContent = part; else made.append(part);
  });
  return made;
}
function show(name) {
  if (!pages[name]) return;
  panel.replaceChildren();
  for (const page of pages[name]) {
    put(panel, 'h3', page.title);
    put(panel, 'div', page.kind + (page.place ? ' \\u00b7 ' + page.place : '')).className = 'dim';
    const list = panel.appendChild(document.createElement('dl'));
    for (const section of page.sections)
      section.lines.forEach((line, i) => { put(list, 'dt', i ? '' : section.heading); put(list, 'dd', line); });
  }
  nodes.forEach(n => n.classList.toggle('chosen', n.dataset.name === name));
}
function reach(start, from, to) {
  const seen = new Set([start]);
  for (let grown = true; grown;) {
    grown = false;
    for (const e of edges)
      if (seen.has(e.dataset[from]) && !seen.has(e.dataset[to])) { seen.add(e.dataset[to]); grown = true; }
  }
  return seen;
}
function light(node) {
  const up = reach(node.dataset.id, 'target', 'source'), down = reach(node.dataset.id, 'source', 'target');
  graph.classList.add('lit');
  nodes.forEach(n => n.classList.toggle('on', up.has(n.dataset.id) || down.has(n.dataset.id)));
  const near = e => [up, down].some(s => s.has(e.dataset.source) && s.has(e.dataset.target));
  edges.forEach(e => e.classList.toggle('on', near(e)));
}
for (const node of nodes) {
  node.addEventListener('mouseenter', () => { light(node); show(node.dataset.name); });
  node.addEventListener('mouseleave', () => graph.classList.remove('lit'));
  node.addEventListener('focus', () => show(node.dataset.name));
}
document.addEventListener('click', event => {
  const hit = event.target.closest('[data-name]');
  if (!hit) return;
  show(hit.dataset.name);
  if (!hit.classList.contains('node')) panel.scrollIntoView({ block: 'nearest' });
});
show(panel.dataset.first);
"""
