// A file that is dropped is as if it were chosen; how far its upload is; columns for the template; what a reload keeps.
"use strict";
(() => {
  const area = () => document.querySelector(".drop");
  const within = (event) => event.target instanceof Element && event.target.closest(".drop");

  const complain = (text) => {
    area().querySelector(".upload").hidden = true;
    area().querySelector("#file-error").textContent = text;
    area().classList.toggle("wrong", text !== "");
  };

  const tooLarge = (file) => {
    const most = Number(area().dataset.most);
    if (file.size <= most) return "";
    const size = (bytes) => `${(bytes / 2 ** 20).toLocaleString(undefined, { maximumFractionDigits: 0 })} MB`;
    return `${file.name} has ${size(file.size)}; at most ${size(most)} are allowed in one batch. Split it.`;
  };

  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      if (!area() || !event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault(); // beside the area, the browser would leave the page for the file
      area().classList.toggle("over", Boolean(within(event)) && (name === "dragenter" || name === "dragover"));
      if (name !== "drop" || !within(event)) return;
      const dropped = event.dataTransfer.files;
      if (dropped.length !== 1) return complain("Drop one file: a batch has one.");
      const input = area().querySelector("input[type=file]");
      input.files = dropped;
      input.dispatchEvent(new Event("change", { bubbles: true }));
    });
  }

  document.addEventListener("htmx:confirm", (event) => {
    const input = event.target;
    if (!input.matches(".drop input[type=file]")) return;
    const file = input.files[0];
    const words = file ? tooLarge(file) : "";
    complain(words);
    if (!file || words) {
      event.preventDefault(); // nothing is sent
      input.value = "";
    }
  });

  document.addEventListener("htmx:xhr:progress", (event) => {
    const shown = event.target.closest("#new-batch") && area()?.querySelector(".upload");
    const { loaded, total, lengthComputable } = event.detail;
    if (!shown || !lengthComputable || total < 2 ** 16) return;
    const percent = Math.round((100 * loaded) / total);
    shown.hidden = false;
    shown.querySelector("progress").value = percent;
    const words = percent < 100 ? `Uploading: ${percent} %` : "Checking every line …";
    const said = shown.querySelector("p");
    if (said.textContent !== words) said.textContent = words;
  });

  // What the server refuses before it has read it
  document.addEventListener(
    "htmx:beforeOnLoad",
    (event) => {
      const { xhr } = event.detail;
      if (!event.target.closest("#new-batch") || ![413, 507].includes(xhr.status)) return;
      if (xhr.getResponseHeader("content-type")?.startsWith("text/html")) return;
      let words = `The server answered ${xhr.status}.`;
      try {
        words = JSON.parse(xhr.responseText).error.message;
      } catch {
        // as it is
      }
      event.preventDefault();
      complain(words);
      area().querySelector("input[type=file]").value = "";
    },
    true,
  );
  document.addEventListener("htmx:beforeSwap", (event) => {
    const { xhr } = event.detail;
    if (event.target.id === "new-batch" && [413, 507].includes(xhr.status)) {
      event.detail.shouldSwap = true; // it is the form, with the words in it
      event.detail.isError = false;
    }
  });
  document.addEventListener("htmx:sendError", (event) => {
    if (event.target.closest("#new-batch") && area()) complain("The upload was interrupted: choose the file again.");
  });

  const form = () => document.getElementById("new-batch");

  // The button of a column puts it into the template, where the cursor is

  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element && event.target.closest("[data-inserts]");
    if (!button) return;
    event.preventDefault();
    const text = document.getElementById("id_template");
    text.setRangeText(`{${button.dataset.inserts}}`, text.selectionStart, text.selectionEnd, "end");
    text.focus();
    text.dispatchEvent(new Event("input", { bubbles: true }));
  });

  // Why no batch could be made of a table is past when the preview is renewed, which says what is wrong now

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target.id !== "preview") return;
    document.querySelector("#result > .message.error:only-child")?.closest(".card").remove();
  });

  // A reload, another tab and the way back show the same file, and what was typed for it

  const isDraft = (field) =>
    field.matches("textarea[name], select[name], input[name]:not([type=hidden], [type=file])") &&
    !/^(line|read)-/.test(field.name);
  const fields = () => [...form().elements].filter(isDraft);
  const address = () => form().dataset.address;
  const draft = () => `new batch ${address()}`; // another tab, or another file, has another one

  const save = () => {
    const values = JSON.stringify(fields().map((field) => [field.name, field.value]));
    try {
      sessionStorage.setItem(draft(), values);
    } catch {
      sessionStorage.clear(); // it is full of older ones
      sessionStorage.setItem(draft(), values);
    }
  };
  const keep = () => {
    history.replaceState(history.state, "", `${form().getAttribute("action")}?${address()}`);
    save();
  };

  document.addEventListener("htmx:afterSettle", (event) => event.target.id === "new-batch" && keep());
  document.addEventListener("input", (event) => event.target.closest("#new-batch") && save());
  document.addEventListener("submit", (event) => {
    const isTyped = event.target === form() && form().elements.kept.value === "";
    if (isTyped) sessionStorage.removeItem(draft()); // or the next batch would begin with the prompts of this one
  });
  document.addEventListener("DOMContentLoaded", () => {
    if (!form()) return;
    if (!("new" in form().dataset)) return keep(); // the answer to a form: a reload would send it again
    const values = new Map(JSON.parse(sessionStorage.getItem(draft())));
    for (const field of fields()) if (values.has(field.name)) field.value = values.get(field.name);
    document.querySelector("#id_prompts, #id_template")?.dispatchEvent(new Event("input", { bubbles: true }));
  });
})();
