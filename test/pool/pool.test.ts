import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type AllocOptions, Device, dmaBitMask, type DmaBlock, DmaPool, HeapMemory, PoolGeometry } from 'dmapool';
import { countsOf, indicesOf, owns, tryAllocBulk } from '../support/pools.ts';
import { throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';

function makeDevice(limit = 2 ** 22): Device {
  return new Device({ name: '0000:00:02.0', memory: new HeapMemory({ limit }) });
}

test('a fresh page gives ascending addresses, a freed block is the next one out', () => {
  const pool = DmaPool.create('ehci_qtd', makeDevice(), { size: 96, align: 32, boundary: 4096 });
  const blocks = Array.from({ length: 43 }, () => pool.alloc());
  const base = blocks[0]!.dma;
  assert.equal(base % 4096, 0);
  for (let i = 0; i < 42; i++) assert.equal(blocks[i]!.dma, base + i * 96);
  assert.equal(blocks[42]!.dma % 4096, 0);
  assert.equal(pool.statistics().pages, 2);
  pool.free(blocks[7]!);
  pool.free(blocks[3]!);
  assert.equal(pool.alloc(), blocks[3]);
  assert.equal(pool.alloc(), blocks[7]);
});

test('no page before the first block, and none given back before destroy', () => {
  const memory = new HeapMemory();
  const device = new Device({ name: 'x', memory });
  const pool = DmaPool.create('p', device, { size: 2048 });
  assert.equal(memory.bytesInUse, 0);
  const blocks = [pool.alloc(), pool.alloc(), pool.alloc()];
  for (const block of blocks) block.free();
  assert.equal(memory.bytesInUse, 8192);
  pool.destroy();
  assert.equal(memory.bytesInUse, 0);
  pool.destroy();
});

test('zero: true zeroes what a holder left behind, alloc without it does not', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 64 });
  const block = pool.alloc();
  block.bytes.fill(0x55);
  pool.free(block);
  assert.equal(pool.alloc().bytes[63], 0x55);
  pool.free(block);
  assert.ok(pool.alloc({ zero: true }).bytes.every((byte) => byte === 0));
  block.bytes.fill(0x55);
  pool.free(block);
  assert.ok(pool.tryAlloc({ zero: true })!.bytes.every((byte) => byte === 0));
  block.bytes.fill(0x55);
  pool.free(block);
  const index = pool.tryAllocIndex({ zero: true });
  assert.ok(pool.bytesOf(index).every((byte) => byte === 0));
});

test('init-on-alloc and init-on-free', () => {
  const onAlloc = DmaPool.create('a', makeDevice(), { size: 64, initOnAlloc: true });
  const a = onAlloc.alloc();
  a.bytes.fill(1);
  a.free();
  assert.equal(a.bytes[0], 1);
  assert.equal(onAlloc.alloc(), a);
  assert.equal(a.bytes[0], 0);
  const onFree = DmaPool.create('f', makeDevice(), { size: 64, initOnFree: true });
  const f = onFree.alloc();
  f.bytes.fill(1);
  f.free();
  assert.ok(f.bytes.every((byte) => byte === 0));
  f.bytes.fill(2);
  assert.equal(onFree.alloc().bytes[0], 2);
});

test('running out: alloc throws and says why, tryAlloc returns null, and the pool goes on', () => {
  const pool = DmaPool.create('p', makeDevice(8192), { size: 4096 });
  const blocks = [pool.alloc(), pool.alloc()];
  assert.match(
    throwsCode('ERR_DMAPOOL_NO_MEMORY', () => pool.alloc()).message,
    /pool p: memory source heap has no 4096/,
  );
  assert.equal(pool.tryAlloc(), null);
  assert.equal(pool.tryAlloc({ zero: true }), null);
  assert.equal(pool.tryAllocIndex(), -1);
  assert.equal(pool.tryAllocIndex({ zero: true }), -1);
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => pool.alloc({ zero: true }));
  assert.equal(pool.statistics().failures, 6);
  pool.free(blocks[0]!);
  assert.equal(pool.alloc(), blocks[0]);
});

test('a limit on blocks holds also within a page', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 64, maxBlocks: 3 });
  const blocks = [pool.alloc(), pool.alloc(), pool.alloc()];
  assert.match(throwsCode('ERR_DMAPOOL_LIMIT', () => pool.alloc()).message, /a block would exceed its limit of 3/);
  assert.equal(pool.tryAlloc(), null);
  throwsCode('ERR_DMAPOOL_LIMIT', () => {
    pool.reserve(1);
  });
  pool.free(blocks[1]!);
  assert.equal(pool.alloc(), blocks[1]);
  assert.equal(pool.statistics().highWater, 3);
});

