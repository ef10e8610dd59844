import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Device, dmaBitMask, type DmaBlock, DmaError, DmaPool, type DmaPoolOptions } from 'dmapool';
import { indicesOf } from '../support/pools.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';
import { Random } from '../support/random.ts';
import { PoolModel } from './pool-model.ts';

interface Held {
  readonly block: DmaBlock;
  readonly stamp: number;
}

/** Runs one random history of every public call on the pool and on the model, and compares after each call. */
class History {
  readonly #random: Random;
  readonly #memory: FaultyMemory;
  readonly #log = new RecordingLog();
  readonly #pool: DmaPool;
  readonly #model: PoolModel;
  readonly #held = new Map<number, Held>();
  readonly #device: Device;
  readonly #indices = new Int32Array(64);
  readonly #debug: boolean;
  readonly #rogue: boolean;
  #stamp = 0;
  /** Number of source failures still to inject. */
  #failures = 0;
  #throwing = false;

  constructor(seed: number, options: DmaPoolOptions, limit: number, rogue: boolean) {
    this.#rogue = rogue;
    this.#random = new Random(seed);
    this.#memory = new FaultyMemory({ limit });
    this.#memory.onAlloc = () => {
      if (this.#failures === 0) return 'ok';
      this.#failures--;
      return this.#throwing ? 'throw' : 'none';
    };
    this.#device = new Device({ name: 'model', memory: this.#memory, dmaMask: dmaBitMask(64), log: this.#log });
    this.#pool = DmaPool.create('model', this.#device, options);
    this.#debug = options.debug === true;
    const { blocksPerPage } = this.#pool.geometry;
    this.#model = new PoolModel(blocksPerPage, Math.floor(limit / this.#allocation()), options.maxBlocks ?? Infinity);
  }

  #allocation(): number {
    // The size that the source actually allocates for a page of the pool.
    return Math.ceil(this.#pool.geometry.allocation / 4096) * 4096;
  }

  run(operations: number): void {
    for (let i = 0; i < operations; i++) {
      if (this.#rogue) this.#scribble();
      this.#step();
      this.#compareCounts();
    }
    this.#end();
  }

  /** Simulates a faulty or hostile device: writes random bytes to every free block and to the gaps. */
  #scribble(): void {
    const saved = [...this.#held.values()].map(({ block, stamp }) => ({ bytes: block.bytes, stamp }));
    for (const { buffer, byteOffset, size } of this.#memory.live) {
      const words = new Uint32Array(buffer, byteOffset, size >> 2);
      for (let i = 0; i < words.length; i++) words[i] = this.#random.below(2 ** 32);
    }
    for (const { bytes, stamp } of saved) bytes.fill(stamp);
  }

  #step(): void {
    const dice = this.#random.below(100);
    if (dice < 34) this.#alloc();
    else if (dice < 62) this.#free();
    else if (dice < 68) this.#allocBulk();
    else if (dice < 74) this.#freeBulk();
    else if (dice < 84) this.#badFree();
    else if (dice < 88) this.#lookUp();
    else if (dice < 90) this.#trim();
    else if (dice < 92) this.#reserve();
    else if (dice < 95) this.#iterate();
    else this.#breakSource();
  }

