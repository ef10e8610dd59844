/**
 * Memory of the system, as buffers of JavaScript.
 *
 *     reserve                    open 1    open 2                     close
 *     |.......................|  |#######|########|...........|  -->  |0000000|00000000|           |
 *      PROT_NONE: address space   mapped, seen by JavaScript           anonymous zeros  unmapped
 *
 * The one rule: **memory that JavaScript has seen is never unmapped.** A buffer on foreign memory can't be detached, and
 * a view of it that somebody kept must not crash the process. At the end the pages are replaced in place by anonymous
 * ones: a stale view then reads zeros, and what it writes goes nowhere. What that costs is address space, and memory
 * only where a stale view is written to.
 */
import { readFileSync } from 'node:fs';
import { checkInteger, reading } from '../arguments.ts';
import { describe, DmaMappingError, hex } from '../errors.ts';
import type { SharedRegion } from '../memory/coherent.ts';
import {
  type Libc,
  libc,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
} from './libc.ts';

/** Bytes of the smallest page of any architecture that we run on are 4096; some have 16 or 64 KiB. */
const ALIGNMENT = 65_536;

/** What is mapped into a part of the range. */
export interface MapSource {
  /** The file; its descriptor may be closed afterwards. It must not become shorter: touching what is cut off is fatal. */
  readonly fd: number;
  /** Where in the file, a multiple of the page size. */
  readonly offset: number;
}

/** A piece of a part that is put together of several. */
export interface MapPiece extends MapSource {
  /** Bytes, a multiple of the page size. */
  readonly length: number;
}

/** A part of a range that is mapped. */
interface Opened {
  readonly offset: number;
  readonly buffer: ArrayBuffer;
}

/** A piece of the range: seen by JavaScript, or not. */
interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly seen: boolean;
}

/** A range of addresses that is reserved at once and opened step by step. */
export class MappedMemory {
  readonly #libc: Libc;
  readonly #address: number;
  readonly #size: number;
  readonly #opened: Opened[] = [];
  /** After `close`: what is still to be replaced or given back. */
  #left: Piece[] | null = null;

