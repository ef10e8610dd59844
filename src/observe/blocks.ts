/** The states and the holders of a pool's blocks. */
import { openPool, type PoolInside } from '../dma-pool.ts';
import type { DmaPool } from '../pool/contract.ts';
import { ABSENT, ALLOCATED, QUARANTINED, RESERVED } from '../pool/free-list.ts';
import { SharedBackend } from '../shared/backend.ts';
import { H_CARVED, H_PAGES, holderOf, isFlight, MAX_WORKERS } from '../shared/layout.ts';
import { Workers } from '../shared/workers.ts';
import { BLOCK_STATE, type BlockSnapshot, type Holder } from './format.ts';

const WORKER_BITS = 6;
const IN_QUARANTINE: number = BLOCK_STATE.unusable << WORKER_BITS;
const BEYOND_LIMIT: number = IN_QUARANTINE + 1;

/** Numbers of the pages in use, ascending. */
export function openPages({ backend, geometry }: PoolInside): number[] {
  const pages = backend.pages.numbers();
  if (!(backend instanceof SharedBackend)) return pages;
  // A shared pool took all its pages when it was shared. It opens them in ascending order.
  const opened = Math.max(Atomics.load(backend.control.header, H_PAGES), highestHeld(backend) / geometry.blocksPerPage);
  return pages.slice(0, Math.ceil(opened));
}

/** Index after the last allocated block. */
function highestHeld({ control: { words } }: SharedBackend): number {
  let end = words.length;
  while (end > 0 && holderOf(words[end - 1]!) === 0) end--;
  return end;
}

/** The state bytes of a page's blocks; see {@link BLOCK_STATE}. */
export function pageStates(inside: PoolInside, page: number): Uint8Array<ArrayBuffer> {
  const { backend, geometry, list } = inside;
  const states = new Uint8Array(geometry.blocksPerPage);
  const first = page * geometry.blocksPerPage;
  if (backend instanceof SharedBackend) {
    const { words, owners } = backend.control;
    for (let n = 0; n < states.length; n++) states[n] = sharedState(words[first + n]!, owners[first + n]!);
  } else {
    const { words } = list;
    for (let n = 0; n < states.length; n++) states[n] = localState(words[first + n]);
  }
  return states;
}

function localState(word: number | undefined): number {
  switch (word) {
    case ALLOCATED:
    case RESERVED:
      return BLOCK_STATE.allocated << WORKER_BITS;
    case QUARANTINED:
      return IN_QUARANTINE;
    default:
      return BLOCK_STATE.free;
  }
}

function sharedState(word: number, owner: number): number {
  const holder = holderOf(word);
  if (holder !== 0) return ((isFlight(word) ? BLOCK_STATE.transit : BLOCK_STATE.allocated) << WORKER_BITS) + holder;
  if (word === QUARANTINED) return IN_QUARANTINE;
  if (word === ABSENT) return BEYOND_LIMIT;
  return owner <= MAX_WORKERS ? owner : BLOCK_STATE.free;
}

/** Numbers of blocks of a worker. */
export interface WorkerBlocks {
  held: number;
  cached: number;
  transit: number;
}

/** Counts the blocks of each worker of a shared pool, by worker number. */
export function countByWorker({ control: { header, words, owners } }: SharedBackend): WorkerBlocks[] {
  const counts = Array.from({ length: MAX_WORKERS + 1 }, () => ({ held: 0, cached: 0, transit: 0 }));
  const carved = header[H_CARVED]!;
  for (let index = 0; index < carved; index++) {
    const state = sharedState(words[index]!, owners[index]!);
    const worker = counts[state & 63];
    const kind = state >> WORKER_BITS;
    if (worker === undefined || kind === BLOCK_STATE.unusable) continue;
    if (kind === BLOCK_STATE.allocated) worker.held++;
    else if (kind === BLOCK_STATE.transit) worker.transit++;
    else worker.cached++;
  }
  return counts;
}

/**
 * The current state of one block.
 *
 * @param pool The pool.
 * @param index The block's index.
 * @returns Null if no page has this block.
 * @throws `DmaArgumentError` if `pool` is not a pool.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048 });
 * console.log(blockSnapshot(pool, pool.allocIndex())?.state); // allocated
 * ```
 */
