/**
 * The NVMe driver on a controller that hangs, aborts, fails, reports wrong completions or stops responding. Needs no
 * QEMU.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { DmaPool } from 'dmapool';
import { NvmeController, NvmeError, type NvmeResetError, NvmeTimeoutError } from 'dmapool/drivers/nvme';
import { rejectsAs, rejectsCode } from '../../support/errors.ts';
import { BLOCK, FakeNvme } from './fake-nvme.ts';
import { end, open, start } from './fake-fixture.ts';
import { assertIdle } from './fixture.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { until } from '../../support/until.ts';
import { Random } from '../../support/random.ts';

void describe('the NVMe driver', () => {
  void it('describes buffers of every size and place such that the controller finds the data', async () => {
    const transfers = fc.array(
      fc.record({
        blocks: fc.oneof(...[80, 800, 9000].map((max) => fc.integer({ min: 1, max }))),
        lba: fc.nat(1000),
        dword: fc.nat(2047),
        direct: fc.boolean(),
      }),
      { minLength: 1, maxLength: 6 },
    );
    const runs = fc.asyncProperty(transfers, fc.nat(10), fc.nat(4), fc.nat(), async (wanted, mdts, stride, seed) => {
      const fake = new FakeNvme(10_000);
      const random = new Random(seed);
      fake.mdts = mdts;
      fake.setCapabilities({ stride });
      fake.order = (commands) => commands.sort(() => random.below(2) - 0.5);
      const bench = await start(fake, { queues: 3, queueDepth: 1 + random.below(8) });
      const { disk, pci } = bench;
      const buffers = DmaPool.createManaged('buffers', pci.device, { size: 9000 * BLOCK + 8192, align: 4096 });
      for (const { blocks, lba, dword, direct } of wanted) {
        const length = blocks * BLOCK;
        const data = random.fill(new Uint8Array(length));
        const back = new Uint8Array(length);
        const there = fake.disk.subarray(lba * BLOCK, lba * BLOCK + length);
        if (direct) {
          const memory = buffers.alloc({ zero: true });
          const offset = 4 * dword;
          memory.bytes.set(data, offset);
          await disk.writeDma(lba, memory, { offset, length });
          assert.ok(Buffer.compare(there, data) === 0, 'written');
          memory.bytes.fill(0);
          await disk.readDma(lba, memory, { offset, length });
          back.set(memory.bytes.subarray(offset, offset + length));
          memory.bytes.fill(0, offset, offset + length);
          assert.ok(
            memory.bytes.every((byte) => byte === 0),
            'no byte beside it',
          );
          memory.free();
        } else {
          await disk.write(lba, data);
          assert.ok(Buffer.compare(there, data) === 0, 'written');
          await disk.read(lba, back);
        }
        assert.ok(Buffer.compare(back, data) === 0, 'read');
      }
      buffers.destroy();
      await end(bench);
    });
    await fc.assert(runs, { numRuns: 40 });
  });

  void it('transfers many pieces by one call, more than the queues hold', async () => {
    const fake = new FakeNvme(10_000);
    const random = new Random(5);
    fake.order = (commands) => commands.sort(() => random.below(2) - 0.5);
    const bench = await start(fake, { queues: 2, queueDepth: 3 });
    const { disk, pci } = bench;
    const lbas = Array.from({ length: 100 }, (_, i) => 37 * i);
    const memories = lbas.map((_, i) => pci.device.allocCoherent(BLOCK * (1 + (i % 5)))!);
    const contents = memories.map(({ buffer, byteOffset, size }) => new Uint8Array(buffer, byteOffset, size));
    const written = contents.map((content) => random.fill(content).slice());
    await disk.writeDmaBulk(lbas, memories);
    for (const content of contents) content.fill(0);
    await disk.readDmaBulk(lbas, memories);
    for (const [i, content] of contents.entries()) assert.deepEqual(content, written[i], `piece ${String(i)}`);
    for (const memory of memories) pci.device.freeCoherent(memory);
    await end(bench);
  });

  void it('rejects one call for many pieces if the driver is closed', async () => {
    const fake = new FakeNvme();
    const bench = await start(fake, { queues: 1, queueDepth: 2, timeout: 60_000 });
    const { disk, nvme, pci } = bench;
    const memories = [1, 2, 3, 4].map(() => pci.device.allocCoherent(BLOCK)!);
    fake.fate = () => 'hang';
    const call = rejectsCode('ERR_DMAPOOL_NVME_CLOSED', disk.readDmaBulk([0, 1, 2, 3], memories));
    await until('two to be in flight, and two to wait', () => nvme.statistics().load === 4 && fake.hung.length === 2);
    await nvme.close();
    await call;
    await rejectsCode('ERR_DMAPOOL_NVME_CLOSED', disk.readDmaBulk([0], [memories[0]!]));
    for (const memory of memories) pci.device.freeCoherent(memory);
    await pci.close();
    assert.deepEqual(fake.faults, []);
  });

  void it('rejects one call for many pieces with the first error, after all have completed', async () => {
    const fake = new FakeNvme();
    const bench = await start(fake, {});
    const { disk, pci } = bench;
    const memories = [1, 2, 3, 4].map(() => pci.device.allocCoherent(BLOCK)!);
    fake.fate = ({ cdw10 }) => (cdw10 === 1 ? 0x81 : cdw10 === 2 ? 'hang' : null);
    let isSettled = false;
    const call = disk.readDmaBulk([0, 1, 2, 3], memories).finally(() => (isSettled = true));
    call.catch(() => undefined);
    await until('the others to complete', () => bench.nvme.statistics().load === 1);
    await new Promise(setImmediate);
    assert.equal(isSettled, false, 'one transfer is in flight');
    for (const command of fake.hung) fake.finish(command);
    await rejectsCode('ERR_DMAPOOL_NVME_STATUS', call);
    for (const memory of memories) pci.device.freeCoherent(memory);
    await end(bench);
  });

  void it('aborts late commands, and frees their memory when they end', async () => {
    const bench = await start(new FakeNvme(), { timeout: 250 });
    const { fake, nvme, disk } = bench;
    fake.fate = ({ cdw10 }) => (cdw10 === 7 ? 'hang' : null);
    const late = Array.from({ length: 6 }, () => disk.read(7, new Uint8Array(BLOCK)));
    const others = Array.from({ length: 6 }, (_, i) => disk.read(i, new Uint8Array(BLOCK)));
    for (const promise of late) {
      const error = await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_TIMEOUT', promise);
      assert.match(error.message, /read of namespace 1 took longer than 250 ms and was aborted/);
    }
    await Promise.all(others);
    const { timeouts, aborts, resets } = nvme.statistics();
    assert.deepEqual({ timeouts, aborts, resets }, { timeouts: 6, aborts: 6, resets: 0 });
    await end(bench);
  });

  void it('resets the controller when an abort does not help, and frees no block before it has stopped', async () => {
    const bench = await start(new FakeNvme(), { timeout: 250, queueDepth: 4, queues: 2 });
    const { fake, nvme, disk, log } = bench;
    fake.canAbort = false;
    fake.fate = ({ cdw10 }) => (cdw10 >= 100 ? 'hang' : null);
    let activeAtStop = -1;
    fake.onDisable = () => {
      activeAtStop = nvme.pools[0]!.statistics().active;
      fake.fate = () => null;
    };
    const late = Array.from({ length: 8 }, (_, i) => disk.read(100 + i, new Uint8Array(BLOCK)));
    const waiting = Array.from({ length: 8 }, (_, i) => disk.write(i, new Uint8Array(BLOCK).fill(i + 1)));
    const outcomes = await Promise.allSettled(late);
    for (const outcome of outcomes) {
      assert.equal(outcome.status, 'rejected');
      const error = outcome.reason as NvmeResetError;
      assert.equal(error.code, 'ERR_DMAPOOL_NVME_RESET', error.message);
      assert.ok(error.cause instanceof NvmeTimeoutError);
    }
    assert.equal(activeAtStop, 8);
    await Promise.all(waiting);
    assert.equal(fake.disk[7 * BLOCK], 8, 'the waiting commands were executed afterwards');
    assert.equal(nvme.statistics().resets, 1);
    assert.match(log.text, /resetting the controller/);
    fake.onDisable = () => undefined;
    await end(bench);
  });

  void it('resets a controller that reports a fatal error', async () => {
    const bench = await start(new FakeNvme(), { timeout: 250 });
    const { fake, nvme, disk } = bench;
    fake.fate = () => 'hang';
    const read = disk.read(0, new Uint8Array(BLOCK));
    fake.fail();
    const error = await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_RESET', read);
    assert.match(error.message, /CSTS\.CFS/);
    fake.fate = () => null;
    await disk.read(0, new Uint8Array(BLOCK));
    assert.equal(nvme.statistics().aborts, 0);
    await end(bench);
  });

  void it('disables bus mastering of a controller that does not stop, and gives up', async () => {
    const bench = await start(new FakeNvme(), { timeout: 250 });
    const { fake, nvme, disk, pci } = bench;
    fake.fate = () => 'hang';
    fake.canAbort = false;
    fake.stops = false;
    let wasMaster = true;
    const read = disk.read(0, new Uint8Array(BLOCK)).finally(() => (wasMaster = fake.isBusMaster));
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_RESET', read);
    assert.equal(wasMaster, false);
    const error = await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_TIMEOUT', disk.flush());
    assert.match(error.message, /did not stop within 500 ms/);
    const { pools } = nvme;
    await nvme.close();
    for (const pool of pools) assert.equal(pool.statistics().pages, 0);
    await pci.close();
  });

  void it('does not start a controller that does not become ready, and keeps nothing', async () => {
    for (const [prepare, code] of [
      [
        (fake: FakeNvme): void => {
          fake.becomesReady = false;
        },
        'ERR_DMAPOOL_NVME_TIMEOUT',
      ],
      [
        (fake: FakeNvme): void => {
          fake.setCapabilities({ css: 0 });
        },
        'ERR_DMAPOOL_NVME_UNSUPPORTED',
      ],
      [
        (fake: FakeNvme): void => {
          fake.setCapabilities({ mpsMin: 1 });
        },
        'ERR_DMAPOOL_NVME_UNSUPPORTED',
      ],
      [
        (fake: FakeNvme): void => {
          fake.config.setUint32(8, 0x0106_0100, true);
        },
        'ERR_DMAPOOL_NVME_UNSUPPORTED',
      ],
    ] as const) {
      const fake = new FakeNvme();
      prepare(fake);
      const { pci, log } = await open(fake);
      await rejectsAs(NvmeError, code, NvmeController.open(pci));
      assert.equal(pci.device.readAttribute('pools'), undefined);
      assert.equal(fake.isBusMaster, false);
      assert.deepEqual(fake.faults, []);
      await pci.close();
      assert.equal(log.text, '');
    }
  });

  void it('does not start a controller that does not answer a command', async () => {
    const fake = new FakeNvme();
    fake.interruptsWork = false;
    fake.onIdentify = () => {
      fake.silent = true;
    };
    const { pci } = await open(fake);
    await rejectsCode('ERR_DMAPOOL_PCI_GONE', NvmeController.open(pci, { timeout: 250 }));
    assert.equal(pci.device.readAttribute('pools'), undefined);
  });

  void it('detects a device that stopped responding', async () => {
    const bench = await start(new FakeNvme(), { timeout: 250 });
    const { fake, nvme, disk } = bench;
    fake.fate = () => 'hang';
    const read = disk.read(0, new Uint8Array(BLOCK));
    await until('the fake holds the commands', () => fake.hung.length > 0);
    fake.silent = true;
    await rejectsCode('ERR_DMAPOOL_PCI_GONE', read);
    await rejectsCode('ERR_DMAPOOL_PCI_GONE', disk.flush());
    assertIdle(nvme);
    await nvme.close();
  });

  void it('finds completions by busy polling, without an interrupt', { timeout: 20_000 }, async () => {
    const fake = new FakeNvme();
    fake.interruptsWork = false;
    const bench = await start(fake, { queues: 2, interrupts: { busyPoll: 1000 } });
    const buffer = new Uint8Array(BLOCK);
    for (let i = 0; i < 100; i++) await Promise.all([bench.disk.read(i, buffer), bench.disk.read(0, buffer)]);
    assert.equal(bench.nvme.statistics().timeouts, 0);
    fake.interruptsWork = true;
    await end(bench);
  });

  void it('finds completions when the interrupt was lost', async () => {
    const bench = await start(new FakeNvme(), { timeout: 250, queues: 2 });
    const { fake, nvme, disk } = bench;
    fake.interruptsWork = false;
    await Promise.all(Array.from({ length: 10 }, (_, i) => disk.read(i, new Uint8Array(BLOCK))));
    // Also when no caller was waiting any more.
    await disk.read(0, new Uint8Array(BLOCK));
    fake.interruptsWork = true;
    const { aborts, resets } = nvme.statistics();
    assert.deepEqual({ aborts, resets }, { aborts: 0, resets: 0 });
    await end(bench);
  });

  void it('ignores the completion of a command that is not in flight', async () => {
    const bench = await start(new FakeNvme(), { queueDepth: 4 });
    const { fake, nvme, disk, log } = bench;
    fake.fate = (command) => {
      fake.complete({ queue: 1, cid: 0xffff }, 0);
      fake.complete({ queue: 1, cid: (command.cid + 1) & 0xffff }, 0);
      return null;
    };
    // And a second completion of a command when its slot holds another command.
    const first = new Uint8Array(BLOCK);
    await disk.read(3, first);
    fake.fate = () => 'hang';
    const second = disk.read(4, new Uint8Array(BLOCK));
    await until('the fake holds the commands', () => fake.hung.length === 1);
    const [hung] = fake.hung;
    fake.complete({ queue: 1, cid: (hung!.cid - 1024) & 0xffff }, 0);
    await sleep(5);
    assert.equal(nvme.pools[0]!.statistics().active, 1, 'its memory is not freed by it');
    fake.complete(hung!, 0x0280);
    const error = await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_STATUS', second);
    assert.match(error.message, /Write Fault/);
    assert.match(log.text, /error .*queue 1: completion of command 0xffff, which is not in flight/);
    await end(bench);
  });

  void it('ends commands in flight and waiting ones when it is closed', async () => {
    const bench = await start(new FakeNvme(), { queueDepth: 2, queues: 2 });
    const { fake, nvme, disk, pci } = bench;
    fake.fate = () => 'hang';
    const reads = Promise.allSettled(Array.from({ length: 9 }, () => disk.read(0, new Uint8Array(BLOCK))));
    await until('the fake holds the commands', () => fake.hung.length === 4);
    await nvme.close();
    for (const outcome of await reads) {
      assert.equal(outcome.status, 'rejected');
      assert.ok(outcome.reason instanceof NvmeError);
      assert.equal(outcome.reason.code, 'ERR_DMAPOOL_NVME_CLOSED', outcome.reason.message);
    }
    assert.deepEqual(fake.faults, []);
    await pci.close();
  });

  void it('can be closed in the middle of a reset', async () => {
    const bench = await start(new FakeNvme(), { timeout: 250 });
    const { fake, nvme, disk, pci } = bench;
    fake.fate = () => 'hang';
    fake.canAbort = false;
    const read = disk.read(0, new Uint8Array(BLOCK));
    const waits = disk.read(1, new Uint8Array(BLOCK));
    const settled = Promise.allSettled([read, waits]);
    await until('the controller was reset', () => nvme.statistics().resets === 1);
    await nvme.close();
    for (const outcome of await settled) {
      assert.equal(outcome.status, 'rejected');
      assert.match((outcome.reason as NvmeError).code, /^ERR_DMAPOOL_NVME_(CLOSED|RESET)$/);
    }
    assert.deepEqual(fake.faults, []);
    await pci.close();
  });

  void it('closes without an error when the device is removed during the close', async () => {
    const bench = await start(new FakeNvme());
    const { fake, nvme, pci } = bench;
    const closing = nvme.close();
    fake.gone.abort(new Error('pulled out'));
    fake.silent = true;
    await closing;
    assert.equal(pci.device.readAttribute('pools'), undefined);
  });

  void it('uses one interrupt per queue where there are enough, and shares them otherwise', async () => {
    for (const maxVectors of [1, 2, 3, 8]) {
      const fake = new FakeNvme();
      fake.maxVectors = maxVectors;
      const bench = await start(fake, { queues: 4, queueDepth: 2 });
      await Promise.all(Array.from({ length: 40 }, (_, i) => bench.disk.write(i, new Uint8Array(BLOCK).fill(i))));
      const { submitted } = bench.nvme.statistics();
      assert.ok(
        submitted.every((count) => count > 0),
        submitted.join(' '),
      );
      assert.equal(fake.disk[39 * BLOCK], 39);
      await end(bench);
    }
  });

  void it('refuses namespaces that it does not support', async () => {
    const fake = new FakeNvme();
    const bench = await start(fake);
    const { nvme } = bench;
    for (const [format, code] of [
      [(9 << 16) | 8, 'ERR_DMAPOOL_NVME_UNSUPPORTED'],
      [22 << 16, 'ERR_DMAPOOL_NVME_UNSUPPORTED'],
      [8 << 16, 'ERR_DMAPOOL_NVME_PROTOCOL'],
      [0xff << 16, 'ERR_DMAPOOL_NVME_PROTOCOL'],
    ] as const) {
      fake.onIdentify = (_cns, view) => {
        view.setUint32(128, format, true);
      };
      await rejectsAs(NvmeError, code, nvme.namespace(1));
    }
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_NO_NAMESPACE', nvme.namespace(2));
    await end(bench);
  });
});
