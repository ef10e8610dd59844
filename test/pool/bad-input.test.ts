/** Calls from JavaScript without type checks: every wrong argument is a typed error and changes nothing. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type CoherentAllocator, Device, type DmaBlock, DmaPool, HeapMemory, PoolGeometry } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { countsOf, indicesOf, owns, tryAllocIndexBulk } from '../support/pools.ts';
import { rejectsCode, throwsCode } from '../support/errors.ts';

const junk: unknown[] = [undefined, null, 5, 'text', true, Symbol('s'), 5n, {}, [], () => undefined];

function without<T>(values: readonly T[], ...left: readonly T[]): T[] {
  return values.filter((value) => !left.includes(value));
}

const refuse = (action: () => unknown): unknown => throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', action);

test('pools refuse wrong arguments', async () => {
  const memory = new HeapMemory();
  const pool: DmaPool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 64 });
  const block = pool.alloc();
  const before = pool.statistics();
  for (const value of junk) {
    refuse(() => {
      pool.free(value as DmaBlock);
    });
    assert.equal(owns(pool, value as DmaBlock), false);
    refuse(() => {
      pool.freeBulk(value === undefined ? [undefined as unknown as DmaBlock] : ([value] as DmaBlock[]));
    });
    if (!Array.isArray(value)) {
      refuse(() => {
        pool.freeBulk(value as DmaBlock[]);
      });
      refuse(() => {
        pool.allocBulk(value as DmaBlock[], 1);
      });
    }
    refuse(() => {
      pool.allocIndexBulk(value as Int32Array);
    });
    refuse(() => tryAllocIndexBulk(pool, value as Int32Array));
    refuse(() => {
      pool.freeIndexBulk(value as Int32Array);
    });
    refuse(() => {
      pool.allocBulk([], value === 5 ? -1 : (value as number));
    });
  }
  for (const value of without(junk, 5)) {
    refuse(() => {
      pool.freeIndex(value as number);
    });
    refuse(() => pool.dmaOf(value as number));
    refuse(() => pool.bytesOf(value as number));
    refuse(() => pool.indexAt(value as number));
    refuse(() => {
      pool.freeAt(value as number);
    });
    refuse(() => {
      pool.reserve(value as number);
    });
  }
  for (const value of [null, 5, 'text', true]) {
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', pool.allocWait(value as unknown as object));
  }
  await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', pool.allocWait({ zero: 1 as unknown as boolean }));
  // Objects that only resemble a block.
  for (const fake of [
    new Proxy(block, {}),
    Object.create(Object.getPrototypeOf(block) as object),
    { index: block.index },
  ]) {
    refuse(() => {
      pool.free(fake as DmaBlock);
    });
  }
  assert.deepEqual(pool.statistics(), before);
  pool.free(block);
});

test('devices refuse wrong arguments', () => {
  for (const value of without(junk, undefined)) {
    if (typeof value !== 'object' || value === null) refuse(() => new Device(value as { name: string }));
    if (typeof value !== 'string') refuse(() => new Device({ name: 'x', path: value as string }));
    refuse(() => new Device({ name: 'x', memory: value as HeapMemory }));
    refuse(() => new Device({ name: 'x', log: value as Console }));
  }
  refuse(() => new Device(undefined as unknown as { name: string }));
  const device = new Device({ name: 'x' });
  for (const value of junk.slice(0, -1)) {
    refuse(() => device.addAttribute('a', value as () => string));
    refuse(() => device.addAction(value as () => void));
    refuse(() => device.onReclaim(value as () => number));
    refuse(() => device.manage(value as Disposable));
  }
  refuse(() => new Device({ name: 'a\nb' }));
  const odd = { pageSize: 5000, allocCoherent: () => null, freeCoherent: () => undefined, name: 'odd' };
  refuse(() => new Device({ name: 'x', memory: odd }));
});

test('geometries refuse wrong arguments', () => {
  for (const value of without(junk, undefined)) refuse(() => new PoolGeometry(value as { size: number }));
  refuse(() => new PoolGeometry(undefined as unknown as { size: number }));
});

test('a mask below memory that is in use is refused', () => {
  const device = new Device({ name: 'x', memory: new HeapMemory(), dmaMask: 2 ** 40 });
  const pool = DmaPool.create('p', device, { size: 64 });
  const block = pool.alloc();
  assert.ok(block.dma >= 2 ** 32);
  throwsCode('ERR_DMAPOOL_MASK', () => {
    device.setDmaMask(0xffff_ffff);
  });
  pool.free(block);
  pool.trim();
  device.setDmaMask(0xffff_ffff);
  assert.ok(pool.alloc().dma < 2 ** 32);
});

test('detach stops when managed actions add further actions without end', () => {
  const device = new Device({ name: 'x' });
  const again = (): void => {
    device.addAction(again);
  };
  again();
  throwsCode('ERR_DMAPOOL_RELEASE', () => {
    device.detach();
  });
});

test('a limit far below a large page sizes the tables for the limit, not for the page', () => {
  const memory = new HeapMemory({ pageSize: 2 ** 26, limit: 2 ** 27 });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 16, maxBlocks: 10 });
  assert.equal(pool.statistics().blocks, 0);
  const before = process.memoryUsage();
  for (let i = 0; i < 10; i++) pool.allocIndex();
  const after = process.memoryUsage();
  assert.equal(pool.statistics().blocks, 2 ** 22);
  assert.ok(after.heapUsed + after.external - before.heapUsed - before.external < 2 ** 21 + 2 ** 26);
});

test('a reservation of many pages that fails returns them all', () => {
  const memory = new HeapMemory({ limit: 2 ** 20 });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  const held = pool.alloc();
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => {
    pool.reserve(1000);
  });
  assert.deepEqual(countsOf(pool), { active: 1, blocks: 1, pages: 1 });
  assert.match(
    throwsCode('ERR_DMAPOOL_LIMIT', () => {
      DmaPool.create('q', new Device({ name: 'x', memory }), { size: 64, maxBlocks: 4 }).reserve(5);
    }).message,
    /5 blocks would exceed maxBlocks 4 /,
  );
  pool.reserve(200);
  assert.equal(pool.statistics().pages, 201);
  pool.free(held);
});

/** An `Int32Array` of 4 behind a proxy that runs `hook` at each read or write of an element. */
function proxied(hook: (key: string) => void): Int32Array {
  return new Proxy(Int32Array.of(0, 1, 2, 3), {
    get: (target, key) => {
      if (typeof key === 'string' && /^\d/.test(key)) hook(key);
      return Reflect.get(target, key, target) as unknown;
    },
    set: (target, key, value) => {
      hook(String(key));
      return Reflect.set(target, key, value, target);
    },
  });
}

