'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const NAMES = ['A', 'B'];
  const two = data.runs.length === 2;
  const at = (id) => document.getElementById(id);
  const SVG = 'http://www.w3.org/2000/svg';

  // Text only ever becomes text: what bags hold is a stranger's.
  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  function draw(tag, attributes = {}, ...children) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const percent = (share) => `${(100 * share).toFixed(share > 0.9995 || share === 0 ? 0 : 1)} %`;
  const axis = (share) => `${(100 * share).toFixed(0)} %`;
  const badge = (run) => make('b', { class: `badge ${NAMES[run]}` }, NAMES[run]);

  const pictures = data.pictures;
  const first = data.times[0] || 0;
  const last = data.times[data.times.length - 1] || 0;
  const span = Math.max(last - first, 1e-9);
  let current = 0;

  // The stage: for each run a picture and, where there is one, a grid.
  function view(caption, ratio) {
    const picture = make('div', { class: 'picture' });
    picture.style.aspectRatio = ratio;
    const title = make('figcaption');
    if (caption) title.append(...caption);
    return { picture, title, figure: make('figure', { class: 'view' }, title, picture) };
  }
  const sized = pictures.find((each) => each.width) || { width: 4, height: 3 };
  const gridOf = (run) => pictures.map((each) => each.runs[run].grid).find(Boolean);
  const views = data.runs.map((_, run) => {
    const grid = gridOf(run);
    const head = two ? [badge(run), ' '] : [];
    const photo = view([...head, make('span')], `${sized.width} / ${sized.height}`);
    return {
      photo,
      grid: grid && view([...(two ? [badge(run), ' '] : []), 'Grid: light free, red occupied, grey unseen'], `${grid.columns} / ${grid.rows}`),
    };
  });
  const stage = at('stage');
  stage.append(...views.map((each) => each.photo.figure));
  const grids = views.filter((each) => each.grid).map((each) => each.grid.figure);
  at('side').prepend(...grids);
  at('player').className = two ? 'two' : '';

  function showBoxes(boxes, width, height) {
    const svg = draw('svg', { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' });
    const size = Math.max(8, width / 48);
    const taken = [];
    const labels = [];
    for (const [x1, y1, x2, y2, score, name] of boxes) {
      const box = { x: x1 * width, y: y1 * height, width: (x2 - x1) * width, height: (y2 - y1) * height };
      svg.append(
        draw('rect', { ...box, fill: 'none', stroke: '#fff', 'stroke-width': 4 }),
        draw('rect', { ...box, fill: 'none', stroke: '#111', 'stroke-width': 1.6 }),
      );
      // A label goes above, below or into its box, where no better box's label stands yet.
      const text = `${name} ${score.toFixed(2)}`;
      const wide = text.length * size * 0.58, tall = size * 1.15;
      const left = Math.max(0, Math.min(box.x, width - wide));
      const top = [box.y - tall, box.y + box.height, box.y].find((y) => y >= 0 && y + tall <= height && !taken.some(
        (other) => left < other.x + other.wide && other.x < left + wide && y < other.y + tall && other.y < y + tall));
      if (top === undefined) continue;
      taken.push({ x: left, y: top, wide });
      labels.push(draw('text', { x: left + 1, y: top + size * 0.9, 'font-size': size, 'font-weight': 600, fill: '#111', stroke: '#fff', 'stroke-width': size / 4, 'paint-order': 'stroke', 'font-family': 'sans-serif' }, text));
    }
    svg.append(...labels);
    return svg;
  }

  function showPicture(place, each, run, alpha, wrong, boxes) {
    const said = each.runs[run];
    const parts = [];
    if (each.photo) parts.push(make('img', { src: each.photo, alt: 'Camera image' }));
    if (said.mask) {
      const mask = make('img', { src: said.mask, class: 'pixels', alt: 'Mask' });
      mask.style.opacity = each.photo ? alpha : 1;
      parts.push(mask);
    }
    if (wrong && said.wrong) parts.push(make('img', { src: said.wrong, class: 'pixels', alt: 'Where it is wrong' }));
    if (boxes && said.boxes.length) parts.push(showBoxes(said.boxes, each.width, each.height));
    if (data.runs[run].missing.includes(each.at)) {
      parts.push(make('p', {}, 'No result for this frame'));
    } else if (!parts.length) parts.push(make('p', {}, 'Nothing to show of this frame'));
    place.replaceChildren(...parts);
  }

  function showGrid(place, grid) {
    if (!grid) {
      place.replaceChildren(make('p', {}, 'No grid for this frame'));
      return;
    }
    const svg = draw('svg', { viewBox: `0 0 ${grid.columns} ${grid.rows}`, 'aria-hidden': 'true' });
    const unit = Math.max(grid.columns, grid.rows) / 100;
    const reach = Math.max(grid.rows, grid.columns / 2) * grid.metres;
    const step = [0.5, 1, 2, 5, 10, 20, 50, 100].find((each) => reach / each <= 5) || 200;
    for (let ring = step; ring <= reach; ring += step) {
      const radius = ring / grid.metres;
      svg.append(draw('circle', { cx: grid.x, cy: grid.y, r: radius, fill: 'none', stroke: '#555', 'stroke-width': unit * 0.3 }));
      if (grid.y - radius > unit * 4) {
        svg.append(draw('text', { x: grid.x + unit, y: grid.y - radius + unit * 4, 'font-size': unit * 4, fill: '#111', stroke: '#fff', 'stroke-width': unit * 0.9, 'paint-order': 'stroke', 'font-family': 'sans-serif' }, `${ring} m`));
      }
    }
    const robot = grid.ahead
      ? draw('path', { d: `M ${grid.x} ${grid.y - unit * 4} l ${unit * 2.6} ${unit * 6} l ${-unit * 2.6} ${-unit * 1.6} l ${-unit * 2.6} ${unit * 1.6} z`, fill: '#1450dc', stroke: '#fff', 'stroke-width': unit * 0.5 })
      : draw('circle', { cx: grid.x, cy: grid.y, r: unit * 2, fill: '#1450dc', stroke: '#fff', 'stroke-width': unit * 0.5 });
    svg.append(robot);
    place.replaceChildren(make('img', { src: grid.picture, class: 'pixels', alt: 'Grid: light is free, red occupied, grey unseen' }), svg);
  }

  // Curves: one x axis, the recording's time; each has a cursor.
  const cursors = [];
  const x = (time) => (1000 * (time - first)) / span;
  function nearest(time) {
    let best = 0;
    pictures.forEach((each, i) => {
      if (Math.abs(data.times[each.at] - time) < Math.abs(data.times[pictures[best].at] - time)) best = i;
    });
    return best;
  }
  function chart(title, about, kind, low, high, shapes) {
    const svg = draw('svg', { viewBox: '0 0 1000 100', preserveAspectRatio: 'none', class: kind, role: 'img', 'aria-label': `${title}. ${about}` }, ...shapes);
    const cursor = draw('line', { y1: 0, y2: 100, class: 'cursor' });
    svg.append(cursor);
    cursors.push(cursor);
    const go = (event) => {
      const box = svg.getBoundingClientRect();
      show(nearest(first + (span * (event.clientX - box.left)) / box.width));
    };
    svg.addEventListener('click', go);
    svg.addEventListener('pointermove', (event) => { if (event.buttons === 1) go(event); });
    const ends = make('div', { class: 'y' }, make('span', {}, high), make('span', {}, low));
    const times = make('div', { class: 'x' }, make('span', {}, '0 s'), make('span', {}, `${(span / 2).toFixed(1)} s`), make('span', {}, `${span.toFixed(1)} s`));
    const heading = make('h3', {}, ...(Array.isArray(title) ? title : [title]), ' ', make('small', {}, about));
    at('curves').append(make('div', { class: 'chart' }, heading, make('div', { class: 'plot' }, ends, svg, times)));
  }
  function line(times, values, low, high, kind) {
    let path = '', open = false;
    values.forEach((value, i) => {
      if (value === null) { open = false; return; }
      path += `${open ? 'L' : 'M'}${x(times[i]).toFixed(1)} ${(100 - (100 * (value - low)) / (high - low)).toFixed(2)}`;
      open = true;
    });
    if (values.filter((value) => value !== null).length === 1) path += 'h4';
    return draw('path', { d: path, class: `curve ${kind}` });
  }
  const some = (values) => values.some((value) => value !== null);
  function area(run) {
    const share = data.runs[run].share;
    const known = data.classes.filter((each) => share[each.name]);
    const shown = data.times.map((_, i) => i).filter((i) => known.length && share[known[0].name][i] !== null);
    let below = shown.map(() => 0);
    return known.map((each) => {
      const above = below.map((value, k) => value + share[each.name][shown[k]]);
      const edge = (values) => shown.map((i, k) => `${x(data.times[i]).toFixed(1)} ${(100 - 100 * values[k]).toFixed(2)}`);
      const path = `M${edge(above).join('L')}L${edge(below).reverse().join('L')}Z`;
      below = above;
      return draw('path', { d: path, fill: each.colour }, draw('title', {}, document.createTextNode(each.name)));
    });
  }
  function curves(name, title, about) {
    const all = data.runs.flatMap((run) => run[name]).filter((value) => value !== null);
    if (!all.length) return;
    const low = Math.floor(Math.min(...all) * 10) / 10;
    const shapes = data.runs.map((run, i) => line(data.times, run[name], low, 1, NAMES[i]));
    chart(title, about, '', axis(low), '100 %', shapes);
  }
  data.runs.forEach((run, i) => {
    if (Object.keys(run.share).length) chart(two ? ['Class share ', badge(i)] : 'Class share', 'of the picture', 'area', '0 %', '100 %', area(i));
  });
  curves('confidence', 'Mean confidence', 'what the model says of itself');
  curves('right', 'Pixels that are right', 'of the labelled ones');
  if (some(data.agreed)) {
    const low = Math.floor(Math.min(...data.agreed.filter((value) => value !== null)) * 10) / 10;
    chart('A and B agree', 'share of pixels', '', axis(low), '100 %', [line(data.times, data.agreed, low, 1, 'both')]);
  }
  const told = data.runs.flatMap((run, i) => run.latency.map((each) => ({ ...each, run: i })));
  const nodes = [...new Set(told.map((each) => each.node))];
  nodes.forEach((node) => {
    const rows = told.filter((each) => each.node === node);
    const top = Math.max(...rows.flatMap((each) => each.p95)) || 1;
    chart(`Latency of ${node}`, 'median, and 95th percentile dashed', '', '0', `${top.toFixed(0)} ms`, rows.flatMap((each) => [
      line(each.time, each.p50, 0, top, NAMES[each.run]), line(each.time, each.p95, 0, top, `${NAMES[each.run]} dash`),
    ]));
  });
  if (!nodes.length) {
    at('curves').append(make('p', { class: 'hint' }, 'Latency: not recorded. Live recordings with /diagnostics have it; mnv2 benchmark measures it.'));
  }
  data.runs.forEach((run, i) => {
    if (run.missing.length) {
      chart(two ? ['Left out ', badge(i)] : 'Left out', 'frames without a result', 'marks', '', '', run.missing.map((frame) =>
        draw('line', { x1: x(data.times[frame]), x2: x(data.times[frame]), y1: 0, y2: 100, class: 'mark' })));
    }
  });

  // The legend tells the shares of the frame that is shown.
  const legend = data.classes.map((each) => {
    const values = make('span');
    const swatch = draw('svg', { viewBox: '0 0 14 14', 'aria-hidden': 'true' }, draw('rect', { width: 14, height: 14, rx: 3, fill: each.colour }));
    const item = make('li', {}, swatch, make('span', {}, each.name), values);
    at('legend').append(item);
    return { name: each.name, item, values };
  });

  const scrub = at('scrub'), where = at('where');
  scrub.max = Math.max(0, pictures.length - 1);
  function show(index) {
    if (!pictures.length) return;
    current = Math.min(Math.max(index, 0), pictures.length - 1);
    const each = pictures[current];
    const time = data.times[each.at] - first;
    scrub.value = current;
    where.textContent = `${time.toFixed(2)} s · frame ${current + 1} of ${pictures.length}`;
    where.title = `stamp ${data.stamps[each.at]}`;
    scrub.setAttribute('aria-valuetext', where.textContent);
    views.forEach((of, run) => {
      showPicture(of.photo.picture, each, run, at('opacity').value / 100, at('wrong').checked, at('boxes').checked);
      const ahead = data.runs[run].first[each.at];
      const said = [each.photo ? 'Camera' : '', each.runs[run].mask ? 'mask' : '', ahead ? `ahead: ${ahead[0]} ${percent(ahead[1])}` : ''];
      of.photo.title.querySelector('span').textContent = said.filter(Boolean).join(' · ');
      if (of.grid) showGrid(of.grid.picture, each.runs[run].grid);
    });
    for (const entry of legend) {
      const shares = data.runs.map((run) => (run.share[entry.name] || [])[each.at]);
      entry.values.textContent = shares.map((share, i) => (share === undefined || share === null ? '' : `${two ? `${NAMES[i]} ` : ''}${percent(share)}`)).join('  ');
      entry.item.classList.toggle('none', !shares.some((share) => share > 0));
    }
    for (const cursor of cursors) {
      cursor.setAttribute('x1', x(data.times[each.at]));
      cursor.setAttribute('x2', x(data.times[each.at]));
    }
  }

  // Playing keeps the recording's own time.
  let playing = false, since = 0, from = 0;
  function play(on) {
    playing = on;
    at('play').textContent = on ? 'Pause' : 'Play';
    at('play').setAttribute('aria-pressed', String(on));
    if (!on) return;
    if (current === pictures.length - 1) show(0);
    since = performance.now();
    from = data.times[pictures[current].at];
    requestAnimationFrame(tick);
  }
  function tick(now) {
    if (!playing) return;
    const time = from + ((now - since) / 1000) * Number(at('speed').value);
    let next = current;
    while (next < pictures.length - 1 && data.times[pictures[next + 1].at] <= time) next += 1;
    if (next !== current) show(next);
    if (current === pictures.length - 1) play(false);
    else requestAnimationFrame(tick);
  }
  const step = (to) => { play(false); show(to); };
  at('play').addEventListener('click', () => play(!playing));
  at('back').addEventListener('click', () => step(current - 1));
  at('next').addEventListener('click', () => step(current + 1));
  at('speed').addEventListener('change', () => { if (playing) play(true); });
  scrub.addEventListener('input', () => step(Number(scrub.value)));
  for (const id of ['opacity', 'wrong', 'boxes']) at(id).addEventListener('input', () => show(current));
  document.addEventListener('keydown', (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.closest('input, select, button, summary, a, [tabindex]')) return;
    const keys = { ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: pictures.length - 1 };
    if (event.key === ' ') play(!playing);
    else if (event.key in keys) step(keys[event.key]);
    else return;
    event.preventDefault();
  });

  // What this recording does not have is not offered.
  const wrongs = pictures.some((each) => each.runs.some((run) => run.wrong));
  const labelled = data.runs.some((run) => some(run.right));
  at('wronglabel').hidden = !wrongs;
  at('wronglabel').querySelector('span').textContent = labelled ? 'Wrong pixels (orange)' : 'Where B differs (orange)';
  at('opacitylabel').hidden = !pictures.some((each) => each.photo);
  at('boxlabel').hidden = !pictures.some((each) => each.runs.some((run) => run.boxes.length));
  at('worstsection').hidden = !data.worst.length;
  at('accuracysection').hidden = !labelled;

  for (const bad of data.worst) {
    const index = pictures.findIndex((each) => each.at === bad.at);
    const picture = make('div', { class: 'picture' });
    picture.style.aspectRatio = `${sized.width} / ${sized.height}`;
    showPicture(picture, pictures[index], data.runs.length - 1, 0.5, true, false);
    const time = (data.times[bad.at] - first).toFixed(2);
    const button = make('button', { type: 'button' }, picture, make('span', {}, `${time} s · ${percent(bad.value)}`));
    button.addEventListener('click', () => {
      step(index);
      at('player').scrollIntoView();
    });
    at('worst').append(button);
  }
  show(0);
})();
