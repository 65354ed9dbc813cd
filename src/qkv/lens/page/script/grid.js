// All heads as small maps.

const grid = { canvas: at("heads"), cell: 0, left: 0, top: 0 };

const layoutGrid = () => {
  const { layers, heads } = state.view, unit = rem(), room = at("grid").clientWidth;
  grid.left = Math.ceil(String(layers - 1).length * unit * 0.5 + unit * 0.75);
  grid.top = Math.ceil(unit * 1.3);
  grid.cell = Math.floor(Math.min(unit * 12, Math.max(unit * 1.5, (room - grid.left) / heads)));
  grid.gap = grid.cell > 2.6 * unit ? Math.round(unit * 0.32) : 2;
  grid.context = resize(grid.canvas, grid.left + heads * grid.cell, grid.top + layers * grid.cell);
  drawGrid();
};

const drawThumb = (i) => paintThumb(grid.context, i, ratio(), i === state.overHead);

const paintThumb = (context, i, r, over) => {
  const head = state.view.ready?.[i], { cell, gap } = grid, wide = state.view.heads;
  const x = Math.round((grid.left + (i % wide) * cell) * r);
  const y = Math.round((grid.top + Math.floor(i / wide) * cell) * r);
  const size = Math.round((cell - gap) * r), line = Math.max(1, Math.round(r));
  context.fillStyle = colour.page;
  context.fillRect(x - 2 * line, y - 2 * line, size + 4 * line, size + 4 * line);
  context.fillStyle = colour.surface;
  context.fillRect(x, y, size, size);
  if (head && context.cells) paintCells(context, head, size, size, [x, y, size, size]);
  else if (head) {
    if (head.thumb?.size !== size) head.thumb = { size, shaded: pool(head, size, size) };
    context.drawImage(picture(head.thumb.shaded, size, size), x, y);
  }
  const chosen = i === index(), mark = lines.colourOf(i);
  context.strokeStyle = mark ?? (chosen ? colour.pick : over ? colour.quiet : colour.line);
  context.lineWidth = chosen || mark ? 2 * line : line;
  const out = chosen || mark ? line : line / 2;
  context.strokeRect(x - out, y - out, size + 2 * out, size + 2 * out);
};

const drawGrid = () => {
  if (!active().beside) return;
  const { context, canvas } = grid;
  context.clearRect(0, 0, canvas.width, canvas.height);
  paintGrid(context, ratio());
  canvas.setAttribute("aria-label", text().grid(state.view, state.layer, state.head));
};

const paintGrid = (context, r) => {
  const { cell, gap } = grid, { layers, heads } = state.view, unit = rem();
  context.font = font(unit * 0.75 * r);
  context.textBaseline = "middle";
  const middle = (cell - gap) / 2, stride = Math.ceil((unit * 1.5) / cell);
  for (let head = 0; head < heads; head += stride) {
    context.fillStyle = head === state.head ? colour.pick : colour.quiet;
    context.textAlign = "center";
    context.fillText(String(head), (grid.left + head * cell + middle) * r, unit * 0.6 * r);
  }
  for (let layer = 0; layer < layers; layer++) {
    context.fillStyle = layer === state.layer ? colour.pick : colour.quiet;
    context.textAlign = "right";
    context.fillText(String(layer), (grid.left - unit * 0.45) * r, (grid.top + layer * cell + middle) * r);
  }
  for (let i = 0; i < layers * heads; i++) if (i !== index()) paintThumb(context, i, r, i === state.overHead);
  paintThumb(context, index(), r);
};

const headUnder = (event) => {
  const box = grid.canvas.getBoundingClientRect();
  const head = Math.floor((event.clientX - box.left - grid.left) / grid.cell);
  const layer = Math.floor((event.clientY - box.top - grid.top) / grid.cell);
  const inside = head >= 0 && head < state.view.heads && layer >= 0 && layer < state.view.layers;
  return inside ? { layer, head } : null;
};
