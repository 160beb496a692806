// The playground: asks several models at once and shows their answers as they come. Answers are text, never HTML.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const form = byId("playground");
  const field = (name) => form.elements[name];
  const NUMBERS = ["max_tokens", "temperature", "top_p", "seed"];
  const STREAMS = ["messages", "prompt"]; // where the texts of requests stand whose answers are streamed

  const turns = []; // each: what was asked and where, its section, and the reply of each model
  let running = null; // what stops the turn that is being answered

  class Wrong extends Error {
    constructor(name, words) {
      super(words);
      this.at = field(name);
    }
  }

  // What is asked

  const models = () => [...form.querySelectorAll("[name=model]:checked")].map((one) => one.value);
  const place = () => field("endpoint").selectedOptions[0].dataset.text; // where the message stands in the body

  const object = (name, what) => {
    const text = field(name).value.trim();
    if (!text) return undefined;
    let value;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw new Wrong(name, `${what} must be JSON. ${error.message}`);
    }
    if (value === null || typeof value !== "object" || Array.isArray(value)) {
      throw new Wrong(name, `${what} must be a JSON object, in braces.`);
    }
    return value;
  };

  const number = (name) => {
    const label = form.querySelector(`label[for=${name}]`).textContent;
    const value = Number(field(name).value);
    if (field(name).validity.badInput || !Number.isFinite(value)) throw new Wrong(name, `${label} must be a number.`);
    if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
      throw new Wrong(name, `${label} has too many digits for a browser: at most ${Number.MAX_SAFE_INTEGER}.`);
    }
    return value;
  };

  const parameters = () => {
    const found = object("more", "Other fields") ?? {};
    if (!STREAMS.includes(place())) return found;
    for (const name of NUMBERS) {
      if (field(name).value !== "" || field(name).validity.badInput) found[name] = number(name);
    }
    const stops = field("stop").value.split("\n").filter((one) => one);
    if (stops.length) found.stop = stops;
    const schema = place() === "messages" ? object("schema", "The schema") : undefined;
    if (schema) found.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
    return found;
  };

  const before = () =>
    [...byId("before").children].map((row, at) => {
      const role = row.querySelector("[name=role]").value;
      const area = row.querySelector("[name=text]");
      if (role !== "json") return { role, content: area.value };
      try {
        return JSON.parse(area.value);
      } catch (error) {
        const wrong = new Wrong("message", `Message ${at + 1} must be JSON. ${error.message}`);
        wrong.at = area;
        throw wrong;
      }
    });

  // The body for this model. With an empty text, as the last turn had it, or the conversation as far as it is written.
  const bodyFor = (model, text) => {
    const body = Object.assign({ model }, parameters(), { model });
    let history = turns;
    if (!text && turns.length) {
      text = turns.at(-1).text;
      history = turns.slice(0, -1);
    }
    if (place() !== "messages") {
      if (text) body[place()] = text;
      return body;
    }
    const system = field("system").value;
    const said = history.flatMap((turn) => {
      const answer = turn.replies.get(model)?.text;
      if (!answer || turn.where !== "messages") return []; // it was not asked, gave no answer, or not in a conversation
      return [...(turn.text ? [{ role: "user", content: turn.text }] : []), { role: "assistant", content: answer }];
    });
    body.messages = [
      ...(system ? [{ role: "system", content: system }] : []),
      ...(Array.isArray(body.messages) ? body.messages : []),
      ...before(),
      ...said,
      ...(text ? [{ role: "user", content: text }] : []),
    ];
    if (!body.messages.some((one) => one?.role !== "system")) throw new Wrong("message", "Write a message.");
    return body;
  };

  const address = (base) => `${base}?${new URLSearchParams({ endpoint: field("endpoint").value, project: field("project").value })}`;
  const post = async (url, body, signal) => {
    const sent = {
      method: "POST",
      headers: {
        "Content-Type": "application/json",
        "X-CSRFToken": field("csrfmiddlewaretoken").value,
      },
      body: JSON.stringify(body),
      redirect: "manual", // to the page for signing in
      signal,
    };
    try {
      return await fetch(url, sent);
    } catch {
      throw new Error("The server cannot be reached.");
    }
  };

  // What was refused, in the words of the API
  const refusal = async (response) => {
    if (response.type === "opaqueredirect") return "You are signed out: load this page anew, and sign in.";
    const words = (await response.json().catch(() => null))?.error?.message;
    return words ?? `The server answered ${response.status}. Reload this page and try again.`;
  };

  // One answer

  class Reply {
    constructor(model) {
      this.node = byId("one-reply").content.cloneNode(true).firstElementChild;
      this.node.setAttribute("aria-label", `Answer of ${model}`);
      this.node.querySelector("bdi").textContent = model;
      this.texts = new Map(); // by what they are
      this.text = ""; // what the next turn quotes
      this.ends = [];
      this.began = performance.now();
      this.show("running");
    }

    show(state) {
      const shown = this.node.querySelector(".state");
      shown.textContent = state;
      shown.className = `state ${state}`;
    }

    add(kind, text) {
      if (!text) return;
      const now = performance.now();
      this.first ??= now;
      this.last = now;
      if (!this.texts.has(kind)) {
        const shown = document.createElement("pre");
        shown.dir = "auto";
        if (kind !== "answer") {
          const label = document.createElement("p");
          label.className = "quiet";
          label.textContent = kind;
          this.node.querySelector(".texts").append(label);
        }
        this.node.querySelector(".texts").append(shown);
        this.texts.set(kind, shown.appendChild(document.createTextNode("")));
        this.facts();
      }
      this.texts.get(kind).appendData(text);
      if (kind === "answer") this.text += text;
    }

    chunk(data) {
      if (data.error) throw new Error(data.error.message ?? JSON.stringify(data.error));
      if (data.usage) this.usage = data.usage;
      for (const choice of data.choices ?? []) {
        const which = choice.index ? `choice ${choice.index + 1}` : "answer";
        const said = choice.delta ?? choice.message ?? {};
        this.add(which === "answer" ? "reasoning" : `${which}, reasoning`, said.reasoning_content ?? said.reasoning);
        this.add(which, said.content ?? choice.text);
        this.add("refusal", said.refusal);
        for (const call of said.tool_calls ?? []) {
          const { name = "", arguments: given = "" } = call.function ?? {};
          this.add(`tool call ${(call.index ?? 0) + 1}`, name ? `${name} ${given}` : given);
        }
        if (choice.finish_reason) this.ends.push(choice.finish_reason);
      }
    }

    fail(words) {
      const shown = this.node.querySelector(".error");
      shown.textContent = words;
      shown.hidden = false;
      this.show("failed");
    }

    facts() {
      const { prompt_tokens: read, completion_tokens: written } = this.usage ?? {};
      const seconds = (till) => ((till - this.began) / 1000).toFixed(2);
      const found = [];
      if (this.streamed && this.first) found.push(`first token after ${seconds(this.first)} s`);
      if (this.streamed && written) {
        const long = written > 1 && this.last - this.first > 50; // else the first token's time would be left out
        const [tokens, since] = long ? [written - 1, this.first] : [written, this.began];
        found.push(`${((1000 * tokens) / Math.max(1, this.last - since)).toFixed(1)} tokens/s`);
      }
      if (read !== undefined) found.push(`${read} input tokens${written === undefined ? "" : `, ${written} output tokens`}`);
      if (this.ended) found.push(`${seconds(this.ended)} s in all`);
      if (this.ends.length) found.push(`ended by ${[...new Set(this.ends)].join(", ")}`);
      this.node.querySelector(".facts").textContent = found.join(" · ");
    }

    async ask(body, signal) {
      this.streamed = STREAMS.includes(place());
      const sent = this.streamed ? { ...body, stream: true, stream_options: { include_usage: true } } : body;
      try {
        const response = await post(address(form.dataset.asks), sent, signal);
        if (!response.ok) throw new Error(await refusal(response));
        if (response.headers.get("Content-Type").startsWith("text/event-stream")) await this.follow(response.body);
        else this.whole(await response.json());
        this.show("completed");
      } catch (error) {
        if (signal.aborted) this.show("stopped");
        else this.fail(error.message);
      }
      this.ended = performance.now();
      this.facts();
    }

    async follow(body) {
      for await (const data of events(body)) {
        if (data === "[DONE]") return;
        this.chunk(JSON.parse(data));
      }
      throw new Error("The answer broke off.");
    }

    whole(answer) {
      this.streamed = false;
      if (answer.choices) this.chunk(answer);
      else this.add("answer", JSON.stringify(answer, null, 2));
      this.usage = answer.usage;
    }
  }

  // The data of each server-sent event
  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { value, done } = await reader.read();
      held += done ? "\n\n" : value;
      const whole = held.split(/\r?\n\r?\n/);
      held = whole.pop();
      for (const event of whole) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
      if (done) return;
    }
  }

  // A turn

  const complain = (error) => {
    byId("problem").hidden = !error;
    byId("problem").textContent = error?.message ?? "";
    form.querySelectorAll("[aria-invalid]").forEach((one) => one.removeAttribute("aria-invalid"));
    if (!error?.at) return;
    for (let within = error.at.closest("details"); within; within = within.parentElement.closest("details")) {
      within.open = true;
    }
    error.at.setAttribute("aria-invalid", "true");
    error.at.focus();
  };

  const buttons = () => {
    byId("send").disabled = Boolean(running) || !field("project").value;
    byId("stop-all").disabled = !running;
    byId("back").disabled = byId("anew").disabled = Boolean(running) || !turns.length;
  };

  const send = async () => {
    const text = field("message").value;
    const chosen = models();
    let bodies;
    try {
      if (!chosen.length) throw new Error("Choose a model.");
      if (!text && turns.length) throw new Wrong("message", "Write a message.");
      bodies = chosen.map((model) => bodyFor(model, text));
    } catch (error) {
      return complain(error);
    }
    complain(null);
    const node = byId("one-turn").content.cloneNode(true).firstElementChild;
    node.querySelector("h3").textContent = `Turn ${turns.length + 1}`;
    node.querySelector(".asked").textContent = text || "(as written above)";
    const replies = new Map(chosen.map((model) => [model, new Reply(model)]));
    node.querySelector(".replies").append(...[...replies.values()].map((reply) => reply.node));
    byId("turns").append(node);
    running = new AbortController();
    const turn = { text, where: place(), node, replies };
    const asked = chosen.map((model, at) => replies.get(model).ask(bodies[at], running.signal));
    turns.push(turn);
    field("message").value = "";
    buttons();
    byId("said").textContent = `Asking ${chosen.length === 1 ? "one model" : `${chosen.length} models`} …`;
    node.scrollIntoView({ block: "nearest" });
    await Promise.all(asked);
    byId("said").textContent = running.signal.aborted ? "Stopped." : "All have answered.";
    running = null;
    buttons();
    write();
  };

  const remove = () => {
    const turn = turns.pop();
    turn.node.remove();
    return turn;
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running && !byId("send").disabled) send();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  byId("stop-all").addEventListener("click", () => running?.abort());
  byId("back").addEventListener("click", () => {
    field("message").value = remove().text;
    field("message").focus();
    buttons();
    write();
  });
  byId("anew").addEventListener("click", () => {
    while (turns.length) remove();
    byId("said").textContent = "";
    field("message").focus();
    buttons();
    write();
  });
  byId("add").addEventListener("click", () => {
    const row = byId("one-message").content.cloneNode(true).firstElementChild;
    byId("before").append(row);
    row.querySelector("textarea").focus();
  });
  byId("before").addEventListener("click", (event) => {
    if (!event.target.closest("[data-removes]")) return;
    event.target.closest("li").remove();
    byId("add").focus();
    write();
  });

  // What is chosen

  const choose = () => {
    const chosen = models();
    const select = byId("code-model");
    const shown = select.value;
    select.replaceChildren(...chosen.map((model) => new Option(model, model, false, model === shown)));
    const full = chosen.length >= Number(byId("playground-models").dataset.most);
    for (const one of form.querySelectorAll("[name=model]")) one.disabled = full && !one.checked;
  };
  const fit = () => {
    for (const one of form.querySelectorAll("[data-for]")) one.hidden = !one.dataset.for.split(" ").includes(place());
  };
  form.addEventListener("change", (event) => {
    if (event.target.name === "model") choose();
    if (event.target.name === "endpoint") fit();
  });
  document.addEventListener("htmx:afterSwap", choose);

  // As something to copy

  const KINDS = ["line", "curl", "python"];
  let last = 0; // the number of the last question
  const write = async () => {
    if (!byId("code").open) return;
    const mine = ++last;
    const say = (texts) => {
      if (mine === last) for (const kind of KINDS) byId(`code-${kind}`).textContent = texts[kind] ?? texts;
    };
    const model = byId("code-model").value;
    if (!model) return say("Choose a model.");
    try {
      const response = await post(address(form.dataset.writes), bodyFor(model, field("message").value));
      say(response.ok ? await response.json() : await refusal(response));
    } catch (error) {
      say(error.message);
    }
  };
  let soon = 0;
  const writeSoon = () => {
    clearTimeout(soon);
    soon = setTimeout(write, 300);
  };
  byId("code").addEventListener("toggle", write);
  form.addEventListener("input", writeSoon);
  form.addEventListener("change", writeSoon);

  document.querySelectorAll("[data-scripted], [data-unscripted]").forEach((one) => (one.hidden = !one.hidden));
  choose();
  fit();
  buttons();
  // A browser that comes back to the page has kept what was typed, but not which buttons work.
  window.addEventListener("pageshow", () => (choose(), fit(), buttons()));
})();
