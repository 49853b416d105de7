'use strict';
// Data, address and table; page_plot.js, page_details.js and page_compare.js follow in the same script.
const board = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const state = { sort: 'result', up: false, chosen: [], row: '' };

function make(space, tag, properties, children) {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (name === 'on') for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, properties, ...children) => make(null, tag, properties, children);
const svg = (tag, properties, ...children) => make('http://www.w3.org/2000/svg', tag, properties, children);

// Values as text

const percent = (share) => (100 * share).toFixed(1);
const figureOf = (group) => $('figure').value || group.main;
const found = (row, figure) => row.figures[figure] || { mean: null };
const span = (interval) => (interval ? `${percent(interval[0])} to ${percent(interval[1])}` : '');
const meanText = (one) => (one.mean === null ? '' : percent(one.mean) + (one.sd == null ? '' : ` ± ${percent(one.sd)}`));
const short = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));
function costText(row, name) {
  const value = row.costs[name];
  if (value === null) return '';
  const scaled = value / board.costs[name].size;
  if (name === 'latency_ms' && row.latency_interval) {
    const [low, high] = row.latency_interval.map((ms) => ms.toPrecision(3));
    return `${scaled.toPrecision(3)} (${low} to ${high})`;
  }
  return short(scaled);
}
const some = (count, word) => `${count} ${word}${count === 1 ? '' : 's'}`;
const upper = (text) => text[0].toUpperCase() + text.slice(1);

// Ranks are shown where they tell at least two networks apart.
const ranked = (group, figure) => group.rows.filter((row) => (found(row, figure).ranks || []).length);
const ranksTell = (group, figure) => ranked(group, figure).some((row, _, rows) => {
  const [best, worst] = found(row, figure).ranks;
  return worst - best + 1 < rows.length;
});
const rankText = (group, row, figure) => (ranksTell(group, figure) ? [...new Set(found(row, figure).ranks)].join('–') : '');

// Columns of the table: key, title, text of a cell, value to sort by, whether more is better

const cost = (name) => ({ key: name, title: upper(`${board.costs[name].title}, ${board.costs[name].unit}`), hint: board.costs[name].label, text: (row) => costText(row, name), sort: (row) => row.costs[name], number: true });
const columns = [
  { key: 'rank', title: 'Rank', number: true, text: (row, f, group) => rankText(group, row, f),
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
];

// What is shown. Filters take rows away; a search also fades the other points of the plot.

const familyOf = (row) => row.family || 'other';
function fits(row) {
  const most = parseFloat($('most').value);
  const name = $('cost').value;
  const cheap = !(most >= 0) || (row.costs[name] !== null && row.costs[name] <= most * board.costs[name].size);
  return cheap && (!$('family').value || familyOf(row) === $('family').value);
}
function hit(group, row) {
  const words = $('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [row.network, row.model || '', familyOf(row), group.title, group.detail, row.source].join(' ').toLowerCase();
  return words.every((word) => text.includes(word));
}
const matches = (group, row) => fits(row) && hit(group, row);
function shownGroups() {
  return board.groups.filter((group) =>
    ['kind', 'task', 'dataset', 'detector'].every((name) => !$(name).value || group[name] === $(name).value)
    && group.rows.some((row) => matches(group, row)));
}
function sorted(group) {
  const figure = figureOf(group);
  const column = columns.find((one) => one.key === state.sort);
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
    group.rows.some((row) => matches(group, row) && column.text(row, figureOf(group), group))));
  const head = el('tr', { role: 'row' }, ...filled.map((column) => el('th', {
    role: 'columnheader', scope: 'col', class: column.number ? 'number' : null,
    'aria-sort': state.sort === column.key ? (state.up ? 'ascending' : 'descending') : 'none',
  }, el('button', { type: 'button', 'data-sort': column.key, title: column.hint, on: { click: () => sortBy(column) } }, column.title))));
  $('table').tHead.replaceChildren(head);
  for (const body of [...$('table').tBodies]) body.remove();
  let count = 0;
  for (const group of groups) {
    const figure = figureOf(group);
    const tied = ranked(group, figure).length > 1 && !ranksTell(group, figure) ? ' No two of its networks are told apart, so none has a rank.' : '';
    const title = el('tr', { role: 'row' }, el('th', { role: 'rowheader', class: 'title', colspan: filled.length, scope: 'rowgroup' },
      el('span', { class: `badge ${group.kind}` }, group.kind), el('b', {}, group.title),
      el('span', { class: 'detail' }, `${board.figures[figure]}; ${group.detail}.${tied}`)));
    const rows = sorted(group).map((row) => el('tr', { role: 'row', class: 'row', 'data-id': row.id },
      ...filled.map((column) => cell(group, row, column, figure))));
    count += rows.length;
    $('table').append(el('tbody', { role: 'rowgroup', class: group.kind, 'data-group': group.key }, title, ...rows));
  }
  $('nothing').hidden = count > 0;
  $('ranks').hidden = !filled.some((column) => column.key === 'rank');
  $('count').textContent = `Rows: ${count}, groups: ${groups.length}`;
}
function cell(group, row, column, figure) {
  if (column.key === 'network') {
    const choose = group.kind === 'measured' ? el('input', { type: 'checkbox', class: 'choose', title: 'compare', 'aria-label': `compare ${row.label}`,
      checked: state.chosen.includes(row.id), on: { change: () => chooseRow(row.id) } }) : null;
    return el('td', { role: 'cell', class: 'network' }, choose,
      el('button', { type: 'button', class: 'open', on: { click: () => openDetails(row) } }, row.label),
      row.added ? el('span', { class: 'badge added' }, 'added') : null,
      group.kind === 'published' ? el('span', { class: 'detail' }, row.source) : null);
  }
  const text = column.text(row, figure, group);
  const [value, interval] = (text || '–').split(' (');  // an interval of a cost has a line of its own
  return el('td', { role: 'cell', class: `${column.number ? 'number' : ''} ${text ? '' : 'empty'}`, 'data-label': column.title }, value,
    interval ? el('span', { class: 'detail' }, interval.replace(')', '')) : null);
}
function sortBy(column) {
  if (state.sort === column.key) state.up = !state.up;
  else Object.assign(state, { sort: column.key, up: !column.down });
  showTable();
  saveAddress();
  document.querySelector(`[data-sort="${column.key}"]`).focus();
}

