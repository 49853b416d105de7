// The plot

function showChoices(before) {
  const groups = shownGroups();
  const parts = ['measured', 'published'].map((kind) => {
    const options = groups.filter((group) => group.kind === kind).map((group) =>
      el('option', { value: group.key }, `${group.title} (${group.rows.length}) ${kind === 'measured' ? group.key : ''}`));
    return options.length ? el('optgroup', { label: kind }, ...options) : null;
  });
  $('group').replaceChildren(...parts.filter(Boolean));
  // First the measured group with the most networks, controls from random weights last.
  const kept = [groups.filter((group) => group.kind === 'measured' && !group.control), groups.filter((group) => group.kind === 'measured'), groups].find((list) => list.length) || [];
  const size = (group) => group.rows.filter((row) => matches(group, row)).length;
  const largest = kept.reduce((best, group) => (best && size(best) >= size(group) ? best : group), null);
  $('group').value = groups.some((group) => group.key === before) ? before : largest ? largest.key : '';
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
  $('caption').textContent = '';
  if (!group) return $('plot').replaceChildren(el('p', {}, 'No group fits.'));
  const figure = figureOf(group);
  const name = $('cost').value;
  const rows = group.rows.filter(fits);
  const points = rows.filter((row) => row.costs[name] > 0 && found(row, figure).mean !== null).map((row) => {
    const one = found(row, figure);
    return { row, x: row.costs[name] / board.costs[name].size, y: 100 * one.mean, sd: 100 * (one.sd || 0) };
  });
  const without = (lacks, what) => {
    const names = rows.filter(lacks).map((row) => row.label);
    return names.length ? ` Not drawn, since ${what} is not known: ${names.length > 8 ? `${names.slice(0, 8).join(', ')} and ${names.length - 8} more` : names.join(', ')}.` : '';
  };
  $('caption').textContent = `${points.some((point) => point.sd) ? 'Vertical lines: ± one standard deviation over seeds. ' : ''}`
    + `Dashed line: networks of the whole group that no other beats in both result and cost.${without((row) => !(row.costs[name] > 0), `their ${board.costs[name].title}`)}`
    + without((row) => row.costs[name] > 0 && found(row, figure).mean === null, `their ${board.figures[figure]}`);
  if (!points.length) return $('plot').replaceChildren(el('p', {}, `No network of this group has both ${board.figures[figure]} and ${board.costs[name].title}. Choose another cost or metric.`));

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
  const short = axis.length * 6.4 > box.right - box.left ? `${board.costs[name].title}, ${unit}` : axis;
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
  $('plot').replaceChildren(root, el('div', { id: 'tip', role: 'status', hidden: true }));
  placeNames(group, root, points, front, box, atX, atY);
}
function drawPoint(group, point, x, y, atY) {
  const { row } = point;
  const one = found(row, figureOf(group));
  const about = `${row.label}: ${meanText(one)} % at ${costText(row, $('cost').value)} ${board.costs[$('cost').value].unit}, ${row.source}`;
  const open = () => openDetails(row);
  const more = [['over seeds', span(one.seeds_interval)], ['over images', span(one.images_interval)]].filter(([, text]) => text);
  const tell = () => {
    const tip = $('tip');
    tip.replaceChildren(el('b', {}, row.label), el('div', {}, about.slice(row.label.length + 2)),
      ...more.map(([what, text]) => el('div', {}, `95 % ${what}: ${text}`)));
    tip.hidden = false;
    const left = Math.max(4, Math.min(x + 14, $('plot').clientWidth - tip.offsetWidth - 4));
    const above = y - tip.offsetHeight - 14;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : y + 16}px`;
  };
  const hide = () => { $('tip').hidden = true; };
  return svg('g', {
    class: `point ${group.kind} ${hit(group, row) ? '' : 'faded'}`, tabindex: 0, role: 'button', 'aria-label': about, 'data-id': row.id,
    on: { click: open, mouseenter: tell, focus: tell, mouseleave: hide, blur: hide,
      keydown: (event) => { if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); open(); } } },
  }, svg('circle', { class: 'reach', cx: x, cy: y, r: 14 }),
  point.sd ? svg('line', { class: 'spread', x1: x, x2: x, y1: atY(point.y - point.sd), y2: atY(point.y + point.sd) }) : null,
  group.kind === 'measured' ? svg('circle', { class: 'shape', cx: x, cy: y, r: 6 })
    : svg('path', { class: 'shape', d: `M${x},${y - 7}l7,7l-7,7l-7,-7z` }));
}
function placeNames(group, root, points, front, box, atX, atY) {
  // Only the hits of a search, at any place; else the frontier and the others, each where it touches nothing.
  const taken = points.flatMap(({ x, y, sd }) => [
    { l: atX(x) - 8, r: atX(x) + 8, t: atY(y) - 8, b: atY(y) + 8 },
    { l: atX(x) - 2, r: atX(x) + 2, t: atY(y + sd), b: atY(y - sd) }]);
  front.forEach(({ x, y }, i) => {
    const next = front[i + 1];
    const right = next ? atX(next.x) : box.right;
    taken.push({ l: atX(x), r: right, t: atY(y) - 1, b: atY(y) + 1 });
    if (next) taken.push({ l: right - 1, r: right + 1, t: atY(next.y), b: atY(y) });
  });
  const sought = $('search').value.trim() ? points.filter(({ row }) => hit(group, row)) : [];
  const isSought = sought.length > 0;
  for (const point of isSought ? sought : new Set([...front, ...points])) {
    const [x, y] = [atX(point.x), atY(point.y)];
    const text = svg('text', { class: isSought ? 'name sought' : 'name' }, point.row.label);
    root.append(text);
    const wide = text.getComputedTextLength();
    const spots = [[x + 11, y - 6], [x + 11, y + 15], [x - 11 - wide, y - 6], [x - 11 - wide, y + 15], [x - wide / 2, y - 14], [x - wide / 2, y + 24]];
    const inside = ([left]) => left > box.left && left + wide < box.right;
    const free = spots.find(([left, base]) => {
      const area = { l: left, r: left + wide, t: base - 10, b: base + 3 };
      const clear = taken.every((other) => area.r < other.l || area.l > other.r || area.b < other.t || area.t > other.b);
      return clear && area.l > box.left && area.r < box.right && area.t > box.top - 8 && area.b < box.bottom;
    });
    const spot = free || (isSought && (spots.find(inside) || spots[0]));
    if (!spot) { text.remove(); continue; }
    text.setAttribute('x', spot[0]);
    text.setAttribute('y', spot[1]);
    taken.push({ l: spot[0], r: spot[0] + wide, t: spot[1] - 10, b: spot[1] + 3 });
  }
}
