/** The ensemble's text as tokens: coloured by how much the pair moved them, walked by arrow keys, opened by Enter. */

/** From how many nats on a shift is shown as faint, clear, strong. */
export const STEPS = [0.1, 0.7, 2];

/** A shift in nats as one of seven colours, from -3 to 3; one that is not finite is as strong as can be. */
export function step(nats) {
  if (nats === null) return 3;
  const strength = STEPS.filter((least) => Math.abs(nats) >= least).length;
  return nats < 0 ? -strength : strength;
}

/** The least height of the trace, in nats, so that a pair that does nothing shows nothing. */
const CALM = 0.25;

/** A token with its spaces and line ends made visible. */
export const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ | $/g, "␣") || "◦";

export class TokenText {
  /** `text` holds the tokens, `trace` a bar for each; `opened(account, token)` is told which one is to be explained. */
  constructor(text, trace, opened) {
    this.text = text;
    this.trace = trace;
    this.opened = opened;
    this.#reset();
    text.addEventListener("click", (event) => this.#open(this.spans.indexOf(event.target.closest(".token"))));
    trace.addEventListener("click", (event) => this.#open(this.bars.indexOf(event.target)));
    text.addEventListener("keydown", (event) => this.#key(event));
  }

  /** Begin another text. */
  clear() {
    this.#reset();
    this.text.replaceChildren();
    this.trace.replaceChildren();
  }

  #reset() {
    this.accounts = [];
    this.spans = [];
    this.bars = [];
    this.changed = 0;
    this.place = 0;
    this.waiting = [];
    this.unsaid = "";
    this.most = CALM;
  }

  /** Add what came: tokens may come before their text, which is held back while it may be a part of a stop string. */
  add(accounts, text) {
    this.waiting.push(...accounts);
    this.unsaid += text;
    while (this.waiting.length) {
      const end = this.#endOfFirst();
      if (end === null) return;
      this.#append(this.waiting.shift(), this.unsaid.slice(0, end));
      this.unsaid = this.unsaid.slice(end);
    }
  }

  /** No more comes: tokens without text, such as a stop string's, stand as marks. */
  finish() {
    for (const account of this.waiting.splice(0)) {
      const said = this.unsaid.slice(0, account.text.length);
      this.unsaid = this.unsaid.slice(said.length);
      this.#append(account, said);
    }
  }

  /** Where the first waiting token ends in the text that came; null while that is not known. */
  #endOfFirst() {
    const [{ text: own }, next] = this.waiting;
    if (own.includes("\ufffd")) {
      // A part of a character: all of its text goes to the last of its tokens, once another one follows.
      if (!next) return null;
      if (next.text.includes("\ufffd")) return 0;
      const end = this.unsaid.indexOf(next.text);
      return end < 0 ? null : end;
    }
    if (this.unsaid.startsWith(own)) return own.length;
    // Some tokenizers drop the space that a single token begins with.
    const space = this.unsaid.length - this.unsaid.trimStart().length;
    return own && this.unsaid.startsWith(own, space) ? space + own.length : null;
  }

  #append(account, said) {
    const span = document.createElement("span");
    const nats = account.log_prob_shift;
    span.className = "token";
    span.role = "button";
    span.tabIndex = this.spans.length ? -1 : 0;
    span.dataset.shift = step(nats);
    // The space between two words belongs to the second one's token, but looks better without its colour.
    const space = said.trim() ? said.slice(0, said.length - said.trimStart().length) : "";
    span.textContent = said.slice(space.length).replaceAll("\n", "⏎\n") || visible(account.text);
    if (!said) span.dataset.unsaid = "";
    if (account.changed) span.dataset.changed = "";
    span.ariaLabel = `${visible(account.text)}, ${signed(nats)} nats${account.changed ? ", top token changed" : ""}`;
    this.text.append(...(this.spans.length ? [space, span] : [span]));

    const bar = document.createElement("i");
    bar.dataset.shift = span.dataset.shift;
    bar.style.setProperty("--nats", nats ?? this.most);
    this.trace.append(bar);
    this.most = Math.max(this.most, Math.abs(nats ?? 0));
    this.trace.style.setProperty("--most", this.most);
    this.trace.dataset.most = `${this.most.toFixed(2)} nats`;

    this.accounts.push(account);
    this.spans.push(span);
    this.bars.push(bar);
    this.changed += account.changed;
  }

  #key(event) {
    const last = this.spans.length - 1;
    const moves = { ArrowRight: this.place + 1, ArrowLeft: this.place - 1, Home: 0, End: last };
    moves.ArrowDown = this.#below(1);
    moves.ArrowUp = this.#below(-1);
    if (event.key === "Enter" || event.key === " ") this.#open(this.place);
    else if (event.key in moves) this.#move(Math.max(0, Math.min(last, moves[event.key])));
    else return;
    event.preventDefault();
  }

  /** The token of the line above or below that is nearest. */
  #below(direction) {
    const here = this.spans[this.place]?.getBoundingClientRect();
    let best = this.place;
    let least = Infinity;
    this.spans.forEach((span, place) => {
      const box = span.getClientRects()[0];
      const lines = (direction * (box.top - here.top)) / here.height;
      const away = Math.abs(box.left - here.left) + 1000 * lines;
      if (lines > 0.5 && away < least) [best, least] = [place, away];
    });
    return best;
  }

  #move(place) {
    this.spans[this.place].tabIndex = -1;
    this.place = place;
    this.spans[place].tabIndex = 0;
    this.spans[place].focus();
    if (this.text.querySelector("[aria-pressed=true]")) this.#open(place);
  }

  #open(place) {
    if (place < 0) return;
    this.close();
    this.spans[this.place].tabIndex = -1;
    this.place = place;
    this.spans[place].tabIndex = 0;
    this.spans[place].ariaPressed = "true";
    this.bars[place].dataset.open = "";
    this.opened(this.accounts[place], this.spans[place]);
  }

  /** None is explained any more. */
  close() {
    this.text.querySelector("[aria-pressed=true]")?.removeAttribute("aria-pressed");
    delete this.trace.querySelector("[data-open]")?.dataset.open;
  }

  /** Back to the token where the keyboard is. */
  focus() {
    this.spans[this.place]?.focus();
  }
}

/** A figure with its sign and a true minus. */
export function signed(nats, digits = 2) {
  if (nats === null) return "not finite";
  const size = Math.abs(nats).toFixed(digits);
  if (Number(size) === 0) return size;
  return `${nats < 0 ? "−" : "+"}${size}`;
}
