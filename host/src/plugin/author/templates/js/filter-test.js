import assert from "node:assert/strict";
import test from "node:test";

import { filter } from "./filter.js";

// BSON of a document whose values are text or small whole numbers.
function bson(document) {
  const fields = Object.entries(document).map(([name, value]) => {
    const key = Buffer.from(`${name}\0`);
    if (typeof value === "string") {
      const text = Buffer.from(`${value}\0`);
      const length = Buffer.alloc(4);
      length.writeInt32LE(text.length);
      return Buffer.concat([Buffer.of(0x02), key, length, text]);
    }
    const number = Buffer.alloc(4);
    number.writeInt32LE(value);
    return Buffer.concat([Buffer.of(0x10), key, number]);
  });
  const body = Buffer.concat([...fields, Buffer.of(0)]);
  const length = Buffer.alloc(4);
  length.writeInt32LE(body.length + 4);
  return Buffer.concat([length, body]);
}

function judge(config, ...list) {
  const session = filter.init({ config: JSON.stringify(config), extra: [] });
  const namespace = { database: "app", collection: "users" };
  const documents = new Uint8Array(Buffer.concat(list.map(bson)));
  return [...session.apply({ namespace, count: list.length, documents }).verdicts];
}

test("documents with the status are kept", () => {
  const verdicts = judge(
    { status: "active" },
    { _id: 1, status: "active" },
    { _id: 2, status: "gone" },
    { _id: 3 },
    { _id: 4, status: 5 },
  );
  assert.deepEqual(verdicts, [0, 1, 1, 1]);
});

test("a configuration that cannot be used names its key", () => {
  for (const config of [{}, { status: 1 }, { status: "a", other: 1 }]) {
    assert.throws(() => judge(config), (failure) => failure.tag === "config");
  }
});
