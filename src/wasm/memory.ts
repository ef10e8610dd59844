/**
 * Coherent memory in a `WebAssembly.Memory`: JavaScript and a module use the same blocks without a copy.
 *
 *     address   0            offset                        offset + size
 *               | the module | pages of the pools          | the module, if it grew the memory later |
 *
 * The module takes the place of the device. It has no IOMMU: `dma` is its pointer, and it reaches all of the memory.
 */
import { isInstance, type OptionNames, reading, readOptions } from '../arguments.ts';
import { DmaArgumentError, DmaOutOfMemoryError } from '../errors.ts';
import type { CoherentAllocator, CoherentMemory, CoherentRequest } from '../memory/coherent.ts';
import { checkPageSize } from '../memory/iommu.ts';
import { checkMultiple, MAX_REGION_PAGES } from '../memory/page-allocator.ts';
import { ZonedMemory } from '../memory/zoned-memory.ts';
import { WasmMemoryError } from './error.ts';

/** Page size of WebAssembly, the unit of growth (WebAssembly Core, 4.2.8). */
const WASM_PAGE = 65_536;
const ACCEPTED = 'a WebAssembly.Memory';

/** The part of `WebAssembly.Memory` that {@link WasmMemory} uses, for projects without the types of browsers. */
export interface WasmMemoryObject {
  /** The current buffer. Growth of a memory that is not shared detaches it. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  /** Grows the memory by `delta` pages of 64 KiB and returns the former number of pages. */
  grow(delta: number): unknown;
}

/** Options of {@link WasmMemory}. */
export interface WasmMemoryOptions {
  /** The memory, shared or not. */
  readonly memory: WasmMemoryObject;
  /** Bytes for pools: a multiple of the page size. */
  readonly size: number;
  /**
   * Address of the first byte: a multiple of the page size, one page or more, so that no block has the address 0. The
   * module must not use the `size` bytes from there. Default: the constructor grows the memory and uses the new pages,
   * which no module uses.
   */
  readonly offset?: number;
  /** Page size in bytes: a power of two, 4096 (the default) to 2^30; without `offset` at most 65536. */
  readonly pageSize?: number;
}

const OPTIONS: OptionNames<WasmMemoryOptions> = { memory: true, size: true, offset: true, pageSize: true };

/**
 * A coherent allocator in a region of a `WebAssembly.Memory`. A block's `dma` is its pointer in the module.
 *
 * If a memory that is not shared grows, the engine detaches its buffer: all views of blocks have the length 0 then. Give
 * such a memory a `maximum` equal to its size. Otherwise check {@link attached} after calls of a module that may allocate
 * memory; {@link allocCoherent} does so, and throws.
 *
 * @example
 * ```ts
 * const { WebAssembly } = globalThis as unknown as {
 *   WebAssembly: { Memory: new (limits: object) => WasmMemoryObject };
 * };
 * const memory = new WebAssembly.Memory({ initial: 17, maximum: 17 });
 * const source = new WasmMemory({ memory, offset: 65536, size: 2 ** 20 }); // the module uses the first 64 KiB
 * const pool = DmaPool.create('vertex', new Device({ name: 'mesh', memory: source }), { size: 32, align: 16 });
 * const block = pool.alloc({ zero: true });
 * console.log(block.dma); // 65536: pass it to a function of the module
 * pool.free(block);
 * ```
 */
export class WasmMemory implements CoherentAllocator {
  readonly name = 'wasm';
  readonly pageSize: number;
  /** The memory in which the pools' pages are. */
  readonly memory: WasmMemoryObject;
  /** Address of the first byte of the region. */
  readonly offset: number;
  readonly #buffer: ArrayBuffer | SharedArrayBuffer;
  readonly #pages: ZonedMemory;