test('atomic takes no new page; reserve opens them beforehand', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 1024 });
  throwsCode('ERR_DMAPOOL_NO_FREE_BLOCK', () => pool.alloc({ grow: false }));
  assert.equal(pool.tryAllocIndex({ grow: false }), -1);
  assert.equal(memory.calls, 0);
  pool.reserve(5);
  assert.equal(memory.calls, 2);
  pool.reserve(5);
  assert.equal(memory.calls, 2);
  for (let i = 0; i < 8; i++) pool.alloc({ grow: false });
  throwsCode('ERR_DMAPOOL_NO_FREE_BLOCK', () => pool.allocIndex({ grow: false }));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.alloc('GFP_ATOMIC' as unknown as AllocOptions));
});

test('every wrong free is a typed error and changes nothing', () => {
  const device = makeDevice();
  const pool = DmaPool.create('p', device, { size: 64 });
  const other = DmaPool.create('q', device, { size: 64 });
  const block = pool.alloc();
  const foreign = other.alloc();
  const before = pool.statistics();
  const wrong: DmaPool = pool;
  assert.match(
    throwsCode('ERR_DMAPOOL_WRONG_POOL', () => {
      wrong.free(foreign);
    }).message,
    /pool p: block 0 belongs to pool q/,
  );
  for (const junk of [null, undefined, 5, 'block', {}, { index: 0 }, []]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      wrong.free(junk as unknown as DmaBlock);
    });
  }
  for (const index of [1, 63]) {
    throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
      pool.freeIndex(index);
    });
  }
  for (const index of [64, -1, 0.5, NaN, Infinity, '0', 0n, null]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      pool.freeIndex(index as number);
    });
  }
  assert.match(
    throwsCode('ERR_DMAPOOL_BAD_ADDRESS', () => {
      pool.freeAt(block.dma + 16);
    }).message,
    /is inside block 0, which begins at/,
  );
  throwsCode('ERR_DMAPOOL_BAD_ADDRESS', () => {
    pool.freeAt(0);
  });
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    pool.freeAt(-1);
  });
  assert.deepEqual(pool.statistics(), before);
  pool.freeAt(block.dma);
  assert.match(
    throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
      block.free();
    }).message,
    /block 0 at 0x[0-9a-f]+ is not allocated/,
  );
});

test('a handle whose page was given back is stale, also when the page’s place is used again', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 4096 });
  const old = pool.alloc();
  pool.free(old);
  assert.equal(pool.trim(), 1);
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
    pool.free(old);
  });
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => old.bytes);
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => old.dma);
  const fresh = pool.alloc();
  assert.equal(fresh.index, old.index);
  assert.notEqual(fresh, old);
  throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
    pool.free(old);
  });
  assert.equal(owns(pool, old), false);
  assert.equal(owns(pool, fresh), true);
});

test('bulk calls are all or nothing, and the same as single ones', () => {
  const bulk = DmaPool.create('bulk', makeDevice(), { size: 256 });
  const single = DmaPool.create('single', makeDevice(), { size: 256 });
  const blocks: DmaBlock<'bulk'>[] = [];
  bulk.allocBulk(blocks, 20);
  const singles = Array.from({ length: 20 }, () => single.alloc());
  assert.deepEqual(
    blocks.map((block) => block.dma - blocks[0]!.dma),
    singles.map((block) => block.dma - singles[0]!.dma),
  );
  bulk.freeBulk(blocks);
  for (const block of singles) single.free(block);
  assert.equal(bulk.alloc().index, single.alloc().index);
  const small = DmaPool.create('small', makeDevice(8192), { size: 2048 });
  const into = new Int32Array(8);
  throwsCode('ERR_DMAPOOL_NO_MEMORY', () => {
    small.allocIndexBulk(into, 5);
  });
  assert.equal(tryAllocBulk(small, [], 5), false);
  assert.equal(small.statistics().active, 0);
  small.allocIndexBulk(into, 4);
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    small.freeIndexBulk(into, 9);
  });
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    small.allocIndexBulk([1, 2] as unknown as Int32Array);
  });
  for (const count of [-1, 1.5, NaN, '1']) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      small.allocIndexBulk(into, count as number);
    });
  }
  into[3] = 99;
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    small.freeIndexBulk(into, 4);
  });
  assert.equal(small.statistics().active, 4);
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    bulk.freeBulk(blocks, 21);
  });
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
    bulk.freeBulk([undefined as unknown as DmaBlock<'bulk'>]);
  });
});

test('a source that throws loses no block and no page', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 1024 });
  memory.onAlloc = (call) => (call % 2 === 0 ? 'throw' : 'ok');
  for (const call of [() => pool.alloc(), () => pool.tryAlloc()]) {
    memory.calls = 0;
    assert.throws(call, /the source broke/);
    assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  }
  // The second page of a bulk fails: the first goes back.
  memory.calls = 1;
  assert.throws(() => {
    pool.allocIndexBulk(new Int32Array(8));
  }, /the source broke/);
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  pool.allocIndexBulk(new Int32Array(4));
  pool.freeIndexBulk(Int32Array.from(indicesOf(pool)));
  memory.onFree = () => 'throw';
  assert.throws(() => pool.trim(), /the source broke while freeing/);
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  assert.equal(memory.live.size, 0);
});

