"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 760px)");
  const words = (key) => data.words[root.lang]["page." + key];
  const number = (value) => value.toLocaleString("en-US");

  // Everything that a run wrote comes into the page here, as a text node.
  const make = (tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // Charts, drawn when they come near the window, all of them before printing.
  const charts = [...document.querySelectorAll("[data-chart]")];
  const drawn = new Map();
  const look = () => {
    const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
    const [ink, quiet, rule] = [colour("--ink"), colour("--quiet"), colour("--rule")];
    return {
      background: "transparent",
      font: "system-ui, sans-serif",
      view: { stroke: rule },
      axis: { labelColor: ink, titleColor: quiet, gridColor: rule, domainColor: rule, tickColor: rule, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
      legend: { labelColor: ink, titleColor: quiet, labelFontSize: 12, orient: "bottom", columns: narrow.matches ? 1 : 2, symbolStrokeColor: quiet },
      text: { color: ink, fontSize: 12 },
      rule: { color: quiet },
    };
  };
  const draw = async (place) => {
    const state = root.lang + dark.matches;
    if (drawn.get(place) === state) return;
    drawn.set(place, state);
    const text = JSON.stringify(data.charts[place.dataset.chart][root.lang]);
    const spec = JSON.parse(dark.matches ? text.replaceAll("#0072b2", "#4aa3df") : text);
    await window.vegaEmbed(place, spec, {
      actions: false, ast: true, config: look(), defaultStyle: false, mode: "vega-lite", renderer: "svg",
      tooltip: { disableDefaultStyle: true, theme: "ours" },
    });
    place.dataset.drawn = "yes";
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, { rootMargin: "400px" });
  for (const place of charts) near.observe(place);
  const redraw = () => { for (const place of drawn.keys()) if (isPlaced(place)) draw(place); else drawn.delete(place); };
  // A chart without a place on the page, in a closed part or behind a switch, is drawn when it gets one.
  const isPlaced = (place) => place.getClientRects().length > 0;
  window.addEventListener("beforeprint", () => {
    for (const place of charts) if (isPlaced(place)) draw(place);
    build();
    if (table) table.page.len(PRINTED_ROWS).draw();
  });
  window.addEventListener("afterprint", () => { if (table) table.page.len(pageLength()).draw(); });
  dark.addEventListener("change", redraw);

  // Switches: one chart of several is shown.
  for (const figure of document.querySelectorAll(".switch")) {
    figure.addEventListener("click", (event) => {
      const pressed = event.target.closest("[data-shows]");
      if (!pressed) return;
      for (const button of figure.querySelectorAll("[data-shows]")) button.setAttribute("aria-pressed", String(button === pressed));
      for (const panel of figure.querySelectorAll("[data-panel]")) {
        panel.hidden = panel.dataset.panel !== pressed.dataset.shows;
        if (!panel.hidden) draw(panel.querySelector("[data-chart]"));
      }
    });
  }

  // Cards: on a small screen a row shows its main columns until it is opened.
  for (const row of document.querySelectorAll(".folds tbody tr")) {
    const button = make("button", "more");
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    row.cells[0].append(button);
    row.addEventListener("click", (event) => {
      if (event.target.closest("a") || String(window.getSelection())) return;
      const open = row.classList.toggle("open");
      button.setAttribute("aria-expanded", String(open));
    });
  }

  // Contents: the part that is being read is marked.
  const links = [...document.querySelectorAll(".contents a")];
  const targets = links.map((link) => document.getElementById(link.hash.slice(1)));
  const markCurrent = () => {
    const line = document.querySelector(".top").getBoundingClientRect().bottom + 24;
    const passed = targets.filter((target) => target.getBoundingClientRect().top <= line).length;
    const atEnd = window.innerHeight + window.scrollY >= root.scrollHeight - 2;
    const current = atEnd ? links.length - 1 : Math.max(0, passed - 1);
    links.forEach((link, i) => {
      if (i !== current) link.removeAttribute("aria-current");
      else if (!link.hasAttribute("aria-current")) {
        link.setAttribute("aria-current", "true");
        const strip = link.parentElement;
        strip.scrollLeft = link.offsetLeft - strip.offsetLeft - 40;
      }
    });
  };
  window.addEventListener("scroll", markCurrent, { passive: true });
  window.addEventListener("resize", markCurrent);
  markCurrent();

  // Language.
  const speak = (language) => {
    root.lang = language;
    document.title = words("title");
    for (const button of document.querySelectorAll("[data-language]")) {
      button.setAttribute("aria-pressed", String(button.dataset.language === language));
    }
    for (const button of document.querySelectorAll(".more")) button.setAttribute("aria-label", words("more"));
    redraw();
    if (table) { fillOutcomes(); heads(); table.rows().invalidate().draw(false); say(); }
  };
  for (const button of document.querySelectorAll("[data-language]")) {
    button.addEventListener("click", () => speak(button.dataset.language));
  }

  // Samples.
  const samples = data.samples;
  const at = (id) => document.getElementById(id);
  let table = null;
  let hits = null;
  let order = [];
  const PRINTED_ROWS = 8;
  const pageLength = () => (narrow.matches ? 8 : 20);
  const taskName = (row) => samples.names[samples.task[row]][root.lang];
  let texts = null;
  const OUTCOMES = ["all", "to-wrong", "to-right", "both-wrong", "differ"];
  const chosen = () => [Number(at("first").value), Number(at("second").value)];
  const right = (row, run) => samples.got[row][run] !== null && samples.got[row][run] >= 1;
  const outcome = (row, kind, a, b) => {
    if (kind === "all") return true;
    if (samples.got[row][a] === null || samples.got[row][b] === null) return false;
    if (kind === "differ") return samples.outputs[row][a] !== samples.outputs[row][b];
    if (kind === "to-wrong") return !right(row, a) && right(row, b);
    if (kind === "to-right") return right(row, a) && !right(row, b);
    return !right(row, a) && !right(row, b);
  };
  // Rows whose result changed come first, then those whose answer changed, then the others.
  const rank = (row, a, b) => {
    if (samples.got[row][a] === null || samples.got[row][b] === null) return 3;
    if (right(row, a) !== right(row, b)) return 0;
    return samples.outputs[row][a] !== samples.outputs[row][b] ? 1 : 2;
  };
  const sortRows = () => {
    const [a, b] = chosen();
    order = samples.doc.map((_, row) => row).sort((one, other) => rank(one, a, b) - rank(other, a, b) || one - other);
  };
  const option = (select, value, text) => {
    const element = make("option", "", text);
    element.value = value;
    select.append(element);
  };
  const fillOutcomes = () => {
    const select = at("outcome");
    const value = select.value || "all";
    select.replaceChildren();
    for (const kind of OUTCOMES) option(select, kind, words("outcome." + kind));
    select.value = value;
    at("task").options[0].textContent = words("every-task");
    samples.names.forEach((name, i) => { at("task").options[i + 1].textContent = name[root.lang]; });
  };
  const fill = () => {
    samples.runs.forEach((run, i) => {
      for (const id of ["first", "second"]) option(at(id), i, `${run.key} · ${run.name}`);
    });
    const [a, b] = samples.pair;
    at("first").value = String(a);
    at("second").value = String(b);
    option(at("task"), "", "");
    samples.tasks.forEach((task, i) => option(at("task"), i, task));
    fillOutcomes();
  };
  const index = () => {
    texts = texts || samples.doc.map((doc, i) =>
      [doc, samples.prompt[i], samples.target[i], ...samples.outputs[i]].join("\n").normalize("NFC").toLowerCase());
  };
  const search = () => {
    const wanted = at("search").value.normalize("NFC").toLowerCase().trim();
    const task = at("task").value;
    const kind = at("outcome").value;
    const bad = at("malformed").checked;
    const [a, b] = chosen();
    if (wanted) index();
    hits = new Uint8Array(samples.doc.length);
    for (let row = 0; row < hits.length; row += 1) {
      if (task !== "" && samples.task[row] !== Number(task)) continue;
      if (bad && !samples.malformed[row][a] && !samples.malformed[row][b]) continue;
      if (!outcome(row, kind, a, b)) continue;
      if (wanted && !texts[row].includes(wanted)) continue;
      hits[row] = 1;
    }
  };
  const say = () => {
    const { recordsDisplay } = table.page.info();
    at("count").textContent = words(samples.doc.length === 1 ? "count-one" : "count").replace("{shown}", number(recordsDisplay)).replace("{all}", number(samples.doc.length));
  };
  const apply = () => {
    search();
    table.draw();
    say();
  };
  const mark = (row, run) => {
    const got = samples.got[row][run];
    if (got === null) return make("span", "mark none", "—");
    const malformed = samples.malformed[row][run] ? " ⚠" : "";
    if (got >= 1) return make("span", "mark right", "✓ " + words("right") + malformed);
    if (got <= 0) return make("span", "mark wrong", "✗ " + words("wrong") + malformed);
    return make("span", "mark partly", "◐ " + (100 * got).toFixed(0) + malformed);
  };
  const score = (row, run) => {
    const got = samples.got[row][run];
    return make("span", "mark none", got === null ? "" : `${words("score")} ${(100 * got).toFixed(got > 0 && got < 1 ? 1 : 0)}`);
  };
  const shortened = (text, most) => (text.length > most ? text.slice(0, most) + "…" : text);
  const bdi = (text) => make("bdi", "", text);

  // Words that only one of two texts has are marked: the longest common subsequence, for texts that are not too long.
  const differences = (ours, theirs) => {
    const split = (text) => text.match(/\s+|[^\s]+/gu) || [];
    const [a, b] = [split(ours), split(theirs)];
    if (a.length * b.length > 250000) return [[ours, false]];
    const width = b.length + 1;
    const length = new Uint16Array((a.length + 1) * width);
    for (let i = a.length - 1; i >= 0; i -= 1) {
      for (let j = b.length - 1; j >= 0; j -= 1) {
        length[i * width + j] = a[i] === b[j]
          ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
      }
    }
    const parts = [];
    for (let i = 0, j = 0; i < a.length;) {
      if (j < b.length && a[i] === b[j]) { parts.push([a[i], false]); i += 1; j += 1; }
      else if (j < b.length && length[i * width + j + 1] >= length[(i + 1) * width + j]) j += 1;
      else { parts.push([a[i], true]); i += 1; }
    }
    return parts;
  };
  const marked = (text, other) => {
    const box = make("bdi");
    for (const [part, differs] of other === null || other === text ? [[text, false]] : differences(text, other)) {
      box.append(differs ? make("mark", "", part) : document.createTextNode(part));
    }
    return box;
  };
  const field = (name, content) => {
    const box = make("div", "field");
    const text = make("div", "text");
    text.append(content);
    text.tabIndex = 0;
    box.append(make("h4", "", name), text);
    return box;
  };
  // The probability of each choice, in the runs that are compared, or in the one that there is.
  const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`;
  const choiceTable = (row, a, b) => {
    const runs = [...new Set([a, b])];
    const shares = samples.shares[row];
    if (!runs.some((run) => shares[run].length)) return null;
    const box = make("div", "choices");
    box.append(make("span", "choice head", words("choices")));
    for (const run of runs) box.append(make("span", "head", shares[run].length ? samples.runs[run].key : ""));
    samples.choices[row].forEach((choice, i) => {
      const name = make("span", i === samples.gold[row] ? "choice gold" : "choice");
      name.append(bdi(choice));
      box.append(name);
      for (const run of runs) {
        const cell = make("span", "share");
        const share = shares[run][i];
        if (share !== undefined) {
          const bar = make("meter");
          bar.max = 1;
          bar.value = share;
          bar.setAttribute("aria-label", `${samples.runs[run].key} ${percent(share)}`);
          cell.append(bar, make("span", "", percent(share)));
        }
        box.append(cell);
      }
    });
    return box;
  };
  const address = (row) => "#sample=" + encodeURIComponent(samples.tasks[samples.task[row]]) + "/" + samples.doc[row];
  const detail = (row) => {
    const box = make("div", "detail");
    box.append(field(words("prompt"), bdi(samples.prompt[row])), field(words("target"), bdi(samples.target[row])));
    const [a, b] = chosen();
    const runs = [a, b, ...samples.runs.map((_, i) => i).filter((i) => i !== a && i !== b)];
    const outputs = make("div", "outputs");
    runs.filter((run, i) => runs.indexOf(run) === i).forEach((run) => {
      const output = samples.outputs[row][run];
      const other = run === a ? samples.outputs[row][b] : run === b ? samples.outputs[row][a] : null;
      const one = field(`${samples.runs[run].key} · ${samples.runs[run].name}`, output === null ? "—" : marked(output, other));
      one.querySelector("h4").append(" ", mark(row, run), " ", score(row, run));
      outputs.append(one);
    });
    const link = make("a", "", words("link"));
    link.href = address(row);
    box.append(outputs);
    const choices = choiceTable(row, a, b);
    if (choices) box.append(choices);
    box.append(link);
    return box;
  };
  const toggle = (tr, open) => {
    const one = table.row(tr);
    const show = open === undefined ? !one.child.isShown() : open;
    if (show) one.child(detail(one.data()), "child").show();
    else one.child.hide();
    tr.querySelector("button").setAttribute("aria-expanded", String(show));
  };
  const cells = [
    (td, row) => {
      const button = make("button", "toggle", "");
      button.type = "button";
      button.setAttribute("aria-expanded", "false");
      button.setAttribute("aria-label", `${words("open")} ${taskName(row)} ${samples.doc[row]}`);
      td.replaceChildren(button);
    },
    (td, row) => td.replaceChildren(bdi(taskName(row))),
    (td, row) => td.replaceChildren(number(samples.doc[row])),
    (td, row) => td.replaceChildren(bdi(shortened(samples.prompt[row], 90))),
    (td, row) => td.replaceChildren(bdi(shortened(samples.target[row], 40))),
    ...[0, 1].map((side) => (td, row) => {
      const run = chosen()[side];
      td.replaceChildren(mark(row, run), " ", bdi(shortened(samples.outputs[row][run] || "", 40)));
    }),
  ];
  const heads = () => {
    chosen().forEach((run, side) => {
      at("rows").querySelector(side ? "th.second" : "th.first").textContent = `${samples.runs[run].key} · ${shortened(samples.runs[run].name, 24)}`;
    });
  };
  const NAMES = ["open", "task", "number", "prompt", "target", "first", "second"];
  const build = () => {
    if (table || !samples.doc.length) return;
    fill();
    at("filters").hidden = false;
    at("rows").hidden = false;
    heads();
    search();
    sortRows();
    // DataTables is given numbers only: it would take a string for HTML.
    table = new window.DataTable(at("rows"), {
      autoWidth: false,
      columns: NAMES.map((name, i) => ({
        className: name,
        orderable: name === "task" || name === "number",
        searchable: false,
        data: null,
        render: (row, kind) => (kind === "display" ? "" : name === "task" ? samples.task[row] : samples.doc[row]),
      })),
      data: order,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: "paging" },
      order: [],
      pageLength: pageLength(),
      rowCallback: (tr, row) => { [...tr.cells].forEach((td, i) => cells[i](td, row)); },
    });
    table.search.fixed("filters", (_, row) => hits[row] === 1);
    table.draw();
    say();
    at("rows").querySelector("tbody").addEventListener("click", (event) => {
      const tr = event.target.closest("tr");
      if (tr && !tr.querySelector(".detail") && tr.querySelector(".toggle")) toggle(tr);
    });
    for (const id of ["task", "outcome", "malformed"]) at(id).addEventListener("change", apply);
    for (const id of ["first", "second"]) {
      at(id).addEventListener("change", () => {
        heads();
        search();
        sortRows();
        table.clear().rows.add(order);
        apply();
      });
    }
    at("search").addEventListener("input", apply);
    at("filters").addEventListener("submit", (event) => event.preventDefault());
    at("clear").addEventListener("click", clear);
    requestIdleCallback(index); // so that the first search is as quick as the others
  };
  const clear = () => {
    at("task").value = "";
    at("outcome").value = "all";
    at("malformed").checked = false;
    at("search").value = "";
    apply();
  };
  const follow = () => {
    const matched = /^#sample=(.*)\/(-?\d+)$/.exec(location.hash);
    if (!matched || !samples.doc.length) return;
    build();
    let task;
    try { task = decodeURIComponent(matched[1]); } catch { return; }
    const row = samples.doc.findIndex((doc, i) => doc === Number(matched[2]) && samples.tasks[samples.task[i]] === task);
    if (row < 0) return;
    clear();
    const place = table.rows({ order: "applied", search: "applied" }).data().indexOf(row);
    table.page(Math.floor(place / table.page.len())).draw("page");
    const tr = table.row((_, data) => data === row).node();
    toggle(tr, true);
    tr.scrollIntoView({ block: "center" });
  };
  if (samples.doc.length) {
    const soon = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { soon.disconnect(); build(); }
    }, { rootMargin: "600px" });
    soon.observe(document.querySelector(".samples"));
  }
  window.addEventListener("hashchange", follow);
  follow();
  root.dataset.ready = "yes";
})();
