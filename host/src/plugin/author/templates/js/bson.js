// Reads BSON as the host sends it. Documents stand end to end; each begins with its own length.

/** Thrown for bytes that are no document. */
export class Malformed extends Error {}

/** The documents of a batch, as views of its bytes. */
export function* documents(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  while (at < bytes.length) {
    if (bytes.length - at < 5) throw new Malformed("a document is cut short");
    const length = view.getInt32(at, true);
    if (length < 5 || length > bytes.length - at) throw new Malformed("a document is cut short");
    yield bytes.subarray(at, at + length);
    at += length;
  }
}

/**
 * The value of a top-level field: strings, booleans, null and numbers as themselves (64-bit integers as
 * BigInt, dates as Date), documents and arrays as their bytes, anything else as { type, bytes }.
 * `undefined` when there is no such field.
 */
export function get(document, name) {
  for (const [key, value] of fields(document)) if (key === name) return value();
  return undefined;
}

/** Names of the top-level fields, each with a function that reads the value. */
export function* fields(document) {
  const view = new DataView(document.buffer, document.byteOffset, document.byteLength);
  const end = document.length - 1;
  let at = 4;
  while (at < end) {
    const type = document[at];
    const stop = document.indexOf(0, at + 1);
    if (stop < 0) throw new Malformed("a name has no end");
    const name = utf8(document.subarray(at + 1, stop));
    const start = stop + 1;
    const length = size(type, document, view, start);
    if (length < 0 || start + length > end) throw new Malformed("a value is cut short");
    yield [name, () => read(type, document, view, start, length)];
    at = start + length;
  }
}

function size(type, document, view, at) {
  const cstring = (from) => document.indexOf(0, from) + 1 - from;
  switch (type) {
    case 0x06: case 0x0a: case 0x7f: case 0xff: return 0;
    case 0x08: return 1;
    case 0x10: return 4;
    case 0x01: case 0x09: case 0x11: case 0x12: return 8;
    case 0x07: return 12;
    case 0x13: return 16;
    case 0x02: case 0x0d: case 0x0e: return 4 + view.getInt32(at, true);
    case 0x03: case 0x04: case 0x0f: return view.getInt32(at, true);
    case 0x05: return 5 + view.getInt32(at, true);
    case 0x0c: return 16 + view.getInt32(at, true);
    case 0x0b: { const first = cstring(at); return first + cstring(at + first); }
    default: throw new Malformed(`type ${type} is unknown`);
  }
}

function read(type, document, view, at, length) {
  const bytes = document.subarray(at, at + length);
  switch (type) {
    case 0x01: return view.getFloat64(at, true);
    case 0x02: return utf8(bytes.subarray(4, length - 1));
    case 0x03: case 0x04: return bytes;
    case 0x08: return bytes[0] !== 0;
    case 0x09: return new Date(Number(view.getBigInt64(at, true)));
    case 0x0a: return null;
    case 0x10: return view.getInt32(at, true);
    case 0x12: return view.getBigInt64(at, true);
    default: return { type, bytes };
  }
}

// Not every engine has TextDecoder. Servers keep what drivers send them: what is no UTF-8 becomes U+FFFD.
function utf8(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; ) {
    const byte = bytes[at];
    const more = byte < 0x80 ? 0 : byte < 0xc2 ? -1 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : byte < 0xf5 ? 3 : -1;
    let point = more > 0 ? byte & (0x3f >> more) : byte;
    let good = more >= 0;
    for (let next = at + 1; good && next <= at + more; next++) {
      good = (bytes[next] & 0xc0) === 0x80;
      point = (point << 6) | (bytes[next] & 0x3f);
    }
    const least = [0, 0x80, 0x800, 0x10000][more];
    good &&= point >= least && point <= 0x10ffff && (point < 0xd800 || point > 0xdfff);
    text += good ? String.fromCodePoint(point) : "\ufffd";
    at += good ? more + 1 : 1;
  }
  return text;
}
