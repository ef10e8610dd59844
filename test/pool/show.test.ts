/** The form of pools and blocks in logs, and the options of allocations. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { inspect } from 'node:util';
import { type AllocOptions, Device, type DmaBlock, DmaPool, HeapMemory } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { throwsCode } from '../support/errors.ts';
import { countsOf } from '../support/pools.ts';

function makePool(options: { readonly debug?: boolean; readonly maxBlocks?: number } = {}): DmaPool<'rx'> {
  return DmaPool.create('rx', new Device({ name: 'nic', memory: new HeapMemory() }), { size: 256, ...options });
}

test('console.log shows a pool’s counts, a block’s pool, index, address and owner, a shared pool’s worker', () => {
  const pool = makePool({ maxBlocks: 32 });
  const block = pool.alloc();
  assert.equal(inspect(pool), 'DmaPool rx of nic: 1 of 16 blocks on 1 pages allocated');
  assert.equal(inspect(block), `DmaBlock 0 of pool rx (nic) at 0x${block.dma.toString(16)}`);
  const shared = sharePool(pool);
  assert.match(inspect(block), /, owned by worker 1$/);
  shared.transfer(block);
  assert.match(inspect(block), /, in transit from worker 1$/);
  assert.match(inspect(pool), /, 1 in transit$/);
  assert.equal(inspect(shared), 'SharedPool rx of nic: worker 1, 1 in transit from it');
  shared.recall();
  pool.free(block);
  assert.match(inspect(block), /, not allocated$/);
  pool.destroy();
  assert.match(inspect(pool), /^DmaPool rx of nic: 0 of /);
  assert.match(inspect([block]), /^\[ DmaBlock 0 of pool rx/);
});

test('console.log marks a stale handle', () => {
  const pool = makePool({ debug: true });
  const block = pool.alloc();
  pool.free(block);
  pool.alloc();
  assert.match(inspect(block), /a stale handle$/);
});

test('JSON.stringify gives a pool’s statistics', () => {
  const pool = makePool();
  pool.alloc();
  assert.deepEqual(JSON.parse(JSON.stringify({ pool })), { pool: pool.statistics() });
});

test('only DmaPool.create creates pools, and instanceof recognizes them', () => {
  const pool = makePool();
  assert.ok(pool instanceof DmaPool);
  assert.ok(!(Object.create(pool) instanceof DmaPool));
  const construct = DmaPool as unknown as new (...args: unknown[]) => unknown;
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => new construct('rx', pool.device, { size: 64 }));
});

const forms: Readonly<Record<string, (pool: DmaPool, options: AllocOptions) => void>> = {
  alloc: (pool, options) => pool.alloc(options),
  tryAlloc: (pool, options) => pool.tryAlloc(options),
  allocIndex: (pool, options) => pool.allocIndex(options),
  tryAllocIndex: (pool, options) => pool.tryAllocIndex(options),
  allocBulk: (pool, options) => {
    pool.allocBulk([], 1, options);
  },
  allocIndexBulk: (pool, options) => {
    pool.allocIndexBulk(new Int32Array(1), 1, options);
  },
};
const wrong: Readonly<Record<string, unknown>> = {
  'an unknown name': { zeroed: true },
  'a number': 1,
  'a string': 'atomic',
  null: null,
  'a zero option that is no boolean': { zero: 1 },
  'a grow option that is no boolean': { zero: true, grow: 'no' },
};

for (const [form, call] of Object.entries(forms)) {
  for (const [what, options] of Object.entries(wrong)) {
    test(`${form} refuses ${what}, with a free block and without`, () => {
      for (const warm of [false, true]) {
        const pool = makePool();
        if (warm) pool.free(pool.alloc());
        const before = pool.statistics();
        throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
          call(pool, options as AllocOptions);
        });
        assert.deepEqual(pool.statistics(), before);
      }
    });
  }

  test(`${form} refuses an unknown name beside a known one on the slow path and in debug mode`, () => {
    for (const pool of [makePool(), makePool({ debug: true })]) {
      const { message } = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
        call(pool, { zero: true, grwo: false } as AllocOptions);
      });
      assert.match(message, /unknown option "grwo"; did you mean grow\?/);
      assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
    }
  });
}

test('zero: true clears each block in every form, on the fast path and on the slow one', () => {
  for (const options of [{ zero: true }, { zero: true, grow: true }]) {
    const pool = makePool();
    const dirty = Array.from({ length: 16 }, () => pool.alloc());
    for (const block of dirty) block.bytes.fill(0xff);
    pool.freeBulk(dirty);
    const blocks: DmaBlock[] = [pool.alloc(options), pool.tryAlloc(options)!];
    for (const index of [pool.allocIndex(options), pool.tryAllocIndex(options)]) {
      blocks.push(pool.blockAt(pool.dmaOf(index))!);
    }
    const bulk: DmaBlock<'rx'>[] = [];
    pool.allocBulk(bulk, 4, options);
    for (const block of [...blocks, ...bulk]) assert.ok(block.bytes.every((byte) => byte === 0));
    const plain = pool.alloc({ zero: false });
    assert.equal(plain.bytes[0], 0xff, 'without the option nothing is cleared');
  }
});