  /**
   * Reserves address space. Nothing of it can be touched yet.
   *
   * @param size Bytes, a multiple of `alignment`.
   * @param alignment Of the address: a power of two, 65536 or more; for huge pages their size.
   * @throws {@link DmaDependencyError} without koffi. @throws {@link SystemCallError} `ENOMEM` without address space.
   */
  constructor(size: number, alignment: number = ALIGNMENT) {
    checkInteger('alignment', alignment, ALIGNMENT, 2 ** 40);
    checkInteger('size', size, alignment, 2 ** 46);
    this.#libc = libc();
    this.#size = size;
    // More than needed, so that an aligned piece is in it; the ends go back. JavaScript has seen none of it.
    const whole = size + alignment;
    const start = this.#libc.mmap(0, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    this.#address = Math.ceil(start / alignment) * alignment;
    const end = this.#address + size;
    try {
      if (this.#address > start) this.#libc.munmap(start, this.#address - start);
      if (start + whole > end) this.#libc.munmap(end, start + whole - end);
    } catch (error) {
      // Cutting it makes one mapping more, and the number of them is limited; giving back all of it does not.
      this.#libc.munmap(start, whole);
      throw error;
    }
  }

  /** Where the range begins in this process. */
  get address(): number {
    return this.#address;
  }

  /** Bytes of the range. */
  get size(): number {
    return this.#size;
  }

  /** True once {@link MappedMemory.close} was called. */
  get closed(): boolean {
    return this.#left !== null;
  }

  /**
   * Opens a part of the range that was not opened before, and gives a buffer of it.
   *
   * @param offset In the range; a multiple of the page size, as is `length`.
   * @param source A file; pieces of files, one after the other; or new memory.
   * @param flags More flags for mmap.
   * @throws {@link SystemCallError} The part is then as it was.
   */
  open(offset: number, length: number, source: MapSource | readonly MapPiece[] | 'anonymous', flags = 0): ArrayBuffer {
    checkInteger('offset', offset, 0, this.#size);
    checkInteger('length', length, 1, this.#size - offset);
    if (this.closed) throw new Error('this memory was closed');
    if (this.#opened.some((part) => offset < part.offset + part.buffer.byteLength && part.offset < offset + length)) {
      throw new Error(`a part of ${hex(offset)}-${hex(offset + length - 1)} is open already`);
    }
    const address = this.#address + offset;
    if (source === 'anonymous') {
      this.#libc.mmap(address, length, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | flags);
    } else {
      this.#mapFiles(address, 'fd' in source ? [{ ...source, length }] : source, flags);
    }
    const buffer = this.#libc.view(address, length);
    this.#opened.push({ offset, buffer });
    return buffer;
  }

  #mapFiles(address: number, pieces: readonly MapPiece[], flags: number): void {
    let at = address;
    try {
      for (const { fd, offset, length } of pieces) {
        this.#libc.mmap(at, length, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED | flags, fd, offset);
        at += length;
      }
    } catch (error) {
      // Only reserved again; JavaScript has not seen it.
      const asBefore = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
      if (at > address) this.#libc.mmap(address, at - address, PROT_NONE, asBefore);
      throw error;
    }
  }

  /**
   * Replaces all that was opened by anonymous memory, in place, and gives back the rest. Views read zeros from now on.
   * Closing twice is fine.
   *
   * @throws {@link SystemCallError} The rest is then still to be done: by closing again.
   */
  close(): void {
    this.#left ??= this.#pieces();
    for (let piece = this.#left[0]; piece !== undefined; piece = this.#left[0]) {
      const address = this.#address + piece.offset;
      if (piece.seen) {
        const flags = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        this.#libc.mmap(address, piece.length, PROT_READ | PROT_WRITE, flags);
      } else {
        this.#libc.munmap(address, piece.length);
      }
      this.#left.shift();
    }
  }

  /** The whole range, cut at the ends of what was opened. */
  #pieces(): Piece[] {
    const pieces: Piece[] = [];
    let end = 0;
    for (const { offset, buffer } of [...this.#opened].sort((a, b) => a.offset - b.offset)) {
      if (offset > end) pieces.push({ offset: end, length: offset - end, seen: false });
      pieces.push({ offset, length: buffer.byteLength, seen: true });
      end = offset + buffer.byteLength;
    }
    if (end < this.#size) pieces.push({ offset: end, length: this.#size - end, seen: false });
    return pieces;
  }

  /**
   * What another thread of this process needs to see an opened part; for {@link openSharedRegion}.
   *
   * @param name Under which the file stands in the process' list of mappings: for a memory file, the name it was made with.
   */
  share(buffer: ArrayBuffer | SharedArrayBuffer, name: string): SharedRegion {
    const part = this.#opened.find((candidate) => candidate.buffer === buffer);
    if (part === undefined || this.closed) {
      const message = `this buffer is no part of the memory ${name}, or the memory was closed`;
      throw new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', message);
    }
    return { kind: 'mapped', name, address: this.#address + part.offset, size: part.buffer.byteLength };
  }
}

/** Buffers made in this thread, so that a region has one however often it is opened. */
const buffers = new Map<string, ArrayBuffer>();

/**
 * Sees memory that another thread of this process mapped: for the `openRegion` option of `attachPool`.
 *
 * Mapped memory does not travel by `postMessage`: posting its buffer would copy it. What travels is where it is; this
 * makes a buffer of the same memory. When the memory is closed, the buffer reads zeros, as in the thread that made it.
 *
 * @param region From a pool's handle.
 * @throws `DmaMappingError` `ERR_DMAPOOL_NOT_MAPPED` when this process has no such memory (any more): the
 *   handle came from another process, or the memory was closed.
 * @throws {@link DmaDependencyError} without koffi.
 *
 * @example
 * ```ts
 * import { once } from 'node:events';
 * import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
 *
 * if (isMainThread) {
 *   await using machine = await QemuMachine.start(); // its RAM is mapped memory
 *   using device = new Device({ name: 'shared', memory: machine.memory });
 *   using pool = DmaPool.create('packets', device, { size: 64, maxBlocks: 64 });
 *   const shared = sharePool(pool);
 *   const worker = new Worker(new URL(import.meta.url), { workerData: shared.handle });
 *   const [ticket] = (await once(worker, 'message')) as [number];
 *   const block = shared.accept(ticket); // what the worker wrote, without a copy
 *   console.log(block.u32[0]); // 42
 *   pool.free(block);
 * } else {
 *   const shared = attachPool(workerData as SharedPoolHandle, { openRegion: openSharedRegion });
 *   const block = shared.pool.alloc();
 *   block.u32[0] = 42;
 *   parentPort!.postMessage(shared.transfer(block));
 * }
 * ```
 */
export function openSharedRegion(region: SharedRegion): ArrayBuffer {
  const accepted = "a region from a pool's handle";
  const { kind, name, address, size } = reading('region', region, accepted, () => {
    const { kind, name, address, size } = (region ?? {}) as Partial<SharedRegion>;
    return { kind, name, address, size };
  });
  const sane =
    kind === 'mapped' &&
    typeof name === 'string' &&
    /^[\w.:-]+$/.test(name) &&
    Number.isSafeInteger(address) &&
    Number.isSafeInteger(size) &&
    address! > 0 &&
    size! > 0;
  // Where nothing can be mapped there is no list of mappings either.
  if (sane) libc();
  // Numbers from a message are not to be trusted with the process' life: the kernel knows what is mapped where.
  if (!sane || !isMapped(name, address!, size!)) {
    const message =
      `this process has no memory ${describe(name)} at that address: it was closed, or the handle is from another ` +
      'process (mapped memory is shared between threads only)';
    throw new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', message);
  }
  const key = `${name} ${String(address)} ${String(size)}`;
  let buffer = buffers.get(key);
  if (buffer === undefined) {
    buffer = libc().view(address!, size!);
    buffers.set(key, buffer);
  }
  return buffer;
}

/** True when the range lies wholly in mappings of a file of that name (proc_pid_maps(5)). */
function isMapped(name: string, address: number, size: number): boolean {
  let covered = address;
  for (const line of readFileSync('/proc/self/maps', 'utf8').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) rw.s \S+ \S+ \d+ +(\/.*)$/.exec(line);
    if (match === null || !(match[3]!.includes(`:${name} `) || match[3]!.endsWith(`/${name}`))) continue;
    const start = parseInt(match[1]!, 16);
    const end = parseInt(match[2]!, 16);
    if (start <= covered && end > covered) covered = end;
  }
  return covered >= address + size;
}
