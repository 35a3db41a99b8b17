// The server's API as the page uses it: one way to ask, one way to fail, the key on every request.

const KEY = "cadence.key";

/** What went wrong, in words for the person at the page. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "", param = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

export const apiKey = () => sessionStorage.getItem(KEY) ?? "";

export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

let askForKey = async () => false;

/** `ask(wasWrong)` shows the way to enter a key and resolves to true once there is a new one. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/**
 * A response with a 2xx status, its body unread.
 * @throws {ApiError} in plain words; an aborted request throws the DOM's own AbortError.
 */
export async function request(path, { method = "GET", json, form, signal, asksForKey = true } = {}) {
  const sent = apiKey();
  const headers = sent ? { Authorization: `Bearer ${sent}` } : {};
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const body = json === undefined ? form : JSON.stringify(json);
  let response;
  try {
    response = await fetch(path, { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?", { code: "unreachable" });
  }
  if (response.ok) return response;
  if (response.status === 401 && asksForKey) {
    const another = apiKey() !== sent || (await askForKey(Boolean(sent)));
    if (another) return request(path, { method, json, form, signal, asksForKey });
  }
  throw await asError(response);
}

async function asError(response) {
  const { error = {} } = await response.json().catch(() => ({}));
  const told = { status: response.status, code: error.code ?? "", param: error.param ?? null };
  const wait = Number(response.headers.get("Retry-After"));
  const again = wait > 0 ? ` Try again in ${wait === 1 ? "a second" : `${wait} seconds`}.` : "";
  if (response.status === 401) return new ApiError("This server wants an API key: enter it with the key button above.", told);
  if (response.status === 413) return new ApiError("This is larger than the server accepts.", told);
  if (response.status === 429) return new ApiError(`The server is busy with other requests.${again}`, told);
  return new ApiError((error.message ?? `The server answered with status ${response.status}.`) + again, told);
}

/** The answer's JSON. */
export async function requestJson(path, options) {
  return (await request(path, options)).json();
}

/** The JSON objects of a stream of server-sent events, as they come; `[DONE]` ends it. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new ApiError("The connection broke before the answer was complete.");
      });
      rest += (value ?? "").replaceAll("\r\n", "\n");
      const blocks = rest.split("\n\n");
      rest = done ? "" : blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n").filter((line) => line.startsWith("data:"));
        const data = lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

let described;

/** What this server offers, read from its own OpenAPI document: paths, and fields with their values. */
export async function offers() {
  described ??= requestJson("/openapi.json").catch((error) => {
    described = undefined;
    throw error;
  });
  const { paths, components } = await described;
  return {
    path: (path, method = "post") => method in (paths[path] ?? {}),
    field: (schema, name) => components.schemas[schema]?.properties?.[name],
    values(schema, name) {
      const field = this.field(schema, name) ?? {};
      const lists = [field.enum, ...(field.anyOf ?? []).map((option) => option.enum)];
      return (lists.find(Boolean) ?? []).filter((value) => value !== null);
    },
  };
}
