/**
 * Which pools there are: a device's `pools` attribute, there from its first pool to its last, the text Linux's; and for
 * messages, which pools of a memory source hold idle pages.
 */
import type { Device } from '../device/device.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';
import type { PoolCounts } from './backend.ts';

/** What a pool shows of itself. */
export interface ListedPool {
  readonly name: string;
  readonly geometry: { readonly blockSize: number; readonly allocation: number };
  counts(): PoolCounts;
  /** Pages that `trim()` would give back, of the first `most` pages. */
  idlePages(most: number): number;
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
  const known = devices.get(device.memory);
  if (known === undefined) devices.set(device.memory, new SourceDevices(device));
  else known.add(device);
}

/** Takes a pool from its device, and the attribute with the last one. */
export function unlistPool(device: Device, pool: ListedPool): void {
  const list = lists.get(device);
  if (list?.pools.delete(pool) !== true || list.pools.size > 0) return;
  lists.delete(device);
  list.removeAttribute();
  devices.get(device.memory)?.delete(device);
}

/**
 * The devices of one memory source that have pools. Weak, as `lists` is; what was collected is dropped whenever the list
 * would double, so that devices that come and go cost a constant time each.
 */
class SourceDevices {
  #refs: WeakRef<Device>[];
  #room = 8;

  constructor(first: Device) {
    this.#refs = [new WeakRef(first)];
  }

  add(device: Device): void {
    if (this.#refs.length >= this.#room) {
      this.#refs = this.#refs.filter((ref) => ref.deref() !== undefined);
      this.#room = Math.max(8, this.#refs.length * 2);
    }
    this.#refs.push(new WeakRef(device));
  }

  delete(device: Device): void {
    this.#refs = this.#refs.filter((ref) => ref.deref() !== device);
  }

  *[Symbol.iterator](): IterableIterator<Device> {
    for (const ref of this.#refs) {
      const device = ref.deref();
      if (device !== undefined) yield device;
    }
  }
}

const devices = new WeakMap<CoherentAllocator, SourceDevices>();

/** Most pages of a pool, most pools of a source and most pools in a message: an error must not take long to make. */
const LOOKED_AT = 1024;
const POOLS_LOOKED_AT = 256;
const POOLS_NAMED = 3;

/**
 * Which pools of `memory`, other than pool `name` of `device`, hold idle pages, for a message: empty if none does, else
 * it begins with a separator. Those with the most bytes come first.
 */
export function idlePagesElsewhere(memory: CoherentAllocator, name: string, device: Device): string {
  const found: { text: string; bytes: number }[] = [];
  let looks = POOLS_LOOKED_AT;
  for (const each of devices.get(memory) ?? []) {
    for (const pool of lists.get(each)?.pools ?? []) {
      if (looks-- === 0) break;
      const pages = each === device && pool.name === name ? 0 : pool.idlePages(LOOKED_AT);
      if (pages === 0) continue;
      const bytes = pages * pool.geometry.allocation;
      const count = `${pages === LOOKED_AT ? 'at least ' : ''}${pages} idle ${pages === 1 ? 'page' : 'pages'}`;
      found.push({ text: `pool ${pool.name} of ${each.name} holds ${count} (${bytes} bytes)`, bytes });
    }
    if (looks < 0) break;
  }
  if (found.length === 0) return '';
  found.sort((a, b) => b.bytes - a.bytes);
  const named = found.slice(0, POOLS_NAMED).map(({ text }) => text);
  if (found.length > POOLS_NAMED) named.push(`${found.length - POOLS_NAMED} more pools hold some`);
  return `; ${named.join(', ')}: trim() ${found.length === 1 ? 'it' : 'them'}`;
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
