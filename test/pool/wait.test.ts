import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { Device, type DmaBlock, DmaPool, HeapMemory } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { rejectsCode, throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';

function makePool(maxBlocks: number, debug = false): DmaPool<'p'> {
  const device = new Device({ name: 'x', memory: new HeapMemory(), log: new RecordingLog() });
  return DmaPool.create('p', device, { size: 64, maxBlocks, debug });
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('a wait gets a free block at once', async () => {
  const pool = makePool(2);
  const block = await pool.allocWait();
  assert.equal(pool.statistics().waits, 0);
  pool.free(block);
});

for (const debug of [false, true]) {
  test(`first come, first served${debug ? ', in debug mode' : ''}`, async () => {
    const pool = makePool(2, debug);
    const held = [pool.alloc(), pool.alloc()];
    const order: string[] = [];
    const waits = ['a', 'b', 'c'].map(async (name) => {
      const block = await pool.allocWait();
      order.push(name);
      return block;
    });
    assert.equal(pool.statistics().waiting, 3);
    assert.equal(pool.tryAlloc(), null);
    for (const block of held) pool.free(block);
    // No later call gets a block before the waiters.
    assert.equal(pool.tryAlloc(), null);
    const [first, second] = await Promise.all(waits.slice(0, 2));
    assert.deepEqual(order, ['a', 'b']);
    pool.free(first!);
    const third = await waits[2]!;
    assert.deepEqual(order, ['a', 'b', 'c']);
    pool.free(second!);
    pool.free(third);
    const { active, waits: waited, waiting, highWater } = pool.statistics();
    assert.deepEqual([active, waited, waiting, highWater], [0, 3, 0, 2]);
    assert.ok(pool.tryAlloc() !== null, 'the pool is on its fast path again');
  });
}

test('many waiters share few blocks: all are served in order, and nothing is lost', async () => {
  const pool = makePool(3);
  const order: number[] = [];
  await Promise.all(
    Array.from({ length: 200 }, async (_, i) => {
      const block = await pool.allocWait({ zero: true });
      order.push(i);
      assert.ok(block.bytes.every((byte) => byte === 0));
      block.bytes.fill(1);
      await settle();
      pool.free(block);
    }),
  );
  assert.deepEqual(order, [...Array(200).keys()]);
  assert.equal(pool.statistics().active, 0);
});

test('a wait ends by its signal or its time-out and takes no block', async () => {
  const pool = makePool(1);
  const block = pool.alloc();
  const controller = new AbortController();
  const aborted = pool.allocWait({ signal: controller.signal });
  const timed = pool.allocWait({ timeout: 5 });
  const patient = pool.allocWait({ timeout: 60_000, signal: new AbortController().signal });
  controller.abort(new Error('enough'));
  await assert.rejects(aborted, /enough/);
  assert.match((await rejectsCode('ERR_DMAPOOL_TIMEOUT', timed)).message, /no free block within 5 ms/);
  assert.equal(pool.statistics().waiting, 1);
  pool.free(block);
  assert.equal((await patient).index, block.index);
  await assert.rejects(pool.allocWait({ signal: AbortSignal.abort(new Error('before')) }), /before/);
  assert.equal(pool.statistics().waiting, 0);
});

test('frees are plain frees again when the last waiter gives up', async () => {
  const pool = makePool(1);
  const block = pool.alloc();
  const waiting = pool.allocWait({ timeout: 1 });
  await rejectsCode('ERR_DMAPOOL_TIMEOUT', waiting);
  pool.free(block);
  assert.equal(pool.alloc(), block);
});

test('destroy ends every wait', async () => {
  const pool = makePool(1);
  const block = pool.alloc();
  const waits = [pool.allocWait(), pool.allocWait()];
  pool.destroy();
  for (const wait of waits) await rejectsCode('ERR_DMAPOOL_DESTROYED', wait);
  await rejectsCode('ERR_DMAPOOL_DESTROYED', pool.allocWait());
  pool.free(block);
});

test('memory that another pool returns serves a waiter of this pool', async () => {
  const memory = new HeapMemory({ limit: 8192 });
  const device = new Device({ name: 'x', memory });
  const big = DmaPool.create('big', device, { size: 4096 });
  const small = DmaPool.create('small', device, { size: 1024 });
  const blocks = [big.alloc(), big.alloc()];
  const waits = Array.from({ length: 5 }, () => small.allocWait());
  assert.equal(small.statistics().waiting, 5);
  big.freeBulk(blocks);
  assert.equal(small.statistics().waiting, 5, 'freed blocks stay with their pool');
  assert.equal(big.trim(), 2);
  const served = await Promise.all(waits);
  assert.equal(new Set(served).size, 5);
  assert.equal(small.statistics().pages, 2);
});

test('a source that throws while a wait is queued rejects the wait', async () => {
  const memory = new FaultyMemory({ limit: 8192 });
  const device = new Device({ name: 'x', memory });
  const holder = DmaPool.create('holder', device, { size: 4096 });
  const pool = DmaPool.create('p', device, { size: 4096 });
  const held = [holder.alloc(), holder.alloc()];
  const wait = pool.allocWait();
  memory.onAlloc = () => 'throw';
  holder.freeBulk(held);
  holder.trim();
  await assert.rejects(wait, /the source broke/);
  await assert.rejects(pool.allocWait(), /the source broke/);
  memory.onAlloc = () => 'ok';
  pool.free(pool.alloc());
});

test('a bulk free serves as many waiters as it frees blocks', async () => {
  const pool = makePool(4);
  const indices = new Int32Array(4);
  pool.allocIndexBulk(indices);
  const waits = [pool.allocWait(), pool.allocWait()];
  throwsCode('ERR_DMAPOOL_NOT_ALLOCATED', () => {
    pool.freeIndexBulk(Int32Array.of(indices[0]!, indices[0]!));
  });
  assert.equal(pool.statistics().waiting, 2);
  pool.freeIndexBulk(indices);
  const blocks: DmaBlock<'p'>[] = await Promise.all(waits);
  assert.equal(pool.statistics().active, 2);
  pool.freeBulk(blocks);
});

test('wrong options reject with their typed error', async () => {
  const pool = makePool(1);
  for (const timeout of [-1, NaN, Infinity, '5', 2 ** 31]) {
    await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', pool.allocWait({ timeout: timeout as number }));
  }
  await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', pool.allocWait({ signal: {} as AbortSignal }));
});

for (const shared of [false, true]) {
  for (const method of ['addEventListener', 'removeEventListener'] as const) {
    test(`a signal whose ${method} throws loses no block${shared ? ' of a shared pool' : ''}`, async () => {
      const pool = makePool(1);
      if (shared) sharePool(pool);
      const block = pool.alloc();
      const { signal } = new AbortController();
      signal[method] = () => {
        throw new Error(method);
      };
      const waiting = pool.allocWait({ signal });
      if (method === 'addEventListener') {
        await assert.rejects(waiting, /addEventListener/);
        assert.equal(pool.statistics().waiting, 0);
        pool.free(block);
      } else {
        pool.free(block);
        pool.free(await waiting);
      }
      assert.equal(pool.statistics().active, 0);
      assert.equal((await pool.allocWait({ timeout: 1000 })).index, block.index);
    });
  }

  test(`a signal can abort during addEventListener${shared ? ', in a shared pool' : ''}`, async () => {
    const pool = makePool(1);
    if (shared) sharePool(pool);
    const block = pool.alloc();
    const other = pool.allocWait();
    const { signal } = new AbortController();
    signal.addEventListener = (_: string, listener: unknown) => {
      Object.defineProperty(signal, 'reason', { value: new Error('at once') });
      (listener as () => void)();
    };
    await assert.rejects(pool.allocWait({ signal }), /at once/);
    pool.free(block);
    pool.free(await other);
    assert.equal(pool.statistics().active, 0);
    assert.equal((await pool.allocWait({ timeout: 1000 })).index, block.index);
  });
}

test('a signal that frees a block during addEventListener serves the wait', async () => {
  const pool = makePool(1);
  const block = pool.alloc();
  const { signal } = new AbortController();
  signal.addEventListener = () => {
    pool.free(block);
  };
  assert.equal(await pool.allocWait({ signal }), block);
});

test('a signal that the memory source aborts ends the wait', async () => {
  const memory = new FaultyMemory({ limit: 4096 });
  const pool = DmaPool.create('p', new Device({ name: 'x', memory }), { size: 4096 });
  pool.alloc();
  const controller = new AbortController();
  memory.onAlloc = () => {
    controller.abort(new Error('under pressure'));
    return 'none';
  };
  await assert.rejects(pool.allocWait({ signal: controller.signal }), /under pressure/);
});

/** Runs a program with `pool`, a pool of one block, and `block`, which is allocated. */
function runProgram(lines: string): { output: string; status: number | null; signal: string | null } {
  const source = `
    import { Device, DmaPool } from ${JSON.stringify(import.meta.resolve('dmapool'))};
    import { sharePool } from ${JSON.stringify(import.meta.resolve('dmapool/shared'))};
    const pool = DmaPool.create('p', new Device({ name: 'x' }), { size: 64, maxBlocks: 1 });
    const block = pool.alloc();
    ${lines}`;
  const { stdout, status, signal } = spawnSync(process.execPath, ['--input-type=module', '-e', source], {
    encoding: 'utf8',
    timeout: 20_000,
  });
  return { output: stdout, status, signal };
}

for (const shared of [false, true]) {
  test(`a wait keeps the process alive until it ends${shared ? ', in a shared pool' : ''}`, () => {
    const { output, status, signal } = runProgram(`
      ${shared ? 'sharePool(pool);' : ''}
      setTimeout(() => pool.free(block), 200).unref();
      const again = await pool.allocWait();
      console.log('served', again.index);`);
    assert.deepEqual([output, status, signal], ['served 0\n', 0, null]);
  });
}

test('the process can exit when destroy, a signal or a time-out ends the waits', () => {
  const { output, status, signal } = runProgram(`
    const controller = new AbortController();
    const waits = [pool.allocWait({ signal: controller.signal }), pool.allocWait({ timeout: 5 }), pool.allocWait()];
    const settled = Promise.allSettled(waits);
    controller.abort();
    await waits[1].catch(() => 0);
    setTimeout(() => pool.destroy(), 100).unref();
    const ends = await settled;
    console.log(ends.map((end) => end.status).join());`);
  assert.deepEqual([output, status, signal], ['rejected,rejected,rejected\n', 0, null]);
});
