/** How a pool becomes a shared one, and how another worker attaches to it. */
import { checkFunction, checkInteger, isInstance, type OptionNames, reading, readOptions } from '../arguments.ts';
import { Device, isDevice } from '../device/device.ts';
import { DmaArgumentError, DmaDestroyedError, DmaOutOfMemoryError, DmaSharingError } from '../errors.ts';
import type { CoherentAllocator, CoherentMemory, SharedRegion } from '../memory/coherent.ts';
import { naturalAlignment } from '../device/device.ts';
import type { DebugBook } from '../pool/debug.ts';
import { ABSENT, ALLOCATED, EMPTY, type ListControl, QUARANTINED } from '../pool/free-list.ts';
import { PoolGeometry } from '../pool/geometry.ts';
import { makeHooks, type PoolModes } from '../pool/modes.ts';
import { PoolPages } from '../pool/pages.ts';
import type { UnsharedStore } from '../pool/local-backend.ts';
import { checkHandle, isShared, PER_PAGE_ENTRY, type SharedPoolHandle } from './handle.ts';
import {
  attachControl,
  type Control,
  createControl,
  DESTROYED,
  H_CARVED,
  H_CORRUPTED,
  H_DEPOT,
  H_DEPOT_COUNT,
  H_FAILURES,
  H_HIGH_WATER,
  H_MAX_BLOCKS,
  H_MAX_PAGES,
  H_PAGES,
  H_PER_PAGE,
  H_QUARANTINED,
  H_STATE,
  H_WAITS,
  markOf,
  MAX_KIN,
  MAX_SHARED_BLOCKS,
  VERSION,
} from './layout.ts';
import { Depot } from './depot.ts';
import { PoolLock } from './lock.ts';
import { SharedBook } from './book.ts';
import { SharedStore } from './backend.ts';
import { currentThread, mayPark } from './threads.ts';
import { Workers } from './workers.ts';

/** How to share a pool. */
export interface ShareOptions {
  /**
   * Most free blocks that a worker keeps at hand, 2 to 65536. Default: it adapts, from an eighth of `maxBlocks` (8 to
   * 256) up to the worker's share of it while nobody misses them, and back when somebody does.
   */
  readonly magazine?: number;
}

/** How to attach to a shared pool. */
export interface AttachOptions {
  /** This worker's device. Default: one made from what the handle says, which logs to the console. */
  readonly device?: Device;
  /**
   * How to see memory that is no `SharedArrayBuffer`: for pools on memory of QEMU machines and of the system, the function
   * `openSharedRegion` of `dmapool/linux`.
   */
  readonly openRegion?: (region: SharedRegion) => ArrayBuffer | SharedArrayBuffer;
}

export const SHARE_OPTIONS: OptionNames<ShareOptions> = { magazine: true };
const ATTACH_OPTIONS: OptionNames<AttachOptions> = { device: true, openRegion: true };

/** Worker number of the one who shares. */
const CREATOR = 1;
const MOST_MAGAZINE = 65_536;

/** What `share` needs of a pool. */
export interface Shareable {
  readonly name: string;
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly node: number;
  readonly maxBlocks: number;
  readonly store: UnsharedStore;
  readonly list: ListControl;
  readonly modes: PoolModes;
  /** What the pool remembers of its blocks, in debug mode. */
  readonly book: DebugBook | null;
}

/**
 * Turns the store of one thread into a shared one. All pages that the pool may ever have are taken from the source now,
 * so that any worker can open the next one without a message; what was never touched costs the system no memory.
 */
