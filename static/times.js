// Moments in the reader's own time: "2 min ago" with the moment itself as a tooltip, or the moment itself. Without
// scripts they stand in UTC. <time datetime data-form="ago | exact | kept">: of a kept one only the tooltip is written.
"use strict";
(() => {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const two = (number) => String(number).padStart(2, "0");
  const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const exact = (at) => `${day(at)} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;

  const ago = (at) => {
    const seconds = (Date.now() - at) / 1000;
    const long = Math.abs(seconds);
    const said = (amount, unit) => (seconds < 0 ? `in ${amount} ${unit}` : `${amount} ${unit} ago`);
    if (long < 60) return seconds < 0 ? "in less than a minute" : "just now";
    if (long < 3600) return said(Math.floor(long / 60), "min");
    if (long < 86_400) return said(Math.floor(long / 3600), "h");
    const days = Math.floor(long / 86_400);
    return days < 7 ? said(days, days === 1 ? "day" : "days") : day(at);
  };

  const write = (element) => {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) return;
    const { form } = element.dataset;
    const text = form === "ago" ? ago(at) : form === "exact" ? exact(at) : element.textContent;
    if (element.textContent !== text) element.textContent = text;
    element.title = `${exact(at)} ${zone}`;
  };
  const writeAll = (root) => {
    if (root.matches?.("time[data-form]")) write(root);
    root.querySelectorAll?.("time[data-form]").forEach(write);
  };

  // A form whose days are those of a time zone

  for (const field of document.querySelectorAll("input[data-zone]")) {
    if (field.value) continue; // the address has named one
    field.value = zone;
    for (const label of field.form.querySelectorAll("label")) {
      label.textContent = label.textContent.replace("(UTC)", `(${zone})`);
    }
  }

  writeAll(document);
  new MutationObserver((changes) => {
    for (const change of changes) change.addedNodes.forEach(writeAll);
  }).observe(document.body, { childList: true, subtree: true });
  setInterval(() => document.querySelectorAll('time[data-form="ago"]').forEach(write), 10_000);
})();
