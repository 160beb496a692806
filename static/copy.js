// Buttons that copy the text of another element: <button data-copies="#id" hidden>Copy</button>.
"use strict";
(() => {
  const show = (root) => root.querySelectorAll("[data-copies][hidden]").forEach((one) => (one.hidden = false));

  const copy = async (element) => {
    try {
      await navigator.clipboard.writeText(element.value ?? element.textContent);
      return "Copied";
    } catch {
      // Without HTTPS there is no clipboard: show and select it, so that Ctrl+C does it.
      element.closest("details")?.setAttribute("open", "");
      getSelection().selectAllChildren(element);
      return document.execCommand?.("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copies]");
    const element = button && document.querySelector(button.dataset.copies);
    if (!element) return;
    button.dataset.says ??= button.textContent;
    button.textContent = await copy(element);
    setTimeout(() => (button.textContent = button.dataset.says), 2000);
  });
  document.addEventListener("DOMContentLoaded", () => show(document));
  document.addEventListener("htmx:load", (event) => show(event.target));
})();
