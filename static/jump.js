// Jump to a batch, a model, a page or a document: "/", Ctrl-K or ⌘K opens a dialog, and what is typed finds them.
"use strict";
(() => {
  const opener = document.querySelector("[data-jump]");
  const dialog = document.createElement("dialog");
  dialog.id = "jump";
  dialog.ariaLabel = "Jump to a batch, a model, a page or a document";
  dialog.innerHTML = `
    <input type="search" role="combobox" aria-expanded="true" aria-controls="jump-found" aria-autocomplete="list"
      aria-label="Jump to a batch, a model, a page or a document" placeholder="A batch, a model, a page or a document" maxlength="100"
      autocomplete="off" spellcheck="false" dir="auto">
    <div id="jump-found" role="listbox" aria-label="Found"></div>
    <p class="help" role="status"></p>`;
  document.body.append(dialog);
  const input = dialog.querySelector("input");
  const list = dialog.querySelector("#jump-found");
  const status = dialog.querySelector("[role=status]");
  let chosen = -1;
  let waiting; // for the next key
  let asking; // what is asked for now

  const choose = (place) => {
    const options = [...list.children];
    chosen = options.length ? (place + options.length) % options.length : -1;
    options.forEach((option, at) => (option.ariaSelected = String(at === chosen)));
    options[chosen]?.scrollIntoView({ block: "nearest" });
    if (chosen >= 0) input.setAttribute("aria-activedescendant", options[chosen].id);
    else input.removeAttribute("aria-activedescendant");
  };

  const piece = (name, text) => {
    const made = document.createElement("span");
    made.className = name;
    made.dir = "auto";
    made.textContent = text;
    return made;
  };
  const show = (found) => {
    list.replaceChildren(
      ...found.map(({ kind, title, note, address }, place) => {
        const option = document.createElement("a");
        option.id = `jump-${place}`;
        option.href = address;
        option.tabIndex = -1;
        option.setAttribute("role", "option");
        option.append(piece("title", title), piece("quiet", note ? `${kind} · ${note}` : kind));
        return option;
      }),
    );
    status.textContent = found.length ? "↑ ↓ choose, Enter opens" : "Nothing has this name or begins with it.";
    choose(0);
  };

  const ask = async () => {
    asking?.abort();
    asking = new AbortController();
    const { signal } = asking;
    try {
      const url = `${opener.dataset.jump}?${new URLSearchParams({ q: input.value.trim() })}`;
      const answer = await fetch(url, { signal, headers: { Accept: "application/json" } });
      if (answer.redirected) return location.reload(); // signed out meanwhile
      if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
      show((await answer.json()).found);
    } catch (error) {
      if (signal.aborted) return;
      list.replaceChildren();
      choose(-1);
      status.textContent = error instanceof TypeError ? "The server cannot be reached." : error.message;
    }
  };

  const open = () => {
    if (document.querySelector("dialog:modal")) return;
    input.value = "";
    dialog.showModal();
    ask();
  };

  opener.addEventListener("click", open);
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  input.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(ask, 120);
  });
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      choose(chosen + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter") {
      event.preventDefault();
      list.children[chosen]?.click();
    } else if (event.key === "Escape") {
      event.preventDefault(); // the first one would only empty the field
      dialog.close();
    }
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    const slash = event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && !typing;
    const command = event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey) && !event.altKey;
    if (event.isComposing || !(slash || command)) return;
    event.preventDefault();
    open();
  });
})();
