/** A device's `pools` attribute: there from its first pool to its last, the text Linux's. */
import type { Device } from '../device/device.ts';
import type { PoolCounts } from './slow-path.ts';

/** What a pool shows of itself. */
export interface ListedPool {
  readonly name: string;
  readonly geometry: { readonly blockSize: number };
  counts(): PoolCounts;
}

const ATTRIBUTE = 'pools';
/** Linux keeps a pool's name in 32 bytes, the last one zero. */
const NAME_BYTES = 31;
const NAME_WIDTH = 16;
/** A sysfs file is one page, the last byte zero. */
export const TEXT_BYTES = 4095;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

interface PoolList {
  /** Oldest first. */
  readonly pools: Set<ListedPool>;
  removeAttribute: () => boolean;
}

/** Pools of each device that has any. Weak: a device that is dropped takes its list along. */
const lists = new WeakMap<Device, PoolList>();

/** Adds a pool to its device, and the attribute with the first one. If that throws, nothing is left behind. */
export function listPool(device: Device, pool: ListedPool): void {
  const list = lists.get(device);
  if (list !== undefined) {
    list.pools.add(pool);
    return;
  }
  const pools = new Set([pool]);
  const removeAttribute = device.addAttribute(ATTRIBUTE, () => poolsText([...pools].reverse()));
  lists.set(device, { pools, removeAttribute });
}

/** Takes a pool from its device, and the attribute with the last one. */
export function unlistPool(device: Device, pool: ListedPool): void {
  const list = lists.get(device);
  if (list?.pools.delete(pool) !== true || list.pools.size > 0) return;
  lists.delete(device);
  list.removeAttribute();
}

/** The text for these pools, in this order; cut where Linux cuts it. */
export function poolsText(pools: Iterable<ListedPool>): string {
  let text = 'poolinfo - 0.1\n';
  for (const pool of pools) {
    const { active, blocks, pages } = pool.counts();
    const name = cutToBytes(pool.name, NAME_BYTES);
    const pad = ' '.repeat(Math.max(0, NAME_WIDTH - encoder.encode(name).length));
    text += `${name}${pad} ${column(active, 4)} ${column(blocks, 4)} ${column(pool.geometry.blockSize, 4)} ${column(pages, 2)}\n`;
  }
  return cutToBytes(text, TEXT_BYTES);
}

function column(value: number, width: number): string {
  return String(value).padStart(width);
}

/** At most `length` bytes of UTF-8; a character that would be cut in two is left out whole. */
export function cutToBytes(text: string, length: number): string {
  const bytes = encoder.encode(text);
  if (bytes.length <= length) return text;
  let end = length;
  while (end > 0 && (bytes[end]! & 0xc0) === 0x80) end--;
  return decoder.decode(bytes.subarray(0, end));
}
