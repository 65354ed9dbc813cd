// Colour: one hue, lightness even in OKLab; 0 is the surface itself.

const ramps = {
  light: { lightness: [1, 0.3], chroma: [0, 0.085, 0.15, 0.165, 0.12], hue: 264 },
  dark: { lightness: [0.215, 0.95], chroma: [0.025, 0.1, 0.145, 0.12, 0.045], hue: 262 },
};
// Several heads side by side, and the two signs of a number: hues that colour-blind people tell apart (Okabe and Ito).
const several = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9"],
  dark: ["#56b4e9", "#e69f00", "#2bc79a", "#e08fc0", "#f0e442", "#5b8cff"],
};
const sides = { light: ["#c65500", "#0072b2"], dark: ["#f0a030", "#56b4e9"] };
const fromOklch = (lightness, chroma, hue) => {
  const a = chroma * Math.cos((hue * Math.PI) / 180), b = chroma * Math.sin((hue * Math.PI) / 180);
  const [l, m, s] = [
    lightness + 0.3963377774 * a + 0.2158037573 * b,
    lightness - 0.1055613458 * a - 0.0638541728 * b,
    lightness - 0.0894841775 * a - 1.291485548 * b,
  ].map((x) => x ** 3);
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ].map((x) => {
    const clear = Math.min(1, Math.max(0, x));
    return Math.round(255 * (clear <= 0.0031308 ? 12.92 * clear : 1.055 * clear ** (1 / 2.4) - 0.055));
  });
};
let colour = null;
const mix = () => {
  const style = getComputedStyle(root);
  const named = Object.fromEntries(["page", "surface", "ink", "quiet", "line", "pick"].map((n) => [n, style.getPropertyValue(`--${n}`).trim()]));
  const { lightness, chroma, hue } = ramps[root.dataset.theme];
  const shades = Array.from({ length: 256 }, (_, i) => {
    const t = i / 255, place = t * (chroma.length - 1), low = Math.min(Math.floor(place), chroma.length - 2);
    const saturation = chroma[low] + (chroma[low + 1] - chroma[low]) * (place - low);
    return fromOklch(lightness[0] + (lightness[1] - lightness[0]) * t, saturation, hue);
  });
  shades[0] = [1, 3, 5].map((i) => parseInt(named.surface.slice(i, i + 2), 16));
  const bytes = new Uint8ClampedArray(1024);
  shades.forEach((shade, i) => bytes.set([...shade, 255], 4 * i));
  const dark = root.dataset.theme === "dark";
  colour = {
    ...named, pixels: new Uint32Array(bytes.buffer), css: shades.map((shade) => `rgb(${shade.join(",")})`),
    several: several[root.dataset.theme], sides: sides[root.dataset.theme],
    on: (i) => ((dark ? i > 140 : i < 128) ? "#14161c" : "#ffffff"),
  };
};
