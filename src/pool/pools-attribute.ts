/**
 * The pools of a device and their `pools` attribute, with Linux's text. A device has the attribute while it has pools.
 * Also finds the pool of a memory source with the most idle pages, for messages.
 */
import type { Device } from '../device/device.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';
import type { PoolBackend } from './backend.ts';
import type { PoolGeometry } from './geometry.ts';

/** The part of a pool that the attribute shows. */
export interface ListedPool {
  readonly name: string;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly backend: Pick<PoolBackend, 'counts' | 'idlePages'>;
}

/** Linux stores a pool's name in 32 bytes, the last of which is zero. */
export const NAME_BYTES = 31;
const NAME_WIDTH = 16;
/** A sysfs file is one page, and its last byte is zero. */
export const TEXT_BYTES = 4095;

const encoder = new TextEncoder();

interface PoolList {
  /** Oldest first. */
  readonly pools: Set<ListedPool>;
  /** Removes the attribute and the list. */
  readonly forget: () => void;
}

/** Pools by device. Weak: the list of a collected device is collected too. */
const lists = new WeakMap<Device, PoolList>();

/** Devices with pools, by memory source. Weak; {@link listPool} removes collected devices. */
const devices = new WeakMap<CoherentAllocator, Set<WeakRef<Device>>>();

/** Adds a pool to its device. Adds the attribute with the first pool. Changes nothing if it throws. */
export function listPool(pool: ListedPool): void {
  const { device } = pool;
  const list = lists.get(device);
  if (list !== undefined) {
    list.pools.add(pool);
    return;
  }
  const pools = new Set([pool]);
  const removeAttribute = device.addAttribute('pools', () => poolsText([...pools].reverse()));
  const ref = new WeakRef(device);
  const known = devices.get(device.memory) ?? new Set();
  // Check the two oldest entries per added device and move live ones to the end, so that collected ones do not accumulate.
  let steps = 2;
  for (const old of known) {
    if (steps-- === 0) break;
    known.delete(old);
    if (old.deref() !== undefined) known.add(old);
  }
  devices.set(device.memory, known.add(ref));
  lists.set(device, {
    pools,
    forget: () => {
      removeAttribute();
      known.delete(ref);
    },
  });
}

/** Removes a pool from its device. Removes the attribute with the last pool. */
export function unlistPool(pool: ListedPool): void {
  const list = lists.get(pool.device);
  if (list?.pools.delete(pool) !== true || list.pools.size > 0) return;
  lists.delete(pool.device);
  list.forget();
}

/** Limits of the search per pool and per memory source, to bound the cost of an error. */
const PAGES_LOOKED_AT = 1024;
const POOLS_LOOKED_AT = 256;

/**
 * Names the pool of `memory` with the most bytes in idle pages, except the pool of backend `own`, for messages. Empty,
 * or begins with a separator.
 */
export function idlePagesElsewhere(memory: CoherentAllocator, own: object): string {
  let looks = POOLS_LOOKED_AT;
  let most = 0;
  let where = '';
  for (const ref of devices.get(memory) ?? []) {
    const device = ref.deref();
    for (const { name, geometry, backend } of (device && lists.get(device))?.pools ?? []) {
      if (looks-- === 0) return where;
      const pages = backend === own ? 0 : backend.idlePages(PAGES_LOOKED_AT);
      const bytes = pages * geometry.allocation;
      if (bytes <= most) continue;
      most = bytes;
      where = `; pool ${name} of ${device!.name} holds ${pages} idle pages`;
    }
  }
  return where;
}

/** The attribute's text for `pools`, in their order, cut to Linux's length. */
export function poolsText(pools: Iterable<ListedPool>): string {
  let text = 'poolinfo - 0.1\n';
  for (const { backend, geometry, name } of pools) {
    const { active, blocks, pages } = backend.counts();
    const { read, written } = encoder.encodeInto(name, new Uint8Array(NAME_BYTES));
    const shown = name.slice(0, read) + ' '.repeat(Math.max(0, NAME_WIDTH - written));
    const figures = [active, blocks, geometry.blockSize].map((figure) => String(figure).padStart(4));
    text += `${shown} ${figures.join(' ')} ${String(pages).padStart(2)}\n`;
  }
  return cutToBytes(text, TEXT_BYTES);
}

/** Cuts `text` to at most `length` bytes of UTF-8, at a character boundary. */
export function cutToBytes(text: string, length: number): string {
  return text.slice(0, encoder.encodeInto(text, new Uint8Array(length)).read);
}
