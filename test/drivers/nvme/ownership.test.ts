/** One driver for a function at a time, an orderly end, and all memory freed, whatever fails. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmaReleaseError } from 'dmapool';
import { NvmeController, NvmeError } from 'dmapool/drivers/nvme';
import { FaultyMemory, FaultySource } from '../../support/faulty-memory.ts';
import { rejectsAs, rejectsCode } from '../../support/errors.ts';
import { BLOCK, FakeNvme } from './fake-nvme.ts';
import { end, open, start } from './fake-fixture.ts';

void describe('an NVMe function', () => {
  void it('is not started twice, and its first driver works on', async () => {
    const bench = await start();
    const { fake, pci, nvme, disk } = bench;
    let disabled = 0;
    fake.onDisable = () => disabled++;
    const error = await rejectsCode('ERR_DMAPOOL_PCI_BUSY', NvmeController.open(pci));
    assert.match(error.message, /0000:01:00\.0.*close/);
    await disk.write(1, new Uint8Array(BLOCK).fill(7));
    assert.equal(fake.disk[BLOCK], 7);
    assert.equal(disabled, 0, 'no register was written');
    assert.equal(nvme.statistics().resets, 0);
    await end(bench);
  });

  void it('is not started twice concurrently', async () => {
    const fake = new FakeNvme();
    const { pci } = await open(fake);
    const outcomes = await Promise.allSettled([NvmeController.open(pci), NvmeController.open(pci)]);
    assert.deepEqual(
      outcomes.map(({ status }) => status),
      ['fulfilled', 'rejected'],
    );
    await (outcomes[0] as PromiseFulfilledResult<NvmeController>).value.close();
    assert.deepEqual(fake.faults, []);
    await pci.close();
  });

  void it('can be started again after a close, and after a failed start', async () => {
    const fake = new FakeNvme();
    const { pci } = await open(fake, new FaultySource(fake.memory, (call) => (call === 0 ? 'none' : 'ok')));
    await rejectsCode('ERR_DMAPOOL_NO_MEMORY', NvmeController.open(pci));
    fake.setCapabilities({ css: 0 });
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_UNSUPPORTED', NvmeController.open(pci));
    fake.setCapabilities({});
    for (let i = 0; i < 2; i++) await (await NvmeController.open(pci)).close();
    assert.deepEqual(fake.faults, []);
    await pci.close();
  });

  for (const [latency, shutdownTime] of [
    [0, 500],
    [1_500_000, 1200],
  ] as const) {
    void it(`gets its time to shut down: ${String(shutdownTime)} ms at a latency of ${String(latency)} us`, async () => {
      const fake = new FakeNvme();
      fake.shutdownTime = shutdownTime;
      fake.onIdentify = (cns, view) => {
        if (cns === 1) view.setUint32(88, latency, true);
      };
      // Less than the shutdown takes.
      await end(await start(fake, { timeout: 100 }));
    });
  }

  void it('frees the rest of its memory when some of it cannot be freed', async () => {
    // Two areas of each queue pair, then the pools.
    for (let failing = 0; failing < 6; failing++) {
      const fake = new FakeNvme();
      const memory = new FaultySource(fake.memory);
      const { pci } = await open(fake, memory);
      const nvme = await NvmeController.open(pci, { queues: 2 });
      const disk = await nvme.namespace(1);
      await disk.write(0, new Uint8Array(64 * BLOCK));
      const { frees } = memory;
      memory.onFree = (call) => (call === frees + failing || call === frees + 6 ? 'throw' : 'ok');
      const error = await rejectsCode('ERR_DMAPOOL_RELEASE', nvme.close());
      assert.ok(error instanceof DmaReleaseError);
      assert.match(error.message, /0000:01:00\.0/);
      assert.equal(error.errors.length, 2, 'each failure is reported');
      assert.equal(memory.live.size, 0);
      assert.equal(pci.device.readAttribute('pools'), undefined);
      await assert.rejects(nvme.close(), error, 'a second close reports the same');
      memory.onFree = () => 'ok';
      await (await NvmeController.open(pci)).close();
      assert.equal(memory.live.size, 0);
      await pci.close();
    }
  });

  void it('reports why it did not start, not the errors after that', async () => {
    const fake = new FakeNvme();
    const memory = new FaultyMemory({});
    const { pci } = await open(fake, memory);
    fake.becomesReady = false;
    memory.onFree = () => 'throw';
    await assert.rejects(NvmeController.open(pci), { code: 'ERR_DMAPOOL_NVME_TIMEOUT' });
    assert.equal(memory.live.size, 0);
    await pci.close();
  });
});
