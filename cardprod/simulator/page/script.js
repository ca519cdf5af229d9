// The simulator's page: shows what the stream of changes tells, and sends commands. It decides nothing itself.
// Everything that comes from outside goes into the document as text.

const PAGE_LENGTH = 50;
const LOG_LENGTH = 100;
const STATUSES = ["READY", "IN_PROGRESS", "PRODUCED", "PRODUCTION_ERROR", "REQUEST_ERROR"];
const MOVES = { start: "Start", finish: "Finish", retry: "Retry", fail: "Fail…", refuse: "Refuse…" };
const ORIGINS = {
  PRODUCTION: "Production: feeder, hopper, chip, stripe",
  PRINTER: "Printer",
  INVENTORY: "Inventory",
  SATELLITE: "Satellite, the agent beside the kiosk",
  DATA_PREPARATION: "Data preparation",
  CENTRAL_BASE: "Central base, the manufacturer’s server",
  REQUEST: "Request",
  UNKNOWN: "Unknown",
};

const $ = (id) => document.getElementById(id);
const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const setText = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};
/** A code, which may be broken after its underscores. */
const breakable = (code) => code.split(/(?<=_)/).flatMap((part) => [element("wbr"), part]);
const grouped = (number) => number.toLocaleString("en");
const keyOf = (card) => `${card.profile_id}/${card.card_token}`;

// --- What is known ---

const known = {
  hello: null,
  after: "", // the id of the last change, to go on from
  isComplete: false, // whether the first state has come
  cards: new Map(),
  kiosks: [],
  requests: 0,
  deliveries: 0,
};
const shown = { filter: "", words: "", page: 0, rows: new Map() };

function forget() {
  known.cards.clear();
  known.isComplete = false;
  known.requests = known.deliveries = 0;
  $("request-rows").replaceChildren();
  $("delivery-rows").replaceChildren();
}

function take(changes) {
  const moved = [];
  for (const card of changes.cards) {
    const key = keyOf(card);
    const before = known.cards.get(key);
    if (before && (before.status !== card.status || before.requested_at !== card.requested_at)) moved.push(card);
    else if (!before && known.isComplete) moved.push(card);
    known.cards.set(key, card);
  }
  if (changes.kiosks) {
    known.kiosks = changes.kiosks;
    showKiosks();
  }
  if (changes.forecast) showForecast(changes.forecast);
  if (changes.subscriptions) showSubscriptions(changes.subscriptions);
  // A message with the log in it is the last of its kind: with it, everything is known.
  if (changes.requests) {
    showLog("request", changes.requests, requestRow);
    showLog("delivery", changes.deliveries, deliveryRow);
    known.isComplete = true;
  }
  tell(moved);
  showSoon(new Set(moved.map(keyOf)));
}

/** Tell those who do not see it what has changed, without burying them. */
function tell(moved) {
  if (!moved.length || !known.isComplete) return;
  const words = (card) => `${card.card_token} is ${card.status}${card.description ? `: ${card.description}` : ""}`;
  setText($("news"), moved.length > 3 ? `${grouped(moved.length)} cards changed` : moved.map(words).join("; "));
}

// --- The stream of changes ---

let stream = null;

function connect() {
  if (stream || document.hidden) return;
  stream = new EventSource(`/_kiosk/changes?after=${encodeURIComponent(known.after)}`);
  stream.addEventListener("hello", (event) => {
    const hello = JSON.parse(event.data);
    if (!hello.is_resumed) forget();
    known.hello = hello;
    showHello();
    showConnection("live", "Live");
  });
  stream.addEventListener("change", (event) => {
    known.after = event.lastEventId;
    take(JSON.parse(event.data));
  });
  stream.addEventListener("error", () => {
    showConnection("lost", "Connection lost, trying again…");
    if (stream?.readyState === EventSource.CLOSED) {
      disconnect();
      setTimeout(connect, 2000);
    }
  });
}

function disconnect() {
  stream?.close();
  stream = null;
}

// A browser keeps six connections to a server: tabs that nobody sees give theirs up.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));

