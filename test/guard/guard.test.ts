/** Tests of the guard: it reports every violation, and nothing else. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmaPool } from 'dmapool';
import { type DmaStopped, PciFunction } from 'dmapool/pci';
import { FakeBackend } from '../pci/fake-backend.ts';
import { rejectsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';
import { FaultPlan } from './fault-plan.ts';
import { GuardedBackend } from './guarded-backend.ts';
import { GuardedMemory } from './guarded-memory.ts';
import { RelentlessDma } from './relentless-dma.ts';
import { HangError, inVirtualTime } from './virtual-clock.ts';

const COMMAND = 4;
const BUS_MASTER = 4;

interface Bench {
  readonly backend: GuardedBackend;
  readonly dma: RelentlessDma;
  readonly memory: GuardedMemory;
  readonly fn: PciFunction;
  readonly log: RecordingLog;
}

async function open(plan = new FaultPlan(), resets = false): Promise<Bench> {
  const inner = new FakeBackend();
  const memory = new GuardedMemory(inner.memory);
  const dma = new RelentlessDma(memory);
  const isBusMaster = (): boolean => (inner.config.getUint16(COMMAND, true) & BUS_MASTER) !== 0;
  const reset = (): void => {
    inner.config.setUint16(COMMAND, 0, true);
  };
  const fake = { backend: inner, isBusMaster, ...(resets ? { reset } : {}) };
  const backend = new GuardedBackend({ fake, memory, dma, plan });
  const log = new RecordingLog();
  const fn = await PciFunction.open(backend, { log });
  dma.target = fn.device;
  return { backend, dma, memory, fn, log };
}

const kinds = (dma: RelentlessDma): string[] => dma.violations.map(({ what }) => what);

void describe('guarded memory', () => {
  void it('reports memory and blocks of pools that are freed while a live device has them', async () => {
    const { dma, fn } = await open();
    const memory = fn.device.allocCoherent(8192)!;
    const pool = DmaPool.createManaged('blocks', fn.device, { size: 256 });
    const [kept, freed, bulk] = [pool.alloc(), pool.alloc(), pool.alloc()];
    await fn.enableBusMaster();
    dma.learn('ring', memory.dma, 8192, 'both');
    dma.learn('read', freed.dma, 256, 'write');
    dma.learn('write', bulk.dma + 128, 4, 'read');
    dma.learn('kept', kept.dma, 256, 'write');
    dma.strike();
    assert.deepEqual(kinds(dma), []);
    fn.device.freeCoherent(memory);
    freed.free();
    pool.freeBulk([bulk]);
    assert.deepEqual(
      dma.violations.map(({ command, address, what }) => [command, address, what]),
      [
        ['ring', memory.dma, 'memory is freed while the device may access it'],
        ['read', pool.dmaOf(freed.index), 'a block of pool blocks is freed while the device may access it'],
        ['write', pool.dmaOf(bulk.index) + 128, 'a block of pool blocks is freed while the device may access it'],
      ],
    );
    assert.match(dma.violations[1]!.stack, /guard\.test/);
    assert.throws(() => {
      dma.check();
    }, /read \(write, 256 bytes at 0x[0-9a-f]+\): a block of pool blocks/);
    await fn.close();
    assert.equal(dma.violations.length, 3, 'the close has proof');
  });

  void it('reports addresses of memory that the device does not own when it gets them', async () => {
    const { dma, fn } = await open();
    const memory = fn.device.allocCoherent(100)!;
    const pool = DmaPool.createManaged('blocks', fn.device, { size: 256 });
    const block = pool.alloc();
    await fn.enableBusMaster();
    dma.learn('nothing', 0, 4096, 'write');
    dma.learn('beyond', memory.dma, 101, 'write');
    dma.learn('all blocks', block.dma, 512, 'read');
    dma.learn('well', block.dma + 1, 255, 'read');
    assert.deepEqual(kinds(dma), [
      'it was given memory that is not allocated',
      'it was given more than one allocation',
      'it was given a free block of pool blocks',
    ]);
    await fn.close();
  });

  void it('allows frees after the command is complete or the device was stopped or reset', async () => {
    const { dma, fn } = await open(new FaultPlan(), true);
    await fn.enableBusMaster();
    const [first, second, third] = [1, 2, 3].map(() => fn.device.allocCoherent(64)!) as [never, never, never];
    const grant = dma.learn('first', (first as { dma: number }).dma, 64, 'write');
    dma.release(grant);
    fn.device.freeCoherent(first);
    dma.learn('second', (second as { dma: number }).dma, 64, 'write');
    const proof: DmaStopped = await fn.stopDma();
    assert.ok(proof.holds);
    fn.device.freeCoherent(second);
    assert.deepEqual(kinds(dma), []);
    // It was stopped, not reset, and still has the address.
    await fn.enableBusMaster();
    assert.deepEqual(kinds(dma), ['the device resumed with memory that it does not own']);
    dma.learn('third', (third as { dma: number }).dma, 64, 'write');
    await fn.reset();
    await fn.enableBusMaster();
    fn.device.freeCoherent(third);
    assert.equal(dma.violations.length, 1);
    await fn.close();
  });

  void it('treats bus mastering as off only after the host has read it', async () => {
    const { dma, fn } = await open();
    await fn.enableBusMaster();
    const memory = fn.device.allocCoherent(64)!;
    dma.learn('ring', memory.dma, 64, 'write');
    await fn.config.write16(COMMAND, 3);
    assert.equal(dma.isLive, true);
    assert.equal(await fn.isBusMaster(), false);
    assert.equal(dma.isLive, false);
    fn.device.freeCoherent(memory);
    await fn.close();
    assert.deepEqual(kinds(dma), []);
  });
});

void describe('a fault plan', () => {
  void it('numbers accesses, and injects the fault at the given one', async () => {
    const count = new FaultPlan();
    const { fn } = await open(count);
    const opened = count.accesses;
    await fn.close();
    assert.ok(opened > 5 && count.accesses > opened);
    for (let at = 0; at < opened; at++) {
      const plan = FaultPlan.single(at, { kind: 'reject' });
      await rejectsCode('ERR_DMAPOOL_PCI_FAULT', open(plan));
      assert.equal(plan.faults, 1);
    }
    const plan = new FaultPlan();
    let closed: Promise<void> | null = null;
    const bench = await open(plan);
    plan.before(plan.accesses, () => {
      closed = bench.fn.close();
    });
    await bench.fn.config.read16(0).catch(() => undefined);
    assert.ok(closed !== null);
    await (closed as Promise<void>);
    assert.deepEqual(bench.backend.usageErrors, []);
  });
});

void describe('virtual time', () => {
  void it('takes no real time, keeps the order of timers, and ends when none is pending', async () => {
    const begin = performance.now();
    const order: string[] = [];
    const value = await inVirtualTime(async (clock) => {
      const from = performance.now();
      setTimeout(() => order.push('a minute'), 60_000);
      setTimeout(() => order.push('a second'), 1000);
      clearTimeout(setTimeout(() => order.push('never'), 10));
      await new Promise((resolve) => setImmediate(resolve));
      order.push('now');
      await new Promise((resolve) => setTimeout(resolve, 2000));
      assert.ok(performance.now() - from >= 2000 && clock.pending === 1);
      return 7;
    });
    assert.equal(value, 7);
    assert.deepEqual(order, ['now', 'a second', 'a minute']);
    assert.ok(performance.now() - begin < 1000);
  });

  void it('detects a case that cannot end', async () => {
    await assert.rejects(
      inVirtualTime(() => new Promise(() => undefined)),
      HangError,
    );
    await assert.rejects(
      inVirtualTime(() => {
        const again = (): void => void setTimeout(again, 1000);
        again();
        return Promise.resolve();
      }),
      /callbacks still run/,
    );
    await assert.rejects(
      inVirtualTime(() => Promise.reject(new TypeError('passed through'))),
      TypeError,
    );
  });
});
