/** A grid of arguments of create, in addition to the random streams. Each list creates, uses and destroys one pool. */
import { LARGEST_PAGE, type Operation } from './operation.ts';

const ALIGN_LIMIT = 2 ** 32;

/** Values around powers of two, 2^31 and 2^32. */
const SIZES: readonly number[] = [
  ...[0, 1, 2, 15, 16, 17, 31, 33, 64, 96, 100, 1000],
  ...[12, 16, 20, 31, 32].flatMap((bits) => [2 ** bits - 1, 2 ** bits, 2 ** bits + 1]),
  ...[2 ** 31 - 16, 2 ** 31 - 4096, 2 ** 40, 2 ** 53 - 1],
];
const ALIGNS: readonly number[] = [
  ...[0, 1, 2, 3, 4, 8, 12, 16, 64, 4095, 4096, 8192, 2 ** 20],
  ...[2 ** 30, 2 ** 31 - 1, 2 ** 31, 2 ** 31 + 1, 2 ** 32 - 1],
];
const BOUNDARIES: readonly number[] = [
  ...[0, 1, 15, 16, 17, 64, 128, 100, 4095, 4096, 4097, 65_536],
  ...[2 ** 30, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 32 + 1, 2 ** 52],
];

/** Names with lengths around 16 and 31 bytes, spaces, digits, format characters, and characters of several bytes. */
const NAMES: readonly string[] = [
  ...Array.from({ length: 40 }, (_, i) => 'abcdefghij'.repeat(4).slice(0, i + 1)),
  ...[' ', ' leading', 'trailing ', '1 2 3', '100%s%d%n', '"quoted"', '\\', 'a/b', '..'],
  // At most 31 bytes, or a character boundary at 31: other names are an intended difference.
  ...['é', 'größe', '日本語', '🦀 crab', '日'.repeat(10), 'é'.repeat(15), '🦀'.repeat(7)],
];

/** Creates a pool, allocates and frees blocks if a page fits, and reads the `pools` text at each step. */
function useOnce(create: Operation & { kind: 'create' }): Operation[] {
  const { size, align } = create;
  const calls: Operation[] = [create, { kind: 'text' }];
  if (size <= LARGEST_PAGE && align < ALIGN_LIMIT) {
    calls.push({ kind: 'alloc', slot: 0, flags: 0, count: 3 }, { kind: 'text' });
    calls.push({ kind: 'free', slot: 0, order: 0, count: 3, position: 0 });
  }
  return [...calls, { kind: 'destroy', slot: 0 }, { kind: 'text' }];
}

/** Returns whether the rounded size is exactly 2^31, which is an intended difference. */
function isRoundedTo31Bits(size: number, align: number): boolean {
  const step = Math.max(align, 1);
  return size < 2 ** 31 && Number.isInteger(Math.log2(step)) && Math.ceil(Math.max(size, 16) / step) * step === 2 ** 31;
}

/** All operations of the grid: about 9,800 triples of size, align and boundary, then the names. */
export const GRID: readonly Operation[] = [
  ...SIZES.flatMap((size) =>
    ALIGNS.filter((align) => size === 0 || !isRoundedTo31Bits(size, align)).flatMap((align) =>
      BOUNDARIES.flatMap((boundary) => useOnce({ kind: 'create', slot: 0, size, align, boundary, name: 'grid' })),
    ),
  ),
  ...NAMES.flatMap((name) => useOnce({ kind: 'create', slot: 0, size: 96, align: 32, boundary: 0, name })),
];
