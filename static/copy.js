// A button that copies an element's text: <button type="button" data-copies="#id">.
"use strict";
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button[data-copies]");
  const source = button && document.querySelector(button.dataset.copies);
  if (!source) return;
  const words = (button.dataset.words ??= button.textContent);
  const select = () => {
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    select(); // without https there is no clipboard: the old way, or by hand
    button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl-C";
  }
  setTimeout(() => (button.textContent = words), 2000);
});