export function shareStore(pool: Shareable, wantedMagazine: number | undefined): SharedStore {
  const { name, device, geometry, node, maxBlocks, store, list } = pool;
  const label = `${device.name}: pool ${name}`;
  if (typeof SharedArrayBuffer === 'undefined') {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_SHAREABLE',
      `${label}: there is no SharedArrayBuffer here (a web page needs cross-origin isolation)`,
    );
  }
  if (maxBlocks > MAX_SHARED_BLOCKS) {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_SHAREABLE',
      `${label}: create it with maxBlocks, at most ${String(MAX_SHARED_BLOCKS)}: all its pages are reserved when it is shared`,
    );
  }
  const magazine = wantedMagazine ?? Math.min(256, Math.max(8, maxBlocks >> 3));
  const mostMagazine = wantedMagazine ?? Math.max(magazine, Math.min(MOST_MAGAZINE, maxBlocks));
  checkInteger('magazine', magazine, 2, MOST_MAGAZINE);
  const perPage = geometry.blocksPerPage;
  const { debug, initOnAlloc, initOnFree } = pool.modes;
  // All that may fail, or that calls the memory source, comes before the pool gives up its memory.
  const { memories, opened, prepared } = store.surrender(Math.ceil(maxBlocks / perPage), (pages) => {
    const control = createControl(maxBlocks, perPage, pages.length);
    const book = debug === null ? null : new SharedBook(control.words.length);
    return { control, book, ...describePages(label, device.memory, pages) };
  });
  const { control, book, buffers, table } = prepared;
  fillControl(control, list, opened, perPage, maxBlocks);
  const { failures, waits, corrupted } = store.statistics();
  control.header[H_FAILURES] = failures;
  control.header[H_WAITS] = waits;
  control.header[H_CORRUPTED] = corrupted;
  new Workers(control.header).claim(currentThread());
  if (book !== null && pool.book !== null) {
    for (let index = 0; index < opened * perPage; index++) book.copy(index, pool.book);
  }
  const handle: SharedPoolHandle = {
    dmapool: VERSION,
    name,
    size: geometry.size,
    align: geometry.align,
    boundary: geometry.boundary,
    pageSize: device.memory.pageSize,
    node,
    maxBlocks,
    magazine,
    mostMagazine,
    device: { name: device.name, path: device.path, dmaMask: device.dmaMask, numaNode: device.numaNode },
    control: control.buffer,
    buffers,
    pages: table,
    debug:
      book === null ? null : { quarantine: debug?.quarantine ?? true, sites: debug?.sites ?? true, book: book.buffer },
    initOnAlloc,
    initOnFree,
  };
  return new SharedStore({
    name,
    device,
    geometry,
    maxBlocks,
    pages: store.pages,
    control,
    list,
    worker: CREATOR,
    magazine,
    mostMagazine,
    mayPark: mayPark(),
    handle,
    hooks: makeHooks(name, geometry.blockSize, store.pages, pool.modes, book),
    release: () => {
      store.releaseAll(memories);
    },
  });
}

/** Where the pages are, as it stands in the handle. */
function describePages(
  label: string,
  source: CoherentAllocator,
  pages: readonly CoherentMemory[],
): { buffers: (SharedArrayBuffer | SharedRegion)[]; table: Float64Array<ArrayBuffer> } {
  const known: (ArrayBuffer | SharedArrayBuffer)[] = [];
  const buffers: (SharedArrayBuffer | SharedRegion)[] = [];
  const table = new Float64Array(pages.length * PER_PAGE_ENTRY);
  for (const [page, { dma, buffer, byteOffset }] of pages.entries()) {
    let at = known.indexOf(buffer);
    if (at < 0) {
      at = known.push(buffer) - 1;
      buffers.push(buffer instanceof SharedArrayBuffer ? buffer : regionOf(label, source, buffer));
    }
    table.set([dma, at, byteOffset], page * PER_PAGE_ENTRY);
  }
  return { buffers, table };
}

/** How workers find memory that does not travel by itself. */
function regionOf(label: string, memory: CoherentAllocator, buffer: ArrayBuffer): SharedRegion {
  if (typeof memory.shareBuffer !== 'function') {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_SHAREABLE',
      `${label}: memory source ${memory.name} gives memory that no other worker can see`,
    );
  }
  return memory.shareBuffer(buffer);
}

