// Says what htmx leaves unsaid: that the server refused, or cannot be reached. What it says goes with the next answer.
"use strict";
(() => {
  const say = (text) => {
    const message = document.createElement("p");
    message.className = "message error";
    message.textContent = text;
    document.getElementById("messages")?.replaceChildren(message);
  };
  let silent = false;

  document.addEventListener("htmx:responseError", (event) => {
    const { status, responseText } = event.detail.xhr;
    const words = { 403: "You may not do that.", 404: "That is not there any more." };
    say(words[status] ?? `The server answered ${status}. ${status === 400 ? responseText : ""}`);
  });
  document.addEventListener("htmx:sendError", () => {
    silent = true;
    say("The server cannot be reached; trying again.");
  });
  document.addEventListener("htmx:beforeOnLoad", () => {
    if (silent) document.getElementById("messages")?.replaceChildren();
    silent = false;
  });
})();
