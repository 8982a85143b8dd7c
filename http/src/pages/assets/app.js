// What htmx cannot: JSON bodies and the session's token, questions before and words after an
// order, whether the page is live, how long ago things were, themes and keys.
(function () {
  "use strict";
  const one = (selector) => document.querySelector(selector);
  const all = (selector) => Array.from(document.querySelectorAll(selector));

  // ---- What happened ----

  function notice(text, tone) {
    const box = one("#notices");
    const line = document.createElement("p");
    line.className = tone;
    line.append(text);
    const close = document.createElement("button");
    close.type = "button";
    close.setAttribute("aria-label", "Close this notice");
    close.append("×");
    close.addEventListener("click", () => line.remove());
    line.append(close);
    box.append(line);
    while (box.children.length > 4) box.firstChild.remove();
    // What went wrong stays until it is closed.
    if (tone === "good") setTimeout(() => line.remove(), 6000);
  }

  // ---- Orders: JSON to the API ----

  // What a field is in JSON: text unless it says otherwise.
  function value(field, text) {
    const kind = field ? field.dataset.as : undefined;
    if (kind === "null" && text === "") return null;
    if (kind === "flag") return text === "true" || text === "on";
    if (text === "" && kind !== "text") return undefined;
    if (kind === "number" || kind === "null") return Number.isNaN(Number(text)) ? text : Number(text);
    if (kind === "seconds") return Number.isNaN(Number(text)) ? text : Math.round(Number(text) * 1000);
    if (kind === "list") return text.split(/[\s,]+/).filter(Boolean);
    if (kind === "instant") return new Date(text + "Z").toISOString();
    if (kind === "json") return JSON.parse(text);
    return text;
  }

  function put(body, name, value) {
    const parts = name.split(".");
    let at = body;
    for (const part of parts.slice(0, -1)) at = at[part] ??= {};
    at[parts[parts.length - 1]] = value;
  }

  function encoded(ctx) {
    const source = ctx.sourceElement;
    const form = source.closest("form");
    const given = source.closest("[data-body]");
    if (given && given === source) return given.dataset.body;
    const body = {};
    const sent = new URLSearchParams(ctx.request.body);
    for (const [name, text] of sent) {
      const field = form && form.elements.namedItem(name);
      const of = field instanceof RadioNodeList ? field[0] : field;
      const read = value(of, text);
      if (read !== undefined) put(body, of && of.dataset.name ? of.dataset.name : name, read);
    }
    return Object.keys(body).length ? JSON.stringify(body) : "";
  }

  function problems(form, text, fields) {
    if (!form) return false;
    const place = form.querySelector(".problem[role=alert]");
    if (!place) return false;
    for (const field of form.elements) {
      field.removeAttribute && field.removeAttribute("aria-invalid");
      const told = field.name && form.querySelector(`[data-problem="${CSS.escape(field.name)}"]`);
      if (told) told.textContent = "";
    }
    const rest = [];
    for (const { field, problem } of fields) {
      const input = form.elements.namedItem(field);
      const told = form.querySelector(`[data-problem="${CSS.escape(field)}"]`);
      if (input && input.setAttribute) input.setAttribute("aria-invalid", "true");
      if (told) told.textContent = problem;
      else rest.push(`${field} ${problem}`);
    }
    place.textContent = fields.length ? rest.join("; ") : text;
    const first = form.querySelector('[aria-invalid="true"]');
    if (first) first.focus();
    return true;
  }

  const isStream = (element) => element && element.id === "main";

  document.addEventListener("htmx:before:request", (event) => {
    const ctx = event.detail.ctx;
    if (ctx.request.method === "GET") return;
    const csrf = one('meta[name="csrf"]');
    if (csrf) ctx.request.headers["X-CSRF-Token"] = csrf.content;
    ctx.request.headers["Accept"] = "application/json";
    const form = ctx.sourceElement.closest("form");
    try {
      const body = ctx.request.method === "DELETE" ? "" : encoded(ctx);
      ctx.request.body = body || undefined;
      if (body) ctx.request.headers["Content-Type"] = "application/json";
    } catch (error) {
      event.preventDefault();
      const text = `This is not JSON: ${error.message}`;
      if (!problems(form, text, [])) notice(text, "bad");
    }
  });

  document.addEventListener("htmx:after:request", (event) => {
    const ctx = event.detail.ctx;
    const source = ctx.sourceElement;
    if (isStream(source) || ctx.request.method === "GET") return;
    const form = source.closest("form");
    let told = {};
    try {
      told = JSON.parse(ctx.text || "{}");
    } catch (_) {
      told = {};
    }
    if (ctx.response.status < 400) {
      problems(form, "", []);
      if (source.dataset.then) {
        location.assign(source.dataset.then.replace("{id}", told.id || ""));
        return;
      }
      notice(source.dataset.done || "Done", "good");
      return;
    }
    const again = ctx.response.headers.get("Retry-After");
    const text = [told.title, told.detail].filter(Boolean).join(": ") || `The node answered ${ctx.response.status}`;
    const whole = again ? `${text} Try again in ${again} s.` : text;
    if (!problems(form, whole, told.problems || [])) notice(whole, "bad");
    if (ctx.response.status === 401 && location.pathname !== "/sign-in") signIn();
  });

  document.addEventListener("htmx:error", (event) => {
    const ctx = event.detail.ctx;
    if (!ctx || isStream(ctx.sourceElement)) return;
    const text = "The node did not answer. It may be down, or the network; nothing is known of what was asked.";
    if (!problems(ctx.sourceElement.closest("form"), text, [])) notice(text, "bad");
  });

  document.addEventListener("htmx:confirm", (event) => {
    const dialog = one("#question");
    event.preventDefault();
    one("#question-text").textContent = event.detail.ctx.confirm;
    dialog.addEventListener(
      "close",
      () => {
        const yes = dialog.returnValue === "yes";
        dialog.returnValue = "";
        yes ? event.detail.issueRequest() : event.detail.dropRequest();
      },
      { once: true }
    );
    dialog.showModal();
  });

  function signIn() {
    location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
  }

  // ---- Live ----

  const SILENT_MS = 20000;
  const RETRY_MS = 2000;
  let heard = Date.now();
  let retry;

  function live(state) {
    const pill = one("#live");
    if (!pill || pill.dataset.state === state) return;
    const texts = {
      connecting: "connecting",
      live: "live",
      lost: "not live, reconnecting",
      paused: "paused",
    };
    pill.dataset.state = state;
    pill.textContent = texts[state];
    document.documentElement.dataset.live = state;
  }

  function connectAgain() {
    clearTimeout(retry);
    retry = setTimeout(() => {
      const main = one("#main");
      if (!main || document.hidden) return connectAgain();
      const url = main.getAttribute("hx-sse:connect");
      if (url && !(main._htmx && main._htmx.sse)) window.htmx.ajax("GET", url, { source: main });
    }, RETRY_MS);
  }

  document.addEventListener("htmx:sse:after:connection", () => {
    heard = Date.now();
    live("live");
  });
  document.addEventListener("htmx:sse:before:connection", (event) => {
    if (event.detail.connection.attempt > 0) live(document.hidden ? "paused" : "lost");
  });
  document.addEventListener("htmx:sse:before:message", () => {
    heard = Date.now();
    live("live");
  });
  document.addEventListener("htmx:sse:error", (event) => {
    live("lost");
    if (event.detail.status === 401) signIn();
  });
  document.addEventListener("htmx:sse:close", () => {
    live("lost");
    connectAgain();
  });
  document.addEventListener("htmx:finally:request", (event) => {
    const ctx = event.detail.ctx;
    if (!isStream(ctx.sourceElement)) return;
    if (ctx.response && ctx.response.status === 401) return signIn();
    if (!ctx.response || ctx.response.status >= 400) {
      live("lost");
      connectAgain();
    }
  });
  window.addEventListener("pagehide", () => live("paused"));
  // A connection that was cut without a word looks open: the beats tell.
  setInterval(() => {
    if (!document.hidden && one("#live") && Date.now() - heard > SILENT_MS) live("lost");
  }, 1000);

  window.htmx.registerExtension("regrow", {
    // What a person opened stays open, and what was typed stays.
    htmx_before_morph_attr: (element, detail) =>
      !(detail.attrName === "open" && element.tagName === "DETAILS"),
  });

  // ---- How long ago ----

  function ago(at, now) {
    const seconds = Math.round((now - at) / 1000);
    if (seconds < -1) return null;
    if (seconds < 2) return "just now";
    if (seconds < 60) return `${seconds} s ago`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
    if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
    return null;
  }

  function tell() {
    const now = Date.now();
    for (const element of all("time[data-ago]")) {
      const text = ago(Date.parse(element.dateTime), now);
      if (text && element.textContent !== text) element.textContent = text;
    }
  }
  document.addEventListener("htmx:after:swap", tell);
  document.addEventListener("htmx:sse:after:message", tell);
  setInterval(tell, 1000);
  tell();

  // ---- Themes and keys ----

  const THEMES = ["system", "dark", "light"];

  function themed(theme) {
    const root = document.documentElement;
    theme === "system" ? delete root.dataset.theme : (root.dataset.theme = theme);
    try {
      theme === "system" ? localStorage.removeItem("regrow.theme") : localStorage.setItem("regrow.theme", theme);
    } catch (_) {
      // It holds for this page only.
    }
    const button = one("#theme");
    button.textContent = `Theme: ${theme}`;
  }
  const current = () => document.documentElement.dataset.theme || "system";
  const turn = () => themed(THEMES[(THEMES.indexOf(current()) + 1) % THEMES.length]);
  themed(current());
  one("#theme").addEventListener("click", turn);

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
  });

  let going = false;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (going) {
      going = false;
      const link = one(`nav a[data-key="${CSS.escape(event.key)}"]`);
      if (link) link.click();
      return;
    }
    if (event.key === "g") {
      going = true;
      setTimeout(() => (going = false), 1500);
    } else if (event.key === "/") {
      const search = one("[data-search]");
      if (search) {
        event.preventDefault();
        search.focus();
        search.select();
      }
    } else if (event.key === "d") turn();
    else if (event.key === "?") one("#keys").showModal();
  });
})();