/** The list of the one thread becomes the depot; what is out stays out, with the one who shares. */
function fillControl(control: Control, list: ListControl, opened: number, perPage: number, maxBlocks: number): void {
  const { header, words, owners } = control;
  const blocks = opened * perPage;
  const order: number[] = [];
  for (let index = list.top; index >= 0; index = list.word(index)!) order.push(index);
  const listed = new Set(order);
  for (let index = 0; index < blocks; index++) {
    if (list.word(index) === ALLOCATED) {
      words[index] = markOf(CREATOR);
      owners[index] = CREATOR;
    } else if (list.word(index) === QUARANTINED) {
      words[index] = QUARANTINED;
      header[H_QUARANTINED] = header[H_QUARANTINED]! + 1;
    } else if (!listed.has(index)) {
      order.push(index);
    }
  }
  // A page may have more blocks than the limit allows.
  const usable = Math.min(order.length, maxBlocks - list.out);
  for (const [i, index] of order.entries()) {
    words[index] = i >= usable ? ABSENT : i + 1 < usable ? order[i + 1]! : EMPTY;
  }
  header[H_DEPOT] = usable > 0 ? order[0]! : EMPTY;
  header[H_DEPOT_COUNT] = usable;
  header[H_CARVED] = blocks;
  header[H_PAGES] = opened;
  header[H_HIGH_WATER] = list.mostOut;
  list.replaceWords(words);
  list.fitObjects();
  list.setTop(EMPTY);
  list.setOwned(list.out);
}

/** What an attached pool is made of. */
export interface Attached {
  readonly device: Device;
  readonly geometry: PoolGeometry;
  readonly handle: SharedPoolHandle;
  readonly control: Control;
  /** The handle's buffers, as this worker sees them. */
  readonly buffers: readonly (ArrayBuffer | SharedArrayBuffer)[];
}

/** Reads a handle; the worker's slot is taken by {@link attachStore}. */
export function openHandle(given: unknown, options: AttachOptions): Attached {
  const { device, openRegion } = readOptions('options', options, ATTACH_OPTIONS);
  if (device !== undefined && !isDevice(device)) throw new DmaArgumentError('device', device, 'a Device');
  if (openRegion !== undefined) checkFunction('openRegion', openRegion);
  const handle = checkHandle(given);
  const control = attachControl(handle.control);
  const { size, align, boundary, pageSize } = handle;
  const geometry = new PoolGeometry({ size, align, boundary, pageSize });
  const buffers = handle.buffers.map((buffer) => openBuffer(handle.name, buffer, openRegion));
  checkAgainst(handle, control, geometry, buffers);
  return {
    device: device ?? new Device({ ...handle.device, memory: new NoMemory(pageSize) }),
    handle,
    control,
    geometry,
    buffers,
  };
}

/** A handle's buffer, as this worker sees it. */
function openBuffer(
  pool: string,
  buffer: unknown,
  openRegion: AttachOptions['openRegion'],
): ArrayBuffer | SharedArrayBuffer {
  if (isShared(buffer)) return buffer;
  // What lies in a plain buffer would be a copy.
  const isRegion = reading('handle: buffers', buffer, 'a handle as pool.share() gave it', () => {
    return typeof (buffer as Partial<SharedRegion> | null | undefined)?.kind === 'string';
  });
  if (!isRegion) throw new DmaArgumentError('handle: buffers', buffer, 'a handle as pool.share() gave it');
  if (openRegion === undefined) {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_SHAREABLE',
      `pool ${pool} lies in memory of the system; attach with { openRegion: openSharedRegion } of dmapool/linux`,
    );
  }
  const opened: unknown = openRegion(buffer as SharedRegion);
  if (isInstance(opened, ArrayBuffer) || isShared(opened)) return opened;
  throw new DmaArgumentError('openRegion', opened, 'a function that gives a buffer');
}

