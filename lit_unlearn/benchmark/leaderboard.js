"use strict";
// Sorting and filtering only: without it the page is whole, in the order of depth.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  const sort = (header) => {
    const table = header.closest("table");
    const place = [...header.parentElement.children].indexOf(header);
    const up = header.getAttribute("aria-sort") !== "ascending";
    all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => row.children[place].dataset.sort ?? "";
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // the unknown is last in either direction
      const order = Number.isNaN(+x) || Number.isNaN(+y) ? x.localeCompare(y) : +x - +y;
      return up ? order : -order;
    };
    const body = table.tBodies[0];
    [...body.rows].sort(compare).forEach((row) => body.append(row));
  };

  const chosen = (name) => document.getElementById(name)?.value ?? "";

  const filter = () => {
    const [data, scenario, text] = [chosen("data"), chosen("scenario"), chosen("text").trim().toLowerCase()];
    const useful = document.getElementById("useful").checked;
    for (const section of all("section.scenario")) {
      const shown = (!data || section.dataset.data === data) && (!scenario || section.dataset.scenario === scenario);
      section.hidden = !shown;
      for (const item of all("[data-model]", section)) {
        const named = !text || item.dataset.model.toLowerCase().includes(text) || item.dataset.reference === "1";
        item.hidden = !named || (useful && item.dataset.utility === "damaged");
      }
    }
    const models = all("section.scenario:not([hidden]) tr[data-model]:not([hidden])").length;
    document.getElementById("count").textContent = `${models} rows shown`;
  };

  all("th button").forEach((button) => button.addEventListener("click", () => sort(button.closest("th"))));
  all("#filters input, #filters select").forEach((field) => field.addEventListener("input", filter));
  all("a[data-card]").forEach((link) => link.addEventListener("click", () => {
    document.getElementById(link.dataset.card).open = true;
  }));
  const hint = () => all(".hint").forEach((text) => {
    const table = text.nextElementSibling;
    text.hidden = table.scrollWidth <= table.clientWidth;
  });

  window.addEventListener("resize", hint);
  window.addEventListener("beforeprint", () => all("details").forEach((each) => { each.open = true; }));
  document.getElementById("filters").hidden = false;
  filter();
  hint();
})();
