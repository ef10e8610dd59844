/** The device, the machine, the function or the driver ends while the NVMe driver works. No block is lost. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmaError } from 'dmapool';
import { countsOf } from '../../support/pools.ts';
import { NvmeError } from 'dmapool/drivers/nvme';
import { PciGoneError } from 'dmapool/pci';
import { withoutQemu } from '../../qemu/qemu.ts';
import { rejectsAs, rejectsCode } from '../../support/errors.ts';
import { assertIdle, type NvmeBench, startNvme } from './fixture.ts';
import { MIB } from '../../support/sizes.ts';
import { until } from '../../support/until.ts';

/** Keeps the disk busy until it fails; returns the number of operations and the error of each worker. */
function keepBusy(
  { disk }: NvmeBench,
  workers = 48,
): { readonly done: () => number; readonly errors: Promise<unknown[]> } {
  let done = 0;
  const worker = async (_: unknown, i: number): Promise<unknown> => {
    const buffer = new Uint8Array(i % 2 === 0 ? 512 : 300 * 1024);
    try {
      for (;;) {
        if (i % 3 === 0) await disk.read(i * 8, buffer);
        else await disk.write(i * 8, buffer);
        done++;
      }
    } catch (error) {
      return error;
    }
  };
  return { done: () => done, errors: Promise.all(Array.from({ length: workers }, worker)) };
}

async function untilBusy(done: () => number): Promise<void> {
  await until('100 commands are done', () => done() >= 100, 20_000);
}

const OPTIONS = { queues: 2, queueDepth: 16, bench: { size: 4 * MIB, drive: { cache: 'unsafe' } } };

void describe('in the middle of I/O', { skip: withoutQemu }, () => {
  void it('the device is removed', async (t) => {
    const bench = await startNvme(t, OPTIONS);
    const { machine, nvme, pci, disk, log } = bench;
    const { done, errors } = keepBusy(bench);
    await untilBusy(done);
    await machine.unplug('nvme0');
    for (const error of await errors) {
      assert.ok(error instanceof PciGoneError, String(error));
      assert.equal(error.code, 'ERR_DMAPOOL_PCI_GONE');
    }
    assertIdle(nvme);
    await rejectsCode('ERR_DMAPOOL_PCI_GONE', disk.read(0, new Uint8Array(512)));
    await rejectsCode('ERR_DMAPOOL_PCI_GONE', nvme.namespaceIds());
    const { pools } = nvme;
    await nvme.close();
    for (const pool of pools) assert.equal(pool.statistics().pages, 0, pool.name);
    await pci.close();
    assert.doesNotMatch(log.text, /busy/);
  });

  void it('the machine dies', async (t) => {
    const bench = await startNvme(t, OPTIONS);
    const { machine, nvme, pci, log } = bench;
    const { done, errors } = keepBusy(bench);
    await untilBusy(done);
    process.kill(machine.pid, 'SIGKILL');
    for (const error of await errors) {
      assert.ok(error instanceof DmaError, String(error));
      assert.equal(error.code, 'ERR_DMAPOOL_QEMU_DIED');
    }
    assertIdle(nvme);
    await nvme.close();
    await pci.close();
    assert.doesNotMatch(log.text, /busy/);
  });

  void it('the function is closed under the driver', async (t) => {
    const bench = await startNvme(t, OPTIONS);
    const { nvme, pci, disk, log } = bench;
    const { done, errors } = keepBusy(bench);
    await untilBusy(done);
    const { pools } = nvme;
    await pci.close();
    for (const error of await errors) {
      assert.ok(error instanceof DmaError || error instanceof NvmeError, String(error));
      assert.match(error.code, /^ERR_DMAPOOL_PCI_CLOSED$|^ERR_DMAPOOL_NVME_CLOSED$/);
    }
    for (const pool of pools) assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 }, pool.name);
    await assert.rejects(disk.read(0, new Uint8Array(512)));
    await nvme.close();
    assert.doesNotMatch(log.text, /busy/);
  });

  void it('the driver is closed', async (t) => {
    const bench = await startNvme(t, OPTIONS);
    const { nvme, pci, disk, log } = bench;
    const { done, errors } = keepBusy(bench);
    await untilBusy(done);
    const { pools } = nvme;
    await Promise.all([nvme.close(), nvme.close()]);
    for (const error of await errors) {
      assert.ok(error instanceof NvmeError, String(error));
      assert.equal(error.code, 'ERR_DMAPOOL_NVME_CLOSED', error.message);
    }
    for (const pool of pools) assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 }, pool.name);
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_CLOSED', disk.flush());
    assert.equal(await pci.isBusMaster(), false);
    await pci.close();
    assert.doesNotMatch(log.text, /busy/);
  });
});
