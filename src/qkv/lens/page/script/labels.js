// The tokens beside the large map, and the way from a point to a cell.

const paintLabels = (context, look, { names, from, range, start, chosen, horizontal }, left, top) => {
  const { r, scale, width, height } = look, unit = rem();
  const size = Math.min(unit * 0.82 * r, Math.max(unit * 0.66 * r, scale * 0.78));
  const stride = Math.max(1, Math.ceil((size * 1.2) / scale));
  const flat = horizontal && look.flat;
  const space = (horizontal ? (flat ? scale : top) : left) - 0.7 * unit * r;
  const length = horizontal ? width : height;
  const centreOf = (i) => {
    const centre = Math.round(start - from + (i + 0.5) * scale);
    return i * scale < from - 1 ? centre : Math.min(Math.max(centre, start + size * 0.5), Math.max(centre, length - size * 0.6));
  };
  const put = (i, picked) => {
    context.font = font(size, picked ? 600 : 400);
    const short = shorten(context, names[i], space), label = isolated(short);
    const stacked = horizontal && !flat && upright.test(short);
    const centre = centreOf(i);
    if (centre < start - scale / 2 || centre > length + scale / 2) return;
    context.save();
    context.beginPath();
    if (horizontal) context.rect(left - size * 0.6, 0, width, top);
    else context.rect(0, top - size * 0.6, left, height);
    context.clip();
    context.translate(horizontal ? centre : left - 0.4 * unit * r, horizontal ? top - 0.4 * unit * r : centre);
    if (horizontal && !flat && !stacked) context.rotate(-Math.PI / 2);
    context.textBaseline = flat || stacked ? "alphabetic" : "middle";
    context.textAlign = flat || stacked ? "center" : horizontal ? "left" : "right";
    context.fillStyle = picked ? colour.pick : colour.ink;
    if (stacked) Array.from(short).reverse().forEach((letter, above) => context.fillText(letter, 0, -above * size * 1.08));
    else context.fillText(label, 0, 0);
    context.restore();
  };
  const apart = stride > 1 ? size * 1.1 : 0;
  let before = -Infinity;
  for (let i = Math.ceil(range[0] / stride) * stride; i < range[1]; i += stride) {
    const centre = centreOf(i);
    if (i === chosen || centre - before < apart || (chosen >= 0 && Math.abs(centre - centreOf(chosen)) < apart)) continue;
    put(i, false);
    before = centre;
  }
  if (chosen >= 0) put(chosen, true);
};

const cellUnder = (event) => {
  const box = map.canvas.getBoundingClientRect(), r = ratio(), { labels, targets } = state.view;
  const x = event.clientX - box.left, y = event.clientY - box.top;
  const place = (position, margin, from, count) => {
    const i = Math.floor(((position - margin + from) * r) / state.scale);
    return position >= margin && i < count ? i : -1;
  };
  const key = place(x, map.left, map.scroll.scrollLeft, targets.length);
  const query = place(y, map.top, map.scroll.scrollTop, labels.length);
  const outside = (x >= map.left && key < 0) || (y >= map.top && query < 0);
  return outside || (key < 0 && query < 0) ? null : { query, key };
};
