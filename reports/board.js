"use strict";
// Tables whose rows can be sorted: by a button in each heading, and on a small screen, where rows are cards, by a list.
(() => {
  const root = document.documentElement;
  const words = JSON.parse(document.getElementById("data").textContent).words;
  const say = (key) => words[root.lang]["page." + key];
  const spoken = [];

  const valueOf = (row, column) => row.cells[column].dataset.sort;
  const compare = (a, b, down) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const [x, y] = [Number(a), Number(b)];
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, root.lang) : x - y;
    return down ? -order : order;
  };

  for (const table of document.querySelectorAll("table.sorts")) {
    const headings = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const written = [...body.rows];
    const sortable = headings.map((_, i) => written.some((row) => valueOf(row, i) !== undefined));
    const list = document.createElement("select");
    let [at, down] = [-1, false];

    const sort = (column, falling) => {
      [at, down] = [column, falling];
      const rows = column < 0 ? written : written.map((row, i) => [row, i])
        .sort(([a, i], [b, j]) => compare(valueOf(a, column), valueOf(b, column), falling) || i - j)
        .map(([row]) => row);
      body.append(...rows);
      headings.forEach((heading, i) => {
        if (i === column) heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
        else heading.removeAttribute("aria-sort");
      });
      list.value = String(column);
    };
    // A score is best read from the greatest down, a rank or a name from the least up.
    const beginsDown = (column) => column > 0 && !headings[column].hasAttribute("data-rises");
    const press = (column) => {
      if (at !== column) sort(column, beginsDown(column));
      else if (down === beginsDown(column)) sort(column, !down);
      else sort(-1, false);
    };

    headings.forEach((heading, i) => {
      if (!sortable[i]) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => press(i));
      heading.append(button);
      spoken.push(() => { button.title = say("sort"); });
    });

    const label = document.createElement("label");
    label.className = "sorting";
    const caption = document.createElement("span");
    label.append(caption, list);
    table.parentElement.before(label);
    list.addEventListener("change", () => sort(Number(list.value), beginsDown(Number(list.value))));
    spoken.push(() => {
      caption.textContent = say("sort");
      const chosen = list.value || "-1";
      const names = [[-1, say("sort.written")]];
      headings.forEach((heading, i) => {
        const shown = heading.querySelector(`:is(button, th) > bdi:not([lang]), bdi.${root.lang}`);
        if (sortable[i]) names.push([i, shown ? shown.textContent : ""]);
      });
      list.replaceChildren(...names.map(([value, text]) => new Option(text, value)));
      list.value = chosen;
    });
  }
  const speak = () => { for (const one of spoken) one(); };
  new MutationObserver(speak).observe(root, { attributes: true, attributeFilter: ["lang"] });
  speak();
})();
