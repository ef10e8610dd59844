/** No memory is released under a controller that may still use it, however it ends. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmaPool } from 'dmapool';
import { NvmeController, NvmeError } from 'dmapool/drivers/nvme';
import { PciError } from 'dmapool/pci';
import { rejectsAs, rejectsCode } from '../../support/errors.ts';
import { until } from '../../support/until.ts';
import { BLOCK, FakeNvme } from './fake-nvme.ts';
import { type Bench, open, start } from './fake-fixture.ts';

/** A controller that does not stop, under a function that cannot be stopped either. */
function hold(fake: FakeNvme): void {
  fake.stops = false;
  fake.busMasterSticks = true;
}

/** Allows it to be stopped again. */
function letGo(fake: FakeNvme): void {
  fake.stops = true;
  fake.busMasterSticks = false;
  fake.halt();
}

const active = (bench: Bench): number => bench.nvme.pools[0]!.statistics().active;

/** A read that hangs, on a controller that is then lost. */
async function lose(fake: FakeNvme): Promise<{ bench: Bench; read: Promise<unknown> }> {
  const bench = await start(fake, { timeout: 500 });
  fake.canAbort = false;
  fake.fate = () => 'hang';
  const read = bench.disk.read(0, new Uint8Array(BLOCK)).catch((error: unknown) => error);
  await until('the fake holds the read', () => fake.hung.length === 1);
  return { bench, read };
}

