// What is open, and what is pointed at.

const state = {
  view: page.views[0], layer: 0, head: 0, scale: 0, tab: "map", merged: false,
  pinned: { query: 0, key: -1 }, hover: null, overHead: -1, picked: [],
  language: page.language ?? ((navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en"),
};
const text = () => words[state.language];
