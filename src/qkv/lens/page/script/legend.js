// The legend of shades.

const resizeLegend = (head) => {
  const canvas = at("legend");
  canvas.width = 256; canvas.height = 1;
  const context = canvas.getContext("2d");
  for (let i = 0; i < 256; i++) {
    context.fillStyle = colour.css[Math.round(255 * Math.sqrt(i / 255))];
    context.fillRect(i, 0, 1, 1);
  }
  const top = `${Number((100 * head.top).toPrecision(2))}%`;
  at("top").textContent = head.top < 1 ? `≥ ${top}` : top;
  canvas.setAttribute("aria-label", text().legend(top));
};