  #breakSource(): void {
    this.#failures = this.#random.below(3);
    this.#throwing = this.#random.chance(0.5);
  }

  /** Runs a call that may need memory; returns its result, or null when it failed as the model expected. */
  #mayFail<T>(expected: 'ok' | 'refused', pagesNeeded: number, call: () => T): T | null {
    const failsAt = this.#failures > 0 && pagesNeeded > 0;
    try {
      const result = call();
      assert.equal(expected === 'ok' && !failsAt, true, 'the model expected a failure');
      return result;
    } catch (error) {
      if (error instanceof assert.AssertionError) throw error;
      assert.ok(expected === 'refused' || failsAt, `unexpected: ${String(error)}`);
      if (!(error instanceof DmaError)) assert.equal((error as Error).message, 'the source broke');
      return null;
    }
  }

  #alloc(): void {
    const grow = !this.#random.chance(0.2);
    const form = this.#random.below(6);
    const plan = this.#model.planTake(1, grow);
    const failing = this.#failures > 0 && plan.pages > 0;
    const succeeds = plan.ok && !failing;
    const throwing = failing && this.#throwing;
    const before = this.#memory.calls;
    let index = -1;
    const attempt = (): void => {
      if (form === 0) index = this.#pool.alloc(grow ? undefined : { grow }).index;
      else if (form === 1) index = this.#pool.tryAlloc({ grow })?.index ?? -1;
      else if (form === 2) index = this.#pool.alloc({ zero: true, grow }).index;
      else if (form === 3) index = this.#pool.allocIndex({ grow });
      else if (form === 4) index = this.#pool.tryAllocIndex({ grow });
      else index = this.#pool.allocIndex({ zero: true, grow });
    };
    const tries = form === 1 || form === 4;
    if (succeeds) attempt();
    else if (tries && !throwing) attempt();
    else assert.throws(attempt);
    if (!succeeds) {
      assert.equal(index, -1);
      return;
    }
    if (plan.pages > 0) assert.equal(this.#memory.calls, before + 1);
    assert.equal(index, this.#model.take());
    this.#hold(index, form === 2 || form === 5);
  }

  #hold(index: number, zeroed: boolean): void {
    const { geometry } = this.#pool;
    const block = this.#pool.blockAt(this.#pool.dmaOf(index));
    assert.ok(block !== null);
    assert.equal(block.index, index);
    assert.equal(this.#held.has(index), false, 'a block was allocated twice');
    assert.equal(block.dma % Math.max(geometry.align, 1), 0);
    const last = block.dma + block.size - 1;
    if (geometry.boundary > 0) {
      assert.equal(Math.floor(block.dma / geometry.boundary), Math.floor(last / geometry.boundary));
    }
    const { bytes } = block;
    assert.equal(bytes.length, geometry.blockSize);
    if (zeroed) assert.ok(bytes.every((byte) => byte === 0));
    else if (this.#debug) assert.ok(bytes.every((byte) => byte === 0xa9));
    const stamp = (this.#stamp = (this.#stamp + 1) % 251);
    bytes.fill(stamp);
    this.#held.set(index, { block, stamp });
  }

  #anyHeld(): number | undefined {
    if (this.#held.size === 0) return undefined;
    let skip = this.#random.below(Math.min(this.#held.size, 20));
    for (const index of this.#held.keys()) if (skip-- === 0) return index;
    return undefined;
  }

  #letGo(index: number): DmaBlock {
    const held = this.#held.get(index)!;
    assert.ok(
      held.block.bytes.every((byte) => byte === held.stamp),
      'an allocated block was overwritten',
    );
    this.#held.delete(index);
    return held.block;
  }

  #free(): void {
    const index = this.#anyHeld();
    if (index === undefined) return;
    const block = this.#letGo(index);
    const form = this.#random.below(4);
    if (form === 0) this.#pool.free(block);
    else if (form === 1) this.#pool.freeIndex(index);
    else if (form === 2) this.#pool.freeAt(block.dma);
    else block[Symbol.dispose]();
    this.#model.give(index);
  }

  #allocBulk(): void {
    const count = this.#random.below(20);
    const grow = !this.#random.chance(0.2);
    const plan = this.#model.planTake(count, grow);
    const into: DmaBlock[] = [];
    const asObjects = this.#random.chance(0.5);
    const failing = plan.pages > 0 && this.#failures > 0;
    const attempt = (): void => {
      if (asObjects) this.#pool.allocBulk(into, count, { grow });
      else this.#pool.allocIndexBulk(this.#indices, count, { grow });
    };
    const pagesBefore = this.#memory.live.size;
    if (!plan.ok || failing) {
      assert.throws(attempt);
      assert.equal(into.length, 0);
      assert.equal(this.#memory.live.size, pagesBefore, 'pages opened before the failure are returned');
      return;
    }
    attempt();
    this.#model.opened(this.#memory.live.size - pagesBefore);
    for (let i = 0; i < count; i++) {
      const index = asObjects ? into[i]!.index : this.#indices[i]!;
      assert.equal(index, this.#model.take());
      this.#hold(index, false);
    }
  }

  #freeBulk(): void {
    const chosen = [...this.#held.keys()].slice(0, this.#random.below(20));
    if (this.#random.chance(0.2) && chosen.length > 0) {
      // All or nothing: the array has one of the blocks twice.
      const twice = [...chosen, chosen[0]!];
      assert.throws(() => {
        this.#pool.freeIndexBulk(Int32Array.from(twice));
      }, DmaError);
      assert.throws(() => {
        this.#pool.freeBulk(twice.map((index) => this.#held.get(index)!.block));
      }, DmaError);
      return;
    }
    const blocks = chosen.map((index) => this.#letGo(index));
    if (this.#random.chance(0.5)) this.#pool.freeBulk(blocks);
    else this.#pool.freeIndexBulk(Int32Array.from(chosen));
    for (const index of chosen) this.#model.give(index);
  }

  #badFree(): void {
    const bad: unknown[] = [-1, 2 ** 31, 1.5, NaN, '0', 0n, null, undefined, {}, 1e9];
    const free = this.#model.anyFree(this.#random.below(1000));
    if (free !== undefined) bad.push(free, free);
    const index = bad[this.#random.below(bad.length)];
    assert.throws(() => {
      this.#pool.freeIndex(index as number);
    }, DmaError);
    assert.throws(() => {
      this.#pool.free(index as DmaBlock);
    }, DmaError);
    const held = this.#anyHeld();
    if (held !== undefined) {
      assert.throws(() => {
        this.#pool.freeAt(this.#pool.dmaOf(held) + 1);
      }, DmaError);
    }
  }

  #lookUp(): void {
    const index = this.#anyHeld();
    if (index === undefined) return;
    const { block } = this.#held.get(index)!;
    const inside = block.dma + this.#random.below(block.size);
    assert.equal(this.#pool.blockAt(inside), block);
    assert.equal(this.#pool.indexAt(inside), index);
    assert.equal(this.#pool.blockAt(2 ** 50), null);
    assert.equal(this.#pool.dmaOf(index), block.dma);
  }

  #trim(): void {
    assert.equal(this.#pool.trim(), this.#model.trim());
  }

  #reserve(): void {
    const count = this.#random.below(30);
    const plan = this.#model.planTake(count, true);
    const failing = plan.pages > 0 && this.#failures > 0;
    const pagesBefore = this.#memory.live.size;
    this.#mayFail(plan.ok ? 'ok' : 'refused', failing ? plan.pages : 0, () => {
      this.#pool.reserve(count);
      return true;
    });
    this.#model.opened(this.#memory.live.size - pagesBefore);
  }

  #iterate(): void {
    const expected = [...this.#held.keys()].sort((a, b) => a - b);
    assert.deepEqual(
      [...this.#pool.allocated()].map((block) => block.index),
      expected,
    );
    assert.deepEqual([...indicesOf(this.#pool)], expected);
  }

  #compareCounts(): void {
    const { active, blocks, pages, highWater, allocations, frees, quarantined } = this.#pool.statistics();
    assert.equal(active, this.#held.size);
    assert.equal(pages, this.#model.pages);
    assert.equal(pages, this.#memory.live.size);
    assert.equal(blocks, this.#model.pages * this.#pool.geometry.blocksPerPage);
    assert.equal(highWater, this.#model.highWater);
    assert.equal(allocations, this.#model.allocations);
    assert.equal(frees, this.#model.allocations - active);
    assert.equal(quarantined, 0);
  }

  /** Destroys the pool while blocks are allocated; the late frees return the pages. */
  #end(): void {
    const out = [...this.#held.keys()];
    this.#pool.destroy();
    assert.equal(this.#log.text.includes('busy'), out.length > 0);
    assert.equal(this.#device.readAttribute('pools'), undefined);
    assert.throws(() => this.#pool.alloc(), DmaError);
    if (this.#random.chance(0.5)) {
      for (const index of out) this.#pool.free(this.#letGo(index));
    } else {
      this.#device.reclaim();
      for (const index of out) {
        assert.throws(() => {
          this.#pool.freeIndex(index);
        }, DmaError);
      }
    }
    assert.equal(this.#memory.live.size, 0);
    assert.equal(this.#pool.statistics().active, 0);
  }
}

const geometries: DmaPoolOptions[] = [
  { size: 16 },
  { size: 68, align: 32, boundary: 4096 },
  { size: 256, align: 256 },
  { size: 700, boundary: 2048 },
  { size: 4096, align: 4096 },
  { size: 5000 },
];

const variants: [string, Partial<DmaPoolOptions>, number][] = [
  ['plain', {}, 400],
  ['with a limit', { maxBlocks: 37 }, 100],
  ['zeroing on alloc and free', { initOnAlloc: false, initOnFree: true }, 60],
  ['in debug mode', { debug: true }, 40],
];

test('a device that overwrites every free block between all calls does not affect the allocator', () => {
  fc.assert(
    fc.property(fc.integer(), fc.constantFrom(...geometries), (seed, shape) => {
      new History(seed, shape, 3 * 8192, true).run(300);
    }),
    { numRuns: 60, includeErrorInReport: true },
  );
});

for (const [title, extra, runs] of variants) {
  test(`random histories of every call agree with the model: ${title}`, () => {
    fc.assert(
      fc.property(
        fc.integer(),
        fc.constantFrom(...geometries),
        fc.integer({ min: 1, max: 12 }),
        (seed, shape, pages) => {
          const options = { ...shape, ...extra };
          const limit = pages * 8192;
          new History(seed, options, limit, false).run(1800);
        },
      ),
      { numRuns: runs, includeErrorInReport: true },
    );
  });
}
