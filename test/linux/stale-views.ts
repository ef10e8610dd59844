/**
 * Random orders of close, read, write, alloc and free on sources of mapped memory, compared with a plain model: no view
 * ever crashes the process, and views of a closed source read zeros.
 */
import assert from 'node:assert/strict';
import type { CoherentAllocator, CoherentMemory } from 'dmapool';
import { Random } from '../support/random.ts';

/** A source that can be closed while its blocks are allocated. */
export interface ClosableSource extends CoherentAllocator {
  close(): void;
}

/** The parameters of a run. */
export interface StaleViewOptions {
  readonly orders: number;
  readonly seed: number;
  /** Opens a source; `random` selects its kind. */
  readonly open: (random: Random) => ClosableSource;
  /** Sizes to allocate. */
  readonly sizes: readonly number[];
  readonly dmaMask: number;
}

interface Block {
  readonly memory: CoherentMemory;
  readonly view: Uint8Array;
  /** Stamps at both ends. */
  value: number;
}

/** One source, and all views of it that ever existed. */
class Life {
  readonly source: ClosableSource;
  readonly live: Block[] = [];
  readonly #views: Uint8Array[] = [];
  closed = false;

  constructor(source: ClosableSource) {
    this.source = source;
  }

  alloc(size: number, dmaMask: number): void {
    const memory = this.source.allocCoherent({ device: { name: 'd', dmaMask }, size, node: -1 });
    if (this.closed) assert.equal(memory, null, 'a closed source refuses an allocation');
    if (memory === null) return;
    const view = new Uint8Array(memory.buffer, memory.byteOffset, memory.size);
    assert.ok(isZero(view), 'new memory is zeroed');
    this.live.push({ memory, view, value: 0 });
    this.#views.push(view);
  }

  free(index: number): void {
    const [block] = this.live.splice(index, 1);
    this.source.freeCoherent(block!.memory);
  }

  close(): void {
    this.source.close();
    this.closed = true;
    for (const block of this.live) block.value = 0;
    for (const view of this.#views) assert.ok(isZero(view), 'a view of a closed source reads zeros');
  }

  /** Views of a closed source, kept to the end. */
  get stale(): readonly Uint8Array[] {
    return this.#views;
  }
}

/** Runs the orders; returns all stale views at the end. */
export function runStaleViews({ orders, seed, open, sizes, dmaMask }: StaleViewOptions): Uint8Array[] {
  const random = new Random(seed);
  const pick = <T>(from: readonly T[]): T | undefined => from[random.below(from.length)];
  const stale: Uint8Array[] = [];
  for (let order = 0; order < orders; order++) {
    try {
      const life = new Life(open(random));
      for (let steps = 4 + random.below(16); steps > 0; steps--) {
        const one = pick(life.live);
        const what = random.below(16);
        if (what < 6) life.alloc(pick(sizes)!, dmaMask);
        else if (what === 6) life.close();
        else if (what < 10 || one === undefined) touchStale(pick(life.closed ? life.stale : stale), random);
        else if (what < 12) life.free(life.live.indexOf(one));
        else if (what < 14 && !life.closed) write(one, 1 + random.below(255));
        else assert.deepEqual([one.view[0], one.view.at(-1)], [one.value, one.value]);
      }
      life.close();
      for (const { memory } of life.live) life.source.freeCoherent(memory);
      stale.push(...life.stale);
    } catch (error) {
      throw new Error(`order ${String(order)} of DMAPOOL_SEED=${String(seed)}`, { cause: error });
    }
  }
  // All stale views, after many sources were opened and closed.
  for (const view of stale) assert.ok(isZero(view));
  return stale;
}

function write(block: Block, value: number): void {
  block.view[0] = block.view[block.view.length - 1] = block.value = value;
}

/** Checks that a stale view reads zeros and that a write to it is private to the view; restores the bytes. */
function touchStale(view: Uint8Array | undefined, random: Random): void {
  if (view === undefined) return;
  assert.ok(isZero(view));
  const at = random.below(view.length);
  view[at] = 0x5a;
  assert.equal(view[at], 0x5a);
  view[at] = 0;
}

/** Checks the ends and each page. */
function isZero(view: Uint8Array): boolean {
  for (let at = 0; at < view.length; at += 4096) if (view[at] !== 0) return false;
  return view.at(-1) === 0;
}

/** From the environment, to repeat a run; by default the time. */
export function seedOf(): number {
  return Number(process.env['DMAPOOL_SEED'] ?? Date.now() % 2 ** 31);
}
