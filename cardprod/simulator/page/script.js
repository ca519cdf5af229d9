// The simulator's page: shows the state that is in the page and what the stream of changes sends, and sends commands.
// It decides nothing itself. Everything that comes from outside goes into the document as text.

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
/** Give a list one child for each key: remove the others, create missing ones, and return the children by key. */
function childrenFor(list, keys, make) {
  for (const child of [...list.children]) if (!keys.includes(child.dataset.key)) child.remove();
  const children = new Map([...list.children].map((child) => [child.dataset.key, child]));
  for (const key of keys) {
    if (children.has(key)) continue;
    children.set(key, make(key));
    children.get(key).dataset.key = key;
    list.append(children.get(key));
  }
  return children;
}
const cell = (className, ...children) => element("td", { className }, ...children);
/** A code, which may be broken after its underscores. */
const breakable = (code) => code.split(/(?<=_)/).flatMap((part) => [element("wbr"), part]);
const grouped = (number) => number.toLocaleString("en");
const keyOf = (card) => `${card.profile_id}/${card.card_token}`;

// --- State ---

const state = {
  hello: null,
  after: "", // the id of the last change, to go on from
  cards: new Map(),
  incoming: null, // the cards of a new state that is not complete yet
  kiosks: [],
  numbers: { request: 0, delivery: 0 }, // of the last entry of each log that is shown
};
const view = { filter: "", words: "", page: 0, rows: new Map() };

function take(changes) {
  const cards = state.incoming ?? state.cards;
  const moved = [];
  for (const card of changes.cards) {
    const before = state.cards.get(keyOf(card));
    if (!before || before.status !== card.status || before.requested_at !== card.requested_at) moved.push(card);
    cards.set(keyOf(card), card);
  }
  if (changes.kiosks) showKiosks((state.kiosks = changes.kiosks));
  if (changes.faults) showFaults(changes.faults);
  if (changes.subscriptions) showSubscriptions(changes.subscriptions);
  if (changes.requests) {
    // A message with the logs in it is the last of its kind: with it, the state is complete.
    state.cards = cards;
    state.incoming = null;
    showLog("request", changes.requests, requestRow);
    showLog("delivery", changes.deliveries, deliveryRow);
  }
  return moved;
}

/** Announce to those who cannot see it what has changed, but not too much of it. */
function announce(moved) {
  const words = (card) => `${card.card_token} is ${card.status}${card.description ? `: ${card.description}` : ""}`;
  const text = moved.length > 3 ? `${grouped(moved.length)} cards changed` : moved.map(words).join("; ");
  if (moved.length) setText($("announcement"), text);
}

// --- The stream of changes ---

let stream = null;

