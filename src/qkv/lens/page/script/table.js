// A table of heads that sorts by each column; a row opens its head. Its columns are the numbers that the rows hold.

// What a number is called, and what it says: [title, meaning] in each language. `least` puts small ones first,
// `plain` shows a number as it is and not as a share, `bare` without a shade.
const measures = {
  entropy: { least: true, plain: true, en: ["Entropy", "mean entropy of a row, in nats: sharp heads are low"], zh: ["熵", "每行的平均熵（纳特）：越低越尖锐"] },
  diagonal: { en: ["Diagonal", "weight on the token itself"], zh: ["对角", "对词元自身的权重"] },
  previous: { en: ["Previous", "weight on the token before"], zh: ["前一词元", "对前一词元的权重"] },
  following: { en: ["Next", "weight on the token after"], zh: ["后一词元", "对后一词元的权重"] },
  same_word: { en: ["Same word", "weight on the other tokens that are the same word"], zh: ["相同的词", "对同一个词的其他词元的权重"] },
  first: { en: ["First", "weight on the first token"], zh: ["首词元", "对首个词元的权重"] },
  separator: { en: ["Separators", "weight on separators"], zh: ["分隔符", "对分隔符的权重"] },
  change: { plain: true, en: ["Change", "how much changes without it"], zh: ["变化", "去掉后改变了多少"] },
  before: { plain: true, bare: true, en: ["Before", "what is measured, with it"], zh: ["之前", "保留时的度量"] },
  after: { plain: true, bare: true, en: ["After", "what is measured, without it"], zh: ["之后", "去掉后的度量"] },
  name: { plain: true, en: ["Module", "its name in the model"], zh: ["模块", "在模型中的名称"] },
  broad: { en: ["Broad", "how evenly a row spreads over all keys"], zh: ["均匀", "一行在全部键上分布的均匀程度"] },
};
const measured = (name) => {
  const { [state.language]: said = [name.replaceAll("_", " "), ""], ...rest } = measures[name] ?? { plain: true };
  return { name, title: visible(said[0]), meaning: said[1], ...rest };
};

