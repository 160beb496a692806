// A button that copies a text, where the browser lets a page do so.
"use strict";
(() => {
  if (!navigator.clipboard) return; // not over plain http: a click on the text itself chooses all of it
  for (const button of document.querySelectorAll("[data-copies]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.dataset.copies);
        button.textContent = "Copied";
      } catch {
        button.textContent = "It cannot be copied";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }
})();