function showConnection(state, text) {
  $("connection").dataset.state = state;
  setText($("connection"), text);
}

// --- Commands ---

async function ask(command, fields = {}) {
  let trouble = "";
  try {
    const answer = await fetch(`/_kiosk/${command}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(fields),
    });
    if (!answer.ok) trouble = (await answer.json()).message;
  } catch {
    trouble = "The simulator does not answer.";
  }
  setText($("trouble-text"), trouble);
  $("trouble").hidden = !trouble;
  return !trouble;
}

$("trouble-close").addEventListener("click", () => {
  $("trouble").hidden = true;
  $("cards").focus();
});

// --- Head and kiosks ---

function showHello() {
  const { base_url, takes_any_token, version, plans } = known.hello;
  const token = takes_any_token ? "any" : "…";
  setText($("connect-command"), `CARDPROD_BASE_URL=${base_url} CARDPROD_TOKEN=${token} cardprod wait 123456 my-card`);
  setText($("version"), version);
  if (!$("add-plan").options.length) {
    for (const plan of plans) $("add-plan").add(new Option(plan === "never" ? "by hand" : plan, plan));
    $("add-plan").value = "never";
  }
}

$("copy").addEventListener("click", async () => {
  const code = $("connect-command");
  try {
    await navigator.clipboard.writeText(code.textContent);
    setText($("copy"), "Copied");
  } catch {
    getSelection().selectAllChildren(code); // then it is one key away
    setText($("copy"), "Selected");
  }
  setTimeout(() => setText($("copy"), "Copy"), 2000);
});

function showKiosks() {
  for (const kiosk of known.kiosks) {
    let item = $("kiosks").querySelector(`[data-id="${CSS.escape(kiosk.id)}"]`);
    if (!item) {
      const button = element("button", { type: "button", className: "quiet" });
      button.addEventListener("click", () =>
        ask(item.dataset.online === "true" ? "take-offline" : "bring-online", { kiosk_id: kiosk.id }),
      );
      item = element(
        "li",
        { className: "kiosk" },
        element("span", { className: "kiosk-id", textContent: kiosk.id }),
        element("span", { className: "kiosk-state" }),
        element("span", { className: "kiosk-load" }),
        button,
      );
      item.dataset.id = kiosk.id;
      $("kiosks").append(item);
    }
    item.dataset.online = kiosk.is_online;
    setText(item.querySelector(".kiosk-state"), kiosk.is_online ? "Online" : "Offline");
    const button = item.querySelector("button");
    setText(button, kiosk.is_online ? "Take offline" : "Bring online");
    button.setAttribute("aria-label", `${button.textContent}: ${kiosk.id}`);
  }
}

function showLoads(loads) {
  for (const item of $("kiosks").children) {
    const load = loads.get(item.dataset.id) ?? 0;
    setText(item.querySelector(".kiosk-load"), `${grouped(load)} in production`);
  }
}

$("add-kiosk").addEventListener("click", () => ask("add-kiosk"));

// --- Cards ---

let isShowing = false;
let changedKeys = new Set();

/** Draw once, however many changes come until the browser draws. */
function showSoon(changed = new Set()) {
  for (const key of changed) changedKeys.add(key);
  if (isShowing) return;
  isShowing = true;
  requestAnimationFrame(() => {
    isShowing = false;
    showCards();
    changedKeys = new Set();
  });
}

function showCards() {
  const counts = new Map();
  const loads = new Map();
  const found = [];
  for (const [key, card] of known.cards) {
    if (shown.words && !key.toLowerCase().includes(shown.words)) continue;
    counts.set(card.status, (counts.get(card.status) ?? 0) + 1);
    if (!shown.filter || card.status === shown.filter) found.push(key);
  }
  for (const card of known.cards.values()) {
    if (card.status === "IN_PROGRESS") loads.set(card.kiosk_id, (loads.get(card.kiosk_id) ?? 0) + 1);
  }
  found.reverse(); // the newest first
  shown.page = Math.max(0, Math.min(shown.page, Math.ceil(found.length / PAGE_LENGTH) - 1));
  const first = shown.page * PAGE_LENGTH;
  showRows(found.slice(first, first + PAGE_LENGTH));
  showLoads(loads);
  showFilters(counts);
  showPager(first, found.length);
  setText($("cards-count"), known.isComplete ? grouped(known.cards.size) : "");
  $("no-cards").hidden = found.length > 0 || !known.isComplete;
  setText(
    $("no-cards"),
    known.cards.size ? "No card is like this." : "No card yet. Add one, or let a client ask for one: it is added then.",
  );
}

function showRows(keys) {
  const wanted = new Set(keys);
  for (const [key, row] of shown.rows) {
    if (wanted.has(key)) continue;
    if (row.line.contains(document.activeElement)) $("cards").focus();
    row.line.remove();
    shown.rows.delete(key);
  }
  let place = $("card-rows").firstElementChild;
  for (const key of keys) {
    let row = shown.rows.get(key);
    if (!row) shown.rows.set(key, (row = newRow(key)));
    if (row.line !== place) $("card-rows").insertBefore(row.line, place);
    else place = place.nextElementSibling;
    fillRow(row, known.cards.get(key));
    if (changedKeys.has(key)) {
      row.line.classList.remove("changed");
      void row.line.offsetWidth; // so that it begins anew
      row.line.classList.add("changed");
    }
  }
}

function cell(name, ...children) {
  const made = element("td", { className: `cell-${name}` }, ...children);
  made.setAttribute("role", "cell");
  return made;
}

function newRow(key) {
  const { profile_id, card_token } = known.cards.get(key);
  const row = {
    key,
    card: null,
    status: element("span", { className: "status" }),
    why: element("span", { className: "detail" }),
    code: element("span", { className: "detail mono" }),
    kiosk: cell("kiosk"),
    choice: element("select"),
    since: element("time"),
    plan: element("span"),
    next: element("span", { className: "detail" }),
    looks: cell("looks"),
    moves: {},
  };
  row.choice.setAttribute("aria-label", `Kiosk for ${card_token}`);
  const token = element("span", { className: "card-token", textContent: card_token, tabIndex: -1 });
  const moves = element("div", { className: "moves" });
  for (const [move, label] of Object.entries(MOVES)) {
    const button = element("button", { type: "button", textContent: label, hidden: true });
    button.setAttribute("aria-label", `${label} ${card_token}`);
    button.addEventListener("click", () => makeMove(row, move));
    row.moves[move] = button;
    moves.append(button);
  }
  row.token = token;
  row.none = element("span", { className: "none", textContent: "Nothing left to do" });
  moves.append(row.none);
  row.line = element(
    "tr",
    {},
    cell("card", token, element("span", { className: "card-profile", textContent: `profile ${profile_id}` })),
    cell("status", row.status, row.why, row.code),
    row.kiosk,
    cell("since", row.since),
    cell("plan", row.plan, row.next),
    row.looks,
    cell("moves", moves),
  );
  row.line.setAttribute("role", "row");
  row.line.dataset.key = key;
  return row;
}

function fillRow(row, card) {
  const kiosks = known.kiosks.map((kiosk) => `${kiosk.id} ${kiosk.is_online}`).join();
  if (row.card === card && row.kiosks === kiosks) return;
  const isSame = row.card?.status === card.status;
  if (!isSame) row.status.replaceChildren(...badge(card.status));
  row.card = card;
  row.kiosks = kiosks;
  row.status.dataset.status = card.status;
  setText(row.why, card.error_code ? (card.description ?? "") : "");
  const code = card.error_code ?? "";
  if (row.code.textContent !== code) row.code.replaceChildren(...breakable(code));
  row.why.hidden = !row.why.textContent;
  row.code.hidden = !row.code.textContent;
  setText(row.looks, grouped(card.looks));
  fillKiosk(row, card);
  fillTimes(row);
  fillMoves(row, card);
}

function badge(status) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${STATUSES.includes(status) ? status : "other"}`);
  drawing.append(use);
  return [drawing, status];
}

/** A card that can be sent to a kiosk can be sent to any, if there are several. */
function fillKiosk(row, card) {
  const hasChoice = known.kiosks.length > 1 && (card.moves.includes("start") || card.moves.includes("retry"));
  if (!hasChoice) {
    row.kiosk.replaceChildren(card.kiosk_id);
    return;
  }
  if (row.choice.parentElement !== row.kiosk) {
    row.choice.replaceChildren();
    row.kiosk.replaceChildren(row.choice);
  }
  const ids = known.kiosks.map((kiosk) => kiosk.id);
  if (row.choice.options.length !== ids.length) {
    const chosen = row.choice.value || card.kiosk_id;
    row.choice.replaceChildren(...ids.map((id) => new Option(id, id)));
    row.choice.value = chosen;
  }
}

function fillMoves(row, card) {
  const focused = document.activeElement;
  let isFirst = true;
  for (const [move, button] of Object.entries(row.moves)) {
    button.hidden = !card.moves.includes(move);
    if (button.hidden) continue;
    button.className = isFirst ? "" : "quiet";
    isFirst = false;
  }
  row.none.hidden = card.moves.length > 0;
  if (focused?.hidden && row.line.contains(focused)) {
    // Whoever works with the keyboard goes on where they are.
    (Object.values(row.moves).find((button) => !button.hidden) ?? row.token).focus();
  }
}

/** Seconds since the simulator started, as its logs count them. */
const now = () => Date.now() / 1000 - known.hello.started_at;
const moment = (at) => new Date((known.hello.started_at + at) * 1000);

function ago(seconds) {
  const steps = [[86400, "d"], [3600, "h"], [60, "min"]];
  const [size, unit] = steps.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.max(0, Math.floor(seconds / size))} ${unit}`;
}

function fillTimes(row) {
  const card = row.card;
  setText(row.since, ago(now() - card.since));
  const since = moment(card.since);
  if (row.since.dateTime !== since.toISOString()) {
    row.since.dateTime = since.toISOString();
    row.since.title = since.toLocaleString();
  }
  // Whoever is on the plan "never" waits for a hand too.
  setText(row.plan, card.is_by_hand || card.plan === "never" ? "hand" : (card.plan ?? "own plan"));
  let next = "";
  const isOffline = known.kiosks.some((kiosk) => kiosk.id === card.kiosk_id && !kiosk.is_online);
  if (card.is_pending) next = "begins when its kiosk is back";
  else if (card.is_held || (isOffline && card.status === "IN_PROGRESS")) next = "stands still, kiosk offline";
  else if (card.next_status) next = `${card.next_status} in ${ago(Math.ceil(card.next_at - now()))}`;
  setText(row.next, next);
  row.next.hidden = !next;
}

setInterval(() => {
  if (!document.hidden) for (const row of shown.rows.values()) fillTimes(row);
}, 1000);

async function makeMove(row, move) {
  const { profile_id, card_token } = row.card;
  if (move === "fail" || move === "refuse") {
    choose(move, row.card);
    return;
  }
  const fields = { profile_id, card_token };
  if (move !== "finish" && row.choice.isConnected) fields.kiosk_id = row.choice.value;
  await ask(move, fields);
}

function showFilters(counts) {
  const wanted = ["", ...new Set([...STATUSES, ...counts.keys()])];
  for (const status of wanted) {
    let button = $("filters").querySelector(`[data-status="${CSS.escape(status)}"]`);
    if (!button) {
      button = element("button", { type: "button" });
      button.dataset.status = status;
      button.addEventListener("click", () => {
        shown.filter = status;
        shown.page = 0;
        showSoon();
      });
      $("filters").append(button);
    }
    const count = status ? (counts.get(status) ?? 0) : [...counts.values()].reduce((sum, each) => sum + each, 0);
    setText(button, `${status || "All"} ${grouped(count)}`);
    button.setAttribute("aria-pressed", String(shown.filter === status));
  }
}

function showPager(first, length) {
  $("pager").hidden = length <= PAGE_LENGTH;
  $("page-before").disabled = first === 0;
  $("page-after").disabled = first + PAGE_LENGTH >= length;
  const last = Math.min(first + PAGE_LENGTH, length);
  setText($("page-shown"), `${grouped(first + 1)} to ${grouped(last)} of ${grouped(length)}`);
}

function turn(pages) {
  shown.page += pages;
  showSoon();
  $("cards").scrollIntoView({ block: "start" });
}
$("page-before").addEventListener("click", () => turn(-1));
$("page-after").addEventListener("click", () => turn(1));
$("search").addEventListener("input", () => {
  shown.words = $("search").value.trim().toLowerCase();
  shown.page = 0;
  showSoon();
});
$("card-rows").addEventListener("animationend", (event) => event.target.closest("tr").classList.remove("changed"));

// --- The choice of an error, by its meaning ---

let choosing = null;

function choose(move, card) {
  choosing = { move, card };
  const isFailure = move === "fail";
  setText($("choose-title"), `${isFailure ? "Fail the production of" : "Refuse the request of"} ${card.card_token}`);
  const errors = isFailure ? known.hello.production_errors : known.hello.request_errors;
  const groups = Object.keys(ORIGINS)
    .map((origin) => [origin, errors.filter((error) => error.origin === origin)])
    .filter(([, members]) => members.length);
  $("choose-list").replaceChildren(...groups.map(([origin, members]) => errorGroup(origin, members)));
  $("choose-search").value = "";
  findErrors();
  $("choose").showModal();
  $("choose-search").focus();
}

function errorGroup(origin, errors) {
  const title = element("h3", { id: `origin-${origin}`, textContent: ORIGINS[origin] });
  const group = element("div", {}, title, ...errors.map(errorButton));
  group.setAttribute("role", "group");
  group.setAttribute("aria-labelledby", title.id);
  return group;
}

function errorButton({ code, meaning }) {
  // Where it comes from is said once, above the group.
  const words = meaning.replace(/^[A-Za-z ]+ error: /, "");
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  const button = element("button", { type: "button" }, element("span", { textContent: text }), " ");
  button.append(element("code", {}, ...breakable(code)));
  button.dataset.code = code;
  button.dataset.words = `${meaning} ${code}`.toLowerCase();
  button.addEventListener("click", async () => {
    const { move, card } = choosing;
    $("choose").close();
    await ask(move, { profile_id: card.profile_id, card_token: card.card_token, error_code: code });
  });
  return button;
}

const errorsShown = () => [...$("choose-list").querySelectorAll("button")].filter((button) => !button.hidden);

function findErrors() {
  const words = $("choose-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const group of $("choose-list").children) {
    for (const button of group.querySelectorAll("button")) {
      button.hidden = !words.every((word) => button.dataset.words.includes(word));
    }
    group.hidden = !group.querySelector("button:not([hidden])");
  }
  const count = errorsShown().length;
  setText($("choose-found"), count === 1 ? "1 error; Enter takes it" : `${count} errors`);
}

$("choose-search").addEventListener("input", findErrors);
$("choose").addEventListener("keydown", (event) => {
  const errors = errorsShown();
  const at = errors.indexOf(document.activeElement);
  if (event.key === "Enter" && document.activeElement === $("choose-search") && errors.length === 1) errors[0].click();
  else if (event.key === "ArrowDown") errors[Math.min(at + 1, errors.length - 1)]?.focus();
  else if (event.key === "ArrowUp" && at > 0) errors[at - 1].focus();
  else if (event.key === "ArrowUp" && at === 0) $("choose-search").focus();
  else return;
  event.preventDefault();
});

// --- Add a card, weather, webhooks ---

function onSubmit(id, command, fields) {
  $(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await ask(command, fields(new FormData(event.target)))) $(id).dispatchEvent(new Event("done"));
  });
}

onSubmit("add-card", "add", (form) => Object.fromEntries(form));
$("add-card").addEventListener("done", () => $("add-token").select());

onSubmit("fault", "fault", (form) => ({
  fault: form.get("fault"),
  times: Number(form.get("times")),
  seconds: Number(form.get("seconds")),
}));
onSubmit("slow-down", "slow-down", (form) => ({ seconds: Number(form.get("seconds")) }));
onSubmit("storm", "storm", (form) => ({ share: Number(form.get("share")) / 100 }));
onSubmit("subscribe", "subscribe", (form) => ({ url: form.get("url") }));
$("subscribe").addEventListener("done", () => $("subscribe").reset());
$("clear-weather").addEventListener("click", () => ask("clear-weather"));
$("send-tests").addEventListener("click", () => ask("send-tests"));

$("fault-what").addEventListener("change", () => {
  const { seconds, default: usual } = $("fault-what").selectedOptions[0].dataset;
  $("fault-seconds-field").hidden = !seconds;
  if (!seconds) return;
  setText(document.querySelector("label[for=fault-seconds]"), seconds);
  $("fault-seconds").value = usual;
});

function showForecast({ faults, storm, latency }) {
  const lines = faults.map(({ what, times }) =>
    times === 1 ? `The next answer: ${what}` : `The next ${grouped(times)} answers: ${what}`,
  );
  if (latency) lines.push(`Every answer: ${latency} s late`);
  if (storm) lines.push(`Storm: ${Math.round(storm * 100)} % of all answers go wrong`);
  const items = lines.map((textContent) => element("li", { textContent }));
  const fair = element("li", { className: "fair", textContent: "Fair: every answer is right and at once" });
  $("forecast").replaceChildren(...(items.length ? items : [fair]));
  for (const [id, value] of [["latency", latency], ["storm-share", Math.round(storm * 100)]]) {
    if (document.activeElement !== $(id)) $(id).value = value;
  }
}

function showSubscriptions(places) {
  setText($("subscriptions"), places.length ? `They go to ${places.join(", ")}` : "They go nowhere yet.");
  $("send-tests").disabled = !places.length;
}

// --- Logs ---

function showLog(name, entries, rowOf) {
  const counted = name === "request" ? "requests" : "deliveries";
  const rows = $(`${name}-rows`);
  for (const entry of entries) {
    if (entry.number <= known[counted]) continue;
    known[counted] = entry.number;
    rows.prepend(rowOf(entry));
  }
  while (rows.childElementCount > LOG_LENGTH) rows.lastElementChild.remove();
  setText($(`${counted}-count`), known[counted] ? grouped(known[counted]) : "");
  $(`no-${counted}`).hidden = rows.childElementCount > 0;
  rows.parentElement.hidden = !rows.childElementCount;
}

const clock = (at) => {
  const time = moment(at);
  const two = (number) => String(number).padStart(2, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
};
const answerOf = (httpStatus) => {
  const isGood = httpStatus !== null && httpStatus < 400;
  return element("span", {
    className: isGood ? "answer-good" : "answer-bad",
    textContent: httpStatus === null ? "no answer" : String(httpStatus),
  });
};
const column = (className, ...children) => element("td", { className }, ...children);

function requestRow({ at, method, path, card, correlation_id, fault, http_status, status }) {
  const what = card && method === "GET" ? card : path;
  const answer = column("nowrap", answerOf(http_status), status ? ` ${status}` : "");
  if (fault) answer.append(element("span", { className: "detail", textContent: `weather: ${fault}` }));
  // Its end, because a client may count them up there.
  const id = element("span", { className: "mono", textContent: correlation_id ? `…${correlation_id.slice(-8)}` : "none" });
  if (correlation_id) id.title = correlation_id;
  const request = column("mono", `${method} ${what}`);
  request.title = path;
  return element("tr", {}, column("nowrap", clock(at)), request, answer, column("", id));
}

function deliveryRow({ at, card, status, delivery_id, attempt, http_status }) {
  const about = column("mono", card ?? "a test");
  about.title = `X-Delivery-Id ${delivery_id}`;
  return element(
    "tr",
    {},
    column("nowrap", clock(at)),
    about,
    column("", status ?? "none"),
    column("nowrap", answerOf(http_status)),
    column("number", String(attempt)),
  );
}

showSoon();
connect();
