// All heads of a long map at a glance: small maps that a server makes one after another, each of a few of its queries.

const glance = { canvas: at("heads"), maps: [], cell: 0, left: 0, top: 0, run: 0 };

const hasMany = () => opened && !opened.tiles && opened.layers * opened.heads > 1;

const layoutGlance = () => {
  at("glance").hidden = !hasMany();
  if (!hasMany()) return;
  const unit = rem(), room = glance.canvas.parentElement.clientWidth;
  glance.left = Math.ceil((String(opened.layers - 1).length * 0.5 + 0.75) * unit);
  glance.top = Math.ceil(1.3 * unit);
  glance.cell = Math.max(1.2 * unit, Math.min(6 * unit, (room - glance.left) / opened.heads));
  resize(glance.canvas, glance.left + opened.heads * glance.cell, glance.top + opened.layers * glance.cell);
  drawGlance();
};

const drawGlance = () => {
  if (!hasMany()) return;
  const { canvas, cell, left, top, maps } = glance, r = ratio(), unit = rem(), drawing = canvas.getContext("2d");
  const size = cell - Math.min(0.25 * unit, 3), name = (label, x, y, align, chosen) => {
    drawing.fillStyle = chosen ? colour.pick : colour.quiet;
    drawing.textAlign = align;
    drawing.fillText(label, x * r, y * r);
  };
  drawing.clearRect(0, 0, canvas.width, canvas.height);
  drawing.font = `${0.75 * unit * r}px ${family}`;
  drawing.textBaseline = "middle";
  for (let head = 0; head < opened.heads; head += Math.ceil((1.5 * unit) / cell)) name(head, left + head * cell + size / 2, 0.6 * unit, "center", head === place.head);
  for (let layer = 0; layer < opened.layers; layer++) name(layer, left - 0.45 * unit, top + layer * cell + size / 2, "right", layer === place.layer);
  drawing.imageSmoothingEnabled = true;
  for (let i = 0; i < opened.layers * opened.heads; i++) {
    const x = (left + (i % opened.heads) * cell) * r, y = (top + Math.floor(i / opened.heads) * cell) * r, chosen = i === place.layer * opened.heads + place.head;
    drawing.fillStyle = colour.surface;
    drawing.fillRect(x, y, size * r, size * r);
    const tile = maps[i];
    if (tile) {
      if (tile.theme !== root.dataset.theme) Object.assign(tile, { theme: root.dataset.theme, drawn: paint(tile, tile.top) });
      drawing.drawImage(tile.drawn, x, y, size * r, size * r);
    }
    drawing.strokeStyle = chosen ? colour.pick : colour.line;
    drawing.lineWidth = (chosen ? 2 : 1) * r;
    drawing.strokeRect(x, y, size * r, size * r);
  }
  canvas.setAttribute("aria-label", text().heads(opened.layers, opened.heads, place.layer, place.head));
};

// Where a small map's shades end: the mean of its rows' highest.
const topOf = ({ rows, columns, most }) => {
  let sum = 0;
  for (let row = 0; row < rows; row++) sum += most.subarray(row * columns, (row + 1) * columns).reduce((a, b) => Math.max(a, b), 0);
  return sum / rows || 1;
};

// One after another, so that what is looked at large never waits for more than one of them.
const fillGlance = async () => {
  glance.maps = [];
  layoutGlance();
  const run = ++glance.run;
  for (let i = 0; hasMany() && i < opened.layers * opened.heads; i++) {
    const answer = await fetch(`/api/small/${opened.name}/${Math.floor(i / opened.heads)}/${i % opened.heads}`).catch(() => null);
    if (run !== glance.run || !answer?.ok) return;
    const tile = unpack(await answer.arrayBuffer());
    glance.maps[i] = { ...tile, top: topOf(tile) };
    drawGlance();
  }
  root.dataset.glanced = glance.maps.length;
};

glance.canvas.addEventListener("click", ({ clientX, clientY }) => {
  const box = glance.canvas.getBoundingClientRect();
  const head = Math.floor((clientX - box.left - glance.left) / glance.cell), layer = Math.floor((clientY - box.top - glance.top) / glance.cell);
  if (head >= 0 && head < opened.heads && layer >= 0 && layer < opened.layers) choose(layer, head).catch(broken);
});
