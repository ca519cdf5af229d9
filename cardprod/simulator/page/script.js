// The simulator's page: shows the state that is in the page, asks for it again and again, and sends commands.
// It decides nothing itself. Everything that comes from outside goes into the document as text.

const POLL_EVERY = 500; // milliseconds
const SEARCH_AFTER = 150; // after the last key
const PAGE_LENGTH = 50;
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
const grouped = (number) => number.toLocaleString("en");
const keyOf = (card) => `${card.profile_id}/${card.card_token}`;

// --- State ---

const begin = JSON.parse(document.querySelector("meta[name=begin]").content);
let state = begin.state;
const view = { status: "", words: "", page: 0, rows: new Map(), faults: "", polls: 0, timer: 0, isOther: false };

/** Show a state; `isOther` if it is of other cards than the one before, and not of the same a moment later. */
function show(shown, isOther) {
  const before = new Map(state.cards.map((card) => [keyOf(card), card]));
  state = shown;
  view.page = state.page;
  showKiosks(state.kiosks);
  showSubscriptions(state.subscriptions);
  showLog("request", state.requests, requestRow);
  showLog("delivery", state.deliveries, deliveryRow);
  const faults = JSON.stringify(state.faults);
  if (view.faults !== faults) showFaults(state.faults); // else it would take away what is being entered
  view.faults = faults;
  const hasChanged = (card, known) => known?.status !== card.status || known.requested_at !== card.requested_at;
  const changed = isOther ? [] : state.cards.filter((card) => hasChanged(card, before.get(keyOf(card))));
  announce(changed);
  showCards(changed.map(keyOf));
}

/** Ask for the state, with those cards that are to be shown; and again and again, while the page is seen. */
async function poll(isOther = false) {
  clearTimeout(view.timer);
  if (document.hidden) return;
  const number = ++view.polls;
  const began = performance.now();
  view.isOther ||= isOther; // until those are shown: another poll may overtake this one
  const query = new URLSearchParams({ status: view.status, words: view.words, page: view.page });
  const answer = await fetch(`/_kiosk/state?${query}`).catch(() => null);
  const shown = answer?.ok ? await answer.json().catch(() => null) : null;
  if (number !== view.polls) return; // another was begun meanwhile
  if (shown && shown.started_at !== state.started_at) return location.reload(); // it is another simulator
  if (shown) show(shown, view.isOther);
  if (shown) view.isOther = false;
  showConnection(shown ? "live" : "lost", shown ? "Live" : "Connection lost, trying again…");
  // Very many cards cost no more than a tenth of the time.
  view.timer = setTimeout(poll, Math.max(POLL_EVERY, 10 * (performance.now() - began)));
}

document.addEventListener("visibilitychange", () => poll());

/** Announce to those who cannot see it what has changed, but not too much of it. */
function announce(changed) {
  const words = (card) => `${card.card_token} is ${card.status}${card.description ? `: ${card.description}` : ""}`;
  const text = changed.length > 3 ? `${grouped(changed.length)} cards changed` : changed.map(words).join("; ");
  if (changed.length) setText($("announcement"), text);
}

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
  poll();
  return !error;
}

$("error-close").addEventListener("click", () => {
  $("error").hidden = true;
  $("cards").focus();
});

// --- Header ---

const token = begin.facts.takes_any_token ? "any" : "…";
const command = `CARDPROD_BASE_URL=${begin.facts.base_url} CARDPROD_TOKEN=${token} cardprod wait 123456 my-card`;
setText($("connect-command"), command);
for (const plan of begin.facts.plans) $("add-plan").add(new Option(plan, plan, false, plan === "never"));

$("copy").addEventListener("click", async () => {
  getSelection().selectAllChildren($("connect-command")); // where the clipboard is not allowed, it is one key away
  await navigator.clipboard.writeText($("connect-command").textContent).catch(() => {});
});

function showKiosks(kiosks) {
  const items = childrenFor($("kiosks"), kiosks.map((kiosk) => kiosk.kiosk_id), kioskItem);
  for (const { kiosk_id: id, is_online, in_production } of kiosks) {
    const item = items.get(id);
    setText(item.querySelector(".count"), `${grouped(in_production)} in production`);
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
    element("span", { className: "count" }),
    button,
  );
  button.addEventListener("click", () =>
    send(item.dataset.online === "true" ? "take-offline" : "bring-online", { kiosk_id: id }),
  );
  return item;
}

$("add-kiosk").addEventListener("click", () => send("add-kiosk"));

// --- Cards ---

function showCards(changed) {
  showRows(new Map(state.cards.map((card) => [keyOf(card), card])), changed);
  showFilters();
  const first = state.page * PAGE_LENGTH;
  $("pager").hidden = state.found <= PAGE_LENGTH;
  $("page-before").disabled = first === 0;
  $("page-after").disabled = first + PAGE_LENGTH >= state.found;
  const last = grouped(first + state.cards.length);
  setText($("page-shown"), `${grouped(first + 1)} to ${last} of ${grouped(state.found)}`);
  setText($("cards-count"), grouped(state.all_cards));
  $("no-cards").hidden = state.found > 0;
  const none = "No card yet. Add one here, or ask for one with a client: its first request adds it.";
  setText($("no-cards"), state.all_cards ? "No card matches." : none);
}

