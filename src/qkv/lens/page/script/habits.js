// What each head does, by numbers.

tableOf({
  name: "habits",
  rows: (view) => view.habits,
  words: {
    en: {
      tab: "Heads", head: "Head", sort: (title) => `Sort by ${title}`, open: (name) => `Open ${name}`,
      note: "Means over all queries. A column’s title sorts by it; a row opens its head.",
    },
    zh: {
      tab: "各头特征", head: "注意力头", sort: (title) => `按${title}排序`, open: (name) => `打开${name}`,
      note: "对全部查询取平均。点列标题排序，点一行打开该头。",
    },
  },
});
