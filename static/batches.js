// The filters of the batches: the address follows them.
"use strict";
document.addEventListener("htmx:afterRequest", (event) => {
  if (event.target.id !== "filters" || !event.detail.pathInfo) return;
  history.replaceState(null, "", event.detail.pathInfo.finalRequestPath);
});
