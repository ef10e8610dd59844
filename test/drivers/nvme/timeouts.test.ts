/** Commands that time out: they are aborted, then the controller is reset, and the driver works on. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { NvmeError, type NvmeResetError, NvmeTimeoutError } from 'dmapool/drivers/nvme';
import type { QemuMachine } from 'dmapool/qemu';
import { withoutQemu } from '../../qemu/qemu.ts';
import { assertIdle, closeNvme, startNvme, traceOf } from './fixture.ts';
import { MIB } from '../../support/sizes.ts';
import { Random } from '../../support/random.ts';
import { rejectsAs } from '../../support/errors.ts';
import { until } from '../../support/until.ts';

/** Limits the disk to so many requests, and so many written bytes, a second; 0: no limit. */
async function throttle(machine: QemuMachine, iops: number, bytesWritten = 0): Promise<void> {
  await machine.qmp('block_set_io_throttle', {
    device: 'disk0',
    bps: 0,
    bps_rd: 0,
    bps_wr: bytesWritten,
    iops,
    iops_rd: 0,
    iops_wr: 0,
  });
}

void describe('commands that take too long', { skip: withoutQemu }, () => {
  void it('fail by a reset, and the waiting ones are executed after it', async (t) => {
    const bench = await startNvme(t, { queues: 2, queueDepth: 2, timeout: 500, bench: { size: MIB } });
    const { machine, nvme, disk, log } = bench;
    const data = new Random(1).fill(new Uint8Array(20 * 512));
    await disk.write(0, data);
    await throttle(machine, 1);
    const reads = Array.from({ length: 20 }, async (_, i) => {
      const buffer = new Uint8Array(512);
      await disk.read(i, buffer);
      assert.deepEqual(buffer, data.subarray(i * 512, (i + 1) * 512));
    });
    const outcomes = Promise.allSettled(reads);
    await until('the controller was reset', () => nvme.statistics().resets > 0, 20_000);
    await throttle(machine, 0);
    let lost = 0;
    for (const outcome of await outcomes) {
      if (outcome.status === 'fulfilled') continue;
      lost++;
      const error = outcome.reason as NvmeResetError;
      assert.equal(error.code, 'ERR_DMAPOOL_NVME_RESET', String(error));
      assert.ok(error.cause instanceof NvmeTimeoutError, 'the error states the reason');
      assert.match(error.message, /read of namespace 1 was lost in a reset .*took longer than 500 ms/);
    }
    // Of two queues of two commands each; QEMU completes what it can before it performs a reset.
    assert.ok(lost <= 4, String(lost));
    const { timeouts, aborts, resets } = nvme.statistics();
    assert.equal(resets, 1);
    assert.ok(aborts >= 1 && timeouts >= aborts, JSON.stringify({ timeouts, aborts }));
    assert.match(log.text, /warn .*resetting the controller/);
    // As before.
    const back = new Uint8Array(data.length);
    await disk.read(0, back);
    assert.deepEqual(back, data);
    assertIdle(nvme);
    await closeNvme(bench);
  });

  void it('are ended by a close', async (t) => {
    const bench = await startNvme(t, { queueDepth: 4, timeout: 60_000, bench: { size: MIB } });
    const { machine, nvme, disk, pci, log } = bench;
    await throttle(machine, 1);
    const reads = Array.from({ length: 20 }, (_, i) => disk.read(i, new Uint8Array(512)));
    const outcomes = Promise.allSettled(reads);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const { pools } = nvme;
    await nvme.close();
    for (const outcome of await outcomes) {
      if (outcome.status === 'fulfilled') continue;
      assert.ok(outcome.reason instanceof NvmeError, String(outcome.reason));
      assert.equal(outcome.reason.code, 'ERR_DMAPOOL_NVME_CLOSED', outcome.reason.message);
    }
    assert.ok((await outcomes).filter(({ status }) => status === 'rejected').length >= 15);
    for (const pool of pools) assert.equal(pool.statistics().active, 0);
    await pci.close();
    assert.doesNotMatch(log.text, /busy/);
  });

  void it('do not include a Format NVM, whose time-out is minutes', async (t) => {
    const bench = await startNvme(t, { timeout: 200, bench: { size: 4 * MIB } });
    const { machine, nvme, disk } = bench;
    await disk.write(0, new Uint8Array(disk.size).fill(0xff));
    await throttle(machine, 0, MIB);
    // This command completes at once; the next one waits for two seconds.
    await disk.writeZeroes(0, (2 * MIB) / disk.blockSize);
    const begin = performance.now();
    // Blocks of 4096 bytes: QEMU's LBA format 4.
    await nvme.admin({ opcode: 0x80, nsid: 1, cdw10: 4 });
    assert.ok(performance.now() - begin > 1000, `formatted in ${String(performance.now() - begin)} ms`);
    const { resets, timeouts, aborts } = nvme.statistics();
    assert.deepEqual({ resets, timeouts, aborts }, { resets: 0, timeouts: 0, aborts: 0 });
    await throttle(machine, 0);
    const formatted = await nvme.namespace(1);
    assert.equal(formatted.blockSize, 4096);
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_STALE_NAMESPACE', disk.read(0, new Uint8Array(512)));
    const back = new Uint8Array(formatted.size).fill(1);
    await formatted.read(0, back);
    assert.ok(back.every((byte) => byte === 0));
    await closeNvme(bench);
  });

  void it('do not prevent the shutdown notification of a close during the reset', async (t) => {
    const bench = await startNvme(t, { queueDepth: 4, timeout: 300, bench: { size: MIB, trace: 'pci_nvme_mmio_s*' } });
    const { machine, file, nvme, disk, pci } = bench;
    await throttle(machine, 1);
    const outcomes = Promise.allSettled(Array.from({ length: 4 }, (_, i) => disk.read(i, new Uint8Array(512))));
    // Each access of the reset takes a turn of the event loop, so the reset has just begun.
    while (nvme.statistics().resets === 0) await new Promise((resolve) => setImmediate(resolve));
    await nvme.close();
    await pci.close();
    await machine.close();
    const events = readFileSync(traceOf(file), 'utf8').match(
      /(?<=pci_nvme_mmio_)(start_success|stopped|shutdown_set)/g,
    );
    // The start, the reset, and the close after it.
    assert.deepEqual(events, ['start_success', 'stopped', 'start_success', 'shutdown_set', 'stopped']);
    const lost = (await outcomes).filter(({ status }) => status === 'rejected') as PromiseRejectedResult[];
    assert.ok(lost.length > 0);
    for (const { reason } of lost) assert.equal((reason as NvmeError).code, 'ERR_DMAPOOL_NVME_RESET');
    assert.equal(nvme.statistics().resets, 1);
  });

  void it('may fail finally when the device is removed during the reset', async (t) => {
    const bench = await startNvme(t, { queueDepth: 4, timeout: 500, bench: { size: MIB } });
    const { machine, nvme, disk, pci } = bench;
    await throttle(machine, 1);
    const outcomes = Promise.allSettled(Array.from({ length: 20 }, (_, i) => disk.read(i, new Uint8Array(512))));
    await until('the controller was reset', () => nvme.statistics().resets > 0, 20_000);
    process.kill(machine.pid, 'SIGKILL');
    for (const outcome of await outcomes) {
      if (outcome.status === 'fulfilled') continue;
      const { code } = outcome.reason as { code: string };
      assert.match(code, /^ERR_DMAPOOL_NVME_RESET$|^ERR_DMAPOOL_QEMU_DIED$/);
    }
    assertIdle(nvme);
    await nvme.close();
    await pci.close();
  });
});