test('a source that calls the pool back finds it whole', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  let depth = 0;
  memory.onAlloc = () => {
    if (depth++ === 0) pool.free(pool.alloc());
    return 'ok';
  };
  pool.alloc();
  assert.equal(pool.statistics().active, 1);
  memory.onAlloc = () => {
    pool.destroy();
    return 'ok';
  };
  const held = [...pool.allocated()];
  pool.alloc();
  throwsCode('ERR_DMAPOOL_DESTROYED', () => pool.alloc());
  for (const block of held) pool.free(block);
  for (const block of [...pool.allocated()]) pool.free(block);
  assert.equal(memory.live.size, 0);
});

test('blocks are found by any address inside them', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 96, align: 32 });
  const blocks = Array.from({ length: 100 }, () => pool.alloc());
  for (const block of blocks) {
    assert.equal(pool.blockAt(block.dma), block);
    assert.equal(pool.blockAt(block.dma + 95), block);
  }
  // The page's tail belongs to no block, nor does an address of no page.
  assert.equal(pool.blockAt(blocks[0]!.dma + 42 * 96), null);
  assert.equal(pool.blockAt(Number.MAX_SAFE_INTEGER), null);
  pool.free(blocks[5]!);
  assert.equal(pool.blockAt(blocks[5]!.dma), null);
  assert.equal(pool.indexAt(blocks[6]!.dma), 6);
  for (const dma of [-1, 0.5, NaN, '0', 1n])
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.blockAt(dma as number));
});

test('a block shows its memory in any width', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 64, align: 64 });
  const block = pool.alloc();
  assert.equal(block.size, 64);
  assert.equal(block.pool, pool);
  assert.equal(block.generation, 0);
  block.view.setUint32(0, 0x0403_0201, true);
  assert.deepEqual([...block.bytes.subarray(0, 4)], [1, 2, 3, 4]);
  assert.equal(block.u32[0], 0x0403_0201);
  assert.equal(block.u16[1], 0x0403);
  block.i32[1] = -1;
  assert.equal(block.u32[1], 0xffff_ffff);
  assert.equal(block.bytes, block.bytes);
  assert.equal(block.view, block.view);
  assert.equal(block.u16, block.u16);
  assert.equal(block.u32, block.u32);
  assert.equal(block.i32, block.i32);
  const odd = DmaPool.create('odd', makeDevice(), { size: 17 });
  odd.alloc();
  const crooked = odd.alloc();
  assert.match(throwsCode('ERR_DMAPOOL_UNALIGNED', () => crooked.u32).message, /not aligned to 4 bytes/);
  throwsCode('ERR_DMAPOOL_UNALIGNED', () => crooked.u16);
  assert.equal(crooked.view.byteLength, 17);
});

test('what the CPU writes the device sees, and the other way round', () => {
  const memory = new HeapMemory();
  const device = new Device({ name: 'x', memory, dmaMask: dmaBitMask(64) });
  const pool = DmaPool.create('p', device, { size: 64 });
  const block = pool.alloc();
  block.bytes.set([1, 2, 3]);
  assert.deepEqual([...memory.translate(device, block.dma, 3)], [1, 2, 3]);
  memory.write(device, block.dma, Uint8Array.of(9));
  assert.equal(block.bytes[0], 9);
  const { dma } = block;
  pool.free(block);
  pool.destroy();
  throwsCode('ERR_DMAPOOL_IOMMU_FAULT', () => memory.translate(device, dma, 1));
});

test('using frees blocks, pools and devices', () => {
  const memory = new HeapMemory();
  {
    using device = new Device({ name: 'x', memory });
    using pool = DmaPool.createManaged('p', device, { size: 64 });
    {
      using block = pool.alloc();
      assert.equal(pool.statistics().active, 1);
      block.bytes[0] = 1;
    }
    {
      using early = pool.alloc();
      early.free();
    }
    assert.equal(pool.statistics().active, 0);
    assert.equal(memory.bytesInUse, 4096);
  }
  assert.equal(memory.bytesInUse, 0);
});

test('iteration shows what is out, and allows to free it', () => {
  const pool = DmaPool.create('p', makeDevice(), { size: 64 });
  const blocks = Array.from({ length: 70 }, () => pool.alloc());
  pool.freeIndex(3);
  assert.deepEqual(
    [...indicesOf(pool)],
    [...blocks.keys()].filter((index) => index !== 3),
  );
  for (const block of pool.allocated()) pool.free(block);
  assert.equal(pool.statistics().active, 0);
});

