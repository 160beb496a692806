// The filters of the batches: the address follows them, without those that are empty.
"use strict";
document.addEventListener("htmx:configRequest", (event) => {
  if (event.target.id !== "filters") return;
  const given = event.detail.formData;
  for (const [name, value] of [...given.entries()]) if (value === "") given.delete(name);
});
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.target.id !== "filters" || !event.detail.pathInfo) return;
  history.replaceState(null, "", event.detail.pathInfo.finalRequestPath);
});
