/** Why a token was written: a sentence, and what every model thought of the next token, as bars. */

import { signed, visible } from "./tokens.js";

const NAMES = { base: "base", expert: "expert", antiexpert: "anti-expert", combined: "combined" };

/** From where on a log-probability has a bar, in nats. */
const FLOOR = -10;

/** Fill the panel with one token's account and show it. */
export function explain(panel, account) {
  const [sentence, views] = [panel.querySelector("#sentence"), panel.querySelector(".views")];
  sentence.replaceChildren(...said(account));
  views.replaceChildren(...[account.base, ...account.steering, account.combined].map(drawn));
  panel.hidden = false;
}

function said(account) {
  const token = quoted(account.text);
  const nats = account.log_prob_shift;
  const alphas = account.alpha.map((alpha) => alpha.toFixed(2)).join(" and ");
  if (!account.steering.length) return [token, " is the base's own: no pair spoke."];
  const times = nats === null ? null : Math.exp(Math.abs(nats));
  const moved = [token, ` moved by ${signed(nats)} nats`];
  if (times >= 1.005) {
    const figure = times < 10 ? times.toFixed(2) : Math.round(times).toLocaleString("en");
    moved.push(`, ${figure} times ${nats < 0 ? "less likely" : "likelier"}`);
  }
  moved.push(` (α = ${alphas}). `);
  const same = ["The base's top token is the same."];
  const other = ["The base's top token was ", quoted(account.base.top[0].text), "."];
  return [...moved, ...(account.changed ? other : same)];
}

function drawn(view) {
  const section = element("section", `view ${view.part}`);
  const heading = element("h3", "", NAMES[view.part]);
  if (view.part !== "combined") heading.append(" ", element("code", "model", view.model));
  const list = element("ol", "");
  list.append(...view.top.map((candidate) => row(candidate, view.chosen)));
  if (!view.top.some((candidate) => candidate.token === view.chosen.token)) {
    const written = row(view.chosen, view.chosen);
    written.dataset.below = "";
    list.append(written);
  }
  section.append(heading, list);
  return section;
}

function row(candidate, chosen) {
  const item = element("li", "");
  const bar = element("span", "bar");
  const nats = candidate.log_prob;
  bar.style.setProperty("--share", nats === null ? 0 : Math.max(0, 1 - nats / FLOOR));
  bar.ariaHidden = "true";
  const name = element("span", "name");
  name.append(...marked(candidate.text));
  item.append(name, bar, element("span", "figure", nats === null ? "−∞" : signed(nats)));
  if (candidate.token === chosen.token) {
    item.dataset.written = "";
    item.append(element("span", "sr", "written"));
  }
  return item;
}

function quoted(text) {
  const made = element("strong", "quoted");
  made.append(...marked(text));
  return made;
}

/** A token's text, with marks for what is not seen. */
function marked(text) {
  const shown = visible(text);
  return shown.startsWith("␣") ? [element("span", "quiet", "␣"), shown.slice(1)] : [shown];
}

/** An element with a class and plain text; text never becomes markup. */
export function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
