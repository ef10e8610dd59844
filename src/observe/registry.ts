/**
 * The devices and pools that this thread created since this module was imported, weakly held. This is the only module of
 * `dmapool/observe` with a side effect: it installs the observer.
 */
import { type Device, isDevice } from '../device/device.ts';
import { isPool, openPool } from '../dma-pool.ts';
import { hex } from '../errors.ts';
import { type ObservedEvent, plugObserver } from '../memory/observer.ts';
import type { DmaPool } from '../pool/contract.ts';
import { SharedBackend } from '../shared/backend.ts';
import { addWaits, bucketOf, readWaits, recordWait, WAIT_BOUNDS, type WaitTimes } from '../shared/wait-times.ts';
import { sendEvent } from './channels.ts';
import { moveTaps } from './tap.ts';

/** Weakly held objects in the order of creation. Drops collected objects whenever it is about to double. */
class WeakList<T extends object> {
  #refs: WeakRef<T>[] = [];
  #room = 16;

  add(object: T): void {
    if (this.#refs.length >= this.#room) {
      this.#refs = this.#refs.filter((ref) => ref.deref() !== undefined);
      this.#room = Math.max(16, this.#refs.length * 2);
    }
    this.#refs.push(new WeakRef(object));
  }

  *[Symbol.iterator](): IterableIterator<T> {
    for (const ref of this.#refs) {
      const object = ref.deref();
      if (object !== undefined) yield object;
    }
  }
}

/** Waits of a pool of one thread. */
interface Waits {
  readonly counts: number[];
  sum: number;
}

const deviceList = new WeakList<Device>();
const poolList = new WeakList<DmaPool>();
const waits = new WeakMap<DmaPool, Waits>();
const poolOf = new WeakMap<object, DmaPool>();
const ids = new WeakMap<object, number>();
const poolListeners = new Set<(pool: DmaPool) => void>();
let lastId = 0;

/** The object's number, from 1 up, unique in this thread. */
export function idOf(object: object): number {
  const known = ids.get(object);
  if (known !== undefined) return known;
  ids.set(object, ++lastId);
  return lastId;
}

/** The devices, oldest first. */
export function devices(): Device[] {
  return [...deviceList];
}

/** The pools that have not returned their memory, oldest first. */
export function pools(): DmaPool[] {
  return [...poolList].filter((pool) => !openPool(pool).backend.gone);
}

/** Calls `listener` for each pool that is created or becomes shared. It must not throw. Returns a function that ends this. */
export function onPool(listener: (pool: DmaPool) => void): () => void {
  poolListeners.add(listener);
  return () => {
    poolListeners.delete(listener);
  };
}

/** Identifies a shared pool in every thread, by its first page, which no other pool has. Null for a pool of one thread. */
export function sharedName(pool: DmaPool): string | null {
  const { backend } = openPool(pool);
  if (!(backend instanceof SharedBackend)) return null;
  return `${pool.device.path} ${pool.name} ${hex(backend.pages.dmaOf(0))}`;
}

/** Ended waits of a pool by duration; of a shared pool, those of all threads with an observer. */
export function waitTimes(pool: DmaPool): WaitTimes {
  const { backend } = openPool(pool);
  if (backend instanceof SharedBackend) return readWaits(backend.control.header);
  return waits.get(pool) ?? noWaits();
}

function noWaits(): Waits {
  return { counts: new Array<number>(WAIT_BOUNDS.length + 1).fill(0), sum: 0 };
}

function made(what: object): void {
  if (isDevice(what)) {
    idOf(what);
    deviceList.add(what);
    return;
  }
  if (!isPool(what)) return;
  const { backend } = openPool(what);
  poolOf.set(backend, what);
  const before = waits.get(what);
  if (before === undefined) {
    idOf(what);
    poolList.add(what);
    waits.set(what, noWaits());
  } else if (backend instanceof SharedBackend) {
    addWaits(backend.control.header, before);
    before.counts.fill(0);
    before.sum = 0;
    moveTaps(what);
  }
  for (const listener of poolListeners) listener(what);
}

function waiting(backend: object): () => void {
  const begin = performance.now();
  return () => {
    const milliseconds = performance.now() - begin;
    if (backend instanceof SharedBackend) {
      recordWait(backend.control.header, milliseconds);
      return;
    }
    const pool = poolOf.get(backend);
    const counted = pool === undefined ? undefined : waits.get(pool);
    if (counted === undefined) return;
    const bucket = bucketOf(milliseconds);
    counted.counts[bucket] = counted.counts[bucket]! + 1;
    counted.sum += milliseconds;
  };
}

function event(name: ObservedEvent, backend: object, details: unknown): void {
  const pool = poolOf.get(backend);
  if (pool !== undefined) sendEvent(name, pool, details);
}

plugObserver({ made, event, waiting });
