import { DmaBlockError, hex } from '../errors.ts';
import type { DmaPool } from '../dma-pool.ts';

/** A block's views, made when first used: most blocks need one of them, many none. */
class BlockViews {
  readonly bytes: Uint8Array;
  view: DataView | undefined = undefined;
  u16: Uint16Array | undefined = undefined;
  u32: Uint32Array | undefined = undefined;
  i32: Int32Array | undefined = undefined;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }
}

/** Generation of blocks that are reused. */
const NOT_COUNTED = 0;

/** True for a real block: not for a look-alike, nor for a proxy of one. */
export let isBlock: (value: unknown) => value is DmaBlock;

/** Makes a block; for the pool alone. */
export let makeBlock: <N extends string>(pool: DmaPool<N>, index: number, generation: number) => DmaBlock<N>;

/**
 * One block of a pool: what a driver holds.
 *
 * Blocks are made once and reused: after `free`, the same object comes out of a later `alloc`. A reference kept beyond
 * `free` therefore looks like the next holder's, and freeing it then frees the next holder's block. In debug mode each
 * allocation makes a fresh object, and every use of an old one by the pool is an error.
 *
 * The type parameter is the pool's name, so that a block of one pool given to another is a compile-time error.
 *
 * @example
 * ```ts
 * const pool = DmaPool.create('rx', new Device({ name: 'eth0' }), { size: 2048, align: 64 });
 * const block: DmaBlock<'rx'> = pool.alloc();
 * block.u32[0] = 0x8000_0000; // the CPU's side
 * console.log(block.dma % 64); // 0: the device's side
 * block.free();
 * ```
 */
export class DmaBlock<N extends string = string> implements Disposable {
  // Three fields, 48 bytes: a driver may hold hundreds of thousands. All else is asked of the pool. No private method or
  // accessor either: with the first of these, each object gets a fourth field to prove that it may call them.
  readonly #pool: DmaPool<N>;
  /** Name of the block in its pool: a small integer, from 0 up. */
  readonly index: number;
  #views: BlockViews | undefined = undefined;

  protected constructor(pool: DmaPool<N>, index: number) {
    this.#pool = pool;
    this.index = index;
  }

  /** The pool it belongs to. */
  get pool(): DmaPool<N> {
    return this.#pool;
  }

  /** The address for the device, in bytes. */
  get dma(): number {
    // Checked, for the block's place may have another page by now, and a device would be told its address.
    this.#pool.checkCurrent(this);
    return this.#pool.dmaOf(this.index);
  }

  /** Bytes of the block: the size asked for, raised to 16 and rounded up to the alignment. */
  get size(): number {
    return this.#pool.geometry.blockSize;
  }

  /** How often the block was handed out when this handle was made; only counted in debug mode, else 0. */
  get generation(): number {
    return NOT_COUNTED;
  }

  /** The block's memory. The same view each time. */
  get bytes(): Uint8Array {
    return (this.#views ??= new BlockViews(this.#pool.viewOf(this))).bytes;
  }

  /** The block's memory for reads and writes of any width and byte order; devices are little-endian. */
  get view(): DataView {
    const views = (this.#views ??= new BlockViews(this.#pool.viewOf(this)));
    return (views.view ??= new DataView(views.bytes.buffer, views.bytes.byteOffset, views.bytes.byteLength));
  }

  /** The block's memory as 16-bit words in the machine's byte order. Needs an even block address. */
  get u16(): Uint16Array {
    const views = (this.#views ??= new BlockViews(this.#pool.viewOf(this)));
    return (views.u16 ??= new Uint16Array(views.bytes.buffer, alignedOffset(this, 2), views.bytes.length >> 1));
  }

  /** The block's memory as unsigned 32-bit words in the machine's byte order. Needs a block address of a multiple of 4. */
  get u32(): Uint32Array {
    const views = (this.#views ??= new BlockViews(this.#pool.viewOf(this)));
    return (views.u32 ??= new Uint32Array(views.bytes.buffer, alignedOffset(this, 4), views.bytes.length >> 2));
  }

  /** The block's memory as signed 32-bit words, which bitwise operators give; see {@link DmaBlock.u32}. */
  get i32(): Int32Array {
    const views = (this.#views ??= new BlockViews(this.#pool.viewOf(this)));
    return (views.i32 ??= new Int32Array(views.bytes.buffer, alignedOffset(this, 4), views.bytes.length >> 2));
  }

  /** Gives the block back to its pool. @throws as {@link DmaPool.free}. */
  free(): void {
    this.#pool.free(this);
  }

  /**
   * For `using`: frees the block if it is out. After a `free` of your own it may be out to somebody else: outside debug
   * mode the same object serves the next holder, so a block held with `using` should not be freed otherwise.
   */
  [Symbol.dispose](): void {
    if (this.#pool.owns(this)) this.#pool.free(this);
  }

  static {
    isBlock = (value): value is DmaBlock => typeof value === 'object' && value !== null && #pool in value;
    makeBlock = (pool, index, generation) =>
      generation === NOT_COUNTED ? new DmaBlock(pool, index) : new DebugBlock(pool, index, generation);
  }
}

/** A handle of debug mode: good for one allocation. */
class DebugBlock<N extends string> extends DmaBlock<N> {
  readonly #generation: number;

  constructor(pool: DmaPool<N>, index: number, generation: number) {
    super(pool, index);
    this.#generation = generation;
  }

  override get generation(): number {
    return this.#generation;
  }

  // Views made earlier can't be called back (poison shows their writes), but none is given out any more.
  override get bytes(): Uint8Array {
    this.pool.checkCurrent(this);
    return super.bytes;
  }

  override get view(): DataView {
    this.pool.checkCurrent(this);
    return super.view;
  }

  override get u16(): Uint16Array {
    this.pool.checkCurrent(this);
    return super.u16;
  }

  override get u32(): Uint32Array {
    this.pool.checkCurrent(this);
    return super.u32;
  }

  override get i32(): Int32Array {
    this.pool.checkCurrent(this);
    return super.i32;
  }
}

function alignedOffset(block: DmaBlock, unit: number): number {
  const { byteOffset } = block.bytes;
  if (byteOffset % unit !== 0) {
    throw new DmaBlockError(
      'ERR_DMAPOOL_UNALIGNED',
      `${block.pool.device.name}: pool ${block.pool.name}: block ${String(block.index)} at ${hex(block.dma)} is not aligned to ` +
        `${String(unit)} bytes; create the pool with align ${String(unit)} or more, or use block.view`,
    );
  }
  return byteOffset;
}
