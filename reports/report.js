"use strict";
(() => {
  const filters = document.getElementById("filters");
  if (!filters) return;
  const task = document.getElementById("filter-task");
  const differ = document.getElementById("filter-differ");
  const count = document.getElementById("filter-count");
  const apply = () => {
    let shown = 0;
    for (const group of document.querySelectorAll("details[data-task]")) {
      let matching = 0;
      for (const sample of group.querySelectorAll("article")) {
        sample.hidden = differ.checked && sample.dataset.differ !== "yes";
        matching += sample.hidden ? 0 : 1;
      }
      group.hidden = (task.value !== "" && group.dataset.task !== task.value) || matching === 0;
      if (!group.hidden) shown += matching;
      if (task.value !== "" && !group.hidden) group.open = true;
    }
    count.textContent = `예제 ${shown}개`;
  };
  filters.hidden = false;
  task.addEventListener("change", apply);
  differ.addEventListener("change", apply);
  apply();
})();
