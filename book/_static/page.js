/* What an address points at is opened; the ledger shows the states that are asked for. */
(() => {
  "use strict";
  function open() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    for (let element = target; element; element = element.parentElement) if (element.tagName === "DETAILS") element.open = true;
    target.scrollIntoView();
  }

  /* More than three checks of one statement in a row become one line. */
  function group() {
    const runs = [];
    for (const cell of document.querySelectorAll("div.cell")) {
      let before = cell.previousElementSibling;
      if (before && before.matches("details.code-behind")) before = before.previousElementSibling;
      const checks = [...cell.querySelectorAll("details.check")].filter(one => !one.closest(".ledger-row"));
      if (!checks.length) continue;
      const last = runs[runs.length - 1];
      if (last && before === last.cell) { last.checks.push(...checks); last.cell = cell; } else runs.push({ cell, checks });
    }
    for (const { checks } of runs) {
      for (const name of new Set(checks.map(one => one.querySelector("strong").textContent))) {
        const same = checks.filter(one => one.querySelector("strong").textContent === name);
        if (same.length < 4) continue;
        const states = same.map(one => [...one.classList].find(style => style.startsWith("state-")));
        const seen = [...new Set(states)], whole = document.createElement("details"), line = document.createElement("summary");
        whole.className = `check ${seen.length > 1 ? "state-mixed" : seen[0]}`;
        const counts = seen.map(state => `<b class="${state}">${seen.length > 1 ? `${states.filter(one => one === state).length} ` : "each "}${state.slice(6)}</b>`);
        line.innerHTML = `<strong>${name}</strong> ${same.length} records: <span class="facts">${counts.join(", ")}</span>`;
        same[0].before(whole);
        whole.append(line, ...same);
      }
    }
  }

  function filter() {
    const bar = document.querySelector(".ledger-filter");
    if (!bar) return;
    const rows = [...document.querySelectorAll(".ledger-row")], said = bar.querySelector("output");
    const words = new Map(rows.map(row => [row, row.textContent.toLowerCase()]));
    const update = () => {
      const states = [...bar.querySelectorAll("input[type=checkbox]:checked")].map(box => box.value);
      const text = bar.querySelector("input[type=search]").value.toLowerCase();
      let shown = 0;
      for (const row of rows) {
        const states_of = row.dataset.states.split(" ");
        const shows = (!states.length || states.some(one => states_of.includes(one))) && words.get(row).includes(text);
        row.hidden = !shows;
        shown += shows;
      }
      said.textContent = `${shown} of ${rows.length} rows`;
    };
    bar.hidden = false;
    bar.addEventListener("input", update);
    update();
  }

  /* The map: what is joined with a node lights up under the pointer or the focus; words choose nodes. */
  function map() {
    const box = document.querySelector(".map");
    if (!box) return;
    const nodes = [...box.querySelectorAll("[data-node]")], lines = [...box.querySelectorAll("[data-from]")];
    const search = box.querySelector("input");
    const show = chosen => {
      const joined = new Set(chosen);
      for (const line of lines) {
        const lit = chosen.has(line.dataset.from) || chosen.has(line.dataset.to);
        line.classList.toggle("lit", lit);
        if (lit) joined.add(line.dataset.from).add(line.dataset.to);
      }
      box.classList.toggle("choosing", chosen.size > 0);
      for (const node of nodes) {
        node.classList.toggle("lit", joined.has(node.dataset.node));
        node.classList.toggle("chosen", chosen.has(node.dataset.node));
      }
    };
    const searched = () => {
      const words = search.value.trim().toLowerCase();
      show(new Set(words ? nodes.filter(node => node.textContent.toLowerCase().includes(words)).map(node => node.dataset.node) : []));
    };
    for (const node of nodes) {
      for (const name of ["mouseenter", "focus"]) node.addEventListener(name, () => show(new Set([node.dataset.node])));
      for (const name of ["mouseleave", "blur"]) node.addEventListener(name, searched);
    }
    search.hidden = false;
    search.addEventListener("input", searched);
  }

  /* What is wider than its place, a phone's above all, is marked where it goes on. */
  function fade() {
    const places = "div.math, mjx-container, .cell_output .output, div.highlight pre, a.image-reference, .figure-table, .pst-scrollable-table-container, .map-box";
    const extent = box => { /* of a formula what is drawn: what is read aloud is wider */
      const drawn = box.querySelector(":scope > mjx-math");
      return drawn ? drawn.getBoundingClientRect().width : box.scrollWidth;
    };
    const room = box => box.querySelector(":scope table") ? 16 : 4;
    const more = box => getComputedStyle(box).overflowX !== "visible" && extent(box) - box.clientWidth - box.scrollLeft > room(box);
    const look = box => box.classList.toggle("more-right", more(box));
    const seen = new ResizeObserver(changed => changed.forEach(one => look(one.target)));
    for (const box of document.querySelectorAll(places)) {
      seen.observe(box);
      box.addEventListener("scroll", () => look(box), { passive: true });
    }
  }

  /* What has no parts that a phone could stack keeps its size there, and is swiped, if it is wide; a single panel fits. */
  function panels() {
    for (const image of document.querySelectorAll(".cell_output a.image-reference > img:not([data-whole])")) {
      const wide = () => image.naturalWidth > 1.75 * image.naturalHeight || parseInt(image.style.width) > 600;
      const look = () => image.classList.toggle("several", wide());
      if (image.complete) look(); else image.addEventListener("load", look);
    }
  }

  addEventListener("hashchange", open);
  addEventListener("beforeprint", () => document.querySelectorAll("details.in-print, details.proof-behind").forEach(one => { one.open = true; }));
  document.addEventListener("DOMContentLoaded", () => { group(); filter(); map(); panels(); fade(); open(); });
})();
