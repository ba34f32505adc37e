"use strict";
(() => {
  const asked = JSON.parse(document.getElementById("asked").textContent);
  const { items, scales, points } = asked;
  const sides = ["left", "right"];
  const place = `${asked.kind}:${asked.sheet}`;
  const at = (id) => document.getElementById(id);

  const WORDS = {
    ko: {
      brand: "bitnet-bench 평가지", how: "어떻게 평가하나요?",
      intro: "같은 질문에 두 모델이 쓴 답입니다. 어느 모델의 답인지는 감추었고, 좌우는 문항마다 섞었습니다. 답마다 세 가지를 1점(매우 나쁨)에서 5점(매우 좋음)으로 매긴 다음, 어느 답이 나은지 고르세요.",
      fluency: "유창성", fluency_is: "한국어로서 자연스럽고 문법에 맞는가. 내용은 따지지 않습니다.",
      accuracy: "정확성", accuracy_is: "사실과 질문의 내용에 맞는가. 참고 답이 있으면 견주되, 표현이 달라도 뜻이 같으면 맞습니다.",
      relevance: "적절성", relevance_is: "묻는 것에 답하는가. 빠뜨리거나 군더더기가 없는가.",
      key_points: "강조된 항목의 점수", key_prefer: "나은 답, 비슷하면 T", key_move: "항목 옮기기", key_item: "문항 옮기기",
      prompt: "질문", reference: "참고 답 보기", answer_a: "답 A", answer_b: "답 B", prefer: "어느 답이 더 낫습니까?",
      question: (n) => `질문 ${n}`, left: "A가 낫다", tie: "비슷하다", right: "B가 낫다", previous: "← 이전", next: "다음 →",
      finish: "마치기", rater: "평가자 이름 또는 별명", save: "결과 저장 (JSON)",
      kept: "진행 상황은 이 브라우저에만 남습니다. 아무 데도 보내지 않으며, 저장한 파일을 평가를 부탁한 사람에게 건네주세요.",
      not_kept: "이 브라우저는 진행 상황을 남기지 못합니다. 창을 닫기 전에 끝내고 저장하세요.",
      item: (n, all) => `문항 ${n} / ${all}`, progress: (n, all) => `${all}개 중 ${n}개 마침`,
      left_over: (n) => `아직 ${n}개 문항이 남았습니다.`, no_rater: "이름이나 별명을 적어 주세요.",
      ready: "모두 마쳤습니다. 저장하세요.", saved: (name) => `${name} 파일로 저장했습니다.`,
      empty: "(빈 답)", one: "매우 나쁨", five: "매우 좋음", other: "English", items: "문항", state_done: "마침", state_open: "남음",
    },
    en: {
      brand: "bitnet-bench rating sheet", how: "How do I rate?",
      intro: "Two models answered the same question. Which model wrote which answer is hidden, and the sides are shuffled for every item. Give each answer 1 (very bad) to 5 (very good) on three scales, then say which answer is better.",
      fluency: "Fluency", fluency_is: "Is it natural, grammatical Korean (or English, where that is asked for)? Contents do not count.",
      accuracy: "Accuracy", accuracy_is: "Is it true to the facts and to the question? Compare with the reference where there is one; other words with the same meaning are right.",
      relevance: "Relevance", relevance_is: "Does it answer what is asked, with nothing missing and nothing idle?",
      key_points: "points for the marked row", key_prefer: "the better answer, T for a tie", key_move: "move between rows", key_item: "move between items",
      prompt: "Question", reference: "Show the reference answer", answer_a: "Answer A", answer_b: "Answer B", prefer: "Which answer is better?",
      question: (n) => `Question ${n}`, left: "A is better", tie: "About the same", right: "B is better", previous: "← Back", next: "Next →",
      finish: "Finish", rater: "Your name or a nickname", save: "Save the result (JSON)",
      kept: "Your progress is kept in this browser only. Nothing is sent anywhere; hand the saved file to whoever asked you.",
      not_kept: "This browser cannot keep your progress. Finish and save before you close the window.",
      item: (n, all) => `Item ${n} of ${all}`, progress: (n, all) => `${n} of ${all} done`,
      left_over: (n) => `${n} items are left.`, no_rater: "Enter your name or a nickname.",
      ready: "All done. Save the result.", saved: (name) => `Saved as ${name}.`,
      empty: "(empty answer)", one: "very bad", five: "very good", other: "한국어", items: "Items", state_done: "done", state_open: "open",
    },
  };

  const blank = () => items.map(() => ({ left: {}, right: {}, preferred: null }));
  let storage = true;
  const recall = () => {
    const fresh = { rater: "", language: "ko", current: 0, judgements: blank() };
    try {
      const kept = JSON.parse(localStorage.getItem(place));
      return kept && kept.judgements.length === items.length ? { ...fresh, ...kept } : fresh;
    } catch {
      return fresh;
    }
  };
  const kept = recall();
  const keep = () => {
    try {
      localStorage.setItem(place, JSON.stringify(kept));
      storage = true;
    } catch {
      storage = false;
    }
  };

  /* The rows of an item in the order of the keys: three scales of either answer, then the preference. */
  const rows = [...sides.flatMap((side) => scales.map((scale) => ({ side, scale }))), { preferred: true }];
  let active = 0;
  const judged = () => kept.judgements[kept.current];
  const answer = (row, of = judged()) => (row.preferred ? of.preferred : of[row.side][row.scale]);
  const complete = (of) => rows.every((row) => answer(row, of));
  const words = () => WORDS[kept.language];

  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const choice = (name, value, label, title) => {
    const input = make("input", { type: "radio", name, value: String(value), title });
    input.id = `${name}-${value}`;
    return make("span", { className: "choice" }, input, make("label", { htmlFor: input.id, textContent: label, title }));
  };
  const fieldsets = rows.map((row, i) => {
    const set = make("fieldset", { className: row.preferred ? "row prefer" : "row" }, make("legend"));
    const options = row.preferred ? ["left", "tie", "right"] : points;
    set.append(make("div", { className: "choices" }, ...options.map((o) => choice(`row-${i}`, o, String(o), ""))));
    set.addEventListener("change", (event) => {
      active = i;
      give(row.preferred ? event.target.value : Number(event.target.value));
    });
    at(row.preferred ? "preference" : `scales-${row.side}`).append(set);
    return set;
  });
  const buttons = items.map((_, i) => {
    const button = make("button", { type: "button", textContent: String(i + 1) });
    button.addEventListener("click", () => go(i));
    at("overview").append(button);
    return button;
  });

  const give = (value) => {
    const row = rows[active];
    if (row.preferred) judged().preferred = value;
    else judged()[row.side][row.scale] = value;
    const open = rows.findIndex((r, i) => i > active && !answer(r));
    const any = open >= 0 ? open : rows.findIndex((r) => !answer(r));
    if (any >= 0) active = any;
    keep();
    show();
  };
  const go = (i) => {
    if (i < 0 || i >= items.length) return;
    kept.current = i;
    active = Math.max(0, rows.findIndex((row) => !answer(row)));
    at("reference").open = false;
    keep();
    show();
    at("title").focus({ preventScroll: true });
    at("item").scrollIntoView({ block: "start" });
  };

  /* As in the report: no character of a model's text hides, or reorders what stands around it. */
  const visible = (text) => text.replace(/\r\n/g, "\n").replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (c) => {
    if ("\n\t\u200c\u200d".includes(c)) return c;
    return /[\p{Cc}\p{Cs}]/u.test(c) ? "\ufffd" : `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
  const fill = (place, text) => {
    place.textContent = text.trim() === "" ? words().empty : visible(text);
    place.classList.toggle("empty", text.trim() === "");
    return place;
  };
  const write = (id, text) => fill(at(id), text);
  const box = (text) => make("div", { className: "text" }, fill(make("bdi"), text));
  /* A question of several turns: each question with both answers below it, in the order of the conversation. */
  const showTurns = (turns) => {
    at("conversation").replaceChildren(...turns.map((turn, i) => {
      const answers = sides.map((side) => make(
        "article", {}, make("h3", { textContent: words()[side === "left" ? "answer_a" : "answer_b"] }), box(turn[side]),
      ));
      const reference = make("details", {}, make("summary", { textContent: words().reference }), box(turn.reference));
      return make(
        "div", { className: "turn" }, make("h2", { textContent: words().question(i + 1) }), box(turn.question),
        ...(turn.reference ? [reference] : []), make("div", { className: "answers" }, ...answers),
      );
    }));
    document.querySelectorAll(".single").forEach((place) => { place.hidden = turns.length > 0; });
  };
  const showItem = () => {
    const item = items[kept.current];
    showTurns(item.turns);
    at("title").textContent = words().item(kept.current + 1, items.length);
    write("prompt", item.prompt);
    write("target", item.target);
    at("reference").hidden = item.target === "" || item.turns.length > 0;
    sides.forEach((side) => write(side, item[side]));
    fieldsets.forEach((set, i) => {
      const row = rows[i];
      set.classList.toggle("active", i === active);
      set.firstChild.textContent = words()[row.preferred ? "prefer" : row.scale];
      for (const input of set.querySelectorAll("input")) {
        input.checked = String(answer(row) ?? "") === input.value;
        const label = input.nextSibling;
        if (row.preferred) label.textContent = words()[input.value];
        else {
          const end = input.value === "1" ? words().one : input.value === "5" ? words().five : "";
          label.title = end;
          input.setAttribute("aria-label", `${input.value}${end ? ` ${end}` : ""}`);
        }
      }
    });
    at("previous").disabled = kept.current === 0;
    at("next").disabled = kept.current === items.length - 1;
    at("next").classList.toggle("primary", complete(judged()));
  };
  const showFinish = () => {
    const done = kept.judgements.filter(complete).length;
    at("progress").textContent = words().progress(done, items.length);
    at("meter").value = done / items.length;
    buttons.forEach((button, i) => {
      const finished = complete(kept.judgements[i]);
      button.classList.toggle("done", finished);
      button.setAttribute("aria-label", `${words().item(i + 1, items.length)}, ${finished ? words().state_done : words().state_open}`);
      if (i === kept.current) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
    });
    const left = items.length - done;
    const named = kept.rater.trim() !== "";
    at("save").disabled = left > 0 || !named;
    at("state").textContent = left > 0 ? words().left_over(left) : named ? words().ready : words().no_rater;
  };
  const showWords = () => {
    document.documentElement.lang = kept.language;
    document.title = words().brand;
    document.querySelectorAll("[data-text]").forEach((place) => { place.textContent = words()[place.dataset.text]; });
    if (!storage) document.querySelector("[data-text=kept]").textContent = words().not_kept;
    document.querySelector("nav.steps").setAttribute("aria-label", words().items);
    at("language").textContent = words().other;
    at("language").lang = kept.language === "ko" ? "en" : "ko";
  };
  const show = () => { showWords(); showItem(); showFinish(); };

  const save = () => {
    const result = {
      kind: asked.kind, schema_version: 1, sheet: asked.sheet, rater: kept.rater.trim(),
      finished: new Date().toISOString(),
      judgements: kept.judgements.map((of, item) => ({ item, left: of.left, right: of.right, preferred: of.preferred })),
    };
    const name = `rating-${asked.sheet.slice(0, 8)}-${result.rater.replace(/[^\p{L}\p{N}]+/gu, "_")}.json`;
    const link = make("a", { download: name });
    link.href = URL.createObjectURL(new Blob([JSON.stringify(result, null, 1)], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    at("state").textContent = words().saved(name);
  };

  /* Keys by their place (event.code): with a Korean input method `event.key` of A is ㅁ. */
  const PREFER = { KeyA: "left", KeyB: "right", KeyT: "tie" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === at("rater")) return;
    const digit = /^(?:Digit|Numpad)([1-5])$/.exec(event.code);
    const moves = { ArrowUp: -1, ArrowDown: 1 };
    if (digit && !rows[active].preferred) give(Number(digit[1]));
    else if (event.code in PREFER) { active = rows.length - 1; give(PREFER[event.code]); }
    else if (event.code in moves) { active = Math.min(rows.length - 1, Math.max(0, active + moves[event.code])); show(); }
    else if (event.code === "ArrowRight") go(kept.current + 1);
    else if (event.code === "ArrowLeft") go(kept.current - 1);
    else return;
    event.preventDefault();
    document.querySelector(".row.active").scrollIntoView({ block: "nearest" });
  });
  at("previous").addEventListener("click", () => go(kept.current - 1));
  at("next").addEventListener("click", () => go(kept.current + 1));
  at("save").addEventListener("click", save);
  at("rater").value = kept.rater;
  at("rater").addEventListener("input", () => { kept.rater = at("rater").value; keep(); showFinish(); });
  at("language").addEventListener("click", () => { kept.language = kept.language === "ko" ? "en" : "ko"; keep(); show(); });
  at("help").open = !kept.judgements.some(complete);
  active = Math.max(0, rows.findIndex((row) => !answer(row)));
  keep();
  show();
})();