/** Throws if a handle was put together wrongly: a worker would read and write where it should not. */
function checkAgainst(
  handle: SharedPoolHandle,
  control: Control,
  geometry: PoolGeometry,
  buffers: readonly (ArrayBuffer | SharedArrayBuffer)[],
): void {
  const { header } = control;
  const wrong = (what: string): DmaArgumentError =>
    new DmaArgumentError(`handle: ${what}`, handle, 'a handle as pool.share() gave it');
  if (handle.dmapool !== VERSION) throw wrong('version');
  if (handle.maxBlocks !== header[H_MAX_BLOCKS] || geometry.blocksPerPage !== header[H_PER_PAGE])
    throw wrong('geometry');
  checkInteger('handle: magazine', handle.magazine, 2, MOST_MAGAZINE);
  checkInteger('handle: mostMagazine', handle.mostMagazine, handle.magazine, MOST_MAGAZINE);
  const { debug } = handle;
  if (debug !== null && debug.book.byteLength < SharedBook.bytesFor(control.words.length)) throw wrong('debug');
  if (handle.pages.length !== header[H_MAX_PAGES]! * PER_PAGE_ENTRY) throw wrong('pages');
  for (let at = 0; at < handle.pages.length; at += PER_PAGE_ENTRY) {
    const [dma, number, byteOffset] = handle.pages.subarray(at, at + PER_PAGE_ENTRY) as unknown as number[];
    const buffer = buffers[number!];
    if (buffer === undefined || !Number.isSafeInteger(dma) || !Number.isSafeInteger(byteOffset)) {
      throw wrong('pages');
    }
    if (byteOffset! < 0 || byteOffset! + geometry.allocation > buffer.byteLength) throw wrong('pages');
  }
}

/** Takes a worker's slot and makes its side of the pool. */
export function attachStore({ device, geometry, handle, control, buffers }: Attached, list: ListControl): SharedStore {
  const { name, pageSize, maxBlocks, magazine, mostMagazine } = handle;
  const label = `${device.name}: pool ${name}`;
  const pages = new PoolPages(label, geometry, naturalAlignment(geometry.allocation, pageSize));
  for (let at = 0; at < handle.pages.length; at += PER_PAGE_ENTRY) {
    pages.add({
      dma: handle.pages[at]!,
      buffer: buffers[handle.pages[at + 1]!]!,
      byteOffset: handle.pages[at + 2]!,
      size: geometry.allocation,
    });
  }
  const book = handle.debug === null ? null : new SharedBook(control.words.length, handle.debug.book);
  const hooks = makeHooks(name, geometry.blockSize, pages, handle, book);
  const workers = new Workers(control.header);
  // The last thing that can fail for a reason in the arguments came before: a slot is somebody's until it is released.
  const worker = claimSlot(label, workers);
  try {
    if (Atomics.load(control.header, H_STATE) === DESTROYED) {
      throw new DmaDestroyedError(`${label} was destroyed; there is nothing to attach to`);
    }
    const lock = new PoolLock(control.header, worker, mayPark());
    if (lock.acquire()) new Depot(control, hooks).mend();
    lock.release();
    list.replaceWords(control.words);
    return new SharedStore({
      name,
      device,
      geometry,
      maxBlocks,
      pages,
      control,
      list,
      worker,
      magazine,
      mostMagazine,
      mayPark: mayPark(),
      handle,
      hooks,
      release: null,
    });
  } catch (error) {
    workers.release(worker);
    throw error;
  }
}

function claimSlot(label: string, workers: Workers): number {
  const thread = currentThread();
  if (workers.missed() > 0 && !workers.isRecorded(thread) && !workers.hasThread(thread)) {
    throw new DmaOutOfMemoryError(
      'ERR_DMAPOOL_LIMIT',
      `${label}: ${String(MAX_KIN)} threads are watched, and this one is not among them: nobody could recover its blocks`,
    );
  }
  const worker = workers.claim(thread);
  if (worker === 0) throw new DmaOutOfMemoryError('ERR_DMAPOOL_LIMIT', `${label}: too many workers are attached`);
  return worker;
}

/** In place of a memory source in workers that attach: the pool's pages are all there are. */
class NoMemory implements CoherentAllocator {
  readonly name: string = 'attached';
  readonly pageSize: number;

  constructor(pageSize: number) {
    this.pageSize = pageSize;
  }

  allocCoherent(): null {
    return null;
  }

  freeCoherent(memory: CoherentMemory): void {
    throw new DmaSharingError(
      'ERR_DMAPOOL_NOT_SHARED',
      `no memory was given here, so ${String(memory.dma)} can’t come back`,
    );
  }
}
