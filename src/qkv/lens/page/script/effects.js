// What changes when a head is switched off, with its weight pattern beside it: weights alone are no explanation.

const measuredBy = {
  "KL(before ‖ after) of the prediction, in nats": {
    en: "Change: KL(before ‖ after) of the prediction, in nats. Before and after: the probability of the token that was likeliest.",
    zh: "变化：预测的 KL（去掉前 ‖ 去掉后），单位为纳特。之前与之后：原先最可能的词元的概率。",
  },
  "1 − cosine of the vector to what it was": {
    en: "Change: 1 − the cosine of the vector to what it was. Before and after: its length.",
    zh: "变化：1 − 向量与原来的余弦。之前与之后：向量的长度。",
  },
  "growth of the loss": { en: "Change: the growth of the loss.", zh: "变化：损失的增量。" },
};

tableOf({
  name: "effects", by: "change", down: true,
  rows: (view) => view.effects,
  // What is measured, in the words of lens.ablate, said in full; another measure as it is called.
  more: () => (state.view.measured ? ` ${measuredBy[state.view.measured]?.[state.language] ?? visible(state.view.measured)}` : ""),
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