test('trim gives back idle pages only, and they come again', () => {
  const memory = new FaultyMemory();
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 2048 });
  const blocks = Array.from({ length: 6 }, () => pool.alloc());
  pool.free(blocks[0]!);
  pool.free(blocks[2]!);
  pool.free(blocks[3]!);
  assert.equal(pool.trim(), 1);
  assert.deepEqual(countsOf(pool), { active: 3, blocks: 4, pages: 2 });
  assert.equal(pool.trim(), 0);
  assert.equal(pool.alloc().index, 0);
  assert.equal(pool.alloc().index, 2);
  assert.equal(pool.statistics().pages, 3);
  assert.equal(pool.statistics().highWater, 6);
});

test('wrong creations are refused and leave nothing behind', () => {
  const device = makeDevice();
  const create = (name: unknown, on: unknown, options: unknown) => () =>
    DmaPool.create(name as string, on as Device, options as { size: number });
  for (const name of ['', 'a\nb', 'a\0b', 5, null, undefined]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', create(name, device, { size: 64 }));
  }
  for (const on of [null, undefined, {}, 'device']) {
    assert.match(throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', create('p', on, { size: 64 })).message, /^device is /);
  }
  for (const options of [null, undefined, 64, {}]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', create('p', device, options));
  }
  for (const extra of [
    { maxBlocks: 0 },
    { maxBlocks: 2 ** 31 },
    { maxBlocks: 1.5 },
    { node: -2 },
    { node: '0' },
    { debug: 1 },
    { debug: null },
    { debug: { sites: 1 } },
    { debug: { quarantine: 'no' } },
    { initOnAlloc: 1 },
    { initOnFree: 'yes' },
  ]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', create('p', device, { size: 64, ...extra }));
  }
  assert.deepEqual(device.attributeNames(), []);
  device.addAttribute('pools', () => 'mine');
  throwsCode('ERR_DMAPOOL_EXISTS', create('p', device, { size: 64 }));
  assert.equal(device.readAttribute('pools'), 'mine');
  device.removeAttribute('pools');
  DmaPool.create('p', device, { size: 64 });
  assert.deepEqual(device.attributeNames(), ['pools']);
});

test('geometry is that of the source’s pages', () => {
  const memory = new HeapMemory({ pageSize: 65536, limit: 2 ** 20 });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 96, align: 32, boundary: 4096 });
  const alone = new PoolGeometry({ size: 96, align: 32, boundary: 4096, pageSize: 65536 });
  assert.deepEqual(pool.geometry, alone);
  assert.equal(alone.blocksPerPage, 672);
  const blocks = Array.from({ length: 672 }, () => pool.alloc());
  assert.equal(pool.statistics().pages, 1);
  assert.equal(blocks[42]!.dma, blocks[0]!.dma + 4096);
  assert.equal(blocks[671]!.dma, blocks[0]!.dma + 15 * 4096 + 41 * 96);
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.dmaOf(672));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.bytesOf(-1));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => pool.dmaOf(0.5));
});

test('a large pool costs a block no more than a small one needs operations', () => {
  // 373,959 blocks of 128 bytes is what one real SAS driver takes. No timing here; that it ends at all soon is the point.
  const pool = DmaPool.create('sas', makeDevice(2 ** 26), { size: 128, align: 128 });
  const indices = new Int32Array(373_959);
  for (let i = 0; i < indices.length; i++) indices[i] = pool.allocIndex();
  assert.equal(new Set(indices).size, indices.length);
  for (const index of indices) pool.freeIndex(index);
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 373_984, pages: 11_687 });
  assert.equal(pool.trim(), 11_687);
});

test('an out-of-memory error names the pools of the same source that hold idle pages', () => {
  const memory = new HeapMemory({ limit: 8 * 4096 });
  const [nic, disk] = ['nic', 'disk'].map((name) => new Device({ name, memory }));
  const idle = DmaPool.create('rx', nic!, { size: 2048 });
  const busy = DmaPool.create('cq', disk!, { size: 4096 });
  const elsewhere = DmaPool.create('far', new Device({ name: 'far', memory: new HeapMemory() }), { size: 64 });
  elsewhere.reserve(1);
  idle.reserve(6);
  idle.alloc();
  for (let i = 0; i < 5; i++) busy.alloc();
  const pool = DmaPool.create('sq', disk!, { size: 4096 });
  const { message } = throwsCode('ERR_DMAPOOL_NO_MEMORY', () => pool.alloc());
  assert.match(message, /pool rx of nic holds 2 idle pages \(8192 bytes\): trim\(\) it/);
  assert.doesNotMatch(message, /cq|far/);
  assert.equal(idle.trim(), 2);
  pool.alloc();
  idle.destroy();
});