  /**
   * @throws `DmaArgumentError` for an option out of range, or a region that is not inside the memory.
   * @throws `DmaOutOfMemoryError` `ERR_DMAPOOL_NO_MEMORY` when `offset` is absent and the memory can't grow.
   */
  constructor(options: WasmMemoryOptions) {
    const { memory, size, offset, pageSize = 4096 } = readOptions('options', options, OPTIONS);
    checkPageSize(pageSize);
    checkMultiple('size', size, pageSize, pageSize, MAX_REGION_PAGES * pageSize);
    const bytes = bufferOf(memory).byteLength;
    if (offset !== undefined) {
      if (size > bytes - pageSize) {
        throw new DmaArgumentError(
          'size',
          size,
          `at most ${Math.max(0, bytes - pageSize)}: the memory has ${bytes} bytes`,
        );
      }
      checkMultiple('offset', offset, pageSize, pageSize, bytes - size);
    } else if (pageSize > WASM_PAGE) {
      throw new DmaArgumentError('pageSize', pageSize, `at most ${WASM_PAGE} without offset`);
    }
    this.pageSize = pageSize;
    this.memory = memory;
    this.offset = offset ?? growBy(memory, size);
    this.#buffer = bufferOf(memory);
    const zone = { dma: this.offset, size, buffer: this.#buffer, byteOffset: this.offset };
    this.#pages = new ZonedMemory({ name: this.name, pageSize, zones: [zone] });
  }

  /** False after the memory grew and detached its buffer. The blocks' bytes can't be accessed any more. */
  get attached(): boolean {
    return this.#buffer.byteLength > 0;
  }

  /** Bytes of allocated pages. */
  get bytesInUse(): number {
    return this.#pages.bytesInUse;
  }

  /** Bytes of the region. */
  get limit(): number {
    return this.#pages.limit;
  }

  /**
   * Allocates zeroed memory. `node` of `request` is ignored.
   *
   * @throws `DmaArgumentError` for a wrong request.
   * @throws {@link WasmMemoryError} `ERR_DMAPOOL_WASM_DETACHED` after the memory detached its buffer.
   */
  allocCoherent(request: CoherentRequest): CoherentMemory | null {
    if (!this.attached) {
      throw new WasmMemoryError(
        'wasm: the memory grew and detached its buffer; use a shared memory, or one whose maximum is its size',
      );
    }
    return this.#pages.allocCoherent(request);
  }

  /** Frees `memory`, also after the buffer was detached. @throws `DmaMappingError` `ERR_DMAPOOL_NOT_MAPPED` */
  freeCoherent(memory: CoherentMemory): void {
    this.#pages.freeCoherent(memory);
  }

  /** Calls `listener` once, after the next free. @returns A function that cancels the subscription. */
  onceAvailable(listener: () => void): () => void {
    return this.#pages.onceAvailable(listener);
  }
}

/** Returns the memory's buffer. @throws `DmaArgumentError` for any other object. */
function bufferOf(memory: WasmMemoryObject): ArrayBuffer | SharedArrayBuffer {
  // Only the types of browsers declare WebAssembly.
  const engine = globalThis as unknown as { WebAssembly?: { Memory: { readonly prototype: WasmMemoryObject } } };
  const type = engine.WebAssembly?.Memory as (new () => WasmMemoryObject) | undefined;
  if (type === undefined || !isInstance(memory, type)) throw new DmaArgumentError('memory', memory, ACCEPTED);
  // The getter throws for an object that only inherits from the prototype.
  return reading('memory', memory, ACCEPTED, () => memory.buffer);
}

/** Grows the memory; returns the address of the first new byte. */
function growBy(memory: WasmMemoryObject, bytes: number): number {
  const delta = Math.ceil(bytes / WASM_PAGE);
  try {
    // The former size as the call returns it: other threads may grow a shared memory at the same time.
    return Number(memory.grow(delta)) * WASM_PAGE;
  } catch (error) {
    // A memory with 64-bit addresses takes a bigint.
    if (error instanceof TypeError) {
      throw new DmaArgumentError('memory', memory, 'a memory with 32-bit addresses, or an offset', { cause: error });
    }
    throw new DmaOutOfMemoryError(
      'ERR_DMAPOOL_NO_MEMORY',
      `wasm: the memory can't grow by ${bytes} bytes; give an offset`,
    );
  }
}
