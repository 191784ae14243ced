/** Asking the API and reading its streams; errors become sentences. Nothing here touches the page. */

export class ApiError extends Error {
  /** What the server refused, or where it broke off; `retryAfter` is in seconds. */
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** The data of each server-sent event, wherever the bytes were cut: between lines, in a line end, in a character. */
export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  try {
    for (let done = false; !done; ) {
      const read = await reader.read();
      done = read.done;
      rest += decoder.decode(read.value, { stream: !done });
      const lines = rest.split(/\r\n|\n|\r(?=[^\n])/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    // Left early: hang up. A stream that failed refuses to be cancelled, and its error is on its way already.
    reader.cancel().catch(() => {});
  }
}

/** The pieces of a streamed answer. Throws ApiError; an aborted `signal` throws an AbortError. */
export async function* ask(path, body, key, signal) {
  const response = await send(path, key, { method: "POST", body: JSON.stringify(body), signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const piece = JSON.parse(data);
    if (piece.error) throw new ApiError(piece.error.message);
    yield piece;
  }
  throw new ApiError("the stream broke off before its end");
}

/** A JSON document. Throws ApiError. */
export async function get(path, key) {
  return (await send(path, key, {})).json();
}

async function send(path, key, request) {
  if (!/^[\x21-\x7e]*$/.test(key)) throw new ApiError("no key is written like this", { status: 401 });
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...request, headers });
  if (response.ok) return response;
  const told = await response.json().catch(() => null); // a proxy in between may answer in its own words
  const seconds = Number.parseInt(response.headers.get("Retry-After"), 10);
  throw new ApiError(told?.error?.message ?? response.statusText, {
    status: response.status,
    retryAfter: Number.isFinite(seconds) ? seconds : null,
  });
}

/** An error as a sentence for whoever sits before the page; the server's own messages are sentences but for their form. */
export function inWords(error, key) {
  if (error instanceof TypeError) return "The server cannot be reached. Is it still running?"; // fetch's only word for it
  if (error.status === 401 && !key) return "The server asks for a key; put yours into the field Key.";
  if (error.status === 401) return "The server does not know this key; check the field Key.";
  const message = error.message || `the server answered ${error.status}`;
  return `${message.charAt(0).toUpperCase()}${message.slice(1).replace(/\.$/, "")}.`;
}
