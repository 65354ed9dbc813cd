// How near the large map is looked at.

const zoom = (factor, event) => {
  const r = ratio(), before = state.scale;
  let scale = before * factor;
  scale = scale >= 1 ? (factor > 1 ? Math.ceil(scale) : Math.floor(scale)) : scale;
  state.scale = Math.max(map.fit, Math.min(64 * r, scale));
  if (factor === 0 || state.scale === before) state.scale = factor === 0 ? map.fit : state.scale;
  const box = map.canvas.getBoundingClientRect();
  const x = event ? event.clientX - box.left - map.left : (map.scroll.clientWidth - map.left) / 2;
  const y = event ? event.clientY - box.top - map.top : (map.scroll.clientHeight - map.top) / 2;
  const { scrollLeft, scrollTop } = map.scroll, grow = state.scale / before;
  placeMap();
  map.scroll.scrollTo((scrollLeft + x) * grow - x, (scrollTop + y) * grow - y);
  drawMap();
};

const reveal = ({ query, key }) => {
  const r = ratio(), size = state.scale / r, { scroll } = map;
  const into = (from, i, room) => (i < 0 ? from : Math.min(i * size, Math.max(from, (i + 1) * size - room)));
  scroll.scrollTo(
    into(scroll.scrollLeft, key, scroll.clientWidth - map.left), into(scroll.scrollTop, query, scroll.clientHeight - map.top));
};

const layout = () => {
  active().layout?.();
  if (active().beside) layoutGrid();
};
