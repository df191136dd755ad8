/**
 * Calls whose arguments are arrays. In JSON lists stay lists, so these go as msgpack, where an array is a map of its
 * dtype, shape and bytes; and so that a model gets what its author has declared.
 */

// The methods of DataView that write a number, with what the .npy format calls it; little-endian, as all of these.
const WRITERS = {
  BOOL: ["|b1", 1, "setUint8"],
  INT8: ["|i1", 1, "setInt8"],
  INT16: ["<i2", 2, "setInt16"],
  INT32: ["<i4", 4, "setInt32"],
  INT64: ["<i8", 8, "setBigInt64"],
  UINT8: ["|u1", 1, "setUint8"],
  UINT16: ["<u2", 2, "setUint16"],
  UINT32: ["<u4", 4, "setUint32"],
  UINT64: ["<u8", 8, "setBigUint64"],
  FP32: ["<f4", 4, "setFloat32"],
  FP64: ["<f8", 8, "setFloat64"],
};

/** Return the body of a call in which the inputs that are arrays are such; null if one has a type without a form. */
export function bodyWithArrays({ args, kwargs, tensors }) {
  const made = new Map();
  for (const [tensor, { value }] of tensors) {
    if (!tensor.shape?.length || ["", "BYTES"].includes(tensor.datatype)) continue;
    if (!WRITERS[tensor.datatype]) return null;
    made.set(value, arrayOf(value, WRITERS[tensor.datatype]));
  }
  const bytes = [];
  pack({ args: args.value, kwargs: kwargs.value }, bytes, made);
  return new Uint8Array(bytes);
}

function arrayOf(value, [dtype, width, write]) {
  const shape = [];
  for (let at = value; Array.isArray(at); at = at[0]) shape.push(at.length);
  const numbers = value.flat(Infinity);
  const view = new DataView(new ArrayBuffer(numbers.length * width));
  const isBig = write.includes("Big");
  numbers.forEach((number, at) => view[write](at * width, isBig ? BigInt(number) : Number(number), true));
  return { dtype, shape, data: new Uint8Array(view.buffer) };
}

/** Append a value as msgpack (https://github.com/msgpack/msgpack/blob/master/spec.md), in its forms of 32 bits. */
function pack(value, bytes, made) {
  const known = made.get(value);
  if (known) pack(known, bytes, new Map());
  else if (value === null) bytes.push(0xc0);
  else if (typeof value === "boolean") bytes.push(value ? 0xc3 : 0xc2);
  else if (typeof value === "number") packNumber(value, bytes);
  else if (typeof value === "string") packBytes(0xdb, new TextEncoder().encode(value), bytes);
  else if (value instanceof Uint8Array) packBytes(0xc6, value, bytes);
  else if (Array.isArray(value)) {
    head(0xdd, value.length, bytes);
    for (const item of value) pack(item, bytes, made);
  } else {
    head(0xdf, Object.keys(value).length, bytes);
    for (const [name, item] of Object.entries(value)) {
      pack(name, bytes, made);
      pack(item, bytes, made);
    }
  }
}

function packNumber(value, bytes) {
  const view = new DataView(new ArrayBuffer(8));
  const isInteger = Number.isSafeInteger(value);
  if (isInteger) view.setBigInt64(0, BigInt(value));
  else view.setFloat64(0, value);
  bytes.push(isInteger ? 0xd3 : 0xcb, ...new Uint8Array(view.buffer));
}

function packBytes(mark, data, bytes) {
  head(mark, data.length, bytes);
  for (const byte of data) bytes.push(byte);
}

function head(mark, size, bytes) {
  bytes.push(mark, (size >>> 24) & 255, (size >>> 16) & 255, (size >>> 8) & 255, size & 255);
}
