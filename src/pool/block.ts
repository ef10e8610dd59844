import { DmaBlockError, hex } from '../errors.ts';
import { labelOf } from './backend.ts';
import { type DmaBlock, type DmaPool, INSPECT } from './contract.ts';
import { checkCurrent, type HotPath, isAllocated, isCurrent, ownerOf } from './hot-path.ts';

/** Views of a block, created at first use. Most blocks need one, many none. */
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

/** The pool as seen by its blocks: contract and hot path. */
export type BlockPool<N extends string> = HotPath<DmaBlock<N>> & DmaPool<N>;

/** Generation of reused block objects. */
const NOT_COUNTED = 0;

/** True for a block; false for a look-alike and for a proxy of a block. */
export let isBlock: (value: unknown) => value is DmaBlock;

/** Creates a block object. Only the pool calls it. */
export let makeBlock: <N extends string>(pool: BlockPool<N>, index: number, generation: number) => DmaBlock<N>;

/**
 * Views of debug handles. They are outside the handle, so that each access checks the handle: a stale handle gives no
 * view. Views obtained earlier remain usable; poison detects writes through them. Views of reused objects stay valid.
 * Those are in a field of the object, which is read without a check: a check costs 2 to 4 ns per access.
 */
const debugViews = new WeakMap<DmaBlock, BlockViews>();

/** Returns the views of a block whose field for them is empty. Throws for a stale handle. */
let viewsOf: <N extends string>(block: Block<N>) => BlockViews;

/** The class behind {@link DmaBlock}. */
class Block<N extends string = string> implements DmaBlock<N> {
  // Three fields, 48 bytes: a driver may hold hundreds of thousands of blocks. The pool has the rest. The class has no
  // private methods or accessors, because the engine would then add a brand field to each object.
  readonly #pool: BlockPool<N>;
  readonly index: number;
  #views: BlockViews | undefined = undefined;

  protected constructor(pool: BlockPool<N>, index: number) {
    this.#pool = pool;
    this.index = index;
  }

  get pool(): DmaPool<N> {
    return this.#pool;
  }

  get dma(): number {
    // Check the handle: another page may have the block's index now, and the device would access that page.
    checkCurrent(this.#pool, this);
    return this.#pool.dmaOf(this.index);
  }

  get size(): number {
    return this.#pool.geometry.blockSize;
  }

  get generation(): number {
    return NOT_COUNTED;
  }

  get bytes(): Uint8Array {
    return (this.#views ?? viewsOf(this)).bytes;
  }

  get view(): DataView {
    const views = this.#views ?? viewsOf(this);
    return (views.view ??= new DataView(views.bytes.buffer, views.bytes.byteOffset, views.bytes.byteLength));
  }

  get u16(): Uint16Array {
    const views = this.#views ?? viewsOf(this);
    return (views.u16 ??= makeWords(this, views.bytes, Uint16Array));
  }

  get u32(): Uint32Array {
    const views = this.#views ?? viewsOf(this);
    return (views.u32 ??= makeWords(this, views.bytes, Uint32Array));
  }

  get i32(): Int32Array {
    const views = this.#views ?? viewsOf(this);
    return (views.i32 ??= makeWords(this, views.bytes, Int32Array));
  }

  free(): void {
    this.#pool.free(this);
  }

  [Symbol.dispose](): void {
    if (isCurrent(this.#pool, this) && isAllocated(this.#pool, this.index)) this.#pool.free(this);
  }

  /** Text for `console.log` on Node, Bun and Deno. */
  [INSPECT](): string {
    const { name, device } = this.#pool;
    const block = `DmaBlock ${this.index} of pool ${name} (${device.name})`;
    if (!isCurrent(this.#pool, this)) return `${block}, a stale handle`;
    const owner = ownerOf(this.#pool, this.index);
    return `${block} at ${hex(this.#pool.dmaOf(this.index))}${owner && `, ${owner}`}`;
  }

  static {
    isBlock = (value): value is DmaBlock => #pool in (Object(value) as object);
    viewsOf = (block) => {
      checkCurrent(block.#pool, block);
      let views = debugViews.get(block);
      if (views === undefined) {
        views = new BlockViews(block.#pool.bytesOf(block.index));
        if (block.generation === NOT_COUNTED) block.#views = views;
        else debugViews.set(block, views);
      }
      return views;
    };
    makeBlock = (pool, index, generation) =>
      generation === NOT_COUNTED ? new Block(pool, index) : new DebugBlock(pool, index, generation);
  }
}

/** A handle of debug mode, valid for one allocation. */
class DebugBlock<N extends string> extends Block<N> {
  readonly #generation: number;

  constructor(pool: BlockPool<N>, index: number, generation: number) {
    super(pool, index);
    this.#generation = generation;
  }

  override get generation(): number {
    return this.#generation;
  }
}

/** The constructor of a typed array. */
interface WordArray<T> {
  readonly BYTES_PER_ELEMENT: number;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): T;
}

function makeWords<T>(block: DmaBlock, { buffer, byteOffset, length }: Uint8Array, Words: WordArray<T>): T {
  const unit = Words.BYTES_PER_ELEMENT;
  if (byteOffset % unit === 0) return new Words(buffer, byteOffset, Math.floor(length / unit));
  throw new DmaBlockError(
    'ERR_DMAPOOL_UNALIGNED',
    `${labelOf(block.pool)}: block ${block.index} at ${hex(block.dma)} is not aligned to ${unit} bytes; use align ${unit}`,
  );
}
