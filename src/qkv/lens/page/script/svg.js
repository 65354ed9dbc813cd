// A drawing in SVG that answers to the part of a canvas's language that the views use: real text, real shapes, no images.

const escaped = (text) =>
  text.replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "\ufffd")
    .replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const short = (number) => String(Math.round(100 * number) / 100);

class Drawing {
  constructor() {
    Object.assign(this, { out: [], kept: [], closing: "", path: "" });
    Object.assign(this, { fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, globalAlpha: 1, font: font(10), textAlign: "left", textBaseline: "alphabetic" });
  }

  save() { this.kept.push({ ...this }); this.closing = ""; }
  restore() {
    this.out.push(this.closing);
    const { path, ...before } = this.kept.pop();
    Object.assign(this, before);
  }
  group(attributes) { this.out.push(`<g ${attributes}>`); this.closing = `</g>${this.closing}`; }
  translate(x, y) { this.group(`transform="translate(${short(x)} ${short(y)})"`); }
  rotate(angle) { this.group(`transform="rotate(${short((180 * angle) / Math.PI)})"`); }
  // An inner drawing clips what leaves it, without a name that another drawing of the same document could have too.
  clip() {
    const [x, y, width, height] = this.box.map(short);
    this.out.push(`<svg x="${x}" y="${y}" width="${width}" height="${height}" viewBox="${x} ${y} ${width} ${height}">`);
    this.closing = `</svg>${this.closing}`;
  }

  beginPath() { this.path = ""; }
  moveTo(x, y) { this.path += `M${short(x)} ${short(y)}`; }
  lineTo(x, y) { this.path += `L${short(x)} ${short(y)}`; }
  rect(x, y, width, height) { this.box = [x, y, Math.max(0, width), Math.max(0, height)]; this.path += `M${short(x)} ${short(y)}h${short(width)}v${short(height)}h${short(-width)}z`; }
  arc(x, y, radius) { this.path += `M${short(x - radius)} ${short(y)}a${short(radius)} ${short(radius)} 0 1 0 ${short(2 * radius)} 0a${short(radius)} ${short(radius)} 0 1 0 ${short(-2 * radius)} 0`; }
  paint(kind, colour) { return `${kind}="${escaped(colour)}"${this.globalAlpha < 1 ? ` opacity="${short(this.globalAlpha)}"` : ""}`; }
  stroke() { this.out.push(`<path d="${this.path}" fill="none" ${this.paint("stroke", this.strokeStyle)} stroke-width="${short(this.lineWidth)}"/>`); }
  fill() { this.out.push(`<path d="${this.path}" ${this.paint("fill", this.fillStyle)}/>`); }
  shape(x, y, width, height, paint) { this.out.push(`<rect x="${short(x)}" y="${short(y)}" width="${short(Math.max(0, width))}" height="${short(Math.max(0, height))}" ${paint}/>`); }
  fillRect(...box) { this.shape(...box, this.paint("fill", this.fillStyle)); }
  strokeRect(...box) { this.shape(...box, `fill="none" ${this.paint("stroke", this.strokeStyle)} stroke-width="${short(this.lineWidth)}"`); }

  measureText(label) { ruler.font = this.font; return ruler.measureText(label); }
  fillText(label, x, y) {
    const [, weight, size] = /^(\d+) ([\d.]+)px/.exec(this.font);
    const anchor = { left: "", center: ' text-anchor="middle"', right: ' text-anchor="end"' }[this.textAlign];
    const down = this.textBaseline === "middle" ? 0.36 * size : 0;
    this.out.push(`<text x="${short(x)}" y="${short(y + down)}" font-size="${short(size)}"${weight === "400" ? "" : ` font-weight="${weight}"`}${anchor} ${this.paint("fill", this.fillStyle)}>${escaped(label)}</text>`);
  }

  // Cells of one shade are one path, and those side by side one piece of it.
  cells(shaded, width, height, [x, y, wide, high], colourOf) {
    const paths = new Map();
    for (let row = 0; row < height; row++)
      for (let start = 0, column = 1; column <= width; column++) {
        const shade = shaded[row * width + start];
        if (column < width && shaded[row * width + column] === shade) continue;
        if (!paths.has(shade)) paths.set(shade, []);
        paths.get(shade).push(`M${start} ${row}h${column - start}v1h${start - column}z`);
        start = column;
      }
    const pieces = [...paths].map(([shade, pieces]) => `<path fill="${escaped(colourOf(shade))}" d="${pieces.join("")}"/>`);
    this.out.push(`<g shape-rendering="crispEdges" transform="translate(${short(x)} ${short(y)}) scale(${wide / width} ${high / height})">${pieces.join("")}</g>`);
  }

  text(width, height, shown) {
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${short(shown)}" height="${short((shown * height) / width)}" viewBox="0 0 ${short(width)} ${short(height)}" font-family="${escaped(family)}">${this.out.join("")}</svg>\n`;
  }
}
