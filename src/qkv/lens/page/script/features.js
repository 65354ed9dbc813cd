// Queries and keys of some heads, feature by feature, in float16.

const fromHalf = (bits) => {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
};

const featuresAt = (view, index) => {
  const packed = view.features?.heads[index];
  if (!packed) return null;
  const dim = view.features.dim[index];
  view.unpacked ??= {};
  return (view.unpacked[index] ??= packed.map((part) => {
    const letters = atob(part);
    const values = Float32Array.from({ length: letters.length / 2 }, (_, i) =>
      fromHalf(letters.charCodeAt(2 * i) | (letters.charCodeAt(2 * i + 1) << 8)));
    return (token) => values.subarray(token * dim, (token + 1) * dim);
  }));
};