function showRows(cards, changed) {
  for (const [key, row] of view.rows) {
    if (cards.has(key)) continue;
    if (row.line.contains(document.activeElement)) $("cards").focus();
    row.line.remove();
    view.rows.delete(key);
  }
  let place = $("card-rows").firstElementChild;
  for (const [key, card] of cards) {
    let row = view.rows.get(key);
    if (!row) view.rows.set(key, (row = newRow(key, card)));
    if (row.line !== place) $("card-rows").insertBefore(row.line, place);
    else place = place.nextElementSibling;
    fillRow(row, card);
    if (changed.includes(key)) {
      row.line.classList.remove("changed");
      void row.line.offsetWidth; // so that the animation starts again
      row.line.classList.add("changed");
    }
  }
}

function newRow(key, { profile_id, card_token }) {
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
  row.card = card;
  setText(row.status, card.status);
  row.status.dataset.status = card.status;
  setText(row.requests, grouped(card.requests));
  fillKiosk(row, card);
  fillTimes(row);
  fillMoves(row, card);
}

/** A card that can be sent to a kiosk can be sent to any, if there are several. */
function fillKiosk(row, card) {
  const ids = state.kiosks.map((kiosk) => kiosk.kiosk_id);
  if (ids.length < 2 || !(card.moves.includes("start") || card.moves.includes("retry"))) {
    setText(row.kiosk, card.kiosk_id);
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
const now = () => Date.now() / 1000 - state.started_at;
const moment = (at) => new Date((state.started_at + at) * 1000);

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
  const isOffline = state.kiosks.some((kiosk) => kiosk.kiosk_id === card.kiosk_id && !kiosk.is_online);
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

function makeMove(row, move) {
  const { profile_id, card_token } = row.card;
  if (move === "fail" || move === "refuse") return choose(move, row.card);
  const kiosk = move !== "finish" && row.choice.isConnected ? { kiosk_id: row.choice.value } : {};
  return send(move, { profile_id, card_token, ...kiosk });
}

function showFilters() {
  const counts = { ...state.counts, "": Object.values(state.counts).reduce((sum, count) => sum + count, 0) };
  const statuses = [...new Set(["", ...STATUSES, ...Object.keys(counts), view.status])];
  for (const [status, button] of childrenFor($("filters"), statuses, filterButton)) {
    setText(button, `${status || "All"} ${grouped(counts[status] ?? 0)}`);
    button.setAttribute("aria-pressed", String(view.status === status));
  }
}

function filterButton(status) {
  const button = element("button", { type: "button" });
  button.addEventListener("click", () => showOthers({ status, page: 0 }));
  return button;
}

/** Show other cards. */
function showOthers(change) {
  Object.assign(view, change);
  return poll(true);
}

async function turn(pages) {
  await showOthers({ page: view.page + pages });
  $("card-table").scrollIntoView({ block: "nearest" });
}
$("page-before").addEventListener("click", () => turn(-1));
$("page-after").addEventListener("click", () => turn(1));
$("search").addEventListener("input", () => {
  // What a poll under way brings is not what is searched for: as if it had been overtaken.
  Object.assign(view, { words: $("search").value.trim(), page: 0, isOther: true, polls: view.polls + 1 });
  clearTimeout(view.timer);
  view.timer = setTimeout(poll, SEARCH_AFTER);
});
$("card-rows").addEventListener("animationend", (event) => event.target.closest("tr").classList.remove("changed"));

// --- The choice of an error ---

let choosing = null;

function choose(move, card) {
  choosing = { move, card };
  const isFailure = move === "fail";
  setText($("choose-title"), `${isFailure ? "Fail the production of" : "Refuse the request of"} ${card.card_token}`);
  const errors = isFailure ? begin.facts.production_errors : begin.facts.request_errors;
  const groups = Object.entries(ORIGINS).map(([origin, label]) =>
    element("optgroup", { label }, ...errors.filter((error) => error.origin === origin).map(errorOption)),
  );
  $("choose-error").replaceChildren(...groups.filter((group) => group.childElementCount));
  $("choose").returnValue = "";
  $("choose").showModal();
}

function errorOption({ code, meaning }) {
  // Where it comes from is said once, above the group.
  const words = meaning.replace(/^[A-Za-z ]+ error: /, "");
  return new Option(`${words.charAt(0).toUpperCase() + words.slice(1)} ${code}`, code);
}

$("choose").addEventListener("close", () => {
  const { move, card } = choosing;
  const fields = { profile_id: card.profile_id, card_token: card.card_token, error_code: $("choose-error").value };
  if ($("choose").returnValue === "ok") send(move, fields);
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
  const latest = entries.at(-1)?.number ?? 0;
  const shown = Number(rows.dataset.latest ?? 0);
  for (const entry of entries) if (entry.number > shown) rows.prepend(rowOf(entry));
  rows.dataset.latest = latest;
  while (rows.childElementCount > entries.length) rows.lastElementChild.remove();
  setText($(`${title}-count`), latest ? grouped(latest) : "");
  $(`no-${title}`).hidden = latest > 0;
  rows.parentElement.hidden = !latest;
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
  const request = card && method === "GET" ? tokenCell(card) : cell("mono", `${method} ${path}`);
  request.title = `${method} ${path}\n${correlation_id ?? "no"} correlation id`;
  return element("tr", {}, cell("time", clock(at)), request, answer);
}

function deliveryRow({ at, card, status, delivery_id, attempt, http_status }) {
  const about = tokenCell(card ?? "test");
  about.title = `X-Delivery-Id ${delivery_id}`;
  const answer = cell("", answerOf(http_status), attempt > 1 ? ` #${attempt}` : "");
  answer.title = `attempt ${attempt}`;
  return element("tr", {}, cell("time", clock(at)), about, cell("", status ?? ""), answer);
}

// --- Begin with the state that came with the page ---

showFaultFields();
show(state, true);
document.documentElement.dataset.ready = "";
poll();
