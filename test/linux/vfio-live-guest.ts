/**
 * Removes a device while it reads a slow disk; run as root in the virtual machine, with the disk of vfio-live.test.ts.
 */
import assert from 'node:assert/strict';
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, it, type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { NvmeController } from 'dmapool/drivers/nvme';
import { bindToVfio, unbindFromVfio, VfioDevice } from 'dmapool/linux';
import { libc } from '../../src/linux/libc.ts';
import { setTriggers, VFIO_DEVICE_SET_IRQS, VFIO_IRQ } from '../../src/linux/vfio-abi.ts';
import { MIB } from '../support/sizes.ts';
import { FIRST as NVME, isBusMaster, within10s, writeInBackground } from './vfio-guest-support.ts';

/** 4 MiB of a disk that delivers 1 MiB per second. */
const READS = 32;
const READ_SIZE = MIB / 8;

interface AtWork {
  readonly vfio: VfioDevice;
  readonly nvme: NvmeController;
  /** The codes of the errors that ended the reads; each records whether the device could still do DMA. */
  readonly ends: Promise<string[]>;
  readonly whenReleased: boolean[];
}

/** Reads of a slow disk in flight. Each time memory is released, the kernel's view of bus mastering is recorded. */
async function atWork(t: TestContext): Promise<AtWork> {
  const vfio = await VfioDevice.open(NVME, { memory: { size: 16 * MIB, hugepages: false } });
  const nvme = await NvmeController.open(vfio.pci, { timeout: 60_000, bounceMemory: 8 * MIB });
  const disk = await nvme.namespace(1);
  const whenReleased: boolean[] = [];
  const { memory } = vfio;
  const freeCoherent = memory.freeCoherent.bind(memory);
  t.mock.method(memory, 'freeCoherent', (given: Parameters<typeof freeCoherent>[0]) => {
    whenReleased.push(isBusMaster(NVME));
    freeCoherent(given);
  });
  const reads = Array.from({ length: READS }, async (_, i) => {
    try {
      await disk.read((i * READ_SIZE) / disk.blockSize, Buffer.alloc(READ_SIZE));
      return 'read';
    } catch (error) {
      // The driver released the read's memory.
      whenReleased.push(isBusMaster(NVME));
      return String((error as { readonly code?: unknown }).code);
    }
  });
  await setTimeout(200);
  assert.ok(isBusMaster(NVME));
  return { vfio, nvme, ends: Promise.all(reads), whenReleased };
}

async function closeAndCheck({ vfio, nvme, ends, whenReleased }: AtWork, code: string): Promise<void> {
  const codes = await ends;
  assert.ok(codes.includes(code), codes.join());
  assert.ok(
    codes.every((end) => end === 'read' || end === code),
    codes.join(),
  );
  await nvme.close();
  for (const pool of nvme.pools) assert.equal(pool.statistics().active, 0, pool.name);
  await vfio.close();
  assert.ok(whenReleased.length > 0);
  assert.ok(!whenReleased.includes(true), 'memory was released while the device could do DMA');
  assert.equal(vfio.memory.bytesMapped, 0);
}

void describe('a VFIO device with reads in flight', () => {
  beforeEach(() => {
    bindToVfio([NVME]);
  });
  afterEach(() => {
    unbindFromVfio([NVME]);
  });

  void it('is quiet before its memory is released when the kernel unbinds it', async (t) => {
    const bench = await atWork(t);
    const child = writeInBackground(NVME, '/sys/bus/pci/drivers/vfio-pci/unbind');
    assert.ok(await within10s(() => bench.vfio.pci.removed.aborted));
    await closeAndCheck(bench, 'ERR_DMAPOOL_PCI_RELEASE_REQUESTED');
    assert.ok(await within10s(() => child.exitCode === 0));
    writeFileSync('/sys/bus/pci/drivers_probe', NVME);
  });

  void it('is quiet before its memory is released when only the function is closed', async (t) => {
    const { vfio, ends, whenReleased } = await atWork(t);
    await vfio.close();
    await ends;
    assert.ok(!whenReleased.includes(true), 'memory was released while the device could do DMA');
    assert.equal(isBusMaster(NVME), false);
  });

  void it('reports an uncorrectable error to its driver', async (t) => {
    const bench = await atWork(t);
    // No eventfds and a count of 1: the kernel acts as if the interrupt had occurred.
    const bytes = setTriggers(VFIO_IRQ.error, []);
    new DataView(bytes.buffer).setUint32(16, 1, true);
    libc().ioctl(deviceFile(), VFIO_DEVICE_SET_IRQS, bytes, "can't trigger the error interrupt");
    assert.ok(await within10s(() => bench.vfio.pci.removed.aborted));
    assert.ok(isBusMaster(NVME) || bench.whenReleased.length > 0, 'the error alone stops no access');
    await closeAndCheck(bench, 'ERR_DMAPOOL_PCI_FAULT');
  });
});

/** The file descriptor of the open device in this process. */
function deviceFile(): number {
  const number = readdirSync('/proc/self/fd').find((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).includes('vfio-device');
    } catch {
      return false;
    }
  });
  return Number(number ?? assert.fail('no device is open'));
}
