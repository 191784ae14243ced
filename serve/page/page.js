/** The page that lets one see the ensemble think: what is asked, and three answers side by side. */

import { element, explain } from "./account.js";
import { Column } from "./column.js";
import { get, inWords } from "./stream.js";
import { TokenText } from "./tokens.js";

const CANDIDATES = 6;
const SETTLED_MS = 300;
const KEY = "earnest.key";

const at = (id) => document.getElementById(id);
const panel = at("account");

const [text, trace] = [at("ensemble").querySelector(".text"), at("ensemble").querySelector(".trace")];
const tokens = new TokenText(text, trace, (account, token) => {
  explain(panel, account);
  document.documentElement.style.setProperty("--below", `${panel.offsetHeight}px`);
  token.scrollIntoView({ block: "nearest" });
});
const columns = {
  base: new Column(at("base")),
  expert: new Column(at("expert")),
  ensemble: new Column(at("ensemble"), tokens),
};

let served = null;
let running = null;
let settling = 0;

/** Which models there are. Without a right key the server does not say. */
async function meet() {
  const first = !served;
  try {
    served = await get("v1/ensemble", at("key").value.trim());
  } catch (error) {
    return notice(inWords(error, at("key").value.trim()));
  }
  notice("");
  const chosen = served.default_pair;
  at("pair").replaceChildren(...served.pairs.map(({ name }) => new Option(name, name, false, name === chosen)));
  at("tokens").max = served.max_tokens;
  at("tokens").value = Math.min(at("tokens").value, served.max_tokens);
  at("expert").hidden = at("pair").parentElement.hidden = !served.pairs.length;
  at("examples").replaceChildren(...served.examples.map(example));
  at("prompt").value ||= served.examples[0] ?? "";
  if (first) steerAsServed();
  else showSteering();
}

function example(prompt) {
  const chip = element("button", "", prompt.split("\n").find(Boolean).replace(/^Q: /, ""));
  chip.type = "button";
  chip.title = prompt;
  chip.addEventListener("click", () => {
    at("prompt").value = prompt;
    at("kind").value = "text";
    run();
  });
  return chip;
}

const pair = () => served?.pairs.find((one) => one.name === at("pair").value);
const alpha = () => (at("adaptive").checked ? "adaptive" : Number(at("alpha").value));

/** The pair's own alpha, as the operator set it. */
function steerAsServed() {
  const own = pair()?.alpha ?? 1;
  at("adaptive").checked = own === "adaptive";
  if (own !== "adaptive") at("alpha").value = own;
  showSteering();
}

function showSteering() {
  const shown = at("adaptive").checked ? "adaptive" : alpha().toFixed(2);
  at("shown").textContent = shown;
  at("alpha").disabled = at("adaptive").checked;
  if (!served) return;
  const { expert, antiexpert } = pair() ?? {};
  const strength = at("adaptive").checked ? "α" : shown;
  const steered = `${served.base} + ${strength} · (${expert} − ${antiexpert ?? served.base})`;
  at("base").querySelector(".model").textContent = served.base;
  at("expert").querySelector(".model").textContent = expert ?? "";
  at("ensemble").querySelector(".model").textContent = expert ? steered : served.base;
}

/** What each column asks: path and body. */
function requests() {
  const chat = at("kind").value === "chat";
  const prompt = at("prompt").value;
  const common = {
    ...(chat ? { messages: [{ role: "user", content: prompt }] } : { prompt }),
    max_tokens: at("tokens").valueAsNumber,
    temperature: at("temperature").valueAsNumber,
    seed: at("seed").valueAsNumber,
    stream: true,
    stream_options: { include_usage: true },
  };
  const path = chat ? "v1/chat/completions" : "v1/completions";
  const steering = pair() ? { pair: pair().name, alpha: alpha() } : {};
  const asked = {
    base: [path, { model: served.base, ...common, proxy: {} }],
    ensemble: [path, { model: served.name, ...common, proxy: { ...steering, account: CANDIDATES } }],
  };
  if (pair()) asked.expert = [path, { model: pair().expert, ...common, proxy: {} }];
  return asked;
}

/** Ask all three, or only those whose question is another one than they answered; what runs already is stopped. */
async function run(again = () => true) {
  if (!served) await meet();
  if (!served || !at("ask").reportValidity()) return;
  const asked = Object.entries(requests()).filter(([name, request]) => again(columns[name], request));
  running?.abort();
  running = new AbortController();
  const mine = running;
  closeAccount();
  at("stop").disabled = false;
  say("Running.");
  const key = at("key").value.trim();
  const ends = await Promise.all(asked.map(([name, request]) => columns[name].run(...request, key, mine.signal)));
  if (running !== mine) return; // another run took over
  at("stop").disabled = true;
  const said = asked.map(([name], place) => `${name}: ${ends[place]}`).join("; ");
  say(`${said}. ${tokens.changed} of ${tokens.accounts.length} top tokens changed.`);
}

/** Run again once the slider rests, but only what alpha or the pair changes. */
function settle() {
  showSteering();
  clearTimeout(settling);
  if (at("live").checked) settling = setTimeout(() => run((column, request) => !column.has(...request)), SETTLED_MS);
}

function closeAccount() {
  panel.hidden = true;
  document.documentElement.style.removeProperty("--below");
  tokens.close();
}

function say(words) {
  at("status").textContent = words;
}

function notice(words) {
  at("notice").textContent = words;
  at("notice").hidden = !words;
}

/** A link may bring the key behind its #, which browsers send to nobody; the address then forgets it. */
function keyOfLink() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!key) return;
  sessionStorage.setItem(KEY, key.trim());
  history.replaceState(null, "", location.pathname + location.search);
}

keyOfLink();
at("key").value = sessionStorage.getItem(KEY) ?? "";
at("key").addEventListener("change", () => {
  sessionStorage.setItem(KEY, at("key").value.trim());
  meet();
});
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
at("stop").addEventListener("click", () => running?.abort());
at("alpha").addEventListener("input", settle);
at("adaptive").addEventListener("change", settle);
at("live").addEventListener("change", settle);
at("pair").addEventListener("change", () => {
  steerAsServed();
  settle();
});
at("close").addEventListener("click", () => {
  closeAccount();
  tokens.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || panel.hidden) return;
  closeAccount();
  tokens.focus();
});

await meet();
document.documentElement.dataset.ready = "";
