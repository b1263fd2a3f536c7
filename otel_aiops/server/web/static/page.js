// Keeps the page up to date. All that it shows is drawn by the service; without this script the page works by reloading.

const POLL_MS = 10_000; // where the service cannot tell that something has changed
const TELEMETRY_MS = 5_000; // telemetry comes all the time: so often is enough
const topics = new Set((document.body.dataset.topics || "").split(/\s+/).filter(Boolean));
const said = document.getElementById("said");
const pulse = document.getElementById("pulse");

// -- what is fresh ----------------------------------------------------------------------------------------------------

/** Make `old` like `fresh` in place, so that focus, scroll, open details and what is being typed stay. */
function morph(old, fresh) {
  if (old.isEqualNode(fresh) || old.hasAttribute("data-plot")) return;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open" && name !== "title") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (name !== "value" && name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  const before = [...old.childNodes];
  [...fresh.childNodes].forEach((node, k) => {
    const there = before[k];
    if (!there) old.append(document.importNode(node, true));
    else if (there.nodeType !== node.nodeType || there.nodeName !== node.nodeName || there.id !== node.id) {
      there.replaceWith(document.importNode(node, true));
    } else if (there.nodeType === Node.ELEMENT_NODE) morph(there, node);
    else if (there.nodeValue !== node.nodeValue) there.nodeValue = node.nodeValue;
  });
  before.slice(fresh.childNodes.length).forEach((node) => node.remove());
}

/** Put the fresh parts of another document of this page into this one. */
function renew(fresh) {
  for (const part of document.querySelectorAll("[data-fresh][id]")) {
    const now = fresh.getElementById(part.id);
    if (now) morph(part, now);
  }
  dress(document);
}

const parsed = (text) => new DOMParser().parseFromString(text, "text/html");
let busy = false;
let again = false;

async function refresh() {
  if (busy || document.hidden) {
    again = true;
    return;
  }
  busy = true;
  again = false;
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (answer.redirected && new URL(answer.url).pathname === "/sign-in") return location.assign(answer.url);
    if (answer.ok) renew(parsed(await answer.text()));
  } catch {
    // the service is away; the next pulse tries again
  } finally {
    busy = false;
    if (again && !document.hidden) refresh();
  }
}

// -- the pulse --------------------------------------------------------------------------------------------------------

let timer = 0;
let telemetryTimer = 0;

function changed(names) {
  if (names.some((name) => name !== "telemetry" && topics.has(name))) refresh();
  else if (names.includes("telemetry") && topics.has("telemetry") && !telemetryTimer) {
    telemetryTimer = setTimeout(() => {
      telemetryTimer = 0;
      refresh();
    }, TELEMETRY_MS);
  }
}

function show(state, text) {
  pulse.className = `pulse ${state}`;
  pulse.setAttribute("aria-label", text);
  pulse.title = text;
}

function poll() {
  show("polling", `looks every ${POLL_MS / 1000} seconds`);
  timer ||= setInterval(refresh, POLL_MS);
}

function listen() {
  if (!window.EventSource) return poll();
  const source = new EventSource("/live");
  let missed = true; // the page was drawn before anything was listened to
  source.onmessage = (event) => {
    show("live", "live");
    clearInterval(timer);
    timer = 0;
    if (missed) refresh();
    missed = false;
    changed(JSON.parse(event.data));
  };
  source.onerror = () => {
    missed = true;
    poll();
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, POLL_MS * 6);
  };
  addEventListener("pagehide", () => source.close(), { once: true });
}

// -- forms ------------------------------------------------------------------------------------------------------------

function tell(text, bad) {
  said.classList.toggle("bad", bad);
  said.textContent = text;
}

/** Send a form and show what came of it, without leaving the page. */
async function send(form, button) {
  const fields = new URLSearchParams(new FormData(form, button));
  button?.setAttribute("disabled", "");
  try {
    const address = button?.getAttribute("formaction") || form.getAttribute("action"); // `form.action` may be a button
    const answer = await fetch(address, { method: "POST", body: fields, headers: { Accept: "text/html" } });
    const there = parsed(await answer.text());
    if (!answer.ok) return tell(there.querySelector("[data-problem]")?.textContent || `refused: ${answer.status}`, true);
    if (new URL(answer.url).pathname !== location.pathname) return location.assign(answer.url);
    tell(there.getElementById("said")?.textContent || "Done.", false);
    for (const field of form.querySelectorAll("input[name=why], input[name=of]")) field.value = "";
    for (const field of document.querySelectorAll("input[name=who]")) field.value ||= fields.get("who") || "";
    form.closest("details")?.removeAttribute("open");
    renew(there);
  } catch {
    tell("The service did not answer. Nothing is known to be done; try again.", true);
  } finally {
    button?.removeAttribute("disabled");
    if (button?.isConnected && button.checkVisibility()) button.focus();
    else if (button) document.getElementById("main").focus({ preventScroll: true }); // not back to the top of the page
  }
}

document.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-send]")) return;
  event.preventDefault();
  send(event.target, event.submitter);
});

// -- pictures, times, theme -------------------------------------------------------------------------------------------

async function draw(figure) {
  const address = new URL(figure.dataset.plot, location.origin);
  address.searchParams.set("width", Math.floor(figure.clientWidth || 860));
  figure.classList.add("loading");
  try {
    const answer = await fetch(address);
    const there = parsed(await answer.text()).body;
    figure.querySelectorAll(":scope > :not(figcaption)").forEach((node) => node.remove());
    figure.append(...there.childNodes);
  } catch {
    figure.append("The service did not answer.");
  } finally {
    figure.classList.remove("loading");
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    draw(target);
  }
}, { rootMargin: "200px" });

const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

function dress(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const text = `your time: ${local.format(new Date(time.dateTime))}`;
    if (time.title !== text) time.title = text;
  }
  for (const figure of root.querySelectorAll("figure[data-plot]:not([data-seen])")) {
    figure.dataset.seen = "";
    seen.observe(figure);
  }
}

const THEMES = ["auto", "light", "dark"];
const button = document.getElementById("theme");

function dye(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = `Theme: ${theme}`;
  const age = theme === "auto" ? 0 : 31536000;
  document.cookie = `otel_aiops_theme=${theme}; path=/; max-age=${age}; samesite=strict`;
}

button.hidden = false;
button.textContent = `Theme: ${document.documentElement.dataset.theme || "auto"}`;
button.addEventListener("click", () => {
  const now = document.documentElement.dataset.theme || "auto";
  dye(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});

if (new URLSearchParams(location.search).has("done")) history.replaceState(null, "", location.pathname);
dress(document);
if (topics.size) listen();
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && again) refresh();
});
