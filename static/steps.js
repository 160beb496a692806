// J and K: to the next and the previous request. Among the rows of a list they move the focus, and Enter opens a request;
// on the page of a request they open the one beside it.
"use strict";
(() => {
  let asked = null; // of a page of rows: which place gets the focus, and the first link of the page before

  const rows = () => [...document.querySelectorAll("[data-rows] tbody th a")];
  const pager = (rel) => document.querySelector(`.pager a[rel=${rel}]`);

  const step = (forwards) => {
    const rel = forwards ? "next" : "prev";
    const links = rows();
    if (!links.length) return pager(rel)?.click();
    const row = document.activeElement.closest("[data-rows] tbody tr");
    const at = links.findIndex((link) => row?.contains(link));
    const to = at < 0 ? (forwards ? 0 : links.length - 1) : at + (forwards ? 1 : -1);
    if (links[to]) return links[to].focus();
    if (!pager(rel)) return;
    asked = { place: forwards ? 0 : -1, before: links[0].href };
    pager(rel).click();
  };

  // A page of rows that was asked for by a key.
  document.addEventListener("htmx:afterSettle", () => {
    const links = rows();
    if (!asked || !links.length || links[0].href === asked.before) return;
    links.at(asked.place).focus();
    asked = null;
  });

  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    const key = event.key.toLowerCase();
    if (event.isComposing || typing || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if ((key !== "j" && key !== "k") || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    step(key === "j");
  });
})();
