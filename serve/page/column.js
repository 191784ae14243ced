/** One answer as it streams: its text, its figures, or in words why there is none. */

import { element } from "./account.js";
import { ask, inWords } from "./stream.js";

export class Column {
  /** `tokens` (a TokenText) takes the text where tokens are accounted for; without it the text is plain. */
  constructor(root, tokens = null) {
    this.root = root;
    this.text = root.querySelector(".text");
    this.error = root.querySelector(".error");
    this.stats = root.querySelector(".stats");
    this.tokens = tokens;
    this.asked = this.signal = null;
    this.state = "idle";
  }

  /** Run a request to its end and show it; resolves to a sentence about how it ended. */
  async run(path, body, key, signal) {
    this.#begin(path, body, signal);
    let usage = null;
    try {
      for await (const piece of ask(path, body, key, signal)) {
        for (const choice of piece.choices) this.#add(choice);
        usage = piece.usage ?? usage;
      }
      this.#end("done");
      this.#count(usage);
      return `${usage.completion_tokens} tokens`;
    } catch (error) {
      if (this.signal !== signal) return "asked anew";
      if (signal.aborted) return this.#end("stopped");
      this.#end("failed");
      return this.#fail(error, key);
    }
  }

  /** Whether this very request has been answered whole. */
  has(path, body) {
    return this.state === "done" && this.asked === path + JSON.stringify(body);
  }

  #begin(path, body, signal) {
    clearInterval(this.clock);
    this.signal = signal;
    this.asked = path + JSON.stringify(body);
    this.state = this.root.dataset.state = "running";
    this.text.ariaBusy = "true";
    this.error.hidden = true;
    this.stats.replaceChildren();
    if (this.tokens) this.tokens.clear();
    else this.text.textContent = "";
  }

  #add(choice) {
    const text = choice.text ?? choice.delta?.content ?? "";
    if (!this.tokens) {
      this.text.textContent = (this.text.textContent + text).trimStart();
      return;
    }
    this.tokens.add(choice.proxy?.tokens ?? [], text);
    this.#figures(this.#changed());
  }

  #end(state) {
    this.tokens?.finish();
    this.state = this.root.dataset.state = state;
    this.text.ariaBusy = "false";
    return state;
  }

  #changed() {
    const { changed, accounts } = this.tokens;
    const share = accounts.length ? Math.round((100 * changed) / accounts.length) : 0;
    return [["top token changed", `${changed} of ${accounts.length} (${share}%)`]];
  }

  #count(usage) {
    const { seconds, seconds_to_first: first, drafted, accepted } = usage.proxy;
    const share = drafted ? ` (${Math.round((100 * accepted) / drafted)}%)` : "";
    this.#figures([
      ...(this.tokens ? this.#changed() : []),
      ["speed", `${(usage.completion_tokens / seconds).toFixed(0)} tokens/s`],
      ["first token", `${(1000 * first).toFixed(0)} ms`],
      ["tokens", `${usage.completion_tokens}`],
      ["drafts accepted", drafted ? `${accepted} of ${drafted}${share}` : "none drafted"],
    ]);
  }

  #figures(rows) {
    this.stats.replaceChildren(...rows.map(([name, value]) => {
      const pair = element("div", "");
      pair.append(element("dt", "", name), element("dd", "", value));
      return pair;
    }));
  }

  #fail(error, key) {
    const words = inWords(error, key);
    this.error.hidden = false;
    this.error.textContent = words;
    if (error.retryAfter !== null && error.retryAfter !== undefined) this.#countDown(error.retryAfter, words);
    return words;
  }

  #countDown(seconds, words) {
    const until = Date.now() + 1000 * seconds;
    const tick = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      this.error.textContent = left > 0 ? `${words} Come back in ${left} s.` : `${words} You may try again now.`;
      if (left <= 0) clearInterval(this.clock);
    };
    this.clock = setInterval(tick, 250);
    tick();
  }
}
