// Gets tokens from a company's own service: a POST with an API key, answered with a token.

import { all } from "syncline:host/config@0.1.0";
import { sendWith } from "syncline:host/secrets@0.1.0";

function failure(tag, val) {
  return { tag, val };
}

function configuration() {
  const config = JSON.parse(all());
  const unknown = Object.keys(config).find((key) => key !== "tokenUrl");
  if (unknown !== undefined) throw failure("config", `\`${unknown}\`: no such key`);
  if (!/^https?:\/\/[^/]+/.test(config.tokenUrl)) {
    throw failure("config", "`tokenUrl`: expected https:// and a host");
  }
  return config;
}

function describe() {
  const { tokenUrl } = configuration();
  const origins = [tokenUrl.match(/^https?:\/\/[^/?]+/)[0]];
  return { name: "@name@", version: "0.1.0", flows: ["machine"], origins };
}

function validate() {
  configuration();
}

function getToken(request) {
  const { tokenUrl } = configuration();
  if (request.flow !== "machine") throw failure("unsupported", "this serves workloads");
  let answer;
  try {
    // The host puts the key in; this plugin never reads it.
    answer = sendWith(
      {
        method: "post",
        url: tokenUrl,
        headers: [["Content-Type", "application/x-www-form-urlencoded"]],
        body: bytes(`audience=${encodeURIComponent(request.audience ?? "")}`),
        timeoutMs: request.timeoutMs,
        maxResponseBytes: 65536,
      },
      [{ secret: "api-key", place: { tag: "header", val: ["Authorization", "Bearer "] } }],
    );
  } catch (error) {
    const why = error.payload ?? error;
    if (why.tag === "timed-out") throw failure("timed-out");
    if (why.tag === "denied") throw failure("config", why.val);
    throw failure("unavailable", { reason: String(why.val ?? why), retryAfterMs: undefined });
  }
  if (answer.status !== 200) {
    throw failure("denied", { code: `status ${answer.status}`, description: undefined });
  }
  let body;
  try {
    body = JSON.parse(text(answer.body));
  } catch {
    throw failure("internal", "the answer is no JSON");
  }
  if (typeof body.access_token !== "string") throw failure("internal", "there is no access_token");
  return {
    accessToken: body.access_token,
    expiresInMs: body.expires_in === undefined ? undefined : BigInt(body.expires_in) * 1000n,
    refreshToken: undefined,
    audit: [],
  };
}

// URLs and JSON of tokens are ASCII.
function bytes(text) {
  return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
}

function text(bytes) {
  return Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
}

export const identity = { describe, validate, getToken };
