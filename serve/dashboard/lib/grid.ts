import type { components } from "./schema";

export type Plain = components["schemas"]["Array"];

/** Numbers in rows and columns. Bytes 0 to 255 mean `min` to `max`. */
export interface Grid {
  rows: number;
  columns: number;
  bytes: Uint8Array;
  min: number;
  max: number;
}

function packed(plain: Plain): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(plain.data), (character) => character.charCodeAt(0));
}

/** The values of an array of any shape. */
export function values(plain: Plain): Float32Array {
  const bytes = packed(plain);
  if (plain.dtype === "uint8") {
    const step = (plain.max - plain.min) / 255;
    return Float32Array.from(bytes, (byte) => plain.min + byte * step);
  }
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 2 }, (_, at) => half(view.getUint16(2 * at, true)));
}

/** Convert the bits of a float16 (IEEE 754 half precision) to a number. */
function half(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * 2 ** -24 * fraction;
  return sign * 2 ** (exponent - 25) * (1024 + fraction);
}

/** Convert an array of bytes [rows, columns] to a grid. */
export function grid(plain: Plain): Grid {
  const [rows = 0, columns = 0] = plain.shape;
  return { rows, columns, bytes: packed(plain), min: plain.min, max: plain.max };
}

/** Convert an array of bytes [channels, rows, columns] to one grid per channel, all in one scale. */
export function grids(plain: Plain): Grid[] {
  const [channels = 0, rows = 0, columns = 0] = plain.shape;
  const bytes = packed(plain);
  const size = rows * columns;
  return Array.from({ length: channels }, (_, at) => ({
    rows,
    columns,
    bytes: bytes.subarray(at * size, (at + 1) * size),
    min: plain.min,
    max: plain.max,
  }));
}

export function valueAt(of: Grid, row: number, column: number): number {
  return of.min + ((of.bytes[row * of.columns + column] ?? 0) / 255) * (of.max - of.min);
}
