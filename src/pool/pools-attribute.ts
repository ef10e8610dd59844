/**
 * Which pools there are: a device's `pools` attribute, there from its first pool to its last, the text Linux's; and for
 * messages, which pool of a memory source holds the most idle pages.
 */
import type { Device } from '../device/device.ts';
import type { CoherentAllocator } from '../memory/coherent.ts';
import type { PoolBackend } from './backend.ts';
import type { PoolGeometry } from './geometry.ts';

/** What a pool shows of itself. */
export interface ListedPool {
  readonly name: string;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly backend: Pick<PoolBackend, 'counts' | 'idlePages'>;
}

/** Linux keeps a pool's name in 32 bytes, the last one zero. */
export const NAME_BYTES = 31;
const NAME_WIDTH = 16;
/** A sysfs file is one page, the last byte zero. */
export const TEXT_BYTES = 4095;

const encoder = new TextEncoder();

interface PoolList {
  /** Oldest first. */
  readonly pools: Set<ListedPool>;
  /** Undoes what the first pool did. */
  readonly forget: () => void;
}

/** Pools of each device that has any. Weak: a device that is dropped takes its list along. */
const lists = new WeakMap<Device, PoolList>();

/** The devices of each memory source that have pools. Weak as well, and cleared of what was collected. */
const devices = new WeakMap<CoherentAllocator, Set<WeakRef<Device>>>();
const collected = new FinalizationRegistry<() => void>((forget) => {
  forget();
});

/** Adds a pool to its device, and the attribute with the first one. If that throws, nothing is left behind. */
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
  devices.set(device.memory, known.add(ref));
  const forget = (): void => {
    known.delete(ref);
  };
  collected.register(device, forget, ref);
  lists.set(device, {
    pools,
    forget: () => {
      removeAttribute();
      collected.unregister(ref);
      forget();
    },
  });
}

/** Takes a pool from its device, and the attribute with the last one. */
export function unlistPool(pool: ListedPool): void {
  const list = lists.get(pool.device);
  if (list?.pools.delete(pool) !== true || list.pools.size > 0) return;
  lists.delete(pool.device);
  list.forget();
}

/** Most pages of a pool and most pools of a source that are looked at: an error must not take long to make. */
const PAGES_LOOKED_AT = 1024;
const POOLS_LOOKED_AT = 256;

/**
 * Which pool of `memory`, other than the one of backend `own`, has the most bytes in idle pages, for a message: empty if
 * none has any, else it begins with a separator.
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
      where = `; pool ${name} of ${device!.name} holds ${pages} idle pages or more: trim() it`;
    }
  }
  return where;
}

/** The text for these pools, in this order; cut where Linux cuts it. */
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

/** At most `length` bytes of UTF-8; a character that would be cut in two is left out whole. */
export function cutToBytes(text: string, length: number): string {
  return text.slice(0, encoder.encodeInto(text, new Uint8Array(length)).read);
}
