/**
 * The calls of a recording, in a file for the programs that replay them. All numbers are 32 bits, little-endian:
 *
 *     pools, slots, calls
 *     size, align, boundary        for each pool
 *     operation, pool, slot        for each call; the operations are those of src/trace/decode.ts
 */
import { type DecodedTrace, OPERATION } from '../../src/trace/index.ts';

export interface CallStream {
  readonly slots: number;
  readonly geometries: readonly { readonly size: number; readonly align: number; readonly boundary: number }[];
  readonly operations: Uint8Array;
  readonly poolOf: Uint32Array;
  readonly slotOf: Uint32Array;
}

export { OPERATION };

export function encodeStream({ slots, pools, operations, poolOf, slotOf }: DecodedTrace): Uint8Array {
  const words = new Uint32Array(3 + 3 * pools.length + 3 * operations.length);
  words.set([pools.length, slots, operations.length]);
  pools.forEach(({ size, align, boundary }, i) => {
    words.set([size, align, boundary], 3 + 3 * i);
  });
  const calls = words.subarray(3 + 3 * pools.length);
  operations.forEach((operation, i) => {
    calls.set([operation, poolOf[i]!, slotOf[i]!], 3 * i);
  });
  return new Uint8Array(words.buffer);
}

export function decodeStream(bytes: Uint8Array<ArrayBuffer>): CallStream {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  const [pools, slots, calls] = words as unknown as [number, number, number];
  const geometries = Array.from({ length: pools }, (_, i) => {
    const [size, align, boundary] = words.subarray(3 + 3 * i) as unknown as [number, number, number];
    return { size, align, boundary };
  });
  const rest = words.subarray(3 + 3 * pools);
  const column = (n: number): number[] => Array.from({ length: calls }, (_, i) => rest[3 * i + n]!);
  return {
    slots,
    geometries,
    operations: Uint8Array.from(column(0)),
    poolOf: Uint32Array.from(column(1)),
    slotOf: Uint32Array.from(column(2)),
  };
}
