// Keeps documents with a given status.

import { documents, get } from "./bson.js";

const [KEEP, DROP] = [0, 1];

class Session {
  #config;

  constructor(config) {
    this.#config = config;
  }

  // Fields that the verdicts depend on. Say `replaces: true` before you replace a document.
  plan() {
    return { replaces: false, reads: ["status"] };
  }

  // Nothing may count here but the configuration, the namespace and the document.
  apply(batch) {
    const verdicts = new Uint8Array(batch.count);
    let position = 0;
    for (const document of documents(batch.documents)) {
      verdicts[position++] = get(document, "status") === this.#config.status ? KEEP : DROP;
    }
    return { verdicts, replacements: new Uint8Array(), rejects: [] };
  }
}

function init(options) {
  const config = JSON.parse(options.config);
  if (typeof config.status !== "string" || config.status === "") {
    throw { tag: "config", val: "`status`: expected text" };
  }
  const unknown = Object.keys(config).find((key) => key !== "status");
  if (unknown !== undefined) throw { tag: "config", val: `\`${unknown}\`: no such key` };
  return new Session(config);
}

export const filter = { Session, init };
