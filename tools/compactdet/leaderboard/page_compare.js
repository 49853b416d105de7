// Comparison of chosen networks, and the start of the page

function chooseRow(id) {
  state.chosen = state.chosen.includes(id) ? state.chosen.filter((one) => one !== id) : [...state.chosen, id];
  showCompared();
  saveAddress();
}
function pairOf(one, other, figure) {
  const of = (row) => new Map(row.seeds.map((seed, i) => [seed, found(row, figure).values[i]]));
  const [mine, theirs] = [of(one), of(other)];
  const seeds = [...mine.keys()].filter((seed) => mine.get(seed) != null && theirs.get(seed) != null);
  const gaps = seeds.map((seed) => mine.get(seed) - theirs.get(seed));
  if (!gaps.length) return { seeds, mean: null, half: null };
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
  const freedom = gaps.length - 1;
  const error = Math.sqrt(gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / freedom / gaps.length);
  return { seeds, mean, half: freedom ? error * board.t95[Math.min(freedom, board.t95.length) - 1] : null };
}
function showCompared() {
  const rows = state.chosen.map(rowOf);
  $('compared').hidden = !rows.length;
  if (!rows.length) return;
  const signed = (share) => (share < 0 ? '−' : '+') + percent(Math.abs(share));
  const ratio = (one, other, name) => (one.costs[name] && other.costs[name] ? `× ${(one.costs[name] / other.costs[name]).toPrecision(3)}` : '');
  const lines = [];
  const apart = [];
  rows.forEach((one, i) => rows.slice(i + 1).forEach((other) => {
    const group = groupOf(one.id);
    if (group !== groupOf(other.id)) return apart.push(`${one.label} and ${other.label}`);
    const pair = pairOf(one, other, figureOf(group));
    const interval = pair.half === null ? '' : `${signed(pair.mean - pair.half)} to ${signed(pair.mean + pair.half)}`;
    lines.push([`${one.label} − ${other.label}: ${board.figures[figureOf(group)]}`, pair.mean === null ? '' : signed(pair.mean), interval, pair.seeds.join(', '),
      ratio(one, other, 'network_macs'), ratio(one, other, 'detector_macs')]);
  }));
  $('pairs').replaceChildren(
    lines.length ? grid(['pair: metric', 'difference, points', '95 % interval', 'seeds', 'network MACs', 'detector MACs'], lines)
      : el('p', {}, `Chosen: ${rows.map((row) => row.label).join(', ')}. Choose another network of the same group.`),
    ...(apart.length ? [el('p', {}, `Not compared, since their protocols differ: ${apart.join('; ')}.`)] : []));
}

// Start

function showAll() {
  showTable();
  showChoices($('group').value);
  showPlot();
  showCompared();
  saveAddress();
}
const kinds = (kind) => board.groups.filter((group) => group.kind === kind);
const rowsOf = (kind) => kinds(kind).flatMap((group) => group.rows);
const options = (id, names) => $(id).append(...[...new Set(names)].sort((a, b) => a.localeCompare(b)).map((name) => el('option', { value: name }, name)));
$('summary').textContent = `${some(new Set(rowsOf('measured').map((row) => row.network)).size, 'network')} measured under ${some(kinds('measured').length, 'protocol')}, `
  + `beside ${some(rowsOf('published').length, 'result')} that papers print under ${some(kinds('published').length, 'setting')}.`;
$('rule').textContent = board.rule;
$('costs').textContent = `Costs: ${Object.values(board.costs).map(({ title, label, unit }) => `${title}: ${label}, ${unit}`).join('; ')}.`;
options('dataset', board.groups.map((group) => group.dataset));
options('detector', board.groups.map((group) => group.detector));
options('family', board.groups.flatMap((group) => group.rows.map(familyOf)));
const used = new Set(board.groups.flatMap((group) => group.figures));
$('figure').append(...Object.entries(board.figures).filter(([name]) => used.has(name)).map(([name, label]) => el('option', { value: name }, label)));
$('cost').append(...Object.entries(board.costs).filter(([name]) => board.groups.some((group) => group.rows.some((row) => row.costs[name] !== null)))
  .map(([name, { title, unit }]) => el('option', { value: name }, upper(`${title}, ${unit}`))));
showChoices('');
for (const id of CHOICES) first[id] = $(id).value;
for (const id of ['kind', 'task', 'dataset', 'detector', 'family', 'figure', 'cost']) $(id).addEventListener('change', showAll);
for (const id of ['search', 'most']) $(id).addEventListener('input', showAll);
$('group').addEventListener('change', () => { showPlot(); saveAddress(); });
$('controls').addEventListener('submit', (event) => event.preventDefault());
$('download').addEventListener('click', download);
$('reset').addEventListener('click', () => {
  history.replaceState(null, '', location.pathname + location.search);
  readAddress();
});
$('forget').addEventListener('click', () => {
  state.chosen = [];
  showTable();
  showCompared();
  saveAddress();
});
$('details').addEventListener('close', () => {
  state.row = '';
  saveAddress();
});
addEventListener('hashchange', readAddress);
let lastWidth = 0;
new ResizeObserver(() => {
  if ($('plot').clientWidth === lastWidth) return;
  lastWidth = $('plot').clientWidth;
  showPlot();
}).observe($('plot'));
readAddress();
