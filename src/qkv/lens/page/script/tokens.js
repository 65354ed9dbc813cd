// Tokens as people can see them.

const visible = (token) => {
  const seen = (token.toWellFormed?.() ?? token)
    .replace(/[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]/g, "")
    .replace(/\n/g, "↵").replace(/\t/g, "⇥")
    .replace(/[\u0000-\u001f]/g, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`)
    .replace(/[\u007f-\u009f\u2028\u2029]/g, "\ufffd");
  if (seen === "") return "∅";
  return /^\s+$/u.test(seen) ? "␣".repeat(Math.min(seen.length, 8)) : seen;
};
const upright = /^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303f\uff01-\uff60…]+$/u;
const isolated = (label) => `\u2068${label}\u2069`;