// A tab with such a table: `rows(view)` are objects with layer, head (null: all heads of the layer) and numbers.
const tableOf = ({ rows, ...given }) => {
  const numbersOf = () => {
    const seen = rows(state.view).flatMap((row) => Object.keys(row).filter((name) => typeof row[name] === "number"));
    return [...new Set(seen)].filter((name) => name !== "layer" && name !== "head").map(measured);
  };
  const wordsOf = () => [...new Set(rows(state.view).flatMap((row) => Object.keys(row).filter((name) => typeof row[name] === "string")))];
  const write = ({ plain }, value) => (typeof value !== "number" ? "" : plain ? signed(value) : value === 0 ? "0%" : percent(value));
  const nameOf = ({ layer, head }) => (head === null || head === undefined ? text().layer(layer) : `${text().layer(layer)} · ${text().head(head)}`);
  const sorted = () => {
    const by = view.by, sign = view.down ? -1 : 1;
    const last = (row) => (typeof row[by] === "number" ? 0 : 1);
    return [...rows(state.view)].sort((a, b) => by === null ? a.layer - b.layer || (a.head ?? -1) - (b.head ?? -1)
      : last(a) - last(b) || sign * (a[by] - b[by]) || a.layer - b.layer || (a.head ?? -1) - (b.head ?? -1));
  };
  const sort = (by) => {
    if (view.by === by && by !== null) view.down = !view.down;
    else Object.assign(view, { by, down: by !== null && !measured(by).least });
    view.draw();
    const head = view.section.querySelector("th[aria-sort] button");
    head?.focus();
    at("live").textContent = head ? head.title : "";
  };
  const level = ({ name, bare }, value) => {
    if (bare) return 0;
    const values = rows(state.view).map((row) => row[name]).filter((one) => typeof one === "number");
    const most = Math.max(...values.map(Math.abs)) || 1;
    return Math.round(125 * Math.abs(value) / most);
  };
  const goTo = async ({ layer, head }) => { openTab("map", true); await choose(layer, head ?? state.head); };

  const view = tab({
    by: null, down: false, ...given, beside: false,
    there: (seen) => rows(seen).length > 0,
    draw() {
      const columns = numbersOf(), said = wordsOf(), { view: seen } = state;
      const titles = [[null, view.text.head, ""], ...columns.map(({ name, title, meaning }) => [name, title, meaning])];
      const top = make("tr", {}, ...titles.map(([name, title, meaning]) => {
        const cell = make("th", { scope: "col" }, make("button", { type: "button", className: "link", textContent: title, title: `${view.text.sort(title)}${meaning ? `: ${meaning}` : ""}`, onclick: () => sort(name) }));
        if (view.by === name) cell.setAttribute("aria-sort", view.down ? "descending" : "ascending");
        return cell;
      }), ...said.map((name) => make("th", { scope: "col", textContent: measured(name).title })));
      const body = sorted().map((row) => {
        const open = row.layer === state.layer && (row.head ?? state.head) === state.head;
        const opener = make("button", { type: "button", className: "link", title: view.text.open(nameOf(row)) }, ...(row.head === null ? [] : [thumb(seen, row)]), nameOf(row));
        opener.setAttribute("aria-label", opener.title);
        const cells = columns.map((column) => {
          const value = row[column.name], cell = make("td", { textContent: write(column, value) });
          if (typeof value === "number") {
            const shade = level(column, value);
            cell.style.backgroundColor = colour.css[shade];
            cell.style.color = colour.on(shade);
          }
          return cell;
        });
        const line = make("tr", { onclick: () => goTo(row) }, make("th", { scope: "row" }, opener), ...cells, ...said.map((name) => make("td", { className: "word", textContent: row[name] ? visible(row[name]) : "" })));
        line.classList.toggle("open", open);
        return line;
      });
      view.note.textContent = view.text.note + (view.more?.() ?? "");
      view.table.replaceChildren(make("thead", {}, top), make("tbody", {}, ...body));
    },
    pictures: () => [drawn()],
  });

  const size = 34;
  const thumb = (seen, { layer, head }) => {
    const canvas = make("canvas", { width: 2 * size, height: 2 * size, className: "thumb" });
    headAt(seen, layer * seen.heads + head).then((ready) => {
      const context = canvas.getContext("2d");
      context.drawImage(picture(pool(ready, 2 * size, 2 * size), 2 * size, 2 * size), 0, 0);
    });
    return canvas;
  };

  // The table as a picture.
  const drawn = () => {
    const unit = rem(), columns = numbersOf(), said = wordsOf(), list = sorted(), high = size + 8;
    ruler.font = font(0.85 * unit, 600);
    const widest = (names) => Math.max(...names.map((name) => ruler.measureText(name).width)) + 1.4 * unit;
    const wide = [widest([view.text.head, ...list.map(nameOf)]) + size + unit, ...columns.map((one) => widest([one.title, ...list.map((row) => write(one, row[one.name]))])),
      ...said.map((name) => Math.min(20 * unit, widest(list.map((row) => visible(row[name] ?? "").slice(0, 80)))))];
    const left = wide.map((_, i) => wide.slice(0, i).reduce((sum, one) => sum + one, 0));
    const width = left.at(-1) + wide.at(-1), height = 2.4 * unit + list.length * high;
    const paint = (context) => {
      const put = (label, column, y, weight) => {
        context.font = font(0.85 * unit, weight);
        context.textAlign = "left";
        context.textBaseline = "middle";
        context.fillText(isolated(shorten(context, label, wide[column] - 0.7 * unit)), left[column] + (column ? 0.7 * unit : size + unit), y);
      };
      context.fillStyle = colour.ink;
      [view.text.head, ...columns.map(({ title }) => title), ...said.map((name) => measured(name).title)].forEach((title, i) => put(title, i, 1.2 * unit, 600));
      list.forEach((row, at) => {
        const y = 2.4 * unit + at * high, ready = row.head === null ? null : state.view.ready?.[row.layer * state.view.heads + row.head];
        if (ready) context.cells ? paintCells(context, ready, size, size, [0, y, size, size]) : context.drawImage(picture(pool(ready, 2 * size, 2 * size), 2 * size, 2 * size), 0, y, size, size);
        columns.forEach((column, i) => {
          if (typeof row[column.name] !== "number") return;
          context.fillStyle = colour.css[level(column, row[column.name])];
          context.fillRect(left[i + 1], y, wide[i + 1], high - 1);
        });
        context.fillStyle = colour.ink;
        put(nameOf(row), 0, y + high / 2, 400);
        columns.forEach((column, i) => {
          context.fillStyle = colour.on(typeof row[column.name] === "number" ? level(column, row[column.name]) : 0);
          put(write(column, row[column.name]), i + 1, y + high / 2, 400);
        });
        context.fillStyle = colour.ink;
        said.forEach((name, i) => put(visible(row[name] ?? "").slice(0, 80), columns.length + 1 + i, y + high / 2, 400));
      });
    };
    return { name: view.name, width, height, paint };
  };

  view.table = make("table");
  view.note = make("p", { className: "reading wrap quiet", id: `${given.name}-note` });
  view.table.setAttribute("aria-describedby", view.note.id);
  view.section.append(view.note, make("div", { className: "scroll free", tabIndex: 0 }, view.table));
  view.section.lastChild.setAttribute("role", "region");
  view.section.lastChild.setAttribute("aria-describedby", view.note.id);
  return view;
};
