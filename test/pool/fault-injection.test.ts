/** Repeats one long scenario; each run makes another call of the memory source fail. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, type DmaBlock, DmaPool, type DmaPoolOptions } from 'dmapool';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';

/** All operations of a driver that may allocate or free memory. Errors are counted and never fatal. */
async function scenario(memory: FaultyMemory, options: Partial<DmaPoolOptions>): Promise<{ errors: number }> {
  const log = new RecordingLog();
  const device = new Device({ name: 'x', memory, log });
  const out = new Set<DmaBlock<'p'>>();
  let errors = 0;
  const attempt = (action: () => void): void => {
    try {
      action();
    } catch {
      errors++;
    }
  };
  const pool = DmaPool.createManaged('p', device, { size: 1024, maxBlocks: 40, ...options });
  const check = (): void => {
    assert.equal(pool.statistics().active, out.size);
    assert.deepEqual(new Set(pool.allocated()), out);
    assert.equal(pool.statistics().pages, memory.live.size);
  };
  for (let i = 0; i < 6; i++) {
    attempt(() => out.add(pool.alloc()));
    attempt(() => out.add(pool.alloc({ zero: true })));
    attempt(() => {
      const block = pool.tryAlloc();
      if (block !== null) out.add(block);
    });
    check();
  }
  attempt(() => {
    const blocks: DmaBlock<'p'>[] = [];
    pool.allocBulk(blocks, 9);
    for (const block of blocks) out.add(block);
  });
  check();
  attempt(() => {
    pool.reserve(10);
  });
  check();
  try {
    out.add(await pool.allocWait({ timeout: 1 }));
  } catch {
    errors++;
  }
  check();
  const some = [...out].filter((_, i) => i % 2 === 0);
  pool.freeBulk(some);
  for (const block of some) out.delete(block);
  check();
  attempt(() => pool.trim());
  check();
  for (const block of out) pool.free(block);
  out.clear();
  check();
  attempt(() => {
    device.detach();
  });
  assert.deepEqual(device.attributeNames(), []);
  assert.equal(memory.live.size, 0);
  assert.equal(log.text, '');
  return { errors };
}

for (const [title, options] of [
  ['plain', {}],
  ['debug', { debug: true }],
  ['init-on-alloc', { initOnAlloc: true }],
] as const) {
  test(`nothing is lost when any one call of the memory source fails: ${title}`, async () => {
    const whole = new FaultyMemory();
    let frees = 0;
    whole.onFree = () => {
      frees++;
      return 'ok';
    };
    assert.deepEqual(await scenario(whole, options), { errors: 0 });
    assert.ok(whole.calls >= 9 && frees >= 9);
    for (let failing = 0; failing < whole.calls; failing++) {
      for (const fate of ['none', 'throw'] as const) {
        const memory = new FaultyMemory();
        memory.onAlloc = (call) => (call === failing ? fate : 'ok');
        await scenario(memory, options);
      }
      // From this call on the source has no memory.
      const memory = new FaultyMemory();
      memory.onAlloc = (call) => (call >= failing ? 'none' : 'ok');
      assert.ok((await scenario(memory, options)).errors > 0);
    }
    for (let failing = 0; failing < frees; failing++) {
      const memory = new FaultyMemory();
      let freed = 0;
      memory.onFree = () => (freed++ === failing ? 'throw' : 'ok');
      assert.equal((await scenario(memory, options)).errors, 1);
    }
  });
}