test('index bulk calls refuse array look-alikes, and lose nothing when one throws', () => {
  const falseArrays: (() => Int32Array)[] = [
    () =>
      proxied((key) => {
        if (key === '2') throw new Error('boom');
      }),
    () => Object.create(Int32Array.prototype) as Int32Array,
    () => Object.setPrototypeOf(new Uint8Array(4), Int32Array.prototype) as Int32Array,
    () => Object.setPrototypeOf({ length: 4 }, Int32Array.prototype) as Int32Array,
  ];
  for (const make of falseArrays) {
    const pool = DmaPool.create('p', new Device({ name: 'x', memory: new HeapMemory() }), { size: 64, maxBlocks: 64 });
    const held = new Int32Array(8);
    pool.allocIndexBulk(held);
    pool.freeIndexBulk(held.subarray(4));
    refuse(() => {
      pool.allocIndexBulk(make());
    });
    refuse(() => tryAllocIndexBulk(pool, make(), 4));
    refuse(() => {
      pool.freeIndexBulk(make());
    });
    assert.deepEqual([...indicesOf(pool)], [0, 1, 2, 3]);
    sharePool(pool);
    refuse(() => {
      sharePool(pool).transferIndexBulk(make(), new Float64Array(4), 4);
    });
    refuse(() => {
      sharePool(pool).acceptIndexBulk(new Float64Array(4), make(), 4);
    });
    pool.freeIndexBulk(held, 4);
    assert.equal(pool.statistics().active, 0);
  }
});

test('arrays with overridden length or methods are read by their true elements', () => {
  class Odd extends Int32Array {
    override get length(): number {
      return 1000;
    }

    override set(): void {
      throw new Error('set');
    }

    override subarray(): never {
      throw new Error('subarray');
    }
  }
  for (const options of [{}, { initOnAlloc: true }]) {
    const memory = new HeapMemory();
    const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 64, ...options });
    const odd = new Odd(4);
    pool.allocIndexBulk(odd);
    assert.equal(pool.statistics().active, 4);
    refuse(() => {
      pool.allocIndexBulk(odd, 5);
    });
    pool.freeIndexBulk(odd, 3);
    assert.deepEqual([...indicesOf(pool)], [3]);
  }
});

test('an array that shrinks or is detached during the call loses no block', () => {
  for (const spoil of ['resize', 'detach'] as const) {
    const buffer = new ArrayBuffer(16, { maxByteLength: 16 });
    const into = new Int32Array(buffer);
    const act = (): void => {
      if (spoil === 'resize') buffer.resize(4);
      else structuredClone(buffer, { transfer: [buffer] });
    };
    const heap = new HeapMemory();
    let armed = true;
    const memory: CoherentAllocator = {
      name: 'odd',
      pageSize: 4096,
      allocCoherent: (request) => {
        if (armed) act();
        armed = false;
        return heap.allocCoherent(request);
      },
      freeCoherent: (each) => {
        heap.freeCoherent(each);
      },
    };
    const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 64 });
    refuse(() => {
      pool.allocIndexBulk(into);
    });
    assert.equal(pool.statistics().active, 0);
    // The array is shorter from the start here, and valid.
    pool.allocIndexBulk(into);
    assert.equal(pool.statistics().active, spoil === 'resize' ? 1 : 0);
  }
});

test('new DmaPool() throws at once', () => {
  const Pool = DmaPool as unknown as new (...args: unknown[]) => DmaPool;
  refuse(() => new Pool());
  refuse(() => new Pool('p', new Device({ name: 'x', memory: new HeapMemory() }), { size: 64 }));
  refuse(() => new (class extends Pool {})('p'));
});