function connect() {
  if (stream || document.hidden) return;
  stream = new EventSource(`/_kiosk/changes?after=${encodeURIComponent(state.after)}`);
  stream.addEventListener("hello", (event) => {
    showHello(JSON.parse(event.data));
    if (!state.hello.is_resumed) {
      state.incoming = new Map();
      for (const name of ["request", "delivery"]) {
        state.numbers[name] = 0;
        $(`${name}-rows`).replaceChildren();
      }
    }
    showConnection("live", "Live");
  });
  stream.addEventListener("change", (event) => {
    state.after = event.lastEventId;
    const isNew = state.incoming !== null;
    const moved = take(JSON.parse(event.data));
    if (!isNew) announce(moved);
    showSoon(isNew ? [] : moved.map(keyOf));
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

// A browser has six connections to a server: hidden tabs give up theirs.
document.addEventListener("visibilitychange", () => (document.hidden ? disconnect() : connect()));

function showConnection(name, text) {
  $("connection").dataset.state = name;
  setText($("connection"), text);
}

// --- Commands ---

async function send(command, fields = {}) {
  let error = "";
  try {
    const answer = await fetch(`/_kiosk/${command}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(fields),
    });
    if (!answer.ok) error = (await answer.json()).detail;
  } catch {
    error = "The simulator does not answer.";
  }
  setText($("error-text"), error);
  $("error").hidden = !error;
  return !error;
}

$("error-close").addEventListener("click", () => {
  $("error").hidden = true;
  $("cards").focus();
});

// --- Header ---

function showHello(hello) {
  state.hello = hello;
  const token = hello.takes_any_token ? "any" : "…";
  setText($("connect-command"), `CARDPROD_BASE_URL=${hello.base_url} CARDPROD_TOKEN=${token} cardprod wait 123456 my-card`);
  if ($("add-plan").options.length) return;
  for (const plan of hello.plans) $("add-plan").add(new Option(plan, plan));
  $("add-plan").value = "never";
}

$("copy").addEventListener("click", async () => {
  getSelection().selectAllChildren($("connect-command")); // where the clipboard is not allowed, it is one key away
  await navigator.clipboard.writeText($("connect-command").textContent).catch(() => {});
});

function showKiosks(kiosks) {
  const items = childrenFor($("kiosks"), kiosks.map((kiosk) => kiosk.id), kioskItem);
  for (const { id, is_online } of kiosks) {
    const item = items.get(id);
    item.dataset.online = is_online;
    setText(item.querySelector(".kiosk-state"), is_online ? "online" : "offline");
    const button = item.querySelector("button");
    setText(button, is_online ? "Take offline" : "Bring online");
    button.setAttribute("aria-label", `${button.textContent}: ${id}`);
  }
  $("card-table").classList.toggle("several", kiosks.length > 1);
}

function kioskItem(id) {
  const button = element("button", { type: "button" });
  const item = element(
    "li",
    {},
    element("span", { className: "mono", textContent: id }),
    element("span", { className: "kiosk-state" }),
    element("span", { className: "count" }, "", element("span", { className: "wide", textContent: " in production" })),
    button,
  );
  button.addEventListener("click", () =>
    send(item.dataset.online === "true" ? "take-offline" : "bring-online", { kiosk_id: id }),
  );
  return item;
}

$("add-kiosk").addEventListener("click", () => send("add-kiosk"));

// --- Cards ---

let isDue = false;
const changedKeys = new Set();

/** Draw once, however many changes come until the browser draws. */
function showSoon(changed = []) {
  for (const key of changed) changedKeys.add(key);
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    showCards();
    changedKeys.clear();
  });
}

function showCards() {
  const counts = new Map();
  const busy = new Map();
  const found = [];
  for (const [key, card] of state.cards) {
    if (card.status === "IN_PROGRESS") busy.set(card.kiosk_id, (busy.get(card.kiosk_id) ?? 0) + 1);
    if (view.words && !key.toLowerCase().includes(view.words)) continue;
    counts.set(card.status, (counts.get(card.status) ?? 0) + 1);
    if (!view.filter || card.status === view.filter) found.push(key);
  }
  found.reverse(); // the newest first
  view.page = Math.max(0, Math.min(view.page, Math.ceil(found.length / PAGE_LENGTH) - 1));
  const first = view.page * PAGE_LENGTH;
  showRows(found.slice(first, first + PAGE_LENGTH));
  for (const item of $("kiosks").children) {
    item.querySelector(".count").firstChild.data = grouped(busy.get(item.dataset.key) ?? 0);
    item.title = `${item.dataset.key}: ${item.querySelector(".count").textContent}`;
  }
  showFilters(counts);
  showPager(first, found.length);
  setText($("cards-count"), grouped(state.cards.size));
  $("no-cards").hidden = found.length > 0;
  const none = "No card yet. Add one here, or ask for one with a client: its first request adds it.";
  setText($("no-cards"), state.cards.size ? "No card matches." : none);
}

function showRows(keys) {
  const wanted = new Set(keys);
  for (const [key, row] of view.rows) {
    if (wanted.has(key)) continue;
    if (row.line.contains(document.activeElement)) $("cards").focus();
    row.line.remove();
    view.rows.delete(key);
  }
  let place = $("card-rows").firstElementChild;
  for (const key of keys) {
    let row = view.rows.get(key);
    if (!row) view.rows.set(key, (row = newRow(key)));
    if (row.line !== place) $("card-rows").insertBefore(row.line, place);
    else place = place.nextElementSibling;
    fillRow(row, state.cards.get(key));
    if (changedKeys.has(key)) {
      row.line.classList.remove("changed");
      void row.line.offsetWidth; // so that the animation starts again
      row.line.classList.add("changed");
    }
  }
}

function newRow(key) {
  const { profile_id, card_token } = state.cards.get(key);
  const row = {
    card: null,
    token: element("span", { className: "token", textContent: card_token, tabIndex: -1 }),
    status: element("span", { className: "status" }),
    time: element("time"),
    plan: cell("cell-plan"),
    kiosk: cell("cell-kiosk mono"),
    choice: element("select"),
    requests: cell("cell-requests number"),
    moves: {},
    none: element("span", { className: "count", textContent: "none left" }),
  };
  row.choice.setAttribute("aria-label", `Kiosk for ${card_token}`);
  for (const [move, label] of Object.entries(MOVES)) {
    const button = element("button", { type: "button", textContent: label, hidden: true });
    button.setAttribute("aria-label", `${label} ${card_token}`);
    button.addEventListener("click", () => makeMove(row, move));
    row.moves[move] = button;
  }
  row.line = element(
    "tr",
    { title: `profile ${profile_id}, card ${card_token}` },
    cell("cell-card mono", element("span", { className: "profile", textContent: profile_id }), row.token),
    cell("cell-status", row.status),
    cell("cell-time number", row.time),
    row.plan,
    row.kiosk,
    row.requests,
    cell("cell-actions", ...Object.values(row.moves), row.none),
  );
  row.line.setAttribute("role", "row");
  for (const each of row.line.cells) each.setAttribute("role", "cell");
  row.line.dataset.key = key;
  return row;
}

function fillRow(row, card) {
  const kiosks = state.kiosks.map((kiosk) => `${kiosk.id} ${kiosk.is_online}`).join();
  if (row.card === card && row.kiosks === kiosks) return;
  if (row.card?.status !== card.status) row.status.replaceChildren(...badge(card.status));
  row.card = card;
  row.kiosks = kiosks;
  row.status.dataset.status = card.status;
  setText(row.requests, grouped(card.requests));
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
  const ids = state.kiosks.map((kiosk) => kiosk.id);
  if (ids.length < 2 || !(card.moves.includes("start") || card.moves.includes("retry"))) {
    row.kiosk.replaceChildren(card.kiosk_id);
    return;
  }
  const isOther = ids.join() !== [...row.choice.options].map((option) => option.value).join();
  if (isOther || row.choice.parentElement !== row.kiosk) {
    const chosen = row.choice.parentElement === row.kiosk ? row.choice.value : card.kiosk_id;
    row.choice.replaceChildren(...ids.map((id) => new Option(id, id)));
    row.choice.value = chosen;
    row.kiosk.replaceChildren(row.choice);
  }
}

function fillMoves(row, card) {
  const focused = document.activeElement;
  for (const [move, button] of Object.entries(row.moves)) button.hidden = !card.moves.includes(move);
  row.none.hidden = card.moves.length > 0;
  if (focused?.hidden && row.line.contains(focused)) {
    // The focus of a keyboard stays in the row.
    (Object.values(row.moves).find((button) => !button.hidden) ?? row.token).focus();
  }
}

/** Seconds since the simulator started, as its logs count them. */
const now = () => Date.now() / 1000 - state.hello.started_at;
const moment = (at) => new Date((state.hello.started_at + at) * 1000);

function duration(seconds) {
  const steps = [[86400, "d"], [3600, "h"], [60, "min"]];
  const [size, unit] = steps.find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.max(0, Math.floor(seconds / size))} ${unit}`;
}

function fillTimes(row) {
  const card = row.card;
  setText(row.time, duration(now() - card.since));
  const since = moment(card.since);
  if (row.time.dateTime !== since.toISOString()) {
    row.time.dateTime = since.toISOString();
    row.time.title = since.toLocaleString();
  }
  const isOffline = state.kiosks.some((kiosk) => kiosk.id === card.kiosk_id && !kiosk.is_online);
  let detail = card.error_code ?? "";
  if (card.is_pending) detail = `${card.error_code}: starts when its kiosk is online`;
  else if (card.is_paused || (isOffline && card.status === "IN_PROGRESS")) detail = "paused, kiosk offline";
  else if (card.next_status) detail = `in ${duration(Math.ceil(card.next_at - now()))}: ${card.next_status}`;
  const plan = card.is_manual ? (detail ? "" : "manual") : (card.plan ?? "own");
  const shown = `${plan} ${detail} ${card.error_code ? card.description : ""}`;
  if (row.plan.title === shown) return;
  row.plan.title = shown;
  const meaning = card.error_code && card.description ? ` ${card.description}` : "";
  row.plan.replaceChildren(
    element("span", { className: "detail", textContent: detail }),
    element("span", { className: "meaning", textContent: meaning }),
    plan && detail ? " · " : "",
    plan,
  );
}

setInterval(() => {
  if (!document.hidden) for (const row of view.rows.values()) fillTimes(row);
}, 1000);

function makeMove(row, move) {
  const { profile_id, card_token } = row.card;
  if (move === "fail" || move === "refuse") return choose(move, row.card);
  const kiosk = move !== "finish" && row.choice.isConnected ? { kiosk_id: row.choice.value } : {};
  return send(move, { profile_id, card_token, ...kiosk });
}

function showFilters(counts) {
  counts.set("", [...counts.values()].reduce((sum, count) => sum + count, 0));
  const statuses = [...new Set(["", ...STATUSES, ...counts.keys(), view.filter])];
  for (const [status, button] of childrenFor($("filters"), statuses, filterButton)) {
    setText(button, `${status || "All"} ${grouped(counts.get(status) ?? 0)}`);
    button.setAttribute("aria-pressed", String(view.filter === status));
  }
}

function filterButton(status) {
  const button = element("button", { type: "button" });
  button.addEventListener("click", () => {
    view.filter = status;
    view.page = 0;
    showSoon();
  });
  return button;
}

function showPager(first, length) {
  $("pager").hidden = length <= PAGE_LENGTH;
  $("page-before").disabled = first === 0;
  $("page-after").disabled = first + PAGE_LENGTH >= length;
  setText($("page-shown"), `${grouped(first + 1)} to ${grouped(Math.min(first + PAGE_LENGTH, length))} of ${grouped(length)}`);
}

function turn(pages) {
  view.page += pages;
  showSoon();
  $("card-table").scrollIntoView({ block: "nearest" });
}
$("page-before").addEventListener("click", () => turn(-1));
$("page-after").addEventListener("click", () => turn(1));
$("search").addEventListener("input", () => {
  view.words = $("search").value.trim().toLowerCase();
  view.page = 0;
  showSoon();
});
$("card-rows").addEventListener("animationend", (event) => event.target.closest("tr").classList.remove("changed"));

// --- The choice of an error, by its meaning ---

let choosing = null;

function choose(move, card) {
  choosing = { move, card };
  const isFailure = move === "fail";
  setText($("choose-title"), `${isFailure ? "Fail the production of" : "Refuse the request of"} ${card.card_token}`);
  const errors = isFailure ? state.hello.production_errors : state.hello.request_errors;
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
  return element("div", { role: "group", ariaLabel: ORIGINS[origin] }, title, ...errors.map(errorButton));
}

function errorButton({ code, meaning }) {
  // Where it comes from is said once, above the group.
  const words = meaning.replace(/^[A-Za-z ]+ error: /, "");
  const text = words.charAt(0).toUpperCase() + words.slice(1);
  const button = element("button", { type: "button" }, element("span", { textContent: text }), " ", element("code", {}, ...breakable(code)));
  button.dataset.words = `${meaning} ${code}`.toLowerCase();
  button.addEventListener("click", () => {
    const { move, card } = choosing;
    $("choose").close();
    send(move, { profile_id: card.profile_id, card_token: card.card_token, error_code: code });
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

// --- Forms: a card, faults, webhooks ---

function onSubmit(id, command, fields, done) {
  $(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    if (await send(command, fields(new FormData(event.target)))) done();
  });
}

onSubmit("add-card", "add", Object.fromEntries, () => $("add-token").select());
onSubmit("subscribe", "subscribe", Object.fromEntries, () => $("subscribe").reset());
onSubmit(
  "faults-form",
  "apply-faults",
  (form) => ({
    fault: form.get("fault") || null,
    times: Number(form.get("times")),
    seconds: Number(form.get("seconds")),
    error_rate: Number(form.get("error_rate")) / 100,
    latency: Number(form.get("latency")),
  }),
  () => {
    $("fault").value = "";
    showFaultFields();
  },
);
$("faults-reset").addEventListener("click", () => send("reset-faults"));
$("send-tests").addEventListener("click", () => send("send-tests"));
$("unsubscribe").addEventListener("click", () => send("unsubscribe"));

function showFaultFields() {
  const seconds = $("fault").selectedOptions[0].dataset.seconds;
  $("fault-times").parentElement.hidden = !$("fault").value;
  $("fault-seconds-label").hidden = !seconds;
  setText($("fault-seconds-label").firstElementChild, $("fault").value === "429" ? "Retry-After" : "Seconds");
  if (seconds) $("fault-seconds").value = seconds;
}
$("fault").addEventListener("change", showFaultFields);

function showFaults({ next, error_rate, latency }) {
  const rate = Number((error_rate * 100).toFixed(3));
  const lines = next.map(({ what, times }) => `next ${times === 1 ? "answer" : `${grouped(times)} answers`}: ${what}`);
  if (rate) lines.push(`error rate ${rate} %`);
  if (latency) lines.push(`latency ${latency} s`);
  const items = lines.map((textContent) => element("li", { textContent }));
  $("faults-set").replaceChildren(...(items.length ? items : [element("li", { className: "none", textContent: "none" })]));
  for (const [id, value] of [["latency", latency], ["error-rate", rate]]) {
    if (document.activeElement !== $(id)) $(id).value = value;
  }
}

function showSubscriptions(endpoints) {
  setText($("subscriptions"), endpoints.length ? `Sent to ${endpoints.join(", ")}` : "");
  $("send-tests").hidden = $("unsubscribe").hidden = !endpoints.length;
}

// --- Logs ---

function showLog(name, entries, rowOf) {
  const title = name === "request" ? "requests" : "deliveries";
  const rows = $(`${name}-rows`);
  for (const entry of entries) {
    if (entry.number <= state.numbers[name]) continue;
    state.numbers[name] = entry.number;
    rows.prepend(rowOf(entry));
  }
  while (rows.childElementCount > LOG_LENGTH) rows.lastElementChild.remove();
  setText($(`${title}-count`), state.numbers[name] ? grouped(state.numbers[name]) : "");
  $(`no-${title}`).hidden = rows.childElementCount > 0;
  rows.parentElement.hidden = !rows.childElementCount;
}

const clock = (at) => moment(at).toLocaleTimeString("en-GB");
const answerOf = (httpStatus) => {
  const isGood = httpStatus !== null && httpStatus < 400;
  const textContent = httpStatus === null ? "no answer" : String(httpStatus);
  return element("span", { className: isGood ? "answer-good" : "answer-bad", textContent });
};

/** A card's token; where there is no room for all of it, its end, in which tokens that were counted up differ. */
const tokenCell = (token) => cell("mono token-end", element("bdi", { textContent: token }));

function requestRow({ at, method, path, card, correlation_id, fault, http_status, status }) {
  const answer = cell("", answerOf(http_status), status ? ` ${status}` : "");
  if (fault) answer.append(element("span", { className: "detail", textContent: ` fault: ${fault}` }));
  // Its end, because a client may count them up there.
  const id = element("span", { className: "mono", textContent: correlation_id ? `…${correlation_id.slice(-8)}` : "" });
  id.title = correlation_id ?? "no correlation id";
  const request = card && method === "GET" ? tokenCell(card) : cell("mono", `${method} ${path}`);
  request.title = `${method} ${path}`;
  return element("tr", {}, cell("time", clock(at)), request, answer, cell("id", id));
}

function deliveryRow({ at, card, status, delivery_id, attempt, http_status }) {
  const about = tokenCell(card ?? "test");
  about.title = `X-Delivery-Id ${delivery_id}`;
  const answer = cell("", answerOf(http_status), attempt > 1 ? ` #${attempt}` : "");
  answer.title = `attempt ${attempt}`;
  return element("tr", {}, cell("time", clock(at)), about, cell("", status ?? ""), answer);
}

// --- Begin with the state that came with the page ---

const initial = JSON.parse(document.querySelector("meta[name=state]").content);
state.after = initial.id;
showHello(initial.hello);
showFaultFields();
take(initial.state);
showCards();
document.documentElement.dataset.ready = "";
connect();