void describe('memory of the NVMe driver', () => {
  void it('is released after a reset that rejects, once bus mastering is off', async () => {
    const fake = new FakeNvme();
    fake.reset = () => Promise.reject(new Error('EAGAIN'));
    const { bench, read } = await lose(fake);
    fake.stops = false;
    assert.match(String(await read), /was lost in a reset/);
    assert.equal(fake.isBusMaster, false);
    assert.equal(active(bench), 0);
    await bench.nvme.close();
    await bench.pci.close();
  });

  void it('is released when the kernel requests release, and not before bus mastering is off', async () => {
    const fake = new FakeNvme();
    const { bench, read } = await lose(fake);
    let atStop = -1;
    fake.onBusMasterOff = () => {
      atStop = active(bench);
    };
    // Accesses reject from now on; the controller continues.
    fake.request(new PciError('ERR_DMAPOOL_PCI_RELEASE_REQUESTED', fake.address, 'the kernel requests release'));
    const error = (await read) as PciError;
    assert.equal(error.code, 'ERR_DMAPOOL_PCI_RELEASE_REQUESTED', String(error));
    assert.equal(fake.isBusMaster, false);
    assert.equal(atStop, 1);
    assert.equal(active(bench), 0);
    await bench.nvme.close();
    await bench.pci.close();
    assert.deepEqual(fake.faults, []);
  });

  void it('is kept, counted and reported while the controller cannot be stopped; a later close releases it', async () => {
    const fake = new FakeNvme();
    const { bench, read } = await lose(fake);
    const { nvme, pci, log, disk } = bench;
    const buffers = DmaPool.createManaged('buffers', pci.device, { size: 4096, align: 4096 });
    const block = buffers.alloc();
    const direct = disk.readDma(1, block, { length: BLOCK }).catch((error: unknown) => error);
    await until('the fake holds both', () => fake.hung.length === 2);
    hold(fake);
    for (const error of (await Promise.all([read, direct])) as PciError[]) {
      assert.equal(error.code, 'ERR_DMAPOOL_PCI_DMA_ACTIVE', String(error));
    }
    assert.equal(active(bench), 1);
    assert.deepEqual([nvme.statistics().kept, nvme.statistics().load], [2, 2]);
    await until('it is reported', () => /error .*memory of its queues and of 2 commands is kept/.test(log.text));
    // The controller writes to memory that is still its own, without effect on others.
    for (const command of fake.hung) fake.finish(command);
    assert.deepEqual(fake.faults, []);
    const error = await rejectsAs(PciError, 'ERR_DMAPOOL_PCI_DMA_ACTIVE', nvme.close());
    assert.match(error.message, /0000:01:00\.0/);
    await rejectsCode('ERR_DMAPOOL_PCI_BUSY', NvmeController.open(pci));
    assert.equal(active(bench), 1);
    letGo(fake);
    fake.fate = () => null;
    const { pools } = nvme;
    await nvme.close();
    await nvme.close();
    for (const pool of pools) assert.equal(pool.statistics().pages, 0, pool.name);
    assert.equal(nvme.statistics().kept, 0);
    block.free();
    await (await NvmeController.open(pci)).close();
    await pci.close();
    assert.deepEqual(fake.faults, []);
  });

  void it('of the caller is not written after its read has failed, although the controller completes it', async () => {
    const fake = new FakeNvme();
    const bench = await start(fake, { timeout: 500 });
    const { nvme, pci, disk } = bench;
    fake.canAbort = false;
    fake.fate = () => 'hang';
    const buffer = new Uint8Array(BLOCK);
    const memories = [1, 2].map(() => pci.device.allocCoherent(BLOCK)!);
    const calls = [disk.read(0, buffer), disk.readDmaBulk([1, 2], memories)];
    const failures = Promise.all(calls.map((call) => rejectsCode('ERR_DMAPOOL_PCI_DMA_ACTIVE', call)));
    await until('the fake holds them', () => fake.hung.length === 3);
    hold(fake);
    await failures;
    buffer.fill(0xee);
    for (const command of fake.hung) fake.finish(command);
    letGo(fake);
    fake.fate = () => null;
    await nvme.close().catch(() => nvme.close());
    assert.ok(buffer.every((byte) => byte === 0xee));
    for (const memory of memories) pci.device.freeCoherent(memory);
    await pci.close();
    assert.deepEqual(fake.faults, []);
  });

  void it('is not reported as in use if only the first attempt to stop the controller failed', async (t) => {
    const fake = new FakeNvme();
    const { bench, read } = await lose(fake);
    const { nvme, pci, disk } = bench;
    hold(fake);
    const stopDma = pci.stopDma.bind(pci);
    let failed = 0;
    t.mock.method(pci, 'stopDma', async (options: Parameters<typeof stopDma>[0]) => {
      try {
        return await stopDma(options);
      } catch (error) {
        if (++failed === 1) letGo(fake);
        throw error;
      }
    });
    for (const error of [await read, await disk.read(0, new Uint8Array(BLOCK)).catch((reason: unknown) => reason)]) {
      assert.ok(error instanceof NvmeError, String(error));
      assert.equal(error.code, 'ERR_DMAPOOL_NVME_TIMEOUT');
      assert.equal((error.cause as PciError).code, 'ERR_DMAPOOL_PCI_DMA_ACTIVE');
    }
    assert.equal(failed, 1);
    assert.equal(nvme.statistics().kept, 0);
    await nvme.close();
    await pci.close();
    assert.deepEqual(fake.faults, []);
  });

  void it('that is kept is released when the function is closed successfully', async () => {
    const fake = new FakeNvme();
    const { bench, read } = await lose(fake);
    const { nvme, pci } = bench;
    hold(fake);
    await read;
    await rejectsAs(PciError, 'ERR_DMAPOOL_PCI_DMA_ACTIVE', nvme.close());
    await rejectsCode('ERR_DMAPOOL_RELEASE', pci.close());
    assert.equal(active(bench), 1);
    letGo(fake);
    const { pools } = nvme;
    await pci.close();
    for (const pool of pools) assert.equal(pool.statistics().pages, 0, pool.name);
    await nvme.close();
    assert.equal(nvme.statistics().kept, 0);
  });

  void it('is kept when a start fails and the controller cannot be stopped', async () => {
    const fake = new FakeNvme();
    const { pci, log } = await open(fake);
    fake.onIdentify = () => {
      hold(fake);
      fake.fail();
    };
    fake.interruptsWork = false;
    fake.onAdmin = () => 'hang';
    hold(fake);
    await rejectsCode('ERR_DMAPOOL_NVME_TIMEOUT', NvmeController.open(pci, { timeout: 50 }));
    assert.match(log.text, /memory of its queues and of 1 commands is kept/);
    assert.ok(pci.device.bytesAllocated > 0);
    letGo(fake);
    // The next driver would switch its DMA on again.
    await rejectsCode('ERR_DMAPOOL_PCI_BUSY', NvmeController.open(pci));
    await pci.close();
    assert.equal(pci.device.bytesAllocated, 0);
    assert.deepEqual(fake.faults, []);
  });

  void it('is released when the device is detached, by any caller', async () => {
    const fake = new FakeNvme();
    const { bench, read } = await lose(fake);
    const { nvme, pci } = bench;
    pci.device.detach();
    assert.match(String(await read), /closed/);
    assert.equal(fake.isBusMaster, false);
    await nvme.close();
    await pci.close();
    assert.equal(pci.device.bytesAllocated, 0);
    assert.deepEqual(fake.faults, []);
  });

  void it('of the caller is not reported as free while a part of the transfer may be in flight', async () => {
    const fake = new FakeNvme();
    fake.mdts = 1;
    const bench = await start(fake, { timeout: 500 });
    const { pci, nvme, disk } = bench;
    fake.canAbort = false;
    // One part fails, and the other one hangs.
    fake.fate = ({ cdw10 }) => (cdw10 === 0 ? 0x81 : 'hang');
    hold(fake);
    const memory = pci.device.allocCoherent(4 * 4096)!;
    await rejectsCode('ERR_DMAPOOL_PCI_DMA_ACTIVE', disk.readDma(0, memory));
    letGo(fake);
    // Its last attempt to stop may still run.
    await nvme.close().catch(() => nvme.close());
    pci.device.freeCoherent(memory);
    await pci.close();
  });

  void it('is released by the close of the function, even if its device was detached before', async () => {
    const fake = new FakeNvme();
    const { pci, nvme } = await start(fake);
    pci.device.detach();
    await until('the controller is stopped', () => !fake.isBusMaster);
    await pci.close();
    assert.equal(fake.memory.bytesInUse, 0);
    await nvme.close();
  });

  void it('is only that of its queues when the write of their address fails', async () => {
    const fake = new FakeNvme();
    const ACQ = 0x30;
    const write64 = fake.write64.bind(fake);
    let failure: Error | null = null;
    fake.write64 = (bar, offset, value) => {
      if (offset === ACQ) failure = new PciError('ERR_DMAPOOL_PCI_FAULT', fake.address, 'the write failed');
      else write64(bar, offset, value);
    };
    // The next awaited call reports a posted write that failed.
    fake.flush = () => (failure === null ? Promise.resolve() : Promise.reject(failure));
    const queues: number[] = [];
    fake.onQueue = (_kind, _id, place) => {
      if (place !== null) queues.push(place[0]);
    };
    const { pci } = await open(fake);
    await rejectsCode('ERR_DMAPOOL_PCI_FAULT', NvmeController.open(pci));
    assert.deepEqual(queues, [], 'it was not enabled');
    failure = null;
    await pci.close();
  });
});

void describe('closing the NVMe driver', () => {
  for (const when of ['live', 'resetting'] as const) {
    void it(`notifies the controller of the shutdown (${when})`, async () => {
      const fake = new FakeNvme();
      fake.stopTime = 100;
      const { bench, read } = await lose(fake);
      const { nvme, pci } = bench;
      if (when === 'resetting') await until('the controller is reset', () => nvme.statistics().resets === 1);
      await nvme.close();
      await read;
      assert.equal(fake.shutdowns, 1);
      assert.equal(nvme.statistics().resets, when === 'live' ? 0 : 1);
      assert.deepEqual(fake.faults, []);
      await pci.close();
    });
  }

  void it('notifies the controller too when it does not delete a queue', async () => {
    const fake = new FakeNvme();
    const { nvme, pci } = await start(fake);
    fake.onAdmin = ({ opcode }) => (opcode === 0x04 ? 0x06 : null);
    await nvme.close();
    assert.equal(fake.shutdowns, 1);
    await pci.close();
    assert.deepEqual(fake.faults, []);
  });
});
