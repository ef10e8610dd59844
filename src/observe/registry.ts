/**
 * The devices and pools of this thread, weakly held, from the import of this module on. It plugs the observer in: of all
 * modules of `dmapool/observe` it is the one with a side effect.
 */
import { type Device, isDevice } from '../device/device.ts';
import { isPool, openPool } from '../dma-pool.ts';
import { hex } from '../errors.ts';
import { type ObservedEvent, plugObserver } from '../memory/observer.ts';
import type { DmaPool } from '../pool/contract.ts';
import { SharedBackend } from '../shared/backend.ts';
import { addWaits, bucketOf, readWaits, recordWait, WAIT_BOUNDS, type WaitTimes } from '../shared/wait-times.ts';
import { publish } from './channels.ts';

/** Objects in the order in which they came. What was collected is dropped whenever the list would double. */
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
let lastId = 0;

/** A number that the object has as long as it lives, from 1 up. */
export function idOf(object: object): number {
  const known = ids.get(object);
  if (known !== undefined) return known;
  ids.set(object, ++lastId);
  return lastId;
}

/** The devices that were made since this module was imported, oldest first. */
export function devices(): Device[] {
  return [...deviceList];
}

/** The pools, oldest first; not those whose memory was given back. */
export function pools(): DmaPool[] {
  return [...poolList].filter((pool) => !openPool(pool).backend.gone);
}

/** What identifies a shared pool in every thread: its first page is no other pool's. Null for a pool of one thread. */
export function sharedName(pool: DmaPool): string | null {
  const { backend } = openPool(pool);
  if (!(backend instanceof SharedBackend)) return null;
  return `${pool.device.path} ${pool.name} ${hex(backend.pages.dmaOf(0))}`;
}

/** Waits of a pool by their time; of a shared pool those of all threads that observe. */
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
  }
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
  if (pool !== undefined) publish(name, pool, details);
}

plugObserver({ made, event, waiting });
