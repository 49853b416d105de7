'use strict';
const board = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const state = { sort: 'rank', up: true };

function make(space, tag, properties, children) {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name === 'on') for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, properties, ...children) => make(null, tag, properties, children);
const svg = (tag, properties, ...children) => make('http://www.w3.org/2000/svg', tag, properties, children);

// Figures as text

const percent = (share) => (100 * share).toFixed(1);
const figureOf = (group) => $('figure').value || group.main;
const found = (row, figure) => row.figures[figure] || { mean: null };
const span = (interval) => (interval ? `${percent(interval[0])} to ${percent(interval[1])}` : '');
const meanText = (one) => (one.mean === null ? '' : percent(one.mean) + (one.sd == null ? '' : ` ± ${percent(one.sd)}`));
function costText(row, name) {
  const value = row.costs[name];
  if (value === null) return '';
  const scaled = value / board.costs[name].size;
  if (name === 'latency_ms' && row.latency_interval) {
    const [low, high] = row.latency_interval.map((ms) => ms.toPrecision(3));
    return `${scaled.toPrecision(3)} (${low} to ${high})`;
  }
  return scaled >= 100 ? scaled.toFixed(0) : scaled.toPrecision(3);
}
function rankText(one) {
  return [...new Set(one.ranks)].join('–');
}

// Columns of the table: key, title, text of a cell, number to sort by, whether more is better

const upper = (text) => text[0].toUpperCase() + text.slice(1);
const cost = (name) => ({ key: name, title: upper(`${board.costs[name].title}, ${board.costs[name].unit}`), hint: board.costs[name].label, text: (row) => costText(row, name), sort: (row) => row.costs[name], number: true });
const columns = [
  { key: 'rank', title: 'Rank', number: true, text: (row, f) => rankText(found(row, f)),
    sort: (row, f) => (found(row, f).ranks || []).reduce((sum, rank) => (sum ?? 0) + rank, null) },
  { key: 'network', title: 'Network', sort: (row) => row.network.toLowerCase() },
  { key: 'result', title: 'Result, %', number: true, down: true, text: (row, f) => meanText(found(row, f)), sort: (row, f) => found(row, f).mean },
  { key: 'seeds', title: 'Seeds', number: true, down: true, text: (row) => (row.seeds ? `${row.seeds.length}` : ''), sort: (row) => (row.seeds ? row.seeds.length : null) },
  { key: 'over_seeds', title: '95 % over seeds', number: true, down: true, text: (row, f) => span(found(row, f).seeds_interval),
    sort: (row, f) => (found(row, f).seeds_interval || [null])[0] },
  { key: 'over_images', title: '95 % over images', number: true, down: true, text: (row, f) => span(found(row, f).images_interval),
    sort: (row, f) => (found(row, f).images_interval || [null])[0] },
  ...Object.keys(board.costs).map(cost),
  { key: 'top1', title: 'Pretrained top-1, %', number: true, down: true, text: (row) => (row.top1 === null ? '' : percent(row.top1)), sort: (row) => row.top1 },
  { key: 'source', title: 'Source', text: (row) => row.source, sort: (row) => row.source },
];

// What is shown

