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

const drawThumb = (i) => {
  const head = state.view.ready?.[i], { context, cell, gap } = grid, r = ratio();
  const x = Math.round((grid.left + (i % state.view.heads) * cell) * r);
  const y = Math.round((grid.top + Math.floor(i / state.view.heads) * cell) * r);
  const size = Math.round((cell - gap) * r), whole = Math.round(cell * r), line = Math.max(1, Math.round(r));
  context.clearRect(x - 2 * line, y - 2 * line, whole, whole);
  context.fillStyle = colour.surface;
  context.fillRect(x, y, size, size);
  if (head) {
    if (head.thumb?.size !== size) head.thumb = { size, shaded: pool(head, size, size) };
    context.drawImage(picture(head.thumb.shaded, size, size), x, y);
  }
  const chosen = i === index();
  context.strokeStyle = chosen ? colour.pick : i === state.overHead ? colour.quiet : colour.line;
  context.lineWidth = chosen ? 2 * line : line;
  const out = chosen ? line : line / 2;
  context.strokeRect(x - out, y - out, size + 2 * out, size + 2 * out);
};

const drawGrid = () => {
  const { context, canvas, cell, gap } = grid, { layers, heads } = state.view, r = ratio(), unit = rem();
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.font = `${unit * 0.75 * r}px ${family}`;
  context.textBaseline = "middle";
  const middle = (cell - gap) / 2;
  const stride = Math.ceil((unit * 1.5) / cell);
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
  for (let i = 0; i < layers * heads; i++) if (i !== index()) drawThumb(i);
  drawThumb(index());
  canvas.setAttribute("aria-label", text().grid(state.view, state.layer, state.head));
};

const headUnder = (event) => {
  const box = grid.canvas.getBoundingClientRect();
  const head = Math.floor((event.clientX - box.left - grid.left) / grid.cell);
  const layer = Math.floor((event.clientY - box.top - grid.top) / grid.cell);
  const inside = head >= 0 && head < state.view.heads && layer >= 0 && layer < state.view.layers;
  return inside ? { layer, head } : null;
};