export function blockSnapshot(pool: DmaPool, index: number): BlockSnapshot | null {
  const inside = openPool(pool);
  const { backend, book, geometry } = inside;
  const page = Math.floor(index / geometry.blocksPerPage);
  if (!Number.isInteger(index) || !openPages(inside).includes(page)) return null;
  const byte = pageStates(inside, page)[index - page * geometry.blocksPerPage]!;
  const kind = byte >> WORKER_BITS;
  const worker = kind === BLOCK_STATE.unusable ? 0 : byte & 63;
  const isHeld = kind === BLOCK_STATE.allocated || kind === BLOCK_STATE.transit;
  const when = isHeld ? book?.allocatedWhen(index) : undefined;
  return {
    index,
    dma: backend.pages.dmaOf(index),
    state: stateName(byte),
    worker,
    thread: threadOf(backend, worker),
    site: isHeld ? (book?.allocatedAt(index) ?? null) : null,
    age: when === undefined ? null : Math.max(0, Date.now() - when),
  };
}

function stateName(byte: number): BlockSnapshot['state'] {
  const kind = byte >> WORKER_BITS;
  if (kind === BLOCK_STATE.allocated) return 'allocated';
  if (kind === BLOCK_STATE.transit) return 'in transit';
  if (kind === BLOCK_STATE.unusable) return byte === IN_QUARANTINE ? 'quarantined' : 'beyond the limit';
  return byte === 0 ? 'free' : 'magazine';
}

/** Thread of a worker of a shared pool; null for worker 0. */
export function threadOf(backend: object, worker: number): number | null {
  return worker > 0 && backend instanceof SharedBackend ? new Workers(backend.control.header).threadOf(worker) : null;
}

/** Limit of {@link Holder.blocks}. */
const NAMED = 8;

interface Gathered {
  readonly worker: number;
  readonly site: string | null;
  count: number;
  inTransit: number;
  first: number | undefined;
  last: number | undefined;
  readonly blocks: number[];
}

/**
 * The holders of a pool's allocated blocks, most blocks first. For a shared pool, those of all workers.
 *
 * @param pool The pool.
 * @returns An element for each worker and allocation site. Sites and ages require debug mode; ages also require that the
 *   allocating thread had imported `dmapool/observe`.
 * @throws `DmaArgumentError` if `pool` is not a pool.
 *
 * @example
 * ```ts
 * const device = new Device({ name: 'eth0' });
 * const pool = DmaPool.create('rx', device, { size: 2048, debug: true });
 * const block = pool.alloc();
 * for (const { site, count, oldest } of holders(pool)) console.log(`${String(count)} from ${site ?? '?'}, ${String(oldest)} ms`);
 * block.free();
 * ```
 */
export function holders(pool: DmaPool): Holder[] {
  const inside = openPool(pool);
  const { backend, book, geometry } = inside;
  const found = new Map<string, Gathered>();
  for (const page of openPages(inside)) {
    const states = pageStates(inside, page);
    for (const [n, byte] of states.entries()) {
      const kind = byte >> WORKER_BITS;
      if (kind !== BLOCK_STATE.allocated && kind !== BLOCK_STATE.transit) continue;
      const index = page * geometry.blocksPerPage + n;
      const worker = byte & 63;
      const site = book?.allocatedAt(index) ?? null;
      const key = `${String(worker)} ${site ?? ''}`;
      let holder = found.get(key);
      if (holder === undefined) {
        holder = { worker, site, count: 0, inTransit: 0, first: undefined, last: undefined, blocks: [] };
        found.set(key, holder);
      }
      holder.count++;
      if (kind === BLOCK_STATE.transit) holder.inTransit++;
      const when = book?.allocatedWhen(index);
      if (when !== undefined) {
        holder.first = Math.min(holder.first ?? when, when);
        holder.last = Math.max(holder.last ?? when, when);
      }
      if (holder.blocks.length < NAMED) holder.blocks.push(index);
    }
  }
  const now = Date.now();
  const age = (when: number | undefined): number | null => (when === undefined ? null : Math.max(0, now - when));
  return [...found.values()]
    .sort((a, b) => b.count - a.count)
    .map(({ worker, site, count, inTransit, first, last, blocks }) => {
      const thread = threadOf(backend, worker);
      return { worker, thread, site, count, inTransit, oldest: age(first), newest: age(last), blocks };
    });
}