function matches(group, row) {
  const words = $('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [row.network, row.model || '', group.title, group.detail, row.source].join(' ').toLowerCase();
  return words.every((word) => text.includes(word));
}
function shownGroups() {
  return board.groups.filter((group) =>
    (!$('kind').value || group.kind === $('kind').value)
    && (!$('task').value || group.task === $('task').value)
    && (!$('dataset').value || group.dataset === $('dataset').value)
    && group.rows.some((row) => matches(group, row)));
}
function sorted(group) {
  const column = columns.find((one) => one.key === state.sort);
  const figure = figureOf(group);
  const keyed = group.rows.filter((row) => matches(group, row)).map((row, place) => ({ row, place, value: column.sort(row, figure) }));
  const sign = state.up ? 1 : -1;
  keyed.sort((a, b) => {
    if ((a.value === null) !== (b.value === null)) return a.value === null ? 1 : -1;  // what is missing comes last
    return (a.value < b.value ? -sign : a.value > b.value ? sign : 0) || a.place - b.place;
  });
  return keyed.map((one) => one.row);
}

function showTable() {
  const groups = shownGroups();
  const filled = columns.filter((column) => !column.text || groups.some((group) =>
    group.rows.some((row) => matches(group, row) && column.text(row, figureOf(group)))));
  const head = el('tr', { role: 'row' }, ...filled.map((column) => el('th', {
    role: 'columnheader', scope: 'col', class: column.number ? 'number' : null,
    'aria-sort': state.sort === column.key ? (state.up ? 'ascending' : 'descending') : 'none',
  }, el('button', { type: 'button', 'data-sort': column.key, title: column.hint, on: { click: () => sortBy(column) } }, column.title))));
  $('table').tHead.replaceChildren(head);
  for (const body of [...$('table').tBodies]) body.remove();
  let count = 0;
  for (const group of groups) {
    const figure = figureOf(group);
    const title = el('tr', { role: 'row' }, el('th', { role: 'rowheader', class: 'title', colspan: filled.length, scope: 'rowgroup' },
      el('span', { class: `badge ${group.kind}` }, group.kind), el('b', {}, group.title),
      el('span', { class: 'detail' }, `${board.figures[figure]}; ${group.detail}`)));
    const rows = sorted(group).map((row) => el('tr', { role: 'row', class: 'row', 'data-id': row.id },
      ...filled.map((column) => cell(group, row, column, figure))));
    count += rows.length;
    $('table').append(el('tbody', { role: 'rowgroup', class: group.kind, 'data-group': group.key }, title, ...rows));
  }
  $('nothing').hidden = count > 0;
  $('count').textContent = `Rows: ${count}, groups: ${groups.length}`;
}
function cell(group, row, column, figure) {
  if (column.key === 'network') {
    return el('td', { role: 'cell', class: 'network' },
      el('button', { type: 'button', class: 'open', on: { click: () => openDetails(row) } }, row.label),
      row.added ? el('span', { class: 'badge added' }, 'added') : null);
  }
  const text = column.text(row, figure);
  const said = column.key === 'source' && text === 'measured';  // by the group's badge
  const kind = `${column.number ? 'number' : ''} ${text && !said ? '' : 'empty'} ${column.key === 'source' ? 'source' : ''}`;
  return el('td', { role: 'cell', class: kind, 'data-label': column.title }, text || '–');
}
function sortBy(column) {
  if (state.sort === column.key) state.up = !state.up;
  else Object.assign(state, { sort: column.key, up: !column.down });
  showTable();
  document.querySelector(`[data-sort="${column.key}"]`).focus();
}

// The plot

function showChoices() {
  const groups = shownGroups();
  const before = $('group').value;
  const parts = ['measured', 'published'].map((kind) => {
    const options = groups.filter((group) => group.kind === kind).map((group) =>
      el('option', { value: group.key }, `${group.title} (${group.rows.length}) ${kind === 'measured' ? group.key : ''}`));
    return options.length ? el('optgroup', { label: kind }, ...options) : null;
  });
  $('group').replaceChildren(...parts.filter(Boolean));
  const measured = groups.filter((group) => group.kind === 'measured');
  const size = (group) => group.rows.filter((row) => matches(group, row)).length;
  const first = (measured.length ? measured : groups).reduce((best, group) => (best && size(best) >= size(group) ? best : group), null);
  $('group').value = groups.some((group) => group.key === before) ? before : first ? first.key : '';
}
function ticks(low, high, num) {
  const rough = (high - low) / num || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const list = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) list.push(i * step);
  return list;
}
function logTicks(low, high) {
  const list = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const factor of [1, 2, 5]) if (factor * 10 ** power >= low && factor * 10 ** power <= high) list.push(factor * 10 ** power);
  }
  return list.length > 2 ? list : ticks(low, high, 8).filter((value) => value > 0);
}
function showPlot() {
  const group = board.groups.find((one) => one.key === $('group').value);
  $('caption').textContent = 'A point names its figures; a click or Enter opens its record.';
  if (!group) return $('plot').replaceChildren(el('p', {}, 'No group fits.'));
  const figure = figureOf(group);
  const available = Object.keys(board.costs).filter((name) => group.rows.some((row) => row.costs[name] !== null));
  for (const option of $('cost').options) option.disabled = !available.includes(option.value);
  if (!available.includes($('cost').value)) $('cost').value = available[0] || '';
  const name = $('cost').value;
  const points = group.rows.filter((row) => row.costs[name] > 0 && found(row, figure).mean !== null).map((row) => {
    const one = found(row, figure);
    return { row, x: row.costs[name] / board.costs[name].size, y: 100 * one.mean, sd: 100 * (one.sd || 0) };
  });
  if (!points.length) return $('plot').replaceChildren(el('p', {}, 'No network of this group has both this figure and this cost.'));

  const width = $('plot').clientWidth;
  const height = width < 600 ? 340 : 420;
  const box = { left: 52, right: width - 18, top: 18, bottom: height - 50 };
  const xs = points.map((point) => point.x);
  const lows = [Math.min(...xs) / 1.25, Math.max(...xs) * 1.25];
  const ends = points.flatMap((point) => [point.y - point.sd, point.y + point.sd]);
  const slack = Math.max(1, 0.12 * (Math.max(...ends) - Math.min(...ends)));
  const range = [Math.max(0, Math.min(...ends) - slack), Math.min(100, Math.max(...ends) + slack)];
  const atX = (x) => box.left + (box.right - box.left) * Math.log(x / lows[0]) / Math.log(lows[1] / lows[0]);
  const atY = (y) => box.bottom - (box.bottom - box.top) * (y - range[0]) / (range[1] - range[0]);
  const line = (x1, y1, x2, y2, kind) => svg('line', { x1, y1, x2, y2, class: kind });
  const round = (value) => Number(value.toPrecision(6)).toString();

  const { label, unit } = board.costs[name];
  const axis = `${label}, ${unit}`;
  const short = axis.length * 6.4 > box.right - box.left ? `${label.split(/[,(]/)[0].trim()}, ${unit}` : axis;
  const root = svg('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'group', 'aria-label': `${board.figures[figure]} against ${axis}, ${group.title}` },
    ...logTicks(...lows).flatMap((x) => [line(atX(x), box.top, atX(x), box.bottom, 'grid'),
      svg('text', { x: atX(x), y: box.bottom + 18, 'text-anchor': 'middle' }, round(x))]),
    ...ticks(...range, 6).flatMap((y) => [line(box.left, atY(y), box.right, atY(y), 'grid'),
      svg('text', { x: box.left - 8, y: atY(y) + 4, 'text-anchor': 'end' }, round(y))]),
    svg('text', { x: (box.left + box.right) / 2, y: height - 10, 'text-anchor': 'middle' }, short),
    svg('text', { x: 14, y: (box.top + box.bottom) / 2, 'text-anchor': 'middle', transform: `rotate(-90 14 ${(box.top + box.bottom) / 2})` }, `${board.figures[figure]}, %`));

  const front = ((group.frontiers[name] || {})[figure] || []).map((id) => points.find((point) => point.row.id === id)).filter(Boolean);
  if (front.length) {
    const path = front.map((point, i) => (i ? `H${atX(point.x)}V${atY(point.y)}` : `M${atX(point.x)},${atY(point.y)}`));
    root.append(svg('path', { class: 'front', d: `${path.join('')}H${box.right}` }));
  }
  for (const point of points) root.append(drawPoint(group, point, atX(point.x), atY(point.y), atY));
  $('plot').replaceChildren(root);
  placeNames(root, points, front, box, atX, atY);
}
function drawPoint(group, point, x, y, atY) {
  const { row } = point;
  const about = `${row.label}: ${meanText(found(row, figureOf(group)))} % at ${costText(row, $('cost').value)} ${board.costs[$('cost').value].unit}, ${row.source}`;
  const open = () => openDetails(row);
  const tell = () => { $('caption').textContent = about; };
  return svg('g', {
    class: `point ${group.kind} ${matches(group, row) ? '' : 'faded'}`, tabindex: 0, role: 'button', 'aria-label': about, 'data-id': row.id,
    on: { click: open, mouseenter: tell, focus: tell,
      keydown: (event) => { if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); open(); } } },
  }, svg('title', {}, about), svg('circle', { class: 'reach', cx: x, cy: y, r: 14 }),
  point.sd ? svg('line', { class: 'spread', x1: x, x2: x, y1: atY(point.y - point.sd), y2: atY(point.y + point.sd) }) : null,
  group.kind === 'measured' ? svg('circle', { class: 'shape', cx: x, cy: y, r: 6 })
    : svg('path', { class: 'shape', d: `M${x},${y - 7}l7,7l-7,7l-7,-7z` }));
}
function placeNames(root, points, front, box, atX, atY) {
  // Names of the frontier first, then the others, each where it touches no name, mark or line.
  const taken = points.flatMap(({ x, y, sd }) => [
    { l: atX(x) - 8, r: atX(x) + 8, t: atY(y) - 8, b: atY(y) + 8 },
    { l: atX(x) - 2, r: atX(x) + 2, t: atY(y + sd), b: atY(y - sd) }]);
  front.forEach(({ x, y }, i) => {
    const next = front[i + 1];
    const right = next ? atX(next.x) : box.right;
    taken.push({ l: atX(x), r: right, t: atY(y) - 1, b: atY(y) + 1 });
    if (next) taken.push({ l: right - 1, r: right + 1, t: atY(next.y), b: atY(y) });
  });
  for (const point of [...front, ...points.filter((one) => !front.includes(one))]) {
    const [x, y] = [atX(point.x), atY(point.y)];
    const text = svg('text', { class: 'name' }, point.row.label);
    root.append(text);
    const wide = text.getComputedTextLength();
    const spots = [[x + 11, y - 6], [x + 11, y + 15], [x - 11 - wide, y - 6], [x - 11 - wide, y + 15], [x - wide / 2, y - 14], [x - wide / 2, y + 24]];
    const spot = spots.find(([left, base]) => {
      const area = { l: left, r: left + wide, t: base - 10, b: base + 3 };
      const clear = taken.every((other) => area.r < other.l || area.l > other.r || area.b < other.t || area.t > other.b);
      return clear && area.l > box.left && area.r < box.right && area.t > box.top - 8 && area.b < box.bottom;
    });
    if (!spot) { text.remove(); continue; }
    text.setAttribute('x', spot[0]);
    text.setAttribute('y', spot[1]);
    taken.push({ l: spot[0], r: spot[0] + wide, t: spot[1] - 10, b: spot[1] + 3 });
  }
}

