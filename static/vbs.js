// What the pages do beyond htmx: follow their changes by a socket, poll where it is down, say what htmx leaves unsaid.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  // What is said for a moment: until it is read, and while somebody points at it or is in it. What went wrong stays until
  // it is closed.

  const SHOWN = 5000; // ms, and more for each character
  const EACH = 50;

  const arm = (toast) => {
    if (toast.querySelector("[data-ends]")) return;
    const lasts = SHOWN + EACH * toast.textContent.length;
    const close = document.createElement("button");
    close.type = "button";
    close.className = "plain";
    close.dataset.ends = "";
    close.textContent = "×";
    close.ariaLabel = "Close this message";
    close.addEventListener("click", () => toast.remove());
    toast.append(close);
    if (toast.matches(".error, .warning")) return;
    let timer;
    const end = () => {
      clearTimeout(timer);
      if (!toast.matches(":hover, :focus-within")) timer = setTimeout(() => toast.remove(), lasts);
    };
    for (const name of ["pointerenter", "focusin"]) toast.addEventListener(name, () => clearTimeout(timer));
    for (const name of ["pointerleave", "focusout"]) toast.addEventListener(name, () => setTimeout(end));
    end();
  };
  const armAll = () => document.querySelectorAll("#messages > .message").forEach(arm);
  document.addEventListener("htmx:load", armAll);

  const say = (text) => {
    const message = document.createElement("p");
    message.className = "message error";
    message.textContent = text;
    byId("messages")?.replaceChildren(message);
    armAll();
  };

  document.addEventListener("htmx:responseError", (event) => {
    const { status, responseText } = event.detail.xhr;
    const words = { 403: "You may not do that.", 404: "That is not there any more." };
    say(words[status] ?? `The server answered ${status}. ${status === 400 ? responseText : ""}`);
  });
  document.addEventListener("htmx:sendError", () => {
    polled = false;
    show();
  });
  document.addEventListener("htmx:beforeOnLoad", () => {
    polled = true;
    show();
  });

  // Whether changes come by themselves

  let socket = null;
  let followed = ""; // what the socket is for, as the pulse has it
  let polled = true; // the last question was answered
  let tries = 0;
  let waited = 0; // seconds since it was asked
  let heard = 0; // when the socket last said something
  const isOpen = () => socket?.readyState === WebSocket.OPEN;

  const show = () => {
    const shown = byId("connection");
    if (!shown) return;
    const state = isOpen() ? "live" : !polled ? "offline" : byId("pulse") ? "polling" : "";
    if (shown.dataset.state === state) return;
    const words = {
      live: "Live",
      polling: "Asking every few seconds",
      offline: "The server cannot be reached; trying again",
    };
    shown.dataset.state = state;
    shown.querySelector(".words").textContent = words[state] ?? "";
  };

  // News wait while something is asked: htmx looks for the places of an answer around what asked for it. Those of
  // what is not shown any more, such as other filters, have no place then.
  const held = [];
  let asked = 0;
  const renew = () => {
    while (!asked && held.length) {
      const { of, news } = held.shift();
      if (byId("pulse")?.dataset.url === of) {
        htmx.swap("#pulse", news, { swapStyle: "none", swapDelay: 0, settleDelay: 0 });
      }
    }
  };
  document.addEventListener("htmx:beforeSend", () => {
    asked += 1;
  });
  document.addEventListener("htmx:afterRequest", () => {
    asked = Math.max(0, asked - 1);
    renew();
  });

  const connect = () => {
    const pulse = byId("pulse");
    if (!pulse) return;
    const url = new URL(pulse.dataset.url, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    followed = pulse.dataset.url;
    const mine = (socket = new WebSocket(url));
    mine.addEventListener("open", () => {
      tries = 0;
      heard = Date.now();
      const seen = [...document.querySelectorAll("[name=seen]")].map((one) => one.value);
      mine.send(JSON.stringify({ seen }));
      show();
    });
    mine.addEventListener("message", (event) => {
      if (mine !== socket) return;
      heard = Date.now();
      if (!event.data) return; // it only says that it is there
      held.push({ of: followed, news: event.data });
      renew();
    });
    mine.addEventListener("close", (event) => {
      if (mine !== socket) return;
      polled = false; // until an answer comes
      waited = Infinity;
      show();
      if (event.code === 4404) return; // what the page was about is gone
      tries += 1;
      const crowded = event.code === 4429; // too many pages are open: this one asks every few seconds for now
      const pause = crowded ? 60_000 : Math.min(15_000, 500 * 2 ** Math.min(tries, 5));
      setTimeout(() => mine === socket && connect(), pause * (0.5 + Math.random()));
    });
  };

  // What is shown may have become another page, such as one with other filters.
  document.addEventListener("htmx:afterSettle", () => {
    const pulse = byId("pulse");
    if (!followed || (pulse?.dataset.url ?? "") === followed) return;
    const old = socket;
    followed = "";
    socket = null;
    old.close();
    connect();
  });

  setInterval(() => {
    const pulse = byId("pulse");
    if (isOpen() && Date.now() - heard > 25_000) {
      // It hangs, or the machine slept: begin anew.
      const old = socket;
      socket = null;
      old.close();
      polled = false;
      show();
      connect();
    }
    if (!pulse || isOpen() || document.hidden) return;
    waited += 1;
    if (waited < Number(pulse.dataset.every)) return;
    waited = 0;
    htmx.trigger(pulse, "poll");
  }, 1000);

  // A choice that is sent as soon as it is made

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
  });

  // A form is sent once, however often its button is pressed meanwhile; the server knows its mark as well.

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (event.defaultPrevented || form.method !== "post") return; // htmx, or a script of the page, sends it
    if ("sent" in form.dataset) event.preventDefault();
    form.dataset.sent = "";
  });
  window.addEventListener("pageshow", () => {
    document.querySelectorAll("form[data-sent]").forEach((form) => delete form.dataset.sent);
  });
  document.addEventListener("htmx:confirm", (event) => {
    const { elt, verb } = event.detail;
    if (verb !== "get" && elt.classList.contains("htmx-request")) event.preventDefault();
  });

  // The address of a search names only what was filled in, so that it can be passed on.

  document.addEventListener("formdata", ({ target, formData }) => {
    if (target.getAttribute("role") !== "search") return;
    const given = [...formData.entries()];
    for (const [name, value] of given) if (value === "") formData.delete(name);
    if (![...target.querySelectorAll("[type=date]")].some((day) => day.value)) formData.delete("zone");
  });

  // A question, in a dialog

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.target.id === "dialog" && !event.target.open) event.target.showModal();
  });
  document.addEventListener("click", (event) => {
    const dialog = byId("dialog");
    if (!dialog?.open || !(event.target === dialog || event.target.closest("[data-closes]"))) return;
    event.preventDefault();
    dialog.close();
  });

  document.addEventListener("DOMContentLoaded", () => {
    armAll();
    show();
    connect();
  });
  window.addEventListener("pagehide", () => socket?.close());
  window.addEventListener("pageshow", (event) => event.persisted && connect());
})();