// The address holds all choices that are not the first ones, so that it can be shared.

const CHOICES = ['search', 'kind', 'task', 'dataset', 'detector', 'family', 'figure', 'cost', 'most', 'group'];
const first = {};  // value of each choice when the page opens
function addressOf(row) {
  const words = new URLSearchParams();
  for (const id of CHOICES) if ($(id).value !== first[id]) words.set(id, $(id).value);
  if (state.sort !== 'result' || state.up) words.set('sort', (state.up ? '' : '-') + state.sort);
  if (state.chosen.length) words.set('compare', state.chosen.join(','));
  if (row) words.set('row', row);
  return words.toString();
}
function saveAddress() {
  const words = addressOf(state.row);
  history.replaceState(null, '', location.pathname + location.search + (words ? `#${words}` : ''));
}
function readAddress() {
  const words = new URLSearchParams(location.hash.slice(1));
  for (const id of CHOICES.filter((one) => one !== 'group')) $(id).value = words.get(id) ?? first[id];
  const sort = words.get('sort') || '-result';
  const known = columns.some((column) => column.key === sort.replace('-', ''));
  Object.assign(state, { sort: known ? sort.replace('-', '') : 'result', up: !sort.startsWith('-') });
  state.chosen = (words.get('compare') || '').split(',').filter((id) => groupOf(id));
  showTable();
  showChoices(words.get('group') ?? first.group);
  showPlot();
  showCompared();
  showDetails(words.get('row') || '');
}
const groupOf = (id) => board.groups.find((group) => group.rows.some((row) => row.id === id));
const rowOf = (id) => groupOf(id).rows.find((row) => row.id === id);

// Download of the shown rows

function csv() {
  const safe = (value) => {
    const text = `${value ?? ''}`;
    const plain = typeof value === 'string' && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;  // no formula
    return /[",\n\r]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  const head = ['kind', 'group', 'dataset', 'detector', 'network', 'family', 'figure', 'value', 'sd', 'seeds', 'seeds_low', 'seeds_high',
    'images_low', 'images_high', 'rank_best', 'rank_worst', ...Object.keys(board.costs), 'top1', 'source'];
  const lines = shownGroups().flatMap((group) => sorted(group).map((row) => {
    const figure = figureOf(group);
    const one = found(row, figure);
    const pair = (values) => (values && values.length ? values : ['', '']);
    return [group.kind, group.key, group.dataset, group.detector, row.label, row.family, figure, one.mean, one.sd, (row.seeds || []).join(' '),
      ...pair(one.seeds_interval), ...pair(one.images_interval), ...pair(one.ranks), ...Object.keys(board.costs).map((name) => row.costs[name]), row.top1, row.source];
  }));
  return [head, ...lines].map((line) => `${line.map(safe).join(',')}\n`).join('');
}
function download() {
  const link = el('a', { href: URL.createObjectURL(new Blob([csv()], { type: 'text/csv' })), download: 'leaderboard_rows.csv' });
  link.click();
  URL.revokeObjectURL(link.href);
}
