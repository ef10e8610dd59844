/**
 * Mapped memory as JavaScript buffers.
 *
 *     reserve                    open 1    open 2                     close
 *     |.......................|  |#######|########|...........|  -->  |0000000|00000000|           |
 *      PROT_NONE: address space   mapped, has a buffer                 anonymous zeros  unmapped
 *
 * Invariant: **memory that has had a JavaScript buffer is never unmapped.** A buffer on foreign memory can't be
 * detached, and a stale view must not crash the process. `close` replaces such pages in place with anonymous ones. A
 * stale view then reads zeros and its writes have no effect. The cost is address space, plus memory for pages that a
 * stale view writes to.
 */
import { readFileSync } from 'node:fs';
import { checkInteger, reading } from '../arguments.ts';
import { describe, hex } from '../errors.ts';
import { DmaMappingError } from '../memory/errors.ts';
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

/** 64 KiB, the largest page size of the supported architectures. */
const ALIGNMENT = 65_536;

/** File contents to map. */
export interface MapSource {
  /** The caller may close the descriptor afterwards. The file must not shrink: an access past its end is fatal. */
  readonly fd: number;
  /** Offset in the file, a multiple of the page size. */
  readonly offset: number;
}

/** One of several file ranges that together fill a mapping. */
export interface MapPiece extends MapSource {
  /** Bytes, a multiple of the page size. */
  readonly length: number;
}

/** An opened part of the range. */
interface Opened {
  readonly offset: number;
  readonly buffer: ArrayBuffer;
}

/** A piece of the range. `seen`: it has a JavaScript buffer. */
interface Piece {
  readonly offset: number;
  readonly length: number;
  readonly seen: boolean;
}

/** A reserved address range that is opened step by step. */
export class MappedMemory {
  readonly #libc: Libc;
  readonly #address: number;
  readonly #size: number;
  readonly #opened: Opened[] = [];
  /** After `close`: pieces not yet replaced or unmapped. */
  #left: Piece[] | null = null;

  /**
   * Reserves address space without access.
   *
   * @param size Bytes, a multiple of `alignment`.
   * @param alignment Alignment of the address: a power of two, 65536 or more; the page size for hugepages.
   * @throws {@link DmaDependencyError} without koffi. @throws {@link SystemCallError} `ENOMEM` without address space.
   */
  constructor(size: number, alignment: number = ALIGNMENT) {
    checkInteger('alignment', alignment, ALIGNMENT, 2 ** 40);
    checkInteger('size', size, alignment, 2 ** 46);
    this.#libc = libc();
    this.#size = size;
    // Reserve enough to contain an aligned range, and unmap both ends. No buffer exists yet.
    const whole = size + alignment;
    const start = this.#libc.mmap(0, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);
    this.#address = Math.ceil(start / alignment) * alignment;
    const end = this.#address + size;
    try {
      if (this.#address > start) this.#libc.munmap(start, this.#address - start);
      if (start + whole > end) this.#libc.munmap(end, start + whole - end);
    } catch (error) {
      // A partial unmap can exceed the kernel's limit of mappings; unmapping the whole range can't.
      this.#libc.munmap(start, whole);
      throw error;
    }
  }

  /** Start address of the range. */
  get address(): number {
    return this.#address;
  }

  /** Bytes of the range. */
  get size(): number {
    return this.#size;
  }

  /** True after {@link MappedMemory.close}. */
  get closed(): boolean {
    return this.#left !== null;
  }

  /**
   * Maps a part of the range that was not opened before and returns its buffer.
   *
   * @param offset In the range; a multiple of the page size, as is `length`.
   * @param source A file, adjacent pieces of files, or new anonymous memory.
   * @param flags Additional flags for mmap.
   * @throws {@link SystemCallError} The part is then unchanged.
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
      // Reserve the part again. It has no buffer yet.
      const asBefore = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
      if (at > address) this.#libc.mmap(address, at - address, PROT_NONE, asBefore);
      throw error;
    }
  }

  /**
   * Replaces opened parts in place with anonymous memory and unmaps the rest. Existing views then read zeros. A second
   * call does nothing.
   *
   * @throws {@link SystemCallError} Call again to process the remaining parts.
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

  /** The range, split at the ends of its opened parts. */
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
   * Describes an opened part for {@link openSharedRegion} in another thread.
   *
   * @param name Name of the file in `/proc/self/maps`; for a memory file, the name given at its creation.
   */
  share(buffer: ArrayBuffer | SharedArrayBuffer, name: string): SharedRegion {
    const part = this.#opened.find((candidate) => candidate.buffer === buffer);
    if (part === undefined || this.closed) {
      const message = `this buffer is not part of the memory ${name}, or the memory was closed`;
      throw new DmaMappingError('ERR_DMAPOOL_NOT_MAPPED', message);
    }
    return { kind: 'mapped', name, address: this.#address + part.offset, size: part.buffer.byteLength };
  }
}

/** Buffers of this thread: a region has one buffer however often it is opened. */
const buffers = new Map<string, ArrayBuffer>();

/**
 * Opens memory that another thread of this process mapped: the `openRegion` option of `attachPool`.
 *
 * `postMessage` would copy a buffer on mapped memory. The pool's handle carries the region's address instead, and this
 * function makes a buffer at that address. After the memory is closed the buffer reads zeros.
 *
 * @param region From a pool's handle.
 * @throws `DmaMappingError` `ERR_DMAPOOL_NOT_MAPPED` when this process has no such memory: the handle came from another
 *   process, or the memory was closed.
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
 *   const block = shared.accept(ticket); // the worker's data, without a copy
 *   worker.postMessage('accepted');
 *   console.log(block.u32[0]); // 42
 *   pool.free(block);
 * } else {
 *   const shared = attachPool(workerData as SharedPoolHandle, { openRegion: openSharedRegion });
 *   const block = shared.pool.alloc();
 *   block.u32[0] = 42;
 *   parentPort!.postMessage(shared.transfer(block));
 *   await once(parentPort!, 'message'); // a block in transit is lost when its giver exits
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
  // Throws on platforms without mapped memory, where /proc/self/maps is missing too.
  if (sane) libc();
  // The region may come from an untrusted message. A wrong address would crash the process: check it against the maps.
  if (!sane || !isMapped(name, address!, size!)) {
    const message =
      `this process has no memory ${describe(name)} at that address: it was closed, or the handle came from another ` +
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

/** True when mappings of a file with that name cover the whole range (proc_pid_maps(5)). */
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
