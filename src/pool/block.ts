import { DmaBlockError, hex } from '../errors.ts';
import { labelOf } from './backend.ts';
import { type DmaBlock, type DmaPool, INSPECT } from './contract.ts';
import { checkCurrent, type HotPath, isAllocated, isCurrent, ownerOf } from './hot-path.ts';

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

/** A pool as its blocks know it: the contract, and the hot path behind it. */
export type BlockPool<N extends string> = HotPath<DmaBlock<N>> & DmaPool<N>;

/** Generation of blocks that are reused. */
const NOT_COUNTED = 0;

/** True for a real block: not for a look-alike, nor for a proxy of one. */
export let isBlock: (value: unknown) => value is DmaBlock;

/** Makes a block; for the pool alone. */
export let makeBlock: <N extends string>(pool: BlockPool<N>, index: number, generation: number) => DmaBlock<N>;

/**
 * The views of debug handles, kept apart so that each access is checked: those that were given out can't be called back
 * (poison shows their writes), but an old handle gives none any more. Of a reused block, views made earlier stay good, so
 * they are in a field that is read without a check: the check costs 2 to 4 ns an access.
 */
const debugViews = new WeakMap<DmaBlock, BlockViews>();

/** The views of a block that is current and has none in its field. */
let viewsOf: <N extends string>(block: Block<N>) => BlockViews;

/** The class behind {@link DmaBlock}. */
class Block<N extends string = string> implements DmaBlock<N> {
  // Three fields, 48 bytes: a driver may hold hundreds of thousands. All else is asked of the pool. No private method or
  // accessor either: with the first of these, each object gets a fourth field to prove that it may call them.
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
    // Checked, for the block's place may have another page by now, and a device would be told its address.
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

  /** What `console.log` shows, on Node, Bun and Deno. */
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

/** A handle of debug mode: good for one allocation. */
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

/** A class of typed arrays. */
interface WordArray<T> {
  readonly BYTES_PER_ELEMENT: number;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): T;
}

function makeWords<T>(block: DmaBlock, { buffer, byteOffset, length }: Uint8Array, Words: WordArray<T>): T {
  const unit = Words.BYTES_PER_ELEMENT;
  if (byteOffset % unit === 0) return new Words(buffer, byteOffset, Math.floor(length / unit));
  throw new DmaBlockError(
    'ERR_DMAPOOL_UNALIGNED',
    `${labelOf(block.pool)}: block ${block.index} at ${hex(block.dma)} is not aligned to ${unit} bytes; raise align`,
  );
}
