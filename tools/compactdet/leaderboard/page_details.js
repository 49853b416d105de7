// One network's details

const list = (pairs) => el('dl', {}, ...pairs.filter(([, value]) => value).flatMap(([name, value]) => [el('dt', {}, name), el('dd', {}, value)]));
const grid = (head, rows) => el('div', { class: 'tablebox' }, el('table', {},
  el('thead', {}, el('tr', {}, ...head.map((text, i) => el('th', { scope: 'col', class: i ? 'number' : null }, text)))),
  el('tbody', {}, ...rows.map((cells) => el('tr', {}, ...cells.map((text, i) => el('td', { class: i ? 'number' : null }, text || '–')))))));
const folded = (title, value) => el('details', {}, el('summary', {}, title), el('pre', { tabindex: 0 }, JSON.stringify(value, null, 2)));

function openDetails(row) {
  location.hash = addressOf(row.id);
  showDetails(row.id);
}
function showDetails(id) {
  if (id === state.row) return;
  state.row = id;
  const group = groupOf(id);
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
      return [board.figures[figure], meanText(one), rankText(group, row, figure), span(one.seeds_interval), span(one.images_interval), each];
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