// One network's details

const list = (pairs) => el('dl', {}, ...pairs.filter(([, value]) => value).flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
const grid = (head, rows) => el('div', { class: 'tablebox' }, el('table', {},
  el('thead', {}, el('tr', {}, ...head.map((text, i) => el('th', { scope: 'col', class: i ? 'number' : null }, text)))),
  el('tbody', {}, ...rows.map((cells) => el('tr', {}, ...cells.map((text, i) => el('td', { class: i ? 'number' : null }, text || '–')))))));
const folded = (title, value) => el('details', {}, el('summary', {}, title), el('pre', { tabindex: 0 }, JSON.stringify(value, null, 2)));

function openDetails(row) {
  location.hash = row.id;
  showDetails();
}
let shown = '';
function showDetails() {
  const id = location.hash.slice(1);
  if (id === shown) return;
  shown = id;
  const group = board.groups.find((one) => one.rows.some((row) => row.id === id));
  if (!group) return $('details').open && $('details').close();
  const row = group.rows.find((one) => one.id === id);
  const figures = group.figures.filter((figure) => found(row, figure).mean !== null);
  const classes = Object.entries(row.class_ap);
  const names = classes.length ? Object.keys(classes[0][1]) : [];
  const costs = Object.entries(board.costs).filter(([name]) => row.costs[name] !== null)
    .map(([name, { label, unit }]) => [label, `${costText(row, name)} ${unit}`]);
  const parts = [
    el('div', { class: 'top' }, el('h2', { id: 'details-title' }, row.label),
      el('button', { type: 'button', class: 'close', on: { click: () => $('details').close() } }, 'Close')),
    el('p', {}, el('span', { class: `badge ${group.kind}` }, group.kind), group.title),
    list([['printed as', row.model], ['source', row.source], ['setting', group.detail], ['note', row.note], ['starts from', row.weights],
      ['top-1 accuracy', row.top1 === null ? '' : `${percent(row.top1)} %`], ['machine', row.machine], ...costs]),
    el('h3', {}, 'Figures, %'),
    grid(['', 'mean', 'rank', 'over seeds, 95 %', 'over images, 95 %', 'each seed'], figures.map((figure) => {
      const one = found(row, figure);
      const each = row.seeds ? one.values.map((value, i) => `${row.seeds[i]}: ${percent(value)}`).join(', ') : '';
      return [board.figures[figure], meanText(one), rankText(one), span(one.seeds_interval), span(one.images_interval), each];
    })),
  ];
  if (names.length) {
    parts.push(el('h3', {}, 'AP by class, %'), grid(['class', ...classes.map(([figure]) => board.figures[figure])],
      names.map((name) => [name, ...classes.map(([, values]) => (values[name] == null ? '' : percent(values[name])))])));
  }
  if (group.protocol) {
    parts.push(el('h3', {}, 'Records'), ...row.records.map((run) =>
      folded(`seed ${run.record.seed}: run ${run.record.keys.run}, ${run.record.created_utc}, ${run.path}`, run.record)),
    el('h3', {}, 'Protocol'), folded(`${group.key}: all that is equal in the runs of this group`, group.protocol));
  }
  $('details').replaceChildren(...parts);
  if (!$('details').open) $('details').showModal();
  $('details').scrollTop = 0;
}

// Start

function showAll() {
  showTable();
  showChoices();
  showPlot();
}
const kinds = (kind) => board.groups.filter((group) => group.kind === kind);
const rowsOf = (kind) => kinds(kind).reduce((sum, group) => sum + group.rows.length, 0);
const some = (count, word) => `${count} ${word}${count === 1 ? '' : 's'}`;
$('summary').textContent = `${some(rowsOf('measured'), 'network')} measured under ${some(kinds('measured').length, 'protocol')}, `
  + `beside ${some(rowsOf('published'), 'result')} that papers print under ${some(kinds('published').length, 'setting')}.`;
$('rule').textContent = board.rule;
$('costs').textContent = `Costs: ${Object.values(board.costs).map(({ title, label, unit }) => `${title}: ${label}, ${unit}`).join('; ')}.`;
$('dataset').append(...[...new Set(board.groups.map((group) => group.dataset))].map((name) => el('option', { value: name }, name)));
const used = new Set(board.groups.flatMap((group) => group.figures));
$('figure').append(...Object.entries(board.figures).filter(([name]) => used.has(name)).map(([name, label]) => el('option', { value: name }, label)));
$('cost').append(...Object.entries(board.costs).map(([name, { label }]) => el('option', { value: name }, label)));
for (const id of ['kind', 'task', 'dataset', 'figure']) $(id).addEventListener('change', showAll);
$('search').addEventListener('input', showAll);
$('controls').addEventListener('submit', (event) => event.preventDefault());
for (const id of ['group', 'cost']) $(id).addEventListener('change', showPlot);
$('details').addEventListener('close', () => {
  shown = '';
  history.replaceState(null, '', location.pathname + location.search);
});
addEventListener('hashchange', showDetails);
let lastWidth = 0;
new ResizeObserver(() => {
  if ($('plot').clientWidth === lastWidth) return;
  lastWidth = $('plot').clientWidth;
  showPlot();
}).observe($('plot'));
showAll();
showDetails();
