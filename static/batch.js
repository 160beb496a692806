// The page of one batch: the tab's title has its progress, and the address says which of its requests are shown.
"use strict";
(() => {
  const tell = () => {
    const said = document.getElementById("title")?.dataset.title;
    if (said && document.title !== said) document.title = said;
  };
  document.addEventListener("htmx:oobAfterSwap", tell);
  document.addEventListener("htmx:afterSettle", tell);

  document.addEventListener("htmx:afterRequest", (event) => {
    const { target, successful, pathInfo } = event.detail;
    if (target?.id === "listing" && successful) history.replaceState(null, "", pathInfo.finalRequestPath);
  });
})();
