// What changes when a head is switched off, with its weight pattern beside it: weights alone are no explanation.

tableOf({
  name: "effects", by: "change", down: true,
  rows: (view) => view.effects,
  words: {
    en: {
      tab: "Ablation", head: "Without", sort: (title) => `Sort by ${title}`, open: (name) => `Open ${name}`,
      note: "What changes without each head. A clear weight pattern need not matter, and one that matters need not be clear.",
    },
    zh: {
      tab: "消融", head: "去掉", sort: (title) => `按${title}排序`, open: (name) => `打开${name}`,
      note: "去掉每个头之后的变化。清晰的权重图案未必重要，重要的头也未必图案清晰。",
    },
  },
});
